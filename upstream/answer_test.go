package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	testKey = "dGhlIHNhbXBsZSBub25jZQ==" // RFC 6455, section 1.3
	good101 = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
)

// A scripted conn returns one piece for each Read, and then err.
type scripted struct {
	net.Conn
	pieces []string
	err    error
	wrote  [][]byte
}

func (c *scripted) Write(b []byte) (int, error) {
	c.wrote = append(c.wrote, bytes.Clone(b))
	return len(b), nil
}

func (c *scripted) Read(b []byte) (int, error) {
	if len(c.pieces) == 0 {
		return 0, c.err
	}
	n := copy(b, c.pieces[0])
	if c.pieces[0] = c.pieces[0][n:]; c.pieces[0] == "" {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

func answerTo(pieces ...string) ([]byte, error) {
	return OpeningHandshake(&scripted{pieces: pieces, err: io.EOF}, []byte("GET"), testKey, "xmpp")
}

func edit(old, new string) string { return strings.Replace(good101, old, new, 1) }

func TestAnswerAccepted(t *testing.T) {
	for name, answer := range map[string]string{
		"Tigase's":                good101,
		"lower-case names":        edit("Upgrade: websocket\r\nConnection: Upgrade", "upgrade: WebSocket\r\nconnection: upgrade"),
		"keep-alive beside":       edit("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
		"CORS headers":            edit("Upgrade:", "Access-Control-Allow-Origin: *\r\nUpgrade:"),
		"another reason":          edit("Switching Protocols", "Web Socket Protocol Handshake"),
		"no reason":               edit(" Switching Protocols", ""),
		"an empty Content-Length": edit("Upgrade:", "Content-Length: 0\r\nUpgrade:"),
		"16 KiB to the last byte": edit("Upgrade:", "X: "+strings.Repeat("x", maxAnswer-len(good101)-len("X: \r\n"))+"\r\nUpgrade:"),
	} {
		if rest, err := answerTo(answer); err != nil || len(rest) > 0 {
			t.Errorf("%s: rest %q, %v; want none", name, rest, err)
		}
	}
}

// The blank line is found regardless of the boundaries between reads, and the bytes
// after it are kept.
func TestAnswerInPieces(t *testing.T) {
	whole := good101 + "\x81\x05hello"
	for i := 1; i < len(whole); i++ {
		rest, err := answerTo(whole[:i], whole[i:])
		want := "\x81\x05hello"[:max(0, len(whole[:i])-len(good101))]
		if i <= len(good101)-1 {
			want = "\x81\x05hello"
		}
		if err != nil || string(rest) != want {
			t.Fatalf("cut at %d: rest %q, %v; want %q", i, rest, err, want)
		}
	}
	if _, err := answerTo(strings.SplitAfter(good101, "")...); err != nil {
		t.Errorf("one byte at a time: %v", err)
	}
}

func TestAnswerRefused(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		want, hint   string
	}{
		{"closed", "", 0, "closed without an answer to the opening handshake", "new connections per second"},
		{"Tigase's 400", "HTTP/1.0 400 Bad request\r\n\r\n", 400, "answered 400 Bad request to the opening handshake, want 101", "WebSocket port"},
		{"a status line and FIN", "HTTP/1.1 404 Not Found\r\nContent-Le", 404, "answered 404 Not Found to the opening handshake, want 101", "path"},
		{"a status without reason", "HTTP/1.1 404\r\n\r\n", 404, "answered 404 to the opening handshake, want 101", "path"},
		{"a redirect", "HTTP/1.1 301 Moved Permanently\r\nLocation: https://a.example/ws\r\n\r\n", 301, "answered 301 Moved Permanently to", `redirects to "https://a.example/ws"`},
		{"200", "HTTP/1.1 200 OK\r\n\r\n<html>", 200, "answered 200 OK to", ""},
		{"100 first", "HTTP/1.1 100 Continue\r\n\r\n" + good101, 100, "answered 100 Continue to", ""},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", 0, `answered "SSH-2.0-OpenSSH_9.2\r\n" to the opening handshake, want HTTP/1.1`, ""},
		{"XMPP on 5222", "<stream:error>", 0, `answered "<stream:error>" to`, ""},
		{"a TLS alert", "\x15\x03\x01\x00\x02\x02\x0a", 0, "want HTTP/1.1", "wss://"},
		{"half a 101", good101[:60], 0, "answered 60 bytes of an opening handshake, then: unexpected EOF", ""},
		{"too long", edit("Upgrade:", "X: "+strings.Repeat("x", maxAnswer)+"\r\nUpgrade:"), 0, "answered 16384 bytes without a blank line", ""},
		{"no subprotocol", edit("Sec-WebSocket-Protocol: xmpp\r\n", ""), 101, `answered 101 without a subprotocol, want "xmpp"`, "XMPP"},
		{"another subprotocol", edit("xmpp", "mqtt"), 101, `answered 101 with subprotocol "mqtt", want "xmpp"`, ""},
		{"upper-case subprotocol", edit("xmpp", "XMPP"), 101, `subprotocol "XMPP"`, ""},
		{"two subprotocols", edit("xmpp", "xmpp\r\nSec-WebSocket-Protocol: xmpp"), 101, `subprotocol "xmpp, xmpp"`, ""},
		{"another key's accept", edit("s3pP", "s3pp"), 101, "not match our key", ""},
		{"no accept", edit("Sec-WebSocket-Accept", "X-Accept"), 101, "not match our key", ""},
		{"two accepts", edit("Upgrade:", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nUpgrade:"), 101, "not match our key", ""},
		{"no Upgrade", edit("Upgrade: websocket\r\n", ""), 101, `with Upgrade ""`, ""},
		{"h2c", edit("websocket", "h2c"), 101, `with Upgrade "h2c"`, ""},
		{"no Connection", edit("Connection: Upgrade\r\n", ""), 101, `with Connection ""`, ""},
		{"extensions", edit("Upgrade:", "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:"), 101, `with extensions "permessage-deflate"`, ""},
		{"empty extensions", edit("Upgrade:", "Sec-WebSocket-Extensions:\r\nUpgrade:"), 101, `with extensions ""`, ""},
		{"chunks", edit("Upgrade:", "Transfer-Encoding: chunked\r\nUpgrade:"), 101, "Transfer-Encoding", ""},
		{"a body", edit("Upgrade:", "Content-Length: 5\r\nUpgrade:"), 101, "Content-Length", ""},
		{"HTTP/1.0", edit("HTTP/1.1", "HTTP/1.0"), 0, "want HTTP/1.1", ""},
		{"HTTP/1.10", edit("HTTP/1.1", "HTTP/1.10"), 0, "want HTTP/1.1", ""},
		{"HTTP/2", edit("HTTP/1.1", "HTTP/2.0"), 0, "want HTTP/1.1", ""},
		{"status 10:", edit("101", "10:"), 0, "want HTTP/1.1", ""},
		{"status 0101", edit("101", "0101"), 0, "want HTTP/1.1", ""},
		{"bare LF", strings.ReplaceAll(good101, "\r\n", "\n"), 0, "then: unexpected EOF", ""},
		{"one bare LF", edit("websocket\r\n", "websocket\n"), 101, "bad header", ""},
		{"a folded line", edit("Upgrade: websocket", "Upgrade:\r\n websocket"), 101, `bad header " websocket"`, ""},
		{"a space before the colon", edit("Upgrade:", "Upgrade :"), 101, "bad header", ""},
		{"a NUL", edit("websocket", "websocket\x00"), 101, "bad header", ""},
		{"no colon", edit("Upgrade:", "Upgrade"), 101, "bad header", ""},
	} {
		rest, err := answerTo(c.answer)
		h, ok := errors.AsType[*HandshakeError](err)
		if !ok || len(rest) > 0 {
			t.Errorf("%s: rest %q, err %v; want a HandshakeError", c.name, rest, err)
			continue
		}
		if h.Status != c.status || !strings.Contains(h.Error(), c.want) || !strings.Contains(h.Hint, c.hint) || (c.hint == "") != (h.Hint == "") {
			t.Errorf("%s: status %d, %q, hint %q;\nwant %d, %q, hint %q", c.name, h.Status, h, h.Hint, c.status, c.want, c.hint)
		}
		if strings.ContainsAny(h.Error()+h.Hint, "\r\n") {
			t.Errorf("%s: %q is more than a line", c.name, h.Error()+h.Hint)
		}
	}
}

// net/http reads each accepted answer as the same 101, with the same headers and the
// same bytes after it.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(good101))
	f.Add([]byte(good101 + "\x81\x02hi"))
	f.Add([]byte(edit("Upgrade:", "A: b\r\nUpgrade:")))
	f.Add([]byte(edit("Connection: Upgrade", "Connection:\tkeep-alive ,upgrade ")))
	f.Add([]byte("HTTP/1.0 400 Bad request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rest, err := answerTo(string(in))
		if err != nil {
			if _, ok := errors.AsType[*HandshakeError](err); !ok {
				t.Errorf("%q: %T, want a HandshakeError", in, err)
			}
			return
		}
		br := bufio.NewReader(bytes.NewReader(in))
		resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("%q: accepted; net/http says %v", in, err)
		}
		if resp.StatusCode != 101 || !resp.ProtoAtLeast(1, 1) || resp.ProtoMajor != 1 || resp.ProtoMinor != 1 {
			t.Errorf("%q: accepted; net/http reads %s %d", in, resp.Proto, resp.StatusCode)
		}
		for name, want := range map[string]string{
			"Upgrade": "websocket", "Sec-WebSocket-Accept": AcceptKey(testKey), "Sec-WebSocket-Protocol": "xmpp",
		} {
			if got := resp.Header.Values(name); len(got) != 1 || !strings.EqualFold(got[0], want) {
				t.Errorf("%q: net/http reads %s %q; want %q", in, name, got, want)
			}
		}
		if got := resp.Header.Values("Sec-WebSocket-Extensions"); len(got) > 0 {
			t.Errorf("%q: extensions %q accepted", in, got)
		}
		head := in[:len(in)-len(rest)]
		a, err := parseAnswer(head)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range a.fields {
			if got := strings.Join(resp.Header.Values(field.name), ", "); !strings.Contains(got, field.value) {
				t.Errorf("%q: %s is %q; net/http reads %q", in, field.name, field.value, got)
			}
		}
		behind, err := io.ReadAll(br)
		if err != nil || !bytes.Equal(behind, rest) {
			t.Errorf("%q: rest %q; net/http leaves %q, %v", in, rest, behind, err)
		}
	})
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/upstream"
)

const goodKey = "dGhlIHNhbXBsZSBub25jZQ=="

// head builds a request: the line, then these fields, replaced by those of edit with
// the same name; an empty value removes the field.
func head(line string, edit ...string) string {
	fields := []string{
		"Host: example1.com", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + goodKey, "Sec-WebSocket-Protocol: xmpp",
	}
	for _, e := range edit {
		name, value, _ := strings.Cut(e, ":")
		replaced := false
		for i, f := range fields {
			if strings.HasPrefix(f, name+":") {
				fields[i], replaced = e, true
				if strings.TrimSpace(value) == "" {
					fields = append(fields[:i], fields[i+1:]...)
				}
				break
			}
		}
		if !replaced {
			fields = append(fields, e)
		}
	}
	return line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
}

// Requests of browsers are accepted.
func TestParseRequestTakes(t *testing.T) {
	for _, test := range []struct {
		name, head, subprotocol string
	}{
		{"plain", head("GET / HTTP/1.1"), "xmpp"},
		{"path and query", head("GET /ws/xmpp?x=%41&y HTTP/1.1"), "xmpp"},
		{"Firefox's Connection", head("GET / HTTP/1.1", "Connection: keep-alive, Upgrade"), "xmpp"},
		{"two Connection lines", head("GET / HTTP/1.1", "Connection: keep-alive\r\nConnection: Upgrade"), "xmpp"},
		{"a tab behind the comma", head("GET / HTTP/1.1", "Connection: keep-alive,\tUpgrade"), "xmpp"},
		{"case", head("GET / HTTP/1.1", "Upgrade: WebSocket", "Connection: upgrade"), "xmpp"},
		{"several subprotocols", head("GET / HTTP/1.1", "Sec-WebSocket-Protocol: mqtt, xmpp-framing, xmpp"), "xmpp"},
		{"the draft's subprotocol", head("GET / HTTP/1.1", "Sec-WebSocket-Protocol: xmpp-framing"), "xmpp-framing"},
		{"extensions", head("GET / HTTP/1.1", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), "xmpp"},
		{"Host with a port", head("GET / HTTP/1.1", "Host: example1.com:5291"), "xmpp"},
	} {
		r, err := parseRequest([]byte(test.head))
		if err != nil || !r.upgrade || r.subprotocol != test.subprotocol || !hostIs(r.host, "Example1.com.") {
			t.Errorf("%s: %+v, %v", test.name, r, err)
		}
	}
}

// A forbidden request gets the status that explains the refusal.
func TestParseRequestRefuses(t *testing.T) {
	for _, test := range []struct {
		name, head string
		status     int
	}{
		{"POST", head("POST / HTTP/1.1"), 405},
		{"HTTP/1.0", head("GET / HTTP/1.0"), 400},
		{"HTTP/1.10", head("GET / HTTP/1.10"), 400},
		{"HTTP/2.0", head("GET / HTTP/2.0"), 400},
		{"absolute form", head("GET wss://example1.com/ HTTP/1.1"), 400},
		{"asterisk form", head("GET * HTTP/1.1"), 400},
		{"two spaces", head("GET  / HTTP/1.1"), 400},
		{"bad escape", head("GET /%4 HTTP/1.1"), 400},
		{"no Host", head("GET / HTTP/1.1", "Host:"), 400},
		{"two Hosts", strings.Replace(head("GET / HTTP/1.1"), "\r\n", "\r\nHost: example1.com\r\n", 1), 400},
		{"Host with a path", head("GET / HTTP/1.1", "Host: example1.com/x"), 400},
		{"Host with user", head("GET / HTTP/1.1", "Host: a@example1.com"), 400},
		{"bad port", head("GET / HTTP/1.1", "Host: example1.com:70000"), 400},
		{"version 8", head("GET / HTTP/1.1", "Sec-WebSocket-Version: 8"), 426},
		{"no version", head("GET / HTTP/1.1", "Sec-WebSocket-Version:"), 426},
		{"no key", head("GET / HTTP/1.1", "Sec-WebSocket-Key:"), 400},
		{"short key", head("GET / HTTP/1.1", "Sec-WebSocket-Key: AAAA"), 400},
		{"key that is no base64", head("GET / HTTP/1.1", "Sec-WebSocket-Key: "+strings.Repeat("!", 24)), 400},
		{"no Connection", head("GET / HTTP/1.1", "Connection:"), 400},
		{"Connection: close", head("GET / HTTP/1.1", "Connection: close"), 400},
		{"Upgrade: websocket, h2c", head("GET / HTTP/1.1", "Upgrade: websocket, h2c"), 400},
		{"no subprotocol", head("GET / HTTP/1.1", "Sec-WebSocket-Protocol:"), 400},
		{"other subprotocol", head("GET / HTTP/1.1", "Sec-WebSocket-Protocol: mqtt"), 400},
		{"body", head("GET / HTTP/1.1", "Content-Length: 5"), 400},
		{"chunks", head("GET / HTTP/1.1", "Transfer-Encoding: chunked"), 400},
		{"folded field", head("GET / HTTP/1.1", "X-A: b\r\n c"), 400},
		{"space before the colon", head("GET / HTTP/1.1", "X-A : b"), 400},
		{"control character", head("GET / HTTP/1.1", "X-A: \x01"), 400},
		{"NUL", head("GET / HTTP/1.1", "X-A: \x00"), 400},
		{"bare CR", head("GET / HTTP/1.1", "X-A: b\rX-B: c"), 400},
		{"bare LF", head("GET / HTTP/1.1", "X-A: b\nX-B: c"), 400},
		{"too many fields", head("GET / HTTP/1.1", strings.Repeat("X: y\r\n", 100)+"X: y"), 431},
	} {
		r, err := parseRequest([]byte(test.head))
		var ref *refusal
		if !errors.As(err, &ref) || ref.status != test.status {
			t.Errorf("%s: %+v, %v; want %d", test.name, r, err, test.status)
			continue
		}
		if resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(ref.answer())), nil); err != nil || resp.StatusCode != test.status {
			t.Errorf("%s: the answer reads as %v, %v", test.name, resp, err)
		}
	}
}

// A Host must be the server name; otherwise the request is for another vhost.
func TestHostIs(t *testing.T) {
	for _, test := range []struct {
		host, name string
		want       bool
	}{
		{"example1.com", "example1.com", true},
		{"EXAMPLE1.com.:443", "example1.COM", true},
		{"example2.com", "example1.com", false},
		{"example1.com.evil", "example1.com", false},
		{"[::1]:443", "example1.com", false},
	} {
		if got := hostIs(test.host, test.name); got != test.want {
			t.Errorf("host %q, server name %q: %v; want %v", test.host, test.name, got, test.want)
		}
	}
}

// net/http reads each accepted request in the same way; the request reaches an upstream
// complete, and gets a 101 that the client accepts.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(head("GET / HTTP/1.1")))
	f.Add([]byte(head("GET /a?b HTTP/1.1", "Host: [::1]:5291", "X-A: b")))
	f.Add([]byte(head("GET / HTTP/1.10")))
	f.Add([]byte(head("GET //x%2f HTTP/1.1", "Connection: a,,upgrade", "Cookie: a=b")))
	f.Add([]byte(head("GET / HTTP/1.1", "Connection: keep-alive\r\nConnection: Upgrade")))
	f.Add([]byte(head("GET / HTTP/1.1", "Connection: keep-alive,\tUpgrade")))
	f.Add([]byte(head("GET / HTTP/1.1", "Cookie: a=b\r\nCookie:", "Accept-Language:\r\nAccept-Language: de")))
	f.Add([]byte(head("GET / HTTP/1.1", "Origin: https://example1.com", "User-Agent: \xff", "Authorization: Basic YTpi")))
	node := &recordingNode{}
	table, err := upstream.New(upstream.Options{
		Upstreams: []upstream.GroupOptions{{Name: "tigase", Nodes: []upstream.NodeOptions{{URL: "ws://127.0.0.1:5290"}}}},
		Dial:      node.dial, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	defer table.Close()
	vhost, err := table.Routes().Lookup("example1.com")
	if err != nil {
		f.Fatal(err)
	}
	c := &clientConn{tls: tls.Server(node, &tls.Config{})}

	f.Fuzz(func(t *testing.T, b []byte) {
		_, end, err := readHead(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		r, err := parseRequest(b[:end])
		if err != nil || !r.upgrade {
			return
		}
		h, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b[:end])))
		if err != nil {
			t.Fatalf("net/http refuses what we accept: %v", err)
		}
		if h.Method != r.method || h.RequestURI != r.target || h.Host != r.host || h.URL.EscapedPath() != r.path ||
			h.Header.Get("Sec-WebSocket-Key") != r.key || h.ProtoMajor != 1 || h.ProtoMinor != 1 || h.ContentLength != 0 {
			t.Errorf("net/http reads %s %q %q %q, we read %s %q %q %q",
				h.Method, h.RequestURI, h.Host, h.URL.EscapedPath(), r.method, r.target, r.host, r.path)
		}

		up, err := vhost.Dial(t.Context(), c.dialRequest(r))
		if err != nil {
			t.Fatalf("%q can't be forwarded: %v", b[:end], err)
		}
		up.Release()
		forwarded, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(node.written)))
		if err != nil {
			t.Fatalf("net/http refuses what we forward, %q: %v", node.written, err)
		}
		if forwarded.Method != h.Method || forwarded.RequestURI != h.RequestURI || forwarded.Host != h.Host {
			t.Errorf("%s %q %q is forwarded as %s %q %q", h.Method, h.RequestURI, h.Host, forwarded.Method, forwarded.RequestURI, forwarded.Host)
		}
		for name, sep := range map[string]string{"Origin": "", "User-Agent": "", "Authorization": "", "Cookie": "; ", "Accept-Language": ", "} {
			var want string
			for _, v := range h.Header.Values(name) {
				if sep == "" {
					want = v // the last
				} else {
					want = joinNonEmpty(want, sep, v)
				}
			}
			if got := forwarded.Header.Get(name); got != want {
				t.Errorf("%s: %q is forwarded as %q", name, want, got)
			}
		}

		ours, err := r.switchingProtocols()
		if err != nil {
			t.Fatalf("gobwas refuses what we took: %v", err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(ours)), h)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("net/http reads our answer as %v, %v", resp, err)
		}
		// gobwas reads the forwarded request, because it is plain, and with the
		// client's key answers it as we do.
		plain := bytes.Replace(node.written, []byte(node.key), []byte(r.key), 1)
		var answer bytes.Buffer
		u := ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == r.subprotocol }}
		if _, err := u.Upgrade(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(plain), &answer}); err != nil {
			t.Fatalf("gobwas refuses what we forward, %q: %v", plain, err)
		}
		theirs, err := http.ReadResponse(bufio.NewReader(&answer), h)
		if err != nil || !reflect.DeepEqual(resp.Header, theirs.Header) {
			t.Errorf("we answer with %v, gobwas with %v", resp.Header, theirs.Header)
		}
	})
}

// A recordingNode is an upstream and each connection to it: it keeps the last bytes
// written, and answers them with a 101.
type recordingNode struct {
	net.Conn
	written []byte
	key     string
	answer  *strings.Reader
}

func (n *recordingNode) dial(context.Context, string, string) (net.Conn, error) { return n, nil }
func (n *recordingNode) Close() error                                           { return nil }
func (n *recordingNode) SetDeadline(time.Time) error                            { return nil }
func (n *recordingNode) Read(b []byte) (int, error)                             { return n.answer.Read(b) }

func (n *recordingNode) Write(b []byte) (int, error) {
	n.written = bytes.Clone(b)
	field := func(name string) string {
		_, after, _ := strings.Cut(string(b), "\r\n"+name+": ")
		value, _, _ := strings.Cut(after, "\r\n")
		return value
	}
	n.key = field("Sec-WebSocket-Key")
	r := &request{key: n.key, subprotocol: field("Sec-WebSocket-Protocol")}
	answer, err := r.switchingProtocols()
	n.answer = strings.NewReader(string(answer))
	return len(b), err
}

// readHead finds the blank line regardless of the boundaries between reads.
func TestReadHeadAnySplit(t *testing.T) {
	b := []byte(head("GET / HTTP/1.1") + "frames")
	for size := 1; size <= len(b); size++ {
		read, end, err := readHead(&stutter{b, size}, make([]byte, 0, 64))
		if err != nil || string(read[:end]) != head("GET / HTTP/1.1") || !strings.HasPrefix("frames", string(read[end:])) {
			t.Errorf("reads of %d bytes: %q, %d, %v", size, read, end, err)
		}
	}
}

// A head may have 16 KiB and not a byte more, regardless of the size of the first
// buffer.
func TestReadHeadAtItsLimit(t *testing.T) {
	whole := head("GET / HTTP/1.1", "X-Long: "+strings.Repeat("x", maxRequestHeader))
	excess := len(whole) - maxRequestHeader
	for _, test := range []struct {
		what string
		head string
		want error
	}{
		{"16 KiB", strings.Replace(whole, strings.Repeat("x", excess), "", 1), nil},
		{"a byte more", strings.Replace(whole, strings.Repeat("x", excess-1), "", 1), errTooLarge},
	} {
		read, end, err := readHead(strings.NewReader(test.head), make([]byte, 0, 2048))
		if !errors.Is(err, test.want) || err == nil && string(read[:end]) != test.head {
			t.Errorf("%s: %d bytes, the end at %d, %v; want %v", test.what, len(read), end, err, test.want)
		}
	}
}

// stutter reads a few bytes at a time.
type stutter struct {
	b    []byte
	size int
}

func (s *stutter) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), s.size)], s.b)
	s.b = s.b[n:]
	return n, nil
}

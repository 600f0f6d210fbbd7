package chat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

const upgrade = "GET / HTTP/1.1\r\nHost: example1.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"

// 192.0.2.7:51812 to 192.0.2.1:5290, and the form without addresses.
const (
	proxyV2      = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\xca\x64\x14\xaa"
	proxyV2Local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

// ask writes each piece to a conn of s and returns what comes within a minute.
// It runs in a bubble.
func ask(s *Server, pieces ...string) string {
	client, server := net.Pipe()
	go s.ServeConn(server)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, piece := range pieces {
			io.WriteString(client, piece)
			time.Sleep(time.Millisecond)
		}
	})
	defer wg.Wait()
	defer client.Close()
	client.SetReadDeadline(time.Now().Add(2 * time.Minute))
	b, err := io.ReadAll(client)
	if err != nil {
		return string(b) + "…"
	}
	return string(b)
}

// What comes back for an opening handshake; "…" stands for a conn that stays
// open.
func TestOpeningHandshake(t *testing.T) {
	short := "GET / HTTP/1.1\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
	no := func(old, new string) string { return strings.Replace(upgrade, old, new, 1) }
	const yes = "HTTP/1.1 101 Switching Protocols"
	for _, tt := range []struct {
		name           string
		request        []string
		polite, tigase string // first line
	}{
		{"plain", []string{upgrade}, yes, yes},
		{"in pieces", []string{upgrade[:50], upgrade[50:]}, yes, yes},
		{"100 bytes or fewer", []string{short}, "HTTP/1.1 400 Bad Request", ""},
		{"a byte behind the blank line", []string{upgrade + "x"}, yes, ""},
		{"LF only", []string{strings.ReplaceAll(upgrade, "\r", "")}, "…", ""},
		{"POST", []string{no("GET", "POST")}, "HTTP/1.1 405 Method Not Allowed", yes},
		{"HTTP/1.0", []string{no("HTTP/1.1", "HTTP/1.0")}, "HTTP/1.1 400 Bad Request", yes},
		{"no Upgrade", []string{no("Upgrade: websocket\r\n", "")}, "HTTP/1.1 426 Upgrade Required", yes},
		{"no version", []string{no("Sec-WebSocket-Version: 13", "X-Filler: filler")}, "HTTP/1.1 400 Bad Request", ""},
		{"no subprotocol", []string{no("Sec-WebSocket-Protocol: xmpp", "X-Filler: filler")}, "HTTP/1.1 400 Bad Request", "HTTP/1.0 400 Bad request"},
		{"upper-case subprotocol", []string{no(": xmpp", ": XMPP")}, "HTTP/1.1 400 Bad Request", "HTTP/1.0 400 Bad request"},
		{"of two subprotocol headers the last wins", []string{no("Sec-WebSocket-Protocol: xmpp", "Sec-WebSocket-Protocol: xmpp\r\nSec-WebSocket-Protocol: mqtt")}, yes, "HTTP/1.0 400 Bad request"},
		{"PROXY v2", []string{proxyV2 + upgrade}, yes, yes},
		{"PROXY v2 by itself", []string{proxyV2, upgrade}, yes, ""},
		{"PROXY v2 LOCAL", []string{proxyV2Local + upgrade}, yes, ""},
		{"PROXY v1 by itself", []string{"PROXY TCP4 192.0.2.7 192.0.2.1 51812 5290\r\n", upgrade}, yes, yes},
		{"PROXY v1", []string{"PROXY TCP4 192.0.2.7 192.0.2.1 51812 5290\r\n" + upgrade}, yes, yes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, side := range []struct {
				name   string
				habits Habits
				want   string
			}{{"polite", Habits{}, tt.polite}, {"tigase", Tigase(), tt.tigase}} {
				synctest.Test(t, func(t *testing.T) {
					s := New(Config{Habits: side.habits})
					got := ask(s, tt.request...)
					s.Close()
					first, _, _ := strings.Cut(got, "\r\n")
					if first != side.want {
						t.Errorf("%s: answer = %q, want %q", side.name, got, side.want)
					}
					if first == yes && !strings.Contains(got, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") {
						t.Errorf("%s: answer = %q, want the accept key of RFC 6455", side.name, got)
					}
				})
			}
		})
	}
}

func TestPeer(t *testing.T) {
	for _, tt := range []struct{ header, want string }{
		{"", ""},
		{"PROXY TCP4 192.0.2.7 192.0.2.1 51812 5290\r\n", "PROXY TCP4 192.0.2.7 192.0.2.1 51812 5290"},
		{proxyV2, "v2 192.0.2.7:51812 192.0.2.1:5290"},
		{proxyV2Local, "v2 LOCAL"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := New(Config{})
			client, server := net.Pipe()
			go s.ServeConn(server)
			go io.Copy(io.Discard, client)
			request := strings.Replace(upgrade, "Host:", "X-Forwarded-For: 192.0.2.9\r\nx-forwarded-for: 192.0.2.7\r\nHost:", 1)
			for _, b := range []byte(tt.header + request) { // any segmentation will do
				client.Write([]byte{b})
			}
			synctest.Wait()
			p := s.Last()
			if p == nil {
				t.Fatalf("%q: not understood", tt.header)
			}
			if p.Proxy != tt.want || p.ForwardedFor != "192.0.2.9, 192.0.2.7" || p.Host != "example1.com" || p.Request != request {
				t.Errorf("peer = %+v, want PROXY %q", p, tt.want)
			}
			client.Close()
			s.Close()
		})
	}
}

// Before 8.1.0 Tigase knew only the RFC's spelling.
func TestCaseSensitive(t *testing.T) {
	habits := Tigase()
	habits.CaseSensitive = true
	s := listen(t, Config{Habits: habits})
	dial(t, Target{URL: s.URL()})
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, strings.ReplaceAll(upgrade, "WebSocket", "Websocket"))
	if b, err := io.ReadAll(nc); len(b) > 0 || err != nil {
		t.Errorf("answer = %q, %v; want none", b, err)
	}
}

// Tigase prefers xmpp-framing where both are offered, and adds CORS headers.
func TestTigaseUpgrade(t *testing.T) {
	s := listen(t, Config{Habits: Tigase()})
	c := dial(t, Target{URL: s.URL(), Subprotocols: []string{"xmpp", "xmpp-framing"}})
	h := c.Response.Header
	if got := h.Get("Sec-WebSocket-Protocol"); got != "xmpp-framing" {
		t.Errorf("subprotocol %q, want xmpp-framing", got)
	}
	if got := h.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("Access-Control-Allow-Origin: %q, want *", got)
	}
	if got := h.Values("Sec-WebSocket-Extensions"); len(got) > 0 {
		t.Errorf("extensions %q, want none", got)
	}
}

// What Tigase does not understand leaves a zombie.
func TestZombie(t *testing.T) {
	s := listen(t, Config{Habits: Tigase()})
	for name, frame := range map[string][]byte{
		"invalid UTF-8":   ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("\xff")))),
		"negative length": {0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},
	} {
		c := dial(t, Target{URL: s.URL()})
		c.WriteRaw(frame)
		c.WriteFrame(ws.NewPingFrame(nil))
		c.Conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if b, err := c.Reader.ReadByte(); !isTimeout(err) {
			t.Errorf("%s: got %x, %v; want silence", name, b, err)
		}
	}
}

func TestOneFrame(t *testing.T) {
	s := listen(t, Config{Domains: []string{"example1.com"}, Habits: Habits{OneFrame: true}})
	c := dial(t, Target{URL: s.URL()})
	c.Send("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example9.com'/>")
	got := recv(t, c, 2)[1]
	if !strings.HasPrefix(got, "<stream:error ") || !strings.HasSuffix(got, "</stream:error><close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>") {
		t.Errorf("got %s, want error and end in one frame", got)
	}
}

func TestNoSubprotocol(t *testing.T) {
	s := listen(t, Config{Habits: Habits{NoSubprotocol: true}})
	c := dial(t, Target{URL: s.URL()})
	if got := c.Response.Header.Values("Sec-WebSocket-Protocol"); len(got) != 0 {
		t.Errorf("subprotocol = %q, want none", got)
	}
}

func TestTigaseClose(t *testing.T) {
	s := listen(t, Config{Habits: Tigase()})
	c := login(t, Target{URL: s.URL(), Domain: "example1.com"})
	c.WriteFrame(ws.NewPingFrame([]byte("?")))
	if f, err := c.ReadFrame(); err != nil || f.Header.OpCode != ws.OpPong || string(f.Payload) != "?" {
		t.Errorf("got %v, %v; want a Pong", f, err)
	}
	c.WriteFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "bye")))
	b := make([]byte, 2)
	if _, err := io.ReadFull(c.Reader, b); err != nil || !bytes.Equal(b, []byte{0x88, 0}) {
		t.Errorf("got % x, %v; want 88 00", b, err)
	}
	c.Conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := c.Reader.Read(b); !isTimeout(err) {
		t.Errorf("read = %d, %v; want nothing, and TCP open", n, err)
	}
	if s.Open() != 1 || len(s.router.find(c.JID)) != 1 {
		t.Error("the session is gone, want it as long as TCP")
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestUnknownDomain(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		s := listen(t, Config{Domains: []string{"example1.com"}, Habits: Tigase()})
		c := dial(t, Target{URL: s.URL(), Domain: "example9.com", Legacy: legacy})
		if err := c.OpenStream(); err == nil || err.Error() != "stream: error host-unknown" {
			t.Errorf("err = %v, want host-unknown", err)
		}
		if got := recv(t, c, 1)[0]; !strings.HasPrefix(got, "<close ") && got != "</stream:stream>" {
			t.Errorf("then %q, want the stream's end as a frame of its own", got)
		}
		c.Conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if b, err := c.Reader.ReadByte(); !isTimeout(err) {
			t.Errorf("then %x, %v; want silence", b, err)
		}
	}
	s := listen(t, Config{Domains: []string{"example1.com"}})
	c := dial(t, Target{URL: s.URL(), Domain: "example9.com"})
	if err := c.OpenStream(); err == nil {
		t.Error("err = nil, want host-unknown")
	}
	recv(t, c, 1)
	wantClose(t, c, 1000)
	wantEOF(t, c)
}

func TestRedirect(t *testing.T) {
	habits := Tigase()
	habits.Redirect = func(o Open) string {
		switch {
		case o.From == "" || o.Authenticated:
			return ""
		case o.Legacy:
			return "t2.example1.com"
		}
		return "ws://t2.example1.com:5290/"
	}
	s := listen(t, Config{Habits: habits})
	login(t, Target{URL: s.URL(), Domain: "example1.com"})
	c := dial(t, Target{URL: s.URL(), Domain: "example1.com", From: "romeo@example1.com"})
	if err := c.OpenStream(); err == nil || err.Error() != "stream: see-other-uri ws://t2.example1.com:5290/" {
		t.Errorf("err = %v, want see-other-uri", err)
	}
	c = dial(t, Target{URL: s.URL(), Domain: "example1.com", From: "romeo@example1.com", Legacy: true})
	if err := c.OpenStream(); err == nil || err.Error() != "stream: error see-other-host t2.example1.com" {
		t.Errorf("err = %v, want see-other-host", err)
	}
}

// recordingConn remembers the sizes of the writes it sees.
type recordingConn struct {
	net.Conn
	mu    sync.Mutex
	sizes []int
}

func (c *recordingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.sizes = append(c.sizes, len(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// Header and payload come in two writes, or byte by byte.
func TestWrites(t *testing.T) {
	for _, tt := range []struct {
		habits Habits
		echo   bool
		want   []int
	}{
		{Habits{}, true, []int{7}},
		{Habits{TwoWrites: true}, true, []int{2, 5}},
		{Habits{TwoWrites: true}, false, []int{2, 5}},
		{Habits{WritePace: Pace{Chunk: 1}}, false, []int{1, 1, 1, 1, 1, 1, 1}},
	} {
		s := New(Config{Echo: tt.echo, Habits: tt.habits})
		client, server := net.Pipe()
		rec := &recordingConn{Conn: server}
		go s.ServeConn(rec)
		c, err := Dial(t.Context(), Target{URL: "ws://example1.com/", NetDial: func(context.Context, string, string) (net.Conn, error) { return client, nil }})
		if err != nil {
			t.Fatal(err)
		}
		rec.mu.Lock()
		rec.sizes = nil
		rec.mu.Unlock()
		if tt.echo {
			c.Send("hello")
		} else {
			s.Conns()[0].Send("hello")
		}
		if got := recv(t, c, 1)[0]; got != "hello" {
			t.Errorf("got %q", got)
		}
		rec.mu.Lock()
		if !slices.Equal(rec.sizes, tt.want) {
			t.Errorf("%+v: writes of %v bytes, want %v", tt.habits, rec.sizes, tt.want)
		}
		rec.mu.Unlock()
		c.Abort()
		s.Close()
	}
}

// A slow reader takes as long as its pace says.
func TestReadPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Echo: true, Habits: Habits{ReadPace: Pace{Chunk: 10, Delay: time.Second}}})
		client, server := net.Pipe()
		go s.ServeConn(server)
		start := time.Now()
		io.WriteString(client, upgrade)
		if took, want := time.Since(start), time.Duration((len(upgrade)+9)/10)*time.Second; took != want {
			t.Errorf("read %d bytes in %v, want %v", len(upgrade), took, want)
		}
		client.Close()
		s.Close()
	})
}

// Past its limit a conn drops writes, and so corrupts the framing.
func TestDropPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Habits: Habits{TwoWrites: true, DropPast: 3}})
		client, server := net.Pipe()
		go s.ServeConn(server)
		go io.WriteString(client, upgrade)
		synctest.Wait() // the 101 is being written, and nobody reads
		c := s.Conns()[0]
		for range 5 {
			c.Send("hello")
		}
		go func() {
			synctest.Wait()
			s.Close()
		}()
		b, _ := io.ReadAll(client)
		if got := b[bytes.Index(b, []byte("\r\n\r\n"))+4:]; string(got) != "\x81\x05hello\x81\x05" {
			t.Errorf("got %q, want a frame and half of another", got)
		}
		client.Close()
	})
}

func TestNewPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Habits: Habits{NewPerSecond: 3}})
		answered := func() (n int) {
			for range 5 {
				client, server := net.Pipe()
				go s.ServeConn(server)
				io.WriteString(client, upgrade)
				if b := make([]byte, 12); func() bool { _, err := io.ReadFull(client, b); return err == nil }() {
					n++
				}
				client.Close()
			}
			return n
		}
		if got := answered(); got != 3 {
			t.Errorf("%d of 5 answered, want 3", got)
		}
		time.Sleep(time.Second)
		if got := answered(); got != 3 {
			t.Errorf("%d of 5 answered a second later, want 3", got)
		}
		if s.Seen() != 10 {
			t.Errorf("Seen() = %d, want 10", s.Seen())
		}
		s.Close()
	})
}

// Each Outburst comes at its moment, byte for byte, and ends as it should.
func TestRude(t *testing.T) {
	for _, tt := range []struct {
		name string
		rude Outburst
	}{
		{"garbage at accept", Outburst{AtAccept, Garbage, FIN}},
		{"nothing", Outburst{AtRequest, nil, Silence}},
		{"reset", Outburst{AtRequest, nil, RST}},
		{"half an answer", Outburst{AtRequest, HalfUpgrade, FIN}},
		{"404", Outburst{AtRequest, HTTP("404 Not Found", "no such path"), FIN}},
		{"frame with the 101", Outburst{WithUpgrade, []byte{0x81, 1, '!'}, GoOn}},
		{"half a frame", Outburst{AtFirstFrame, HalfFrame, FIN}},
		{"huge length", Outburst{AtFirstFrame, HugeLength, Silence}},
		{"dies in a message", Outburst{AtFirstStanza, HalfMessage, RST}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listen(t, Config{Rude: tt.rude})
			raw := rawDial(t, s)
			if tt.rude.When != AtAccept {
				io.WriteString(raw, upgrade)
			}
			c := &Client{Conn: raw, domain: "example1.com"}
			if tt.rude.When == AtFirstFrame {
				c.Send("<open/>")
			}
			if tt.rude.When == AtFirstStanza {
				for _, text := range []string{
					"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example1.com'/>",
					"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>",
					"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example1.com'/>",
					"<iq xmlns='jabber:client' type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
					"<message xmlns='jabber:client' to='a@example1.com'/>",
				} {
					c.Send(text)
				}
			}
			raw.SetReadDeadline(time.Now().Add(30 * time.Second))
			var b []byte
			if tt.rude.Then == Silence || tt.rude.Then == GoOn { // behind what is said
				for chunk := make([]byte, 512); !strings.Contains(string(b), "\r\nSec-WebSocket-Accept: ") && tt.rude.When > AtRequest || !bytes.HasSuffix(b, tt.rude.Bytes); {
					n, err := raw.Read(chunk)
					if b = append(b, chunk[:n]...); err != nil {
						t.Fatalf("got %q, %v; want %q at its end", b, err, tt.rude.Bytes)
					}
				}
				raw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			}
			rest, err := io.ReadAll(raw)
			b = append(b, rest...)
			if upgraded := strings.Contains(string(b), "\r\nSec-WebSocket-Accept: "); upgraded != (tt.rude.When > AtRequest) {
				t.Errorf("got %q; a 101 first: want %v", b, !upgraded)
			}
			if tt.rude.Then != RST && !bytes.HasSuffix(b, tt.rude.Bytes) { // a reset may overtake bytes
				t.Errorf("got %q, want %q at its end", b, tt.rude.Bytes)
			}
			switch tt.rude.Then {
			case FIN:
				if err != nil {
					t.Errorf("then %v, want FIN", err)
				}
			case RST:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("then %v, want a reset", err)
				}
			default:
				if !isTimeout(err) {
					t.Errorf("then %v, want TCP open", err)
				}
			}
		})
	}
}

func rawDial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// The bad frames are bad, each for its own reason.
func TestBadFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"Masked": Masked, "RSV": RSV, "ReservedOpcode": ReservedOpcode, "ReservedCtrl": ReservedCtrl,
		"LongPing": LongPing, "FragmentedPing": FragmentedPing, "Orphan": Orphan, "NegativeLength": NegativeLength,
	} {
		h, err := ws.ReadHeader(bytes.NewReader(b))
		if err == nil {
			err = ws.CheckHeader(h, ws.StateClientSide)
		}
		if err == nil {
			t.Errorf("%s: % x is a good frame", name, b)
		}
	}
}

// A polite server minds the RFC.
func TestProtocolErrors(t *testing.T) {
	s := listen(t, Config{})
	for name, frame := range map[string]ws.Frame{
		"RSV":      {Header: ws.Header{Fin: true, Rsv: 4, OpCode: ws.OpText}},
		"reserved": {Header: ws.Header{Fin: true, OpCode: 3}},
		"orphan":   {Header: ws.Header{Fin: true, OpCode: ws.OpContinuation}},
	} {
		c := dial(t, Target{URL: s.URL()})
		if err := c.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		wantClose(t, c, 1002)
	}
	c := dial(t, Target{URL: s.URL()})
	c.WriteRaw([]byte{0x81, 1, 'x'}) // not masked
	wantClose(t, c, 1002)
	c = dial(t, Target{URL: s.URL()})
	c.Send("\xff")
	wantClose(t, c, 1007)
	c = dial(t, Target{URL: s.URL()})
	c.Send("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example1.com'>")
	if got := recv(t, c, 3); !strings.Contains(got[1], "not-well-formed") {
		t.Errorf("got %q, want not-well-formed", got)
	}
}

// Frames come back as they went: opcode, fragments, sizes. A Pong has a queue of its
// own, and may come behind a later frame.
func TestEcho(t *testing.T) {
	s := listen(t, Config{Echo: true})
	c := dial(t, Target{URL: s.URL(), Subprotocols: []string{}})
	frames := []ws.Frame{
		ws.NewTextFrame(nil),
		ws.NewTextFrame([]byte("a")),
		ws.NewFrame(ws.OpBinary, false, bytes.Repeat([]byte("0123456"), 100)),
		ws.NewFrame(ws.OpContinuation, false, nil),
		ws.NewFrame(ws.OpContinuation, true, bytes.Repeat([]byte("abcde"), 300_000)),
	}
	go func() {
		for i, f := range frames {
			if i == len(frames)-1 {
				c.WriteFrame(ws.NewPingFrame([]byte("between fragments")))
			}
			c.WriteFrame(f)
		}
	}()
	pongs := 0
	for left := frames; len(left) > 0 || pongs == 0; {
		got, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if got.Header.OpCode == ws.OpPong && string(got.Payload) == "between fragments" && pongs == 0 {
			pongs++
			continue
		}
		if len(left) == 0 {
			t.Fatalf("got %+v, want a Pong", got.Header)
		}
		want := left[0]
		left = left[1:]
		if got.Header != want.Header || !bytes.Equal(got.Payload, want.Payload) {
			t.Fatalf("got %+v, want %+v", got.Header, want.Header)
		}
	}
	c.WriteFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(4000, "done")))
	wantClose(t, c, 4000)
	wantEOF(t, c)
	p := s.Last()
	if p.Count.FramesIn.Load() != 7 || p.Count.FramesOut.Load() != 7 || p.Count.Messages.Load() != 3 {
		t.Errorf("counted %d in, %d out, %d messages; want 7, 7, 3", p.Count.FramesIn.Load(), p.Count.FramesOut.Load(), p.Count.Messages.Load())
	}
}

// OnFrame sees what came, unmasked.
func TestOnFrame(t *testing.T) {
	seen := make(chan string, 1)
	s := listen(t, Config{OnFrame: func(p *Peer, h ws.Header, payload []byte) {
		seen <- fmt.Sprintf("%d %d %s", p.ID, h.OpCode, payload)
	}})
	c := dial(t, Target{URL: s.URL(), Header: http.Header{"X-Forwarded-For": {"192.0.2.7"}}})
	c.Send("hello")
	if got := <-seen; got != "1 1 hello" {
		t.Errorf("OnFrame saw %q", got)
	}
	if got := s.Last().ForwardedFor; got != "192.0.2.7" {
		t.Errorf("X-Forwarded-For = %q", got)
	}
}

// NeverRead lets the peer's writes pile up until the Server closes.
func TestNeverRead(t *testing.T) {
	s := listen(t, Config{Echo: true, Habits: Habits{NeverRead: true}})
	c := dial(t, Target{URL: s.URL()})
	c.Send("x")
	c.Conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Reader.ReadByte(); !isTimeout(err) {
		t.Errorf("err = %v, want silence", err)
	}
}

// A thousand conns come and go.
func TestMany(t *testing.T) {
	s := listen(t, Config{})
	const n, workers = 1000, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range n / workers {
				c, err := Login(t.Context(), Target{URL: s.URL(), Domain: "example1.com"})
				if err != nil {
					t.Error(err)
					return
				}
				c.Message(c.JID, "me")
				if e, err := c.ReadMessage(); err != nil || e.ChildText("body") != "me" {
					t.Error(e, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	waitOpen(t, s, 0)
	if s.Seen() != n || len(s.Peers()) != n {
		t.Errorf("seen %d, remembered %d; want %d", s.Seen(), len(s.Peers()), n)
	}
}

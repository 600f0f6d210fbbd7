package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
	"wssgate/internal/leaktest"
	"wssgate/upstream"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const testName = "example1.com"

// A gate is a Server on loopback with one vhost and one upstream.
type gate struct {
	*Server
	t    testing.TB
	ca   *minica.CA
	addr string
	logs *logLines

	table *upstream.Table
}

// newGate starts a gate for the upstream at url. It is shut down at the end of the
// test, unless the test did that itself.
func newGate(t testing.TB, url string, edit ...func(*Options)) *gate {
	t.Helper()
	return newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{group("test", url)}}, edit...)
}

// group returns an upstream with these nodes, named n1, n2 and so on.
func group(name string, urls ...string) upstream.GroupOptions {
	g := upstream.GroupOptions{Name: name, DialTimeout: patience}
	for i, url := range urls {
		g.Nodes = append(g.Nodes, upstream.NodeOptions{URL: url, Name: "n" + string(rune('1'+i))})
	}
	return g
}

// newGateFor is newGate for any upstreams and vhosts.
func newGateFor(t testing.TB, routing upstream.Options, edit ...func(*Options)) *gate {
	t.Helper()
	g := &gate{t: t, ca: minica.NewCA("proxy test"), logs: &logLines{}}
	cert := g.ca.Issue(testName).TLS()
	log := slog.New(slog.NewTextHandler(g.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	routing.Wrap, routing.Log = WrapUpstream, log
	table, err := upstream.New(routing)
	if err != nil {
		t.Fatal(err)
	}
	g.table = table
	o := Options{Log: log, Configuration: Configuration{
		GetCertificate: only(cert),
		HasCertificate: func(name string) bool { return name == testName },
		Routes:         table.Routes(),
		Settings: Settings{
			Handshakes: 16, Message: 1 << 20, ClientBacklog: 1 << 20,
			HandshakeTimeout: time.Minute, RequestTimeout: time.Minute,
			Ping: 30 * time.Second, Pong: 20 * time.Second,
		},
	}}
	for _, f := range edit {
		f(&o)
	}
	if g.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	t.Cleanup(func() {
		g.door.mu.Lock()
		down := g.door.draining
		g.door.mu.Unlock()
		if !down {
			g.Shutdown(context.Background(), Pacing{Timeout: time.Second})
		}
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		table.Close()
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.logs)
		}
	})
	return g
}

// only returns one certificate, for testName.
func only(cert *tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName != testName {
			return nil, nil
		}
		return cert, nil
	}
}

func (g *gate) target() chat.Target {
	return chat.Target{URL: "wss://" + testName + "/", Addr: g.addr, RootCAs: g.ca.Pool()}
}

func (g *gate) dial() *chat.Client {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := chat.Dial(ctx, g.target())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Abort() })
	c.Conn.SetDeadline(time.Now().Add(patience))
	return c
}

func newUpstream(t testing.TB, cfg chat.Config) *chat.Server {
	t.Helper()
	s, err := chat.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Two clients log in through the gate, in both framings, and exchange messages.
func TestLoginAndMessage(t *testing.T) {
	up := newUpstream(t, chat.Config{Habits: chat.Tigase()})
	g := newGate(t, up.URL())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	target := g.target()
	juliet, err := chat.Login(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.Abort()
	target.Legacy = true
	romeo, err := chat.Login(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	defer romeo.Abort()
	if err := romeo.Message(juliet.JID, "wherefore"); err != nil {
		t.Fatal(err)
	}
	m, err := juliet.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if body := m.ChildText("body"); body != "wherefore" {
		t.Errorf("body = %q", body)
	}
	if got := up.Last().ForwardedFor; got != "127.0.0.1" {
		t.Errorf("upstream saw X-Forwarded-For %q", got)
	}
}

// Payloads of every size are unchanged in both directions.
func TestEchoSizes(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	c := g.dial()
	for _, size := range []int{0, 1, 125, 126, 1000, 16 << 10, 65535, 65536, 100_000, 1 << 20} {
		payload := []byte(strings.Repeat("abcdefghijklmnop", size/16+1)[:size])
		if err := c.WriteFrame(ws.NewTextFrame(payload)); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if string(f.Payload) != string(payload) {
			t.Errorf("%d bytes came back as %d others", size, len(f.Payload))
		}
	}
}

// The status code for the client identifies the failure.
func TestCloseCodes(t *testing.T) {
	for _, test := range []struct {
		name string
		rude chat.Outburst
		send []byte
		code ws.StatusCode
	}{
		{name: "upstream vanishes", rude: chat.Outburst{When: chat.AtFirstFrame, Then: chat.FIN}, send: ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("x")))), code: 1012},
		{name: "upstream resets", rude: chat.Outburst{When: chat.AtFirstFrame, Then: chat.RST}, send: ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("x")))), code: 1012},
		{name: "upstream masks", rude: chat.Outburst{When: chat.WithUpgrade, Bytes: chat.Masked, Then: chat.Silence}, code: 1014},
		{name: "upstream sets RSV", rude: chat.Outburst{When: chat.WithUpgrade, Bytes: chat.RSV, Then: chat.Silence}, code: 1014},
		{name: "client does not mask", send: ws.MustCompileFrame(ws.NewTextFrame([]byte("x"))), code: 1002},
		{name: "client sets RSV", send: []byte{0xC1, 0x80, 0, 0, 0, 0}, code: 1002},
		{name: "client continues nothing", send: []byte{0x80, 0x80, 0, 0, 0, 0}, code: 1002},
		{name: "client's message is too big", send: []byte{0x81, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0}, code: 1009},
	} {
		t.Run(test.name, func(t *testing.T) {
			up := newUpstream(t, chat.Config{Echo: test.rude.When == chat.Never, Rude: test.rude})
			g := newGate(t, up.URL())
			c := g.dial()
			if test.send != nil {
				if err := c.WriteRaw(test.send); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.Recv()
			var ce *chat.CloseError
			if !errors.As(err, &ce) || ce.Code != test.code {
				t.Errorf("err = %v; want Close %d", err, test.code)
			}
			c.Abort()
			if err := up.WaitOpen(t.Context(), 0); err != nil {
				t.Errorf("upstream's connections: %v", err)
			}
		})
	}
}

// Tigase answers a Close frame and leaves TCP open; the gate closes both legs.
func TestClosingHandshake(t *testing.T) {
	up := newUpstream(t, chat.Config{Habits: chat.Tigase()})
	g := newGate(t, up.URL())
	c := g.dial()
	if err := c.WriteFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "bye"))); err != nil {
		t.Fatal(err)
	}
	f, err := c.ReadFrame()
	if err != nil || f.Header.OpCode != ws.OpClose {
		t.Fatalf("frame = %v, %v; want a Close frame", f.Header, err)
	}
	if _, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("after the closing handshake: %v; want EOF", err)
	}
	if err := up.WaitOpen(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

// Shutdown sends Close 1001, waits for the answer, and returns no error.
func TestShutdown(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	c := g.dial()
	down := make(chan error, 1)
	go func() { down <- g.Shutdown(context.Background(), Pacing{Timeout: patience}) }()
	_, err := c.Recv() // answers
	var ce *chat.CloseError
	if !errors.As(err, &ce) || ce.Code != 1001 {
		t.Errorf("err = %v; want Close 1001", err)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown = %v", err)
	}
	if !strings.Contains(g.logs.String(), "reason=drain") {
		t.Error("no line in the log for the drained tunnel")
	}
}

// The upstream gets the ID in the tunnel's log line, and a refused handshake has one too.
// The line has the client's TLS parameters.
func TestRequestID(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	c := g.dial()
	peer := up.Last()
	id := strings.Join(peer.Header("X-Request-Id"), ", ")
	c.Abort()
	want := fmt.Sprintf("msg=tunnel id=%s ", id)
	g.eventually("the tunnel's line", func(Counts) bool { return strings.Contains(g.logs.String(), want) })
	if log := g.logs.String(); len(id) != 8 || !strings.Contains(log, `tls="TLS 1.3" cipher_suite=TLS_`) || !strings.Contains(log, "resumed=false ech=false") {
		t.Errorf("the upstream got the ID %q; the log has\n%s", id, log)
	}
	up.Close()
	if _, err := chat.Dial(t.Context(), g.target()); err == nil {
		t.Error("the upstream is gone, and the gate gave 101")
	}
	g.eventually("the refused handshake's line", func(Counts) bool {
		_, line, found := strings.Cut(g.logs.String(), `msg="opening handshake refused"`)
		return found && strings.Contains(line, " id=")
	})
}

// Clients that are redirected and reconnect to the same gate, as xmpp.js does, do not
// delay its end: it ends with its earlier tunnels.
func TestShutdownDespiteKnocking(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	c := g.dial()
	pingPong(t, c)
	down := make(chan error, 1)
	elsewhere := func(*upstream.Vhost, string) string { return "wss://other.example/" }
	go func() { down <- g.Shutdown(context.Background(), Pacing{Timeout: time.Minute, Redirect: elsewhere}) }()
	if f, err := c.ReadFrame(); err != nil || f.Header.OpCode != ws.OpClose {
		t.Fatalf("frame = %v, %v; want a Close", f.Header, err)
	}
	knock := g.stream(nil)
	knock.Send(openTag(testName, false))
	words, _ := lastWords(t, knock)
	wantWords(t, words, "other.example")

	knock = g.stream(nil)
	c.Abort()
	for deadline := time.Now().Add(patience); ; {
		next, err := chat.Dial(t.Context(), g.target())
		if err != nil {
			break // no client is admitted any more
		}
		knock.Abort()
		knock = next
		if time.Now().After(deadline) {
			t.Fatal("clients are let in although no tunnel is left")
		}
	}
	knock.Abort()
	if err := <-down; err != nil {
		t.Errorf("Shutdown = %v", err)
	}
}

// A client that does not answer the Close frame makes Shutdown return an error.
func TestShutdownDeadline(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	g.dial()
	if err := g.Shutdown(context.Background(), Pacing{Timeout: 50 * time.Millisecond}); !errors.Is(err, ErrDrainDeadline) {
		t.Errorf("Shutdown = %v; want ErrDrainDeadline", err)
	}
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// framings runs f in both framings.
func framings(t *testing.T, f func(t *testing.T, legacy bool)) {
	t.Run("RFC 7395", func(t *testing.T) { f(t, false) })
	t.Run("older draft", func(t *testing.T) { f(t, true) })
}

// stream opens a WebSocket; edit changes its options.
func (g *gate) stream(edit func(*chat.Target)) *chat.Client {
	g.t.Helper()
	target := g.target()
	if edit != nil {
		edit(&target)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := chat.Dial(ctx, target)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Abort() })
	c.Conn.SetDeadline(time.Now().Add(patience))
	return c
}

// lastWords reads messages up to the Close frame, and joins them.
func lastWords(t *testing.T, c *chat.Client) (text string, code ws.StatusCode) {
	t.Helper()
	for {
		m, err := c.Recv()
		var ce *chat.CloseError
		if errors.As(err, &ce) {
			return text, ce.Code
		}
		if err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		text += m
	}
}

func wantWords(t *testing.T, got string, want ...string) {
	t.Helper()
	rest := got
	for _, w := range want {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Errorf("last words %q; want %q in this order", got, want)
			return
		}
		rest = after
	}
}

// end returns the end of a stream in a framing.
func end(legacy bool) string {
	if legacy {
		return "</stream:stream>"
	}
	return "<close "
}

func openTag(to string, legacy bool) string {
	if legacy {
		return "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='" + to + "' version='1.0'>"
	}
	return "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='" + to + "' version='1.0'/>"
}

// A domain that the vhost does not have gets host-unknown in the client's framing, and
// the upstream sees nothing of the stream.
func TestDomainRefused(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		up := newUpstream(t, chat.Config{})
		g := newGateFor(t, upstream.Options{
			Upstreams: []upstream.GroupOptions{group("test", up.URL())},
			Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Domains: []string{"example2.com", "*.example3.com"}}},
		})
		for domain, good := range map[string]bool{"Example2.com.": true, "a.example3.com": true, "example1.com": false, "example3.com": false} {
			c := g.stream(nil)
			if err := c.Send(openTag(domain, legacy)); err != nil {
				t.Fatal(err)
			}
			if good {
				if m, err := c.Recv(); err != nil {
					t.Errorf("%s: %q, %v; want the server's opening", domain, m, err)
				}
				c.Abort()
				continue
			}
			words, code := lastWords(t, c)
			wantWords(t, words, "host-unknown", end(legacy))
			if code != 1000 {
				t.Errorf("Close %d; want 1000", code)
			}
			if n := up.Last().Count.FramesIn.Load(); n != 0 {
				t.Errorf("the upstream got %d frames", n)
			}
		}
	})
}

// If the vhost reads the start tag, anything else is a stream error.
func TestBadStart(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGateFor(t, upstream.Options{
		Upstreams: []upstream.GroupOptions{group("test", up.URL())},
		Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Domains: []string{testName}}},
	})
	for message, condition := range map[string]string{
		"hello":               "not-well-formed",
		"<message to='a@b'/>": "bad-format",
		"<open xmlns='x' to='" + testName + "'/>":  "invalid-namespace",
		"<!DOCTYPE open [<!ENTITY a 'b'>]><open/>": "restricted-xml",
		openTag("", false):                         "improper-addressing",
		"<open " + strings.Repeat("a", 9000):       "policy-violation",
	} {
		c := g.stream(nil)
		if err := c.Send(message); err != nil {
			t.Fatal(err)
		}
		words, code := lastWords(t, c)
		wantWords(t, words, "<open ", condition, "<close ")
		if code != 1000 {
			t.Errorf("%.30q: Close %d; want 1000", message, code)
		}
	}
	if n := up.Last().Count.FramesIn.Load(); n != 0 {
		t.Errorf("the upstream got %d frames", n)
	}
}

// The start tag may arrive in any pieces.
func TestStartInPieces(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGateFor(t, upstream.Options{
		Upstreams: []upstream.GroupOptions{group("test", up.URL())},
		Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Domains: []string{testName}}},
	})
	c := g.stream(nil)
	tag := openTag(testName, false)
	for i := 0; i < len(tag); i += 7 {
		op := ws.OpText
		if i > 0 {
			op = ws.OpContinuation
		}
		if err := c.WriteFrame(ws.NewFrame(op, i+7 >= len(tag), []byte(tag[i:min(i+7, len(tag))]))); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := c.Recv(); err != nil || !strings.Contains(m, "<open") {
		t.Errorf("%q, %v; want the server's opening", m, err)
	}
}

// The domain chooses the upstream, after the 101.
func TestRouteByDomain(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		first := newUpstream(t, chat.Config{Habits: chat.Tigase()})
		second := newUpstream(t, chat.Config{Habits: chat.Tigase()})
		g := newGateFor(t, upstream.Options{
			Upstreams: []upstream.GroupOptions{group("first", first.URL()), group("second", second.URL()), group("dead", "ws://127.0.0.1:1/")},
			Vhosts: []upstream.VhostOptions{{
				Names: []string{testName}, Upstream: "first", RouteTo: true,
				ByDomain: map[string]string{"two.example": "second", "dead.example": "dead"},
			}},
		})
		for domain, want := range map[string]*chat.Server{testName: first, "two.example": second} {
			before := want.Seen()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			target := g.target()
			target.Domain, target.Legacy = domain, legacy
			c, err := chat.Login(ctx, target)
			cancel()
			if err != nil {
				t.Fatalf("%s: %v", domain, err)
			}
			if want.Seen() != before+1 {
				t.Errorf("%s did not reach its upstream", domain)
			}
			c.Abort()
		}
		c := g.stream(nil)
		c.Send(openTag("dead.example", legacy))
		words, code := lastWords(t, c)
		wantWords(t, words, "remote-connection-failed", end(legacy))
		if code != 1014 {
			t.Errorf("Close %d; want 1014", code)
		}
	})
}

// A Ping is answered at once, even without an upstream, before the start tag and in the
// middle of it.
func TestPingBeforeUpstream(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGateFor(t, upstream.Options{
		Upstreams: []upstream.GroupOptions{group("test", up.URL())},
		Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}},
	})
	c := g.stream(nil)
	tag := []byte(openTag(testName, false))
	for _, f := range []ws.Frame{
		ws.NewPingFrame([]byte("first")),
		ws.NewFrame(ws.OpText, false, tag[:20]),
		ws.NewPingFrame([]byte("between")),
		ws.NewFrame(ws.OpContinuation, true, tag[20:]),
	} {
		if err := c.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
		if f.Header.OpCode != ws.OpPing {
			continue
		}
		if got, err := c.ReadFrame(); err != nil || got.Header.OpCode != ws.OpPong || !bytes.Equal(got.Payload, f.Payload) {
			t.Fatalf("after a Ping %q: frame %+v, %q, %v; want its Pong", f.Payload, got.Header, got.Payload, err)
		}
	}
	if f, err := c.ReadFrame(); err != nil || !bytes.HasPrefix(f.Payload, []byte("<open ")) {
		t.Errorf("after the start tag: frame %+v, %q, %v; want the server's opening", f.Header, f.Payload, err)
	}
}

// Bytes in the TLS record of the request, after a start tag that needs a dial, are not
// lost, although no event reports them.
func TestFramesInTheRecordOfTheRequest(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGateFor(t, upstream.Options{
		Upstreams: []upstream.GroupOptions{group("test", up.URL())},
		Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}},
	})
	conn, err := tls.Dial("tcp", g.addr, g.clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	long := "<message>" + strings.Repeat("x", 6000) + "</message>" // longer than the buffer for a request
	frames := masked(ws.NewTextFrame([]byte(openTag(testName, false))), ws.NewTextFrame([]byte(long)), ws.NewTextFrame([]byte("<last/>")))
	request := "GET / HTTP/1.1\r\nHost: " + testName + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
	if _, err := conn.Write(append([]byte(request), frames...)); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, want := range []string{openTag(testName, false), long, "<last/>"} {
		h, err := ws.ReadHeader(r)
		if err != nil || h.Length != int64(len(want)) {
			t.Fatalf("%+v, %v; want %d bytes", h, err, len(want))
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(r, payload); err != nil || string(payload) != want {
			t.Fatalf("%.60q, %v; want %.60q", payload, err, want)
		}
	}
}

// hostPort returns the address of a chat server.
func hostPort(s *chat.Server) string { return s.Addr() }

// A redirect to one of our nodes is followed unnoticed by the client: neither the first
// node's address nor its stream reaches it.
func TestRedirectFollowed(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		second := newUpstream(t, chat.Config{Habits: chat.Tigase()})
		habits := chat.Tigase()
		habits.Redirect = func(chat.Open) string {
			if legacy {
				return hostPort(second)
			}
			return "ws://" + hostPort(second) + "/"
		}
		first := newUpstream(t, chat.Config{Habits: habits})
		routing := upstream.Options{Upstreams: []upstream.GroupOptions{group("test", first.URL(), second.URL())},
			Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Node: "n1"}}}
		g := newGateFor(t, routing)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		target := g.target()
		target.Legacy = legacy
		c, err := chat.Login(ctx, target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
		if first.Seen() != 1 || second.Seen() != 1 {
			t.Errorf("first saw %d, second %d; want 1 and 1", first.Seen(), second.Seen())
		}
		if err := first.WaitOpen(ctx, 0); err != nil {
			t.Errorf("the first node's connection stays: %v", err)
		}
	})
}

// A redirect that is not followed has the node's public address, or none.
func TestRedirectRewritten(t *testing.T) {
	for _, test := range []struct {
		name, mode, public, want string
		code                     int
	}{
		{"public", "rewrite", "wss://t2.example1.com:5291/", "see-other-uri='wss://t2.example1.com:5291/'", codeNormal},
		{"no public address", "rewrite", "", "<remote-connection-failed ", codeGateway},
		{"not ours", "follow", "", "<remote-connection-failed ", codeGateway},
	} {
		t.Run(test.name, func(t *testing.T) {
			second := newUpstream(t, chat.Config{})
			habits := chat.Tigase()
			inner := hostPort(second)
			if test.name == "not ours" {
				inner = "10.9.8.7:5290"
			}
			habits.Redirect = func(chat.Open) string { return "ws://" + inner + "/" }
			first := newUpstream(t, chat.Config{Habits: habits})
			gr := group("test", first.URL(), second.URL())
			gr.Redirects, gr.Nodes[1].PublicURL = test.mode, test.public
			g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
				Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Node: "n1"}}})
			c := g.stream(nil)
			c.Send(openTag(testName, false))
			words, code := lastWords(t, c)
			wantWords(t, strings.ReplaceAll(words, `"`, "'"), "<open ", test.want)
			if strings.Contains(words, inner) || int(code) != test.code {
				t.Errorf("the client got %q, Close %d; want %d", words, code, test.code)
			}
		})
	}
}

// Tigase names a node by its host name, with the port of its own listener. The gate
// finds the node whose public_url has that host, unnoticed by the client.
func TestRedirectByPublicName(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		second := newUpstream(t, chat.Config{})
		habits := chat.Tigase()
		habits.Redirect = func(chat.Open) string {
			if legacy {
				return "T2.example1.com"
			}
			return "ws://t2.example1.com:5290/"
		}
		first := newUpstream(t, chat.Config{Habits: habits})
		gr := group("test", first.URL(), second.URL())
		gr.Nodes[0].PublicURL, gr.Nodes[1].PublicURL = "wss://t1.example1.com:5291/", "wss://t2.example1.com:5291/"
		g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
			Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Node: "n1"}}})
		c := g.stream(func(target *chat.Target) { target.Legacy = legacy })
		if err := c.OpenStream(); err != nil {
			t.Fatal(err)
		}
		if first.Seen() != 1 || second.Seen() != 1 {
			t.Errorf("%d and %d dials; want one of each node", first.Seen(), second.Seen())
		}
	})
}

// Nodes that redirect a stream to each other end it: no node is dialled twice, at most
// four are, and the client is not sent back to a previous one.
func TestRedirectCircle(t *testing.T) {
	for _, c := range []struct {
		what, mode   string
		nodes, dials int
		circle       bool
		why          string
	}{
		{"a node to itself", "follow", 1, 1, true, "in a loop"},
		{"a node to itself", "rewrite", 1, 1, true, "in a loop"},
		{"two nodes", "follow", 2, 2, true, "in a loop"},
		{"three nodes", "follow", 3, 3, true, "in a loop"},
		{"a chain", "follow", 6, 4, false, "already redirected 3 times"},
	} {
		framings(t, func(t *testing.T, legacy bool) {
			var urls []string
			var nodes []*chat.Server
			for i := range c.nodes {
				habits := chat.Tigase()
				habits.Redirect = func(chat.Open) string {
					if next := i + 1; next < c.nodes || c.circle {
						return strings.TrimSuffix(strings.TrimPrefix(urls[next%c.nodes], "ws://"), "/")
					}
					return ""
				}
				nodes = append(nodes, newUpstream(t, chat.Config{Habits: habits}))
				urls = append(urls, nodes[i].URL())
			}
			gr := group("test", urls...)
			gr.Redirects = c.mode
			for i := range gr.Nodes {
				gr.Nodes[i].PublicURL = fmt.Sprintf("wss://t%d.example1.com:5291/", i+1)
			}
			g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
				Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Node: "n1"}}})
			client := g.stream(func(target *chat.Target) { target.Legacy = legacy })
			client.Send(openTag(testName, legacy))
			words, code := lastWords(t, client)
			wantWords(t, words, "remote-connection-failed", end(legacy))
			if code != 1014 || strings.Contains(words, "see-other") || strings.Contains(words, "t1.example1.com") {
				t.Errorf("%s, %s: told %q, Close %d; want 1014 and no address", c.what, c.mode, words, code)
			}
			dials := 0
			for _, n := range nodes {
				dials += n.Seen()
			}
			if dials != c.dials {
				t.Errorf("%s, %s: %d dials; want %d", c.what, c.mode, dials, c.dials)
			}
			if lost := g.table.Status()[0].Lost; lost.Count != 1 || !strings.Contains(lost.Why, c.why) {
				t.Errorf("%s, %s: lost %+v; want %q", c.what, c.mode, lost, c.why)
			}
		})
	}
}

// If the gate ends a stream, it does so in XMPP; a stream that can be resumed gets only
// the Close frame.
func TestLastWords(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		for _, resumable := range []bool{false, true} {
			t.Run(fmt.Sprintf("resumable %v", resumable), func(t *testing.T) {
				up := newUpstream(t, chat.Config{Habits: chat.Tigase()})
				g := newGate(t, up.URL())
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				target := g.target()
				target.Legacy = legacy
				c, err := chat.Login(ctx, target)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Abort()
				if resumable {
					if err := c.EnableResume(); err != nil {
						t.Fatal(err)
					}
				}
				if n, _ := g.StartDrain(Target{}, Pacing{}); n != 1 {
					t.Errorf("StartDrain = %d; want 1", n)
				}
				words, code := lastWords(t, c)
				if code != 1001 {
					t.Errorf("Close %d; want 1001", code)
				}
				if resumable && words != "" {
					t.Errorf("a stream that can be resumed was told %q", words)
				}
				if !resumable {
					wantWords(t, words, "system-shutdown", end(legacy))
				}
			})
		}
	})
}

// An upstream that stops without an end of the stream causes a stream error as well.
func TestLastWordsUpstreamGone(t *testing.T) {
	up := newUpstream(t, chat.Config{Habits: chat.Tigase()})
	g := newGate(t, up.URL())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := chat.Login(ctx, g.target())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	up.Stop()
	words, code := lastWords(t, c)
	wantWords(t, words, "remote-connection-failed", "<close ")
	if code != 1012 {
		t.Errorf("Close %d; want 1012", code)
	}
}

// A drain refuses new clients with 503, or redirects them in XMPP to another address.
// Once stopped, it does neither.
func TestDrainTurnsAway(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		up := newUpstream(t, chat.Config{})
		g := newGate(t, up.URL())
		_, stopAway := g.StartDrain(Target{}, Pacing{Timeout: time.Minute})
		_, err := chat.Dial(t.Context(), g.target())
		var se *chat.StatusError
		if !errors.As(err, &se) || se.Response.StatusCode != 503 || se.Response.Header.Get("Retry-After") == "" {
			t.Errorf("err = %v; want 503 with Retry-After", err)
		}
		_, stopElsewhere := g.StartDrain(Target{}, Pacing{Timeout: time.Minute, Redirect: func(*upstream.Vhost, string) string { return "wss://other.example/" }})
		c := g.stream(nil)
		c.Send(openTag(testName, legacy))
		words, code := lastWords(t, c)
		wantWords(t, words, "other.example")
		wantWords(t, words, end(legacy))
		if code != 1000 || up.Seen() != 0 {
			t.Errorf("Close %d, upstream saw %d; want 1000 and 0", code, up.Seen())
		}
		stopElsewhere()
		stopElsewhere()
		if _, err := chat.Dial(t.Context(), g.target()); !errors.As(err, &se) || se.Response.StatusCode != 503 {
			t.Errorf("with the other drain stopped: %v; want 503", err)
		}
		stopAway()
		g.dial()
	})
}

// pingPong sends a message to the upstream and back, so that the tunnel exists.
func pingPong(t *testing.T, c *chat.Client) {
	t.Helper()
	if err := c.WriteFrame(ws.NewPingFrame([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if f, err := c.ReadFrame(); err != nil || f.Header.OpCode != ws.OpPong {
		t.Fatalf("frame = %v, %v; want a Pong", f.Header, err)
	}
}

// A drain of one vhost or node does not affect others, and can be stopped before its
// end.
func TestDrainTarget(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL())
	c := g.dial()
	pingPong(t, c)
	for _, target := range []Target{{Vhost: "other"}, {Upstream: "test", Node: "other"}} {
		if n, _ := g.StartDrain(target, Pacing{}); n != 0 {
			t.Errorf("StartDrain(%+v) = %d; want 0", target, n)
		}
	}
	n, stop := g.StartDrain(Target{Upstream: "test", Node: "n1"}, Pacing{Timeout: time.Hour})
	if n != 1 {
		t.Errorf("StartDrain = %d; want 1", n)
	}
	stop()
	pingPong(t, c)
	g.StartDrain(Target{Upstream: "test", Node: "n1"}, Pacing{})
	if _, code := lastWords(t, c); code != 1001 {
		t.Errorf("Close %d; want 1001", code)
	}
}

// Stopping one of two drains of the same tunnels does not stop the other, whether it is
// older or newer, or for the same target.
func TestDrainTwiceStopOnce(t *testing.T) {
	const pace = 5 // per second
	node := Target{Upstream: "test", Node: "n1"}
	for _, targets := range [][2]Target{{{Vhost: "*"}, {}}, {{}, {Vhost: "*"}}, {node, node}} {
		for stopped := range 2 {
			up := newUpstream(t, chat.Config{})
			g := newGate(t, up.URL())
			c := g.dial()
			pingPong(t, c)
			var stops [2]func()
			for i, target := range targets {
				_, stops[i] = g.StartDrain(target, Pacing{Pace: pace})
			}
			stops[stopped]()
			if _, code := lastWords(t, c); code != 1001 {
				t.Errorf("%+v, stopped %+v: Close %d; want 1001", targets, targets[stopped], code)
			}
		}
	}
}

// A redirect after login does not reveal the address either: the client gets the node's
// public address, in a stream that is opened once.
func TestRedirectAfterLogin(t *testing.T) {
	for _, public := range []string{"wss://t2.example1.com:5291/", ""} {
		t.Run("public "+public, func(t *testing.T) { redirectAfterLogin(t, public) })
	}
}

func redirectAfterLogin(t *testing.T, public string) {
	framings(t, func(t *testing.T, legacy bool) {
		second := newUpstream(t, chat.Config{})
		habits := chat.Tigase()
		habits.Redirect = func(o chat.Open) string {
			if !o.Authenticated {
				return ""
			}
			if legacy {
				return hostPort(second)
			}
			return "ws://" + hostPort(second) + "/"
		}
		first := newUpstream(t, chat.Config{Habits: habits})
		gr := group("test", first.URL(), second.URL())
		gr.Nodes[1].PublicURL = public
		g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
			Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Node: "n1"}}})
		c := g.stream(func(target *chat.Target) { target.Legacy = legacy })
		if err := c.OpenStream(); err != nil {
			t.Fatal(err)
		}
		if err := c.Authenticate(); err != nil {
			t.Fatal(err)
		}
		if err := c.Send(openTag(testName, legacy)); err != nil {
			t.Fatal(err)
		}
		words, code := lastWords(t, c)
		want, wantCode := "t2.example1.com:5291", codeNormal
		if public == "" {
			want, wantCode = "<remote-connection-failed ", codeGateway
		}
		wantWords(t, words, want)
		wantWords(t, words, end(legacy))
		if strings.Contains(words, hostPort(second)) || int(code) != wantCode {
			t.Errorf("the client got %q, Close %d; want %d", words, code, wantCode)
		}
		if n := strings.Count(words, "<open ") + strings.Count(words, "<stream:stream "); n != 1 {
			t.Errorf("%d openings in %q; want 1", n, words)
		}
	})
}

// An upstream that sends only its opening is not held back forever.
func TestAnswerIsNotAwaitedForEver(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	c := g.dial()
	if err := c.Send(openTag(testName, false)); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(); err != nil || m != openTag(testName, false) {
		t.Errorf("%q, %v; want the upstream's words", m, err)
	}
}

// Outside of XMPP, a start tag that a client begins must still be valid; other input is
// left to the upstream.
func TestBadStartReadAlong(t *testing.T) {
	mute := newGate(t, newUpstream(t, chat.Config{Rude: chat.Outburst{When: chat.AtFirstFrame, Then: chat.Silence}}).URL())
	for message, condition := range map[string]string{
		"<open xmlns='x' to='" + testName + "'/>": "invalid-namespace",
		" <open " + strings.Repeat("a", 9000):     "policy-violation",
		"<?xml version='1.0'?><stream:stream <":   "not-well-formed",
	} {
		c := mute.stream(nil)
		if err := c.Send(message); err != nil {
			t.Fatal(err)
		}
		words, code := lastWords(t, c)
		wantWords(t, words, condition)
		if code != 1000 {
			t.Errorf("%.30q: Close %d; want 1000", message, code)
		}
	}
	echo := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL())
	for _, message := range []string{"hello", "<message to='a@b'/>", "", "  ", "<opponent/>"} {
		c := echo.stream(nil)
		if err := c.Send(message); err != nil {
			t.Fatal(err)
		}
		if m, err := c.Recv(); err != nil || m != message {
			t.Errorf("%q, %v; want %q to go through", m, err, message)
		}
	}
}

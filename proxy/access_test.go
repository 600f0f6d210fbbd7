package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wssgate/access"
	"wssgate/demo/chat"
	"wssgate/upstream"
)

func denying(networks ...string) (*access.Rules, *access.Networks) {
	var list []netip.Prefix
	for _, s := range networks {
		list = append(list, netip.MustParsePrefix(s))
	}
	n := access.NewNetworks(list)
	return &access.Rules{Deny: []*access.Networks{n}}, n
}

// A denied client is closed before TLS and counted, and admitted once the list allows
// it.
func TestAccessGate(t *testing.T) {
	rules, list := denying("127.0.0.0/8")
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) { o.Access = rules })
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, context.DeadlineExceeded) || err == nil {
		t.Errorf("read %d bytes, %v; want the connection's end", n, err)
	}
	if c := g.Counts(); c.Refused["access"] != 1 || c.Accepted != 0 {
		t.Errorf("%d refused, %d accepted; want 1 and none", c.Refused["access"], c.Accepted)
	}
	list.Replace(nil)
	g.dial()
}

// Behind a PROXY header the client's address is checked; the balancer's own connections
// are checked by the balancer's address.
func TestAccessBehindBalancer(t *testing.T) {
	rules, list := denying("192.0.2.0/24")
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), echoPages, func(o *Options) {
		o.Access = rules
		o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	tries := func(header string) error {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, header)
		return tls.Client(conn, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()}).Handshake()
	}
	const denied, other, own = "PROXY TCP4 192.0.2.7 192.0.2.1 50000 5291\r\n", "PROXY TCP4 198.51.100.7 192.0.2.1 50000 5291\r\n", "PROXY UNKNOWN\r\n"
	for header, want := range map[string]bool{denied: false, other: true, own: true} {
		if err := tries(header); (err == nil) != want {
			t.Errorf("%q: %v; want it let in: %v", header, err, want)
		}
	}
	if n := g.Counts().Refused["access"]; n != 1 {
		t.Errorf("%d refused; want 1", n)
	}
	list.Replace([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	for header, want := range map[string]bool{denied: true, own: false} {
		if err := tries(header); (err == nil) != want {
			t.Errorf("with the balancer denied, %q: %v; want it let in: %v", header, err, want)
		}
	}
}

// A client that the vhost denies gets 403; other clients get their tunnel.
func TestAccessVhost(t *testing.T) {
	rules, list := denying("127.0.0.0/8")
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGateFor(t, upstream.Options{
		Upstreams: []upstream.GroupOptions{group("test", up.URL())},
		Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Access: rules}},
	})
	c := g.pageClient(t)
	c.send(upgradeRequest)
	c.want(403, "This is not allowed")
	list.Replace(nil)
	c = g.pageClient(t)
	c.send(upgradeRequest)
	c.wantTunnel()
}

// A connection that was kept becomes useless once its client is denied.
func TestAccessKept(t *testing.T) {
	rules, list := denying()
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), echoPages, func(o *Options) { o.Access = rules })
	c := g.pageClient(t)
	c.send("GET /a HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	c.want(200, "/a")
	list.Replace([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	c.send("GET /b HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	if b, err := c.r.ReadByte(); err == nil {
		t.Errorf("read %q; want the end of the connection", b)
	}
}

// Connections that are kept for a further request make room for newcomers; active ones
// do not.
func TestKeptMakeRoom(t *testing.T) {
	for name, limit := range map[string]func(*Settings){
		"connections": func(s *Settings) { s.Connections = 3 },
		"per_client":  func(s *Settings) { s.PerClient = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL(), func(o *Options) {
				limit(&o.Settings)
				o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/wait" {
						close(asked)
						<-answer
					}
				})
			})
			waits := g.pageClient(t)
			waits.send("GET /wait HTTP/1.1\r\nHost: example1.com\r\n\r\n")
			<-asked
			var kept []*pageClient
			for range 2 {
				c := g.pageClient(t)
				c.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
				c.want(200, "")
				kept = append(kept, c)
				// The answer arrives before the connection counts as kept.
				for g.inPhase(phaseKept) < len(kept) {
					time.Sleep(time.Millisecond)
				}
			}
			newcomer := g.pageClient(t)
			kept[0].wantEnd() // with close_notify
			newcomer.send(upgradeRequest)
			newcomer.wantTunnel()
			kept[1].send("GET /b HTTP/1.1\r\nHost: example1.com\r\n\r\n")
			kept[1].want(200, "")
			close(answer)
			waits.want(200, "")
			if n := g.Counts().Refused[name]; n != 0 {
				t.Errorf("%d connections were refused", n)
			}
		})
	}
}

// inPhase returns the number of connections in a phase of the door.
func (g *gate) inPhase(s phase) (n int) {
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	for v := range g.door.visits {
		if v.phase == s {
			n++
		}
	}
	return n
}

// A handler that panics ends only its own connection; the panic is counted, and its
// stack is in the log.
func TestPagesPanic(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				panic("at the disco")
			}
		})
	})
	caught := caughtSoFar("pages")
	other := g.pageClient(t)
	c := g.pageClient(t)
	c.send("GET /panic HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
		t.Error("an answer; want the connection's end")
	}
	other.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	other.want(200, "")
	if n := caught(); n != 1 {
		t.Errorf("%d panics counted; want 1", n)
	}
	if log := g.logs.String(); !strings.Contains(log, "level=ERROR msg=panic client=127.0.0.1:") || !strings.Contains(log, `where=pages err="at the disco" stack=`) || !strings.Contains(log, "TestPagesPanic") {
		t.Error("the log has no line with the panic's stack")
	}
	for deadline := time.Now().Add(patience); g.Connections() > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open; want the other's", g.Connections())
		}
	}
}

// A ban applies like the access list, behind a load balancer to the client's address.
// The balancer itself can't be banned.
func TestBan(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	tries := func() error {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 50000 5291\r\n")
		return tls.Client(conn, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()}).Handshake()
	}
	network := netip.MustParsePrefix("192.0.2.0/24")
	if _, err := g.Ban(network, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := tries(); err == nil {
		t.Error("a banned client is let in")
	}
	if n := g.Counts().Refused["access"]; n != 1 {
		t.Errorf("%d refused; want 1", n)
	}
	if !g.DeniesPlain(netip.MustParseAddr("192.0.2.7")) || g.DeniesPlain(netip.MustParseAddr("192.0.3.7")) {
		t.Error("without TLS a ban is not what it is with TLS")
	}
	wider := netip.MustParsePrefix("192.0.0.0/16")
	if _, err := g.Ban(wider, time.Hour); err != nil {
		t.Fatal(err)
	}
	if rest, err := g.Ban(network, 0); err != nil || len(rest) != 1 || rest[0].Network != wider {
		t.Errorf("lifted in a wider ban: %v, %v; want the wider one", rest, err)
	}
	if rest, err := g.Ban(wider, 0); err != nil || len(rest) != 0 {
		t.Errorf("lifted: %v, %v; want no other ban", rest, err)
	}
	if err := tries(); err != nil {
		t.Errorf("after the ban: %v", err)
	}
	if _, err := g.Ban(network, 0); !errors.Is(err, ErrNotBanned) {
		t.Errorf("lifted twice: %v; want ErrNotBanned", err)
	}
	if _, err := g.Ban(netip.MustParsePrefix("127.0.0.1/32"), time.Hour); err == nil {
		t.Error("the load balancer may be banned")
	}
}

// A ban and a new access list also apply to clients on their way in: they get 403 if
// the upstream has not been dialled yet, and a Close frame after that.
func TestDeniedOnTheWayIn(t *testing.T) {
	for _, how := range []string{"ban", "list"} {
		t.Run(how, func(t *testing.T) {
			rules, list := denying("192.0.2.0/24")
			network := netip.MustParsePrefix("127.0.0.0/8")
			var g *gate
			deny := func(on bool) {
				switch {
				case how == "ban" && on:
					g.Ban(network, time.Hour)
				case how == "ban":
					g.Ban(network, 0)
				case on:
					list.Replace([]netip.Prefix{network})
				default:
					list.Replace(nil)
				}
			}
			var inDial atomic.Bool
			g = newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{group("test", newUpstream(t, chat.Config{Echo: true}).URL())},
				Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if inDial.Load() {
						deny(true)
					}
					return new(net.Dialer).DialContext(ctx, network, addr)
				}}, func(o *Options) { o.Access = rules })
			c, err := tls.Dial("tcp", g.addr, g.clientConfig())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			deny(true)
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+testName+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != http.StatusForbidden {
				t.Errorf("behind the handshake: %v, %v; want 403", resp, err)
			}
			deny(false)
			inDial.Store(true)
			if code := closeCodeOf(t, g.dial()); code != codePolicy {
				t.Errorf("behind the dial: Close %d; want 1008", code)
			}
		})
	}
}

package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// whileDialling opens a stream to a node that accepts the connection and sends no 101,
// and returns that connection too.
func whileDialling(t *testing.T, timeout time.Duration) (g *gate, c *chat.Client, node net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	gr := group("test", "ws://"+ln.Addr().String()+"/")
	gr.DialTimeout = timeout
	g = newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
		Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}}})
	c = g.stream(nil)
	if err := c.Send(openTag(testName, false)); err != nil {
		t.Fatal(err)
	}
	if node, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	return g, c, node
}

// dialForEver is a dial that ends only with its context.
func dialForEver(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A drain that begins during a dial ends the tunnel like any other: the client's answer
// to the Close frame is read, although the client was not.
func TestDrainWhileDialling(t *testing.T) {
	g, c, _ := whileDialling(t, time.Hour)
	g.StartDrain(Target{}, Pacing{})
	words, code := lastWords(t, c)
	wantWords(t, words, "<open ", "system-shutdown", "<close ")
	if code != 1001 {
		t.Errorf("Close %d; want 1001", code)
	}
	if _, err := c.ReadFrame(); err == nil {
		t.Error("a frame behind the Close frame")
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("the connection stays open after the closing handshake")
	}
}

// A tunnel that ends before its dial begins forgets its request; the dial still has it.
func TestEndBeforeTheDialBegins(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the dial begins when this goroutine waits
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	want := &upstream.Request{}
	got := make(chan *upstream.Request)
	d := newTunnelRig(t, nil)
	d.shared, d.info.request, d.loop = g.tunnels, want, g.loops.all()[0]
	d.greeting, d.done = &greeting{}, true
	d.dial(func(_ context.Context, r *upstream.Request) (*upstream.Conn, error) {
		got <- r
		return nil, io.EOF
	})
	d.endGreeting()
	if r := <-got; r != want {
		t.Errorf("the dial got the request %p; want %p", r, want)
	}
}

// A client that disconnects during a dial ends the tunnel and the dial at once: its end
// is noticed although it is not read.
func TestClientGoesWhileDialling(t *testing.T) {
	for _, reset := range []bool{false, true} {
		g, c, node := whileDialling(t, time.Hour)
		if reset {
			c.Conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
		}
		c.Abort()
		node.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, node); err != nil {
			t.Errorf("reset %t: the node's connection: %v; want its end", reset, err)
		}
		if err := g.Shutdown(t.Context(), Pacing{Timeout: patience}); err != nil {
			t.Errorf("reset %t: %v", reset, err)
		}
		if !strings.Contains(g.logs.String(), "reason=client_gone") {
			t.Errorf("reset %t: no line that says so", reset)
		}
	}
}

// The same without a descriptor, on any system.
func TestPipeGoesWhileDialling(t *testing.T) {
	inFront(t, chat.Config{}, func(o *upstream.Options) {
		o.Upstreams[0].DialTimeout = time.Hour
		o.Vhosts = []upstream.VhostOptions{{Names: []string{testName}, RouteTo: true}}
		o.Dial = dialForEver
	}, func(g *front) {
		b := g.tunnel()
		b.send(b.client, opText, openTag(testName, false))
		time.Sleep(time.Second)
		began := time.Now()
		b.client.Close()
		b.wantReason(reasonClientGone)
		g.server.dialler.jobs.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("the dial went on for %v", took)
		}
	})
}

// A drain of a node that begins while the node is dialled for a tunnel also applies to
// that tunnel.
func TestNodeDrainWhileDialling(t *testing.T) {
	g, c, node := whileDialling(t, time.Hour)
	if n, _ := g.StartDrain(Target{Upstream: "test", Node: "n1"}, Pacing{}); n != 0 {
		t.Errorf("%d tunnels to close; want none yet", n)
	}
	go newUpstream(t, chat.Config{}).ServeConn(node)
	words, code := lastWords(t, c)
	wantWords(t, words, "<open ", "system-shutdown", "<close ")
	if code != 1001 {
		t.Errorf("Close %d; want 1001", code)
	}
}

// The same without a descriptor.
func TestNodeDrainWhilePipeIsDialled(t *testing.T) {
	var ready chan struct{}
	inFront(t, chat.Config{}, func(o *upstream.Options) {
		o.Vhosts = []upstream.VhostOptions{{Names: []string{testName}, RouteTo: true}}
		dial := o.Dial
		ready = make(chan struct{}) // created in the bubble
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			<-ready
			return dial(ctx, network, addr)
		}
	}, func(g *front) {
		b := g.tunnel()
		b.send(b.client, opText, openTag(testName, false))
		g.server.loops.drain(&drainOrder{target: Target{Upstream: "test", Node: "n1"}})
		close(ready)
		words, code := b.text()
		wantWords(t, words, "<open ", "system-shutdown", "<close ")
		if code != codeAway {
			t.Errorf("Close %d; want 1001", code)
		}
		b.wantReason(reasonDrain)
	})
}

// A tunnel that its node redirected to another one is not part of a drain of the first.
func TestRedirectOutOfADrain(t *testing.T) {
	first := chat.Config{Habits: chat.Habits{ReadPace: chat.Pace{Chunk: 1000, Delay: 100 * time.Millisecond}}}
	first.Habits.Redirect = func(chat.Open) string { return "ws://192.0.2.2:5290/" }
	inFront(t, first, func(o *upstream.Options) {
		o.Upstreams = []upstream.GroupOptions{group("test", "ws://192.0.2.1:5290/", "ws://192.0.2.2:5290/")}
		o.Vhosts = []upstream.VhostOptions{{Names: []string{testName}, Node: "n1"}}
		dial := o.Dial
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "192.0.2.1:5290" {
				return dial(ctx, network, addr)
			}
			gate, node := net.Pipe()
			second := chat.New(chat.Config{})
			go func() {
				defer second.Close()
				second.ServeConn(node)
			}()
			return gate, nil
		}
	}, func(g *front) {
		b := g.tunnel()
		go b.send(b.client, opText, openTag(testName, false))
		time.Sleep(time.Millisecond)
		g.server.loops.drain(&drainOrder{target: Target{Upstream: "test", Node: "n1"}, within: time.Hour})
		if h, _, err := b.frame(b.client); err != nil || h.opcode != opText {
			t.Fatalf("%+v, %v; want the second node's answer", h, err)
		}
		go io.Copy(io.Discard, b.client)
		time.Sleep(2 * time.Hour)
		b.client.Close()
		b.wantReason(reasonClientGone)
	})
}

// A drain that begins while a redirect is followed ends a stream that has not been
// answered: the first node's messages and its end of the stream were held back.
func TestDrainWhileRedirectIsFollowed(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		habits := chat.Tigase()
		habits.Redirect = func(chat.Open) string {
			if legacy {
				return "192.0.2.2:5290"
			}
			return "ws://192.0.2.2:5290/"
		}
		inFront(t, chat.Config{Habits: habits}, func(o *upstream.Options) {
			o.Upstreams = []upstream.GroupOptions{group("test", "ws://192.0.2.1:5290/", "ws://192.0.2.2:5290/")}
			o.Vhosts = []upstream.VhostOptions{{Names: []string{testName}, Node: "n1"}}
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == "192.0.2.1:5290" {
					return dial(ctx, network, addr)
				}
				return dialForEver(ctx, network, addr)
			}
		}, func(g *front) {
			b := g.tunnel()
			b.send(b.client, opText, openTag(testName, legacy))
			time.Sleep(time.Second)
			g.server.loops.drain(&drainOrder{})
			words, code := b.text()
			wantWords(t, words, "from='"+testName+"'", "<system-shutdown ", end(legacy))
			if code != codeAway {
				t.Errorf("Close %d; want 1001", code)
			}
			b.wantReason(reasonDrain)
		})
	}
}

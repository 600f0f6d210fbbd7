package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"wssgate/demo/chat"
	"wssgate/panics"
	"wssgate/upstream"
)

// Between turns a tunnel's tls.Conn owns no buffer, after any input, and for a partial
// record at most its size.
func TestIdleTunnelOwnsNoBuffer(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	loop := g.loops.list[0]
	c := g.dial()
	for range 3 {
		if err := c.WriteFrame(ws.NewTextFrame(make([]byte, 50_000))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(); err != nil {
			t.Fatal(err)
		}
	}
	owned := make(chan int, 1)
	loop.post(func() {
		tunnel := loop.timers[0]
		raw, hand := layout.buffers(tunnel.client.tls)
		owned <- raw.Cap() + hand.Cap() + cap(tunnel.client.unscanned) + cap(tunnel.upstream.unscanned) + tunnel.client.sock.out.size
	})
	if n := <-owned; n > 4*maxHeader {
		t.Errorf("an idle tunnel owns %d bytes of buffers", n)
	}
}

// Tunnels that move between loops, back and forth under traffic, lose nothing. A visit
// of all tunnels meanwhile sees each of them once.
func TestTunnelsMoveBetweenLoops(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	d := g.loops
	d.max = 2
	if _, err := d.grow(); err != nil {
		t.Fatal(err)
	}
	const clients, messages = 20, 50
	stop := make(chan struct{})
	var shedding, traffic sync.WaitGroup
	for i, l := range d.all() {
		to := d.all()[1-i]
		shedding.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					l.post(func() { l.pressure.shed, l.pressure.to = clients/4, to })
				}
			}
		})
	}
	conns := make([]*chat.Client, clients)
	for i := range conns {
		conns[i] = g.dial()
		pingPong(t, conns[i]) // a loop has its tunnel
	}
	shedding.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			seen := 0
			d.survey(func(*tunnel, time.Duration) { seen++ })
			if seen != clients {
				t.Errorf("%d tunnels are seen; want %d", seen, clients)
				return
			}
			time.Sleep(100 * time.Microsecond) // tunnels don't move during a visit
		}
	})
	for i, c := range conns {
		traffic.Go(func() {
			for n := range messages {
				want := bytes.Repeat(fmt.Appendf(nil, "%d.%d ", i, n), 1+n*10)
				if err := c.WriteFrame(ws.NewTextFrame(want)); err != nil {
					t.Error(err)
					return
				}
				if f, err := c.ReadFrame(); err != nil || !bytes.Equal(f.Payload, want) {
					t.Errorf("client %d, message %d: %d bytes, %v", i, n, len(f.Payload), err)
					return
				}
			}
		})
	}
	traffic.Wait()
	close(stop)
	shedding.Wait()
	if d.migrated.Load() == 0 {
		t.Error("no tunnel has moved")
	}
}

// An event belongs to the socket that had the descriptor at that time: a tunnel that
// gets the descriptor in the middle of a batch does not get the event.
func TestEventOfFormerDescriptor(t *testing.T) {
	hangs := make(chan struct{})
	g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{group("test", "ws://192.0.2.1:5290/")},
		Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			close(hangs)
			return dialForEver(ctx, network, addr)
		}})
	vhost, err := g.now.Load().Routes.Lookup(testName)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[1])
	conn, _ := net.Pipe() // registered in Go's poller
	comes := &tunnel{
		settings: &tunnelSettings{backlog: 1 << 20},
		shared:   g.tunnels,
		info:     &tunnelInfo{vhost: vhost, request: &upstream.Request{ServerName: testName, Host: testName, Subprotocol: "xmpp"}},
		client: leg{sock: &sock{conn: conn}, unscanned: masked(ws.NewTextFrame([]byte(openTag(testName, false)))),
			scan: scanner{fromClient: true, keep: 1}},
		upstream: upstreamLeg(nil),
		onDone:   func(t *tunnel, _ time.Duration) { t.giveUp() },
	}
	loop, why := g.loops.list[0], make(chan reason)
	loop.post(func() {
		p := loop.poller.(*epoll)
		if missing := ends[0] + 1 - len(p.conns); missing > 0 { // the descriptor was in use before
			p.conns = append(p.conns, make([]connEntry, missing)...)
		}
		loop.post(func() { loop.start(comes, ends[0], -1) })
		p.ready = copy(p.events, []unix.EpollEvent{{Fd: int32(p.waker), Events: unix.EPOLLIN}, {Fd: int32(ends[0]), Events: unix.EPOLLRDHUP | unix.EPOLLHUP}})
		if p.deliver(loop.tell) {
			loop.drainInbox()
		}
		why <- comes.why
	})
	if got := <-why; got != reasonNone {
		t.Fatalf("the tunnel ended at once: %v", got)
	}
	<-hangs
}

// acceptTunnel plays the node for the next tunnel, up to its 101. Nothing comes from the
// channel after an error. The receive buffer has the given size in bytes; 0: the default.
func acceptTunnel(ln net.Listener, buffer int) <-chan *net.TCPConn {
	upgraded := make(chan *net.TCPConn, 1)
	go func() {
		defer close(upgraded)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		if buffer > 0 {
			conn.(*net.TCPConn).SetReadBuffer(buffer)
		}
		u := ws.Upgrader{Protocol: func([]byte) bool { return true }}
		if _, err := u.Upgrade(conn); err == nil {
			upgraded <- conn.(*net.TCPConn)
		}
	}()
	return upgraded
}

// What a client sent before its end reaches an upstream that is behind with reading, and
// goes on writing: its bytes meet no reset. An upstream that does not answer the FIN
// keeps no tunnel.
func TestLastWordsReachBusyUpstream(t *testing.T) {
	for _, answers := range []bool{true, false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		g := newGate(t, "ws://"+ln.Addr().String()+"/")
		upgraded := acceptTunnel(ln, 64<<10)
		c := g.dial()
		up := <-upgraded
		if up == nil {
			t.Fatal("no upstream")
		}
		defer up.Close()

		chatting := make(chan error)
		stop := make(chan struct{})
		go func() { // as long as the upstream is open
			for {
				select {
				case <-stop:
					chatting <- nil
					return
				default:
				}
				if err := ws.WriteFrame(up, ws.NewTextFrame([]byte("hi"))); err != nil {
					chatting <- err
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
		const frames, size = 250, 1000
		go func() {
			for range frames {
				c.WriteFrame(ws.NewTextFrame(bytes.Repeat([]byte("x"), size)))
			}
			c.Conn.(*tls.Conn).CloseWrite()
			c.Conn.(*tls.Conn).NetConn().(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c.Reader); err != nil {
			t.Fatalf("the client reads %v; want the end that follows its own", err)
		}
		up.SetDeadline(time.Now().Add(patience))
		if got, err := io.Copy(io.Discard, up); got != frames*(size+8) || err != nil {
			t.Errorf("the upstream gets %d bytes, %v; want %d", got, err, frames*(size+8))
		}
		close(stop)
		if err := <-chatting; err != nil {
			t.Errorf("the upstream writes: %v", err)
		}
		if answers {
			up.Close()
		}
		g.eventually("the end of the tunnel", func(c Counts) bool { return c.Vhosts[0].Open == 0 })
	}
}

// What one end sent before it reset its connection reaches the other one, even if a
// message of the other one meets the reset first.
func TestLastWordsBeforeReset(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	g := newGate(t, "ws://"+ln.Addr().String()+"/")
	for _, resets := range []string{"upstream", "client"} {
		t.Run(resets, func(t *testing.T) {
			upgraded := acceptTunnel(ln, 0)
			c := g.dial()
			up := <-upgraded
			if up == nil {
				t.Fatal("no upstream")
			}
			defer up.Close()
			up.SetDeadline(time.Now().Add(patience))
			toUpstream := func(text string) {
				t.Helper()
				if err := c.WriteFrame(ws.NewTextFrame([]byte(text))); err != nil {
					t.Fatal(err)
				}
			}
			toClient := func(text string) {
				t.Helper()
				if err := ws.WriteFrame(up, ws.NewTextFrame([]byte(text))); err != nil {
					t.Fatal(err)
				}
			}
			atUpstream := func(want string) {
				t.Helper()
				h, err := ws.ReadHeader(up)
				payload := make([]byte, min(h.Length, 100))
				if err == nil {
					_, err = io.ReadFull(up, payload)
				}
				if ws.Cipher(payload, h.Mask, 0); err != nil || string(payload) != want {
					t.Errorf("the upstream gets %q, %v; want %q", payload, err, want)
				}
			}
			toUpstream("hello")
			atUpstream("hello") // a loop has the tunnel

			held, goOn := make(chan struct{}), make(chan struct{})
			g.loops.list[0].post(func() { close(held); <-goOn })
			<-held
			if resets == "upstream" {
				toUpstream("crosses") // its first event in the loop
				toClient("last words")
				up.SetLinger(0)
				up.Close()
				close(goOn)
				if f, err := c.ReadFrame(); err != nil || string(f.Payload) != "last words" {
					t.Errorf("the client gets %q, %v; want the last words", f.Payload, err)
				}
				if f, err := c.ReadFrame(); err != nil || f.Header.OpCode != ws.OpClose {
					t.Errorf("the client gets %v, %v; want a Close frame", f.Header, err)
				}
				return
			}
			toClient("crosses")
			toUpstream("last words")
			conn := c.Conn.(*tls.Conn).NetConn().(*net.TCPConn)
			conn.SetLinger(0)
			conn.Close()
			close(goOn)
			atUpstream("last words")
			if _, err := ws.ReadHeader(up); err != io.EOF {
				t.Errorf("the upstream gets %v; want the end", err)
			}
		})
	}
}

// A loop that is preempted is not saturated: it uses no processor, and a second loop
// would have none either. A loop that uses a processor for a whole window gets a second
// loop.
func TestLoopThatWaitsForAProcessor(t *testing.T) {
	for _, test := range []struct {
		used  time.Duration // of processors, in a window
		sheds bool
	}{
		{window / 4, false}, {window * 8 / 10, false}, {window, true}, {4 * window, true},
	} {
		d, err := newLoops(true, nil, func(_ panics.Place, cause any, _ ...any) { panic(cause) })
		if err != nil {
			t.Fatal(err)
		}
		d.max = 2
		var used time.Duration
		l := d.list[0]
		sheds := make(chan bool)
		l.post(func() {
			d.processors = func() (time.Duration, bool) { return used, true }
			l.timers = append(l.timers, &tunnel{}, &tunnel{})
			now := l.pressure.since
			for range 3 {
				used += test.used
				l.measure(now, now+window)
				now += window
			}
			l.timers = nil
			sheds <- l.pressure.shed > 0
			l.pressure.since = l.now()
		})
		if got := <-sheds; got != test.sheds || (len(d.all()) == 2) != test.sheds {
			t.Errorf("with %v of processors in %v: sheds %t, %d loops; want %t", test.used, window, got, len(d.all()), test.sheds)
		}
		d.close()
	}
}

package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"wssgate/internal/xmpptest"
)

// Between turns a tunnel's tls.Conn owns no buffer, whatever it has read, and
// part of a record no more than its size.
func TestIdleTunnelOwnsNoBuffer(t *testing.T) {
	up := newUpstream(t, xmpptest.Config{Echo: true})
	g := newGate(t, up.URL())
	loop := g.driver.(*loops).list[0]
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
		owned <- raw.Cap() + hand.Cap() + cap(tunnel.client.held) + cap(tunnel.upstream.held) + tunnel.client.sock.out.size
	})
	if n := <-owned; n > 4*maxHeader {
		t.Errorf("an idle tunnel owns %d bytes of buffers", n)
	}
}

// Tunnels that move between loops, back and forth under traffic, lose nothing,
// and are drained wherever they are.
func TestTunnelsMoveBetweenLoops(t *testing.T) {
	up := newUpstream(t, xmpptest.Config{Echo: true})
	g := newGate(t, up.URL())
	d := g.driver.(*loops)
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
	for i := range clients {
		c := g.dial()
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
	if d.moved.Load() == 0 {
		t.Error("no tunnel has moved")
	}
}

// A client that reads slowly, but reads, is alive: the Ping behind a message
// that is still in the kernel's buffer is not held against it.
func TestSlowReaderIsAlive(t *testing.T) {
	up := newUpstream(t, xmpptest.Config{Echo: true})
	g := newGate(t, up.URL(), func(o *Options) {
		o.Settings.Ping, o.Settings.Pong = 100*time.Millisecond, 500*time.Millisecond
	})
	c := g.dial()
	c.Conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(16 << 10)
	pingPong(t, c)
	loop := g.driver.(*loops).list[0]
	set := make(chan error)
	loop.post(func() {
		set <- unix.SetsockoptInt(loop.timers[0].client.sock.os.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	})
	if err := <-set; err != nil {
		t.Fatal(err)
	}
	message := bytes.Repeat([]byte("x"), 300<<10)
	if err := c.WriteFrame(ws.NewTextFrame(message)); err != nil {
		t.Fatal(err)
	}
	want := appendFrame(nil, opText, message, nil)
	got := make([]byte, len(want))
	for n := 0; n < len(got); { // two seconds in all
		m, err := io.ReadFull(c.Reader, got[n:min(n+8<<10, len(got))])
		if err != nil {
			t.Fatalf("cut off after %d bytes: %v", n+m, err)
		}
		n += m
		time.Sleep(50 * time.Millisecond)
	}
	if !bytes.Equal(got, want) {
		t.Error("the message is not what was sent")
	}
	if err := c.Send("still here"); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(); err != nil || m != "still here" { // answers the Ping on the way
		t.Errorf("%q, %v; want the tunnel to live on", m, err)
	}
}

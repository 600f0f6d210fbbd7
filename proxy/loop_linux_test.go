package proxy

import (
	"testing"

	"github.com/gobwas/ws"

	"wssgate/internal/xmpptest"
)

// Between turns a tunnel's tls.Conn owns no buffer, whatever it has read, and
// part of a record no more than its size.
func TestIdleTunnelOwnsNoBuffer(t *testing.T) {
	up := newUpstream(t, xmpptest.Config{Echo: true})
	g := newGate(t, up.URL())
	loop, ok := g.driver.(*loop)
	if !ok {
		t.Fatal("no event loop on this system")
	}
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

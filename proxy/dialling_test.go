package proxy

import (
	"net"
	"testing"
	"time"

	"wssgate/upstream"
)

// A drain that begins while a node is dialled ends the tunnel as any other: the
// client's answer to the Close frame is heard, though nobody read the client.
func TestDrainWhileDialling(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled := make(chan net.Conn, 1)
	go func() {
		if conn, err := ln.Accept(); err == nil {
			dialled <- conn // which never says 101
		}
	}()
	gr := group("test", "ws://"+ln.Addr().String()+"/")
	gr.DialTimeout = 300 * time.Millisecond
	g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{gr},
		Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}}})
	c := g.stream(nil)
	if err := c.Send(openTag(testName, false)); err != nil {
		t.Fatal(err)
	}
	defer (<-dialled).Close()
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

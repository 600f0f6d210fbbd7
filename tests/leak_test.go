package tests

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A thousand connections, opened and closed in every way there is, leave no
// descriptor, no goroutine and no memory behind.
func TestNoLeak(t *testing.T) {
	site := gate.NewSite(t, name)
	upstream := wire.Echo(t)
	g := site.Start(t, toUpstream(upstream.URL), gate.Plain())
	idle := sockets(g)
	addr, config := g.Addr("wss"), site.Client(name)

	round := func() {
		t.Helper()
		const n, atOnce = 1000, 20
		errs, place := make(chan error, n), make(chan bool, atOnce)
		for i := range n {
			place <- true
			go func() {
				errs <- visit(t, addr, config, i)
				<-place
			}()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	round() // buffers, pools and heap find their size
	eventually(t, "every connection to the upstream is closed", func() bool { return upstream.Open() == 0 })
	eventually(t, "no socket but the listener's is open", func() bool { return sockets(g) == idle })
	memory := g.PrivateMemory()
	for range 2 {
		round()
	}
	eventually(t, "no socket but the listener's is open", func() bool { return sockets(g) == idle })
	grown := g.PrivateMemory() - memory
	for deadline := time.Now().Add(gate.Patience); grown > 2<<20 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		grown = g.PrivateMemory() - memory // the runtime gives it back in the background
	}
	t.Logf("memory grew by %d KiB, from %d KiB", grown>>10, memory>>10)
	if grown > 2<<20 { // 1 KiB for each connection; a leaked tls.Conn takes three times that
		t.Errorf("memory grew by %d KiB in 2,000 connections", grown>>10)
	}

	stacks := g.Goroutines()
	if len(stacks) == 0 {
		t.Fatal("SIGQUIT printed no goroutine")
	}
	if len(stacks) > 40 { // listeners, watchers, loops: none of it for a client
		t.Errorf("%d goroutines without a client:\n%s", len(stacks), strings.Join(stacks, "\n\n"))
	}
}

// sockets returns how many sockets the program has open.
func sockets(g *gate.Gate) (n int) {
	for _, d := range g.Descriptors() {
		if strings.Contains(d, " socket:") {
			n++
		}
	}
	return n
}

// visit is one connection; i chooses how it goes. It runs on any goroutine.
func visit(tb testing.TB, addr string, config *tls.Config, i int) error {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	if i%8 == 0 {
		_, err := io.WriteString(raw, "\x16\x03\x01") // and no more of a ClientHello
		return err
	}
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	c := wire.NewConn(tb, conn, true)
	switch i % 8 {
	case 1:
		return nil // a probe
	case 2:
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n")
		return err
	case 3:
		raw.(*net.TCPConn).SetLinger(0) // reset
	}
	if err := c.TryUpgrade(wire.Request(name)); err != nil {
		return err
	}
	f := wire.Frame{FIN: true, Op: wire.Text, Payload: []byte("hello")}
	if _, err := c.Write(c.Bytes(f)); err != nil {
		return err
	}
	if got, err := c.Frame(); err != nil || string(got.Payload) != "hello" {
		return fmt.Errorf("visit %d: got %v, %v; want %v", i, got, err, f)
	}
	switch i % 8 {
	case 3, 4:
		return nil // gone without a word
	case 5:
		_, err := c.Write([]byte("\x81\x00")) // unmasked: Close 1002
		return err
	}
	if _, err := c.Write(c.Bytes(wire.CloseFrame(true, 1000, ""))); err != nil {
		return err
	}
	if got, err := c.Frame(); err != nil || got.Op != wire.Close {
		return fmt.Errorf("visit %d: got %v, %v; want a Close frame", i, got, err)
	}
	return nil
}

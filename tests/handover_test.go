package tests

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A process starts beside the one that serves, which is then told to end. At no
// time is a client refused or reset, however many come; who was there is told
// goodbye by the one that leaves.
func TestHandOver(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	config := toUpstream(upstream.URL)
	old := site.Start(t, config, gate.Plain())
	addr := old.Addr("wss")
	site.ConfigAt(t, addr, config)

	crowd := newCrowd(t, addr, site)
	for range 3 {
		stays := wire.Dial(t, addr, site.Client(name))
		next := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml", "-beside"}, gate.Plain())
		next.Addr("wss")
		crowd.serve(t, 100)
		old.Signal(syscall.SIGTERM)
		stays.WantClose(1001)
		stays.Send(wire.CloseFrame(true, 1001, ""))
		stays.WantEnd()
		if status := old.Wait(); status != 0 {
			t.Errorf("exit status of the process that left: %d; want 0", status)
		}
		old.WaitLine("the hand-over", func(l gate.Line) bool { return l.Msg() == "hand-over" })
		crowd.serve(t, 100)
		old = next
	}
	t.Logf("figure: hand-over, %s", crowd.leave(t))
}

// The same with a unix socket, whose name the new process takes.
func TestHandOverUnix(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	config := toUpstream(upstream.URL)
	site.ConfigAt(t, "unix:"+filepath.Join(site.Dir, "wss.sock"), config)
	old := gate.Start(t, site.Dir, gate.Plain())
	addr := old.Addr("wss")

	crowd := newCrowd(t, addr, site)
	for range 3 {
		next := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml", "-beside"}, gate.Plain())
		next.Addr("wss")
		crowd.serve(t, 100)
		old.Signal(syscall.SIGTERM)
		if status := old.Wait(); status != 0 {
			t.Errorf("exit status of the process that left: %d; want 0", status)
		}
		crowd.serve(t, 100)
		old = next
	}
	crowd.leave(t)
}

// A second process that was started by mistake must not silently take a part of
// the clients.
func TestSecondProcessByMistake(t *testing.T) {
	upstream := wire.Echo(t)
	for _, network := range []string{"tcp", "unix"} {
		site := gate.NewSite(t, name)
		listen := "127.0.0.1:0"
		if network == "unix" {
			listen = "unix:" + filepath.Join(site.Dir, "wss.sock")
		}
		site.ConfigAt(t, listen, toUpstream(upstream.URL))
		first := gate.Start(t, site.Dir)
		if network == "tcp" {
			site.ConfigAt(t, first.Addr("wss"), toUpstream(upstream.URL))
		}
		second := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
		if status := second.Wait(); status != 1 {
			t.Errorf("%s: exit status %d; want 1", network, status)
		}
		second.WaitLine("the way to do it on purpose", func(l gate.Line) bool { return strings.Contains(l.Text, "-beside") })
		crowd := newCrowd(t, first.Addr("wss"), site)
		crowd.serve(t, 10) // and the first one is none the worse
		crowd.leave(t)
	}
}

// A crowd are clients that come all the time: each opens a tunnel, hears its
// own words from the upstream, or a goodbye, and goes. All must be served.
type crowd struct {
	stop    chan struct{}
	members sync.WaitGroup

	mu      sync.Mutex
	served  int
	longest time.Duration
	errs    []error
}

func newCrowd(t *testing.T, addr string, site *gate.Site) *crowd {
	c := &crowd{stop: make(chan struct{})}
	config := site.Client(name)
	for range 8 {
		c.members.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				began := time.Now()
				err := comeAndGo(t, addr, config)
				c.mu.Lock()
				if err != nil {
					c.errs = append(c.errs, fmt.Errorf("client %d: %w", c.served, err))
				}
				c.served++
				c.longest = max(c.longest, time.Since(began))
				c.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { c.leave(t) })
	return c
}

// serve waits until n more have come and gone.
func (c *crowd) serve(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.served
	}
	until := count() + n
	eventually(t, "clients come and go", func() bool { return count() >= until })
}

// failFor fails the test for each error, and prints the first ten.
func failFor(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if i == 10 {
			t.Errorf("and %d more", len(errs)-i)
			break
		}
		t.Error(err)
	}
}

// leave ends the crowd, and the test fails for each that was not served.
func (c *crowd) leave(t *testing.T) string {
	t.Helper()
	select {
	case <-c.stop:
		return ""
	default:
		close(c.stop)
	}
	c.members.Wait()
	failFor(t, c.errs)
	return fmt.Sprintf("%d clients, the longest took %v", c.served, c.longest.Round(time.Millisecond))
}

// comeAndGo is one client of a crowd.
func comeAndGo(t *testing.T, addr string, config *tls.Config) error {
	network := "tcp"
	if addr[0] == '/' {
		network = "unix"
	}
	raw, err := net.DialTimeout(network, addr, wire.Patience)
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(wire.Patience))
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c := wire.NewConn(t, conn, true)
	if err := c.TryUpgrade(wire.Request(name)); err != nil {
		return err
	}
	if _, err := c.Write(c.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte("hello")})); err != nil {
		return err
	}
	for {
		f, err := c.Frame()
		switch {
		case err != nil:
			return fmt.Errorf("in the tunnel: %w", err)
		case f.Op == wire.Text && string(f.Payload) == "hello":
			_, err := c.Write(c.Bytes(wire.CloseFrame(true, 1000, "")))
			return err
		case f.Op == wire.Close && len(f.Payload) >= 2 && binary.BigEndian.Uint16(f.Payload) == 1001:
			_, err := c.Write(c.Bytes(wire.CloseFrame(true, 1001, "")))
			return err
		default:
			return fmt.Errorf("in the tunnel: got %v", f)
		}
	}
}

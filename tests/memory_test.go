package tests

import (
	"crypto/tls"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

const (
	idleTunnels   = 5000
	bytesPerIdle  = 8 << 10 // of private memory, for each; DESIGN.md section 7 wants 5 KB in the end
	openFilesHere = 2*idleTunnels + 500
)

// An idle tunnel costs little memory: 5,000 of them are opened, and what the
// program's own pages have grown by is shared out among them.
//
// Clients and upstream live in this process, not in the program that is
// measured. Nothing is timed: the figure is taken when it stands still.
func TestIdleMemory(t *testing.T) {
	needDescriptors(t, openFilesHere)
	site := gate.NewSite(t, name)
	upstream := wire.Echo(t)
	g := site.Start(t, toUpstream(upstream.URL)+"[timeouts]\nping = \"0s\"\n", gate.Plain())

	addr, config := g.Addr("wss"), site.Client(name)
	wire.Dial(t, addr, config) // the first one pays for what all share
	before := settled(t, g)
	errs := make(chan error)
	const workers = 8
	for range workers {
		go func() {
			for range idleTunnels / workers {
				if err := openIdle(t, addr, config); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if open := upstream.Open(); open != idleTunnels+1 {
		t.Fatalf("%d tunnels are open; want %d", open, idleTunnels+1)
	}
	each := (settled(t, g) - before) / idleTunnels
	t.Logf("figure: %d idle tunnels, %d bytes of private memory for each (%d KiB before them)", idleTunnels, each, before>>10)
	if each > bytesPerIdle {
		t.Errorf("an idle tunnel takes %d bytes; want at most %d", each, bytesPerIdle)
	}
}

// settled returns the program's private memory once it changes no more: the
// runtime gives memory back in the background, for a few seconds.
func settled(t *testing.T, g *gate.Gate) int64 {
	t.Helper()
	const steady = 10 // readings in succession: on a busy machine memory comes back slowly
	low, same := g.PrivateMemory(), 0
	for range 60 {
		time.Sleep(500 * time.Millisecond)
		now := g.PrivateMemory()
		if diff := low - now; diff > low/200 {
			low, same = now, 0
			continue
		}
		if same++; same == steady {
			break
		}
	}
	return g.PrivateMemory()
}

func needDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < n {
		t.Fatalf("this test opens %d descriptors and the limit is %d; raise it: ulimit -Hn %d", n, limit.Max, n)
	}
}

// openIdle opens a tunnel that stays open until the test ends. It runs on any
// goroutine.
func openIdle(t *testing.T, addr string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	return wire.NewConn(t, conn, true).TryUpgrade(wire.Request(config.ServerName))
}

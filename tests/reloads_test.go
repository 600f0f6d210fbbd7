package tests

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

const (
	reloads     = 200
	busyTunnels = 1000
	talkEvery   = 250 * time.Millisecond
)

// Two hundred reloads under a thousand busy tunnels, and with clients that come
// and go all the time: nobody is dropped, nobody is refused, and afterwards the
// process is what it was before, and the only one.
//
// Each reload changes something: a vhost more or less, a limit, a listener
// opened or closed, a certificate renewed.
func TestReloadManyTimes(t *testing.T) {
	needDescriptors(t, 2*busyTunnels+500)
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name, "other.test")
	second := gate.FreeAddr(t)
	write := func(i int) (listensTwice bool) {
		listen, more := `["127.0.0.1:0"]`, ""
		if i%4 >= 2 {
			listen = fmt.Sprintf(`["127.0.0.1:0", %q]`, second)
			listensTwice = true
		}
		if i%2 == 1 {
			more += fmt.Sprintf("[[vhost]]\nnames = [%q]\n[[vhost]]\nnames = [\"other.test\"]\n", name)
		}
		more += fmt.Sprintf("[limits]\nmessage = %d\n", 1<<20+i)
		if i%10 == 0 {
			site.Certify(t, name, site.CA.Issue(name))
		}
		site.ConfigAt(t, listen, toUpstream(upstream.URL)+more)
		return listensTwice
	}
	write(0)
	g := gate.Start(t, site.Dir, gate.Plain())
	addr := g.Addr("wss")

	tunnels := openTunnels(t, addr, site.Client(name))
	talk := newTalk(tunnels)
	defer talk.end(t)

	reload := func(i int) {
		t.Helper()
		twice := write(i)
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		done := wait("the reload", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "reload") })
		if done.Msg() != "reloaded" {
			t.Fatalf("reload %d: %s", i, done.Text)
		}
		conn, err := net.Dial("tcp", second)
		if err == nil {
			conn.Close()
		}
		if twice != (err == nil) {
			t.Fatalf("reload %d: the second listener is open: %v; want %v", i, err == nil, twice)
		}
	}
	const warm = 20 // after which everything has found its size
	for i := 1; i <= warm; i++ {
		reload(i)
	}
	before := measure(t, g)
	crowd := newCrowd(t, addr, site)
	var through *wire.Conn // a tunnel that came by a listener that is closed later
	for i := warm + 1; i <= reloads; i++ {
		reload(i)
		if i%4 == 2 && through == nil {
			through = wire.Dial(t, second, site.Client(name))
		}
	}
	came := crowd.leave(t)
	through.SendText("still here")
	through.WantText("still here")
	through.Close()
	eventually(t, "those who came have gone", func() bool { return upstream.Open() == busyTunnels })
	messages := talk.end(t)
	if open := upstream.Open(); open != busyTunnels {
		t.Errorf("%d tunnels are open; want %d", open, busyTunnels)
	}

	eventually(t, "sockets and goroutines are as many as before", func() bool {
		return sockets(g) == before.sockets && goroutines(t, g) <= before.goroutines+2
	})
	// Memory is given back in intervals, which are longer where that takes longer.
	after, most := measure(t, g), before.memory+4<<20
	for deadline := time.Now().Add(2 * time.Minute); after.memory > most && time.Now().Before(deadline); {
		after = measure(t, g)
	}
	t.Logf("figure: %d reloads, %d tunnels with %d messages; besides %s", reloads, busyTunnels, messages, came)
	t.Logf("figure: before %+v, after %+v", before, after)
	if after.memory > most {
		t.Errorf("private memory grew from %d KiB to %d KiB", before.memory>>10, after.memory>>10)
	}
	if n := processesIn(t, site.Dir); n != 1 {
		t.Errorf("%d processes; want 1", n)
	}
}

// What a process has.
type possessions struct {
	memory              int64
	sockets, goroutines int
}

func measure(t *testing.T, g *gate.Gate) possessions {
	t.Helper()
	return possessions{settled(t, g), sockets(g), goroutines(t, g)}
}

// goroutines asks the program's metrics.
func goroutines(t *testing.T, g *gate.Gate) (n int) {
	t.Helper()
	resp, err := http.Get("http://" + g.Addr("admin") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "go_goroutines %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("go_goroutines is none of the metrics")
	return 0
}

// processesIn counts the processes that run in a directory.
func processesIn(t *testing.T, dir string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == dir {
			n++
		}
	}
	return n
}

func openTunnels(t *testing.T, addr string, config *tls.Config) []*wire.Conn {
	t.Helper()
	var mu sync.Mutex
	var all []*wire.Conn
	const workers = 8
	errs := make(chan error, workers)
	for range workers {
		go func() {
			for range busyTunnels / workers {
				raw, err := tls.Dial("tcp", addr, config)
				if err != nil {
					errs <- err
					return
				}
				c := wire.NewConn(t, raw, true)
				if err := c.TryUpgrade(wire.Request(config.ServerName)); err != nil {
					errs <- err
					return
				}
				mu.Lock()
				all = append(all, c)
				mu.Unlock()
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A talk keeps tunnels busy: each says something every now and then, and must
// hear it from the upstream.
type talk struct {
	stop  chan struct{}
	ended sync.WaitGroup

	mu       sync.Mutex
	messages int
	errs     []error
}

func newTalk(tunnels []*wire.Conn) *talk {
	k := &talk{stop: make(chan struct{})}
	for i, c := range tunnels {
		k.ended.Go(func() {
			pause := time.NewTimer(talkEvery * time.Duration(i) / time.Duration(len(tunnels)))
			defer pause.Stop()
			for n := 0; ; n++ {
				select {
				case <-k.stop:
					return
				case <-pause.C:
				}
				err := speak(c, fmt.Sprintf("%d from %d", n, i))
				k.mu.Lock()
				k.messages++
				if err != nil {
					k.errs = append(k.errs, fmt.Errorf("tunnel %d, message %d: %w", i, n, err))
				}
				k.mu.Unlock()
				if err != nil {
					return
				}
				pause.Reset(talkEvery)
			}
		})
	}
	return k
}

func speak(c *wire.Conn, words string) error {
	if _, err := c.Write(c.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(words)})); err != nil {
		return err
	}
	f, err := c.Frame()
	if err == nil && (f.Op != wire.Text || string(f.Payload) != words) {
		err = fmt.Errorf("got %v; want the echo of %q", f, words)
	}
	return err
}

// end ends the talk; the test fails for each tunnel that did not hear its words.
func (k *talk) end(t *testing.T) (messages int) {
	t.Helper()
	select {
	case <-k.stop:
		return k.messages
	default:
		close(k.stop)
	}
	k.ended.Wait()
	failFor(t, k.errs)
	return k.messages
}

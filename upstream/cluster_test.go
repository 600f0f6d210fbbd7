package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A cluster is an in-memory network for tests on the fake clock. It has the peer at
// each address, and counts its dials.
type cluster struct {
	mu    sync.Mutex
	peers map[string]peer // by address; none: connection refused
	dials map[string]int
	when  map[string][]time.Time
}

// hole never answers, not even TCP.
var hole peer = func(net.Conn, *bufio.Reader, string) { panic("nobody gets here") }

// brief accepts and disconnects: enough for tests that only count.
func brief(c net.Conn, _ *bufio.Reader, head string) { io.WriteString(c, good(head)) }

func newCluster(p peer, addrs ...string) *cluster {
	c := &cluster{peers: map[string]peer{}, dials: map[string]int{}, when: map[string][]time.Time{}}
	for _, a := range addrs {
		c.peers[a] = p
	}
	return c
}

func (c *cluster) set(addr string, p peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[addr] = p
}

// kill makes an address refuse connections.
func (c *cluster) kill(addr string) { c.set(addr, nil) }

// count returns the dials per address since the last call.
func (c *cluster) count() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.dials
	c.dials = map[string]int{}
	return n
}

// times returns the times of all dials of an address.
func (c *cluster) times(addr string) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.when[addr])
}

func (c *cluster) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	c.mu.Lock()
	p := c.peers[addr]
	c.dials[addr]++
	c.when[addr] = append(c.when[addr], time.Now())
	c.mu.Unlock()
	switch {
	case p == nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	case fmt.Sprintf("%p", p) == fmt.Sprintf("%p", hole):
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		br := bufio.NewReader(server)
		if head, err := readHead(br); err == nil {
			p(server, br, head)
		}
	}()
	return client, nil
}

// vhost creates a table of one group over the cluster, with a seeded random source.
func (c *cluster) vhost(t *testing.T, g GroupOptions, nodes ...NodeOptions) (*Table, *Vhost) {
	t.Helper()
	tab := table(t, c.options(g, nodes...))
	v, err := tab.Routes().Lookup("x")
	if err != nil {
		t.Fatal(err)
	}
	return tab, v
}

func (c *cluster) options(g GroupOptions, nodes ...NodeOptions) Options {
	g.Name, g.Nodes = "tigase", nodes
	var mu sync.Mutex
	seeded := rand.New(rand.NewPCG(1, 2))
	return Options{Upstreams: []GroupOptions{g}, Dial: c.dial, Log: slog.New(slog.DiscardHandler), Random: func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return seeded.Float64()
	}}
}

// three are the nodes of most tests.
var three = []NodeOptions{
	{Name: "t1", URL: "ws://10.0.0.1:5290/"}, {Name: "t2", URL: "ws://10.0.0.2:5290/"}, {Name: "t3", URL: "ws://10.0.0.3:5290/"},
}

const (
	at1 = "10.0.0.1:5290"
	at2 = "10.0.0.2:5290"
	at3 = "10.0.0.3:5290"
)

// tunnels dials n times and keeps the tunnels; it returns their number for each node.
func tunnels(t *testing.T, v *Vhost, n int) (map[string]int, []*Conn) {
	t.Helper()
	got := map[string]int{}
	var conns []*Conn
	for i := range n {
		r := *request
		r.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 5000)
		c, err := v.Dial(t.Context(), &r)
		if err != nil {
			t.Fatalf("dial %d of %d: %v", i, n, err)
		}
		c.Conn.Close()
		got[c.Node.Name()]++
		conns = append(conns, c)
	}
	return got, conns
}

func release(conns []*Conn) {
	for _, c := range conns {
		c.Release()
	}
}

// within reports an error unless lo ≤ got ≤ hi.
func within(t *testing.T, what string, got, lo, hi int) {
	t.Helper()
	if got < lo || got > hi {
		t.Errorf("%s: %d; want %d to %d", what, got, lo, hi)
	}
}

package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"

	"wssgate/files"
	"wssgate/panics"
)

// A Node is one entry of an upstream's nodes. It never changes. A reload makes new
// Nodes, so compare them by upstream and name.
type Node struct {
	group     *group
	name      string
	publicURL string
	loc       NodeURL
	weight    float64
	drain     bool
	limits    limits
	tls       *tls.Config // nil for ws
	server    *server

	// place, if set, restricts the node to one of its addresses: an IP address or an
	// SRV target, with its port.
	place string
}

// Name returns the configured name. It may be the label of a metric.
func (n *Node) Name() string { return n.name }

// Upstream returns the name of the node's upstream.
func (n *Node) Upstream() string { return n.group.name }

// URL returns the node's URL as configured.
func (n *Node) URL() string { return n.loc.url }

// PublicURL returns the URL at which clients reach this node through a gate, or "".
func (n *Node) PublicURL() string { return n.publicURL }

// Leaving reports whether the node gets no more streams, because it is draining or a
// Commit removed it. It reflects the current configuration, not the one that n came
// from.
func (n *Node) Leaving() bool { return n.server.drained.Load() || n.server.gone.Load() }

// serverKey identifies a node across a Commit.
type serverKey struct {
	nodeName
	url string
}

// A nodeName identifies a node in the configuration.
type nodeName struct{ group, node string }

func (n *Node) called() nodeName { return nodeName{n.group.name, n.name} }

// A server is the part of a Node that survives a reload.
type server struct {
	drained   atomic.Bool
	gone      atomic.Bool // no longer configured
	endpoints atomic.Pointer[[]endpoint]
	node      atomic.Pointer[Node] // the newest

	// answered is closed once DNS has answered or failed.
	answered chan struct{}
	ask      chan struct{} // requests another DNS query soon

	mu     sync.Mutex // never held across I/O
	late   bool       // new places get a slow start
	dnsErr error      // of the latest query; nil after an answer
	health HealthOptions
	probes map[*address]context.CancelFunc
	ctx    context.Context // of its jobs
	end    context.CancelFunc
}

// An endpoint is an address of a server, with the current data from DNS.
type endpoint struct {
	*address
	priority uint16  // SRV: lower comes first
	share    float64 // of the node's weight; the shares of each priority add up to 1
}

func newServer(n *Node, late bool) *server {
	s := &server{answered: make(chan struct{}), ask: make(chan struct{}, 1), late: late, probes: map[*address]context.CancelFunc{}}
	s.endpoints.Store(&[]endpoint{})
	return s
}

// endpoints returns the current addresses of n. Do not change the slice.
func (n *Node) endpoints() []endpoint {
	all := *n.server.endpoints.Load()
	if n.place == "" {
		return all
	}
	var some []endpoint
	for _, e := range all {
		if e.addr == n.place || e.target == n.place {
			some = append(some, e)
		}
	}
	return some
}

// follow makes s use the settings of n, and starts its jobs the first time. The caller
// holds t.mu.
func (s *server) follow(t *Table, n *Node) {
	s.node.Store(n)
	s.drained.Store(n.drain || t.drained[n.called()])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.ctx, s.end = context.WithCancel(t.ctx)
		if !s.setFixed(n) {
			ctx := s.ctx
			t.jobs.Go(func() { panics.Keep(ctx.Done(), panics.DNS, func() { s.watchNames(ctx, t) }) })
		}
	}
	if s.health != n.group.health { // the current probes have the old settings
		s.health.Interval = 0
		s.syncProbes(t)
		s.health = n.group.health
	}
	s.syncProbes(t)
}

// setFixed sets the address of a node that needs no DNS, and reports whether n is one.
func (s *server) setFixed(n *Node) bool {
	var a *address
	switch literal, ok := n.loc.literal(); {
	case n.loc.Unix != "":
		a = newAddress("unix", n.loc.Unix, "", s.late)
		a.place = files.At(fmt.Sprintf("upstream %q", n.group.name), n.loc.Unix, n.group.env.log)
	case ok:
		a = newAddress("tcp", literal.String(), "", s.late)
	default:
		return false
	}
	s.endpoints.Store(&[]endpoint{{address: a, share: 1}})
	close(s.answered)
	return true
}

// retire stops the server's jobs; its tunnels stay. The caller holds t.mu.
func (s *server) retire() {
	s.gone.Store(true)
	s.end()
	s.leavePlaces()
}

// leavePlaces releases the Places of socket paths.
func (s *server) leavePlaces() {
	for _, e := range *s.endpoints.Load() {
		if e.place != nil {
			e.place.Leave()
		}
	}
}

// noAddress returns the reason why the server has no address.
func (s *server) noAddress() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dnsErr != nil {
		return fmt.Errorf("%w: %w", ErrNoAddress, s.dnsErr)
	}
	return ErrNoAddress
}

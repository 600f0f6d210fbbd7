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

// A Node is one entry of an upstream's nodes. It never changes; compare nodes
// by upstream and name, for a reload makes new ones.
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

	// place, where set, is the only one of the server's places that is meant:
	// an IP address or an SRV target, with its port.
	place string
}

// Name is the configured name; it may be a metric's label.
func (n *Node) Name() string { return n.name }

// Upstream is the name of the node's upstream.
func (n *Node) Upstream() string { return n.group.name }

// URL is the node's URL as configured.
func (n *Node) URL() string { return n.loc.url }

// PublicURL is where clients reach this node through a gate, or "".
func (n *Node) PublicURL() string { return n.publicURL }

// Leaving is true once the node gets no more streams, because it is draining or a
// Commit removed it. It reflects the current configuration, not the one that n came
// from.
func (n *Node) Leaving() bool { return n.server.drained.Load() || n.server.gone.Load() }

// serverKey says when a node is still the same one after a Commit.
type serverKey struct {
	nodeName
	url string
}

// A nodeName is what a node is called in the configuration.
type nodeName struct{ group, node string }

func (n *Node) called() nodeName { return nodeName{n.group.name, n.name} }

// A server is the lasting half of a Node.
type server struct {
	drained   atomic.Bool
	gone      atomic.Bool // no longer configured
	endpoints atomic.Pointer[[]endpoint]
	node      atomic.Pointer[Node] // its newest

	// answered is closed once places is what DNS said, or DNS failed.
	answered chan struct{}
	ask      chan struct{} // DNS should be asked soon

	mu     sync.Mutex // never held across I/O
	late   bool       // its next places join others that are warm
	dnsErr error      // of the last question; nil after an answer
	health HealthOptions
	probes map[*address]context.CancelFunc
	ctx    context.Context // of its jobs
	end    context.CancelFunc
}

// An endpoint is a server's address with what DNS says about it now.
type endpoint struct {
	*address
	priority uint16  // SRV: the lower, the sooner
	share    float64 // of the node's weight; they add up to 1 for each priority
}

func newServer(n *Node, late bool) *server {
	s := &server{answered: make(chan struct{}), ask: make(chan struct{}, 1), late: late, probes: map[*address]context.CancelFunc{}}
	s.endpoints.Store(&[]endpoint{})
	return s
}

// endpoints returns where n may go; the slice must not be changed.
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

// follow makes s behave as n says from now on, and starts its jobs the first
// time. The caller holds t.mu.
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
	if s.health != n.group.health { // what runs has the old ones
		s.health.Interval = 0
		s.syncProbes(t)
		s.health = n.group.health
	}
	s.syncProbes(t)
}

// setFixed sets the place of a node that needs no DNS, and reports whether n is one.
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

// retire ends the server's jobs; its tunnels go on. The caller holds t.mu.
func (s *server) retire() {
	s.gone.Store(true)
	s.end()
	s.leavePlaces()
}

// leavePlaces gives up what is kept to dial paths with.
func (s *server) leavePlaces() {
	for _, e := range *s.endpoints.Load() {
		if e.place != nil {
			e.place.Leave()
		}
	}
}

// noAddress says why there is no place to go.
func (s *server) noAddress() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dnsErr != nil {
		return fmt.Errorf("%w: %w", ErrNoAddress, s.dnsErr)
	}
	return ErrNoAddress
}

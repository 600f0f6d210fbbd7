// Package upstream knows which XMPP server takes a stream, and reaches it: it
// routes a server name to a group of nodes, chooses one by load and health,
// dials it and does the client's half of the opening handshake (RFC 6455,
// section 4.1). What it hands out is a conn on which frames may follow.
//
// It does not speak to clients, reads no frames but its own probes', and knows
// nothing of the configuration file: its options are plain values.
//
//	Table ── Vhost ── group ── Node ── server ── address
//	            routes, replaced by Update │ kept by Update
//
// A Table is the routes of this moment behind an atomic pointer. Vhost, group
// and Node never change; Update replaces them all at once. What must outlive a
// reload hangs below: a server is the lasting half of a Node (its DNS answers),
// an address is one place where it listens (live tunnels, health, pace).
//
// The word node is the operator's: one entry in the configuration. A node whose
// name has several addresses, or SRV records, has as many places to go; its
// weight is shared among them, while limits hold for each.
//
// Health of an address:
//
//	        a dial or a probe fails              time out is over
//	up ───────────────────────────────► out ───────────────────────► trial
//	 ▲                                   ▲                             │
//	 │ works: filled slowly, 30 s        └──── fails: out for longer ──┤
//	 └─────────────────────────────────────────────────────────────────┘
//
// An address that is out is tried last, never not at all. With probes on, an
// address that failed them stays out until one works.
package upstream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// ErrNoRoute says that no vhost is configured for a server name.
var ErrNoRoute = errors.New("no vhost")

// A Table routes server names to nodes. Make one with New; all its methods may
// be called at the same time.
type Table struct {
	routes atomic.Pointer[routes]

	mu      sync.Mutex // held by Update and Close, never across I/O
	servers map[serverKey]*server
	closed  bool
	jobs    sync.WaitGroup // resolvers and probes
	ctx     context.Context
	end     context.CancelFunc
}

// routes is what one Options says, checked. It never changes.
type routes struct {
	exact  map[string]*Vhost // by server name
	wild   map[string]*Vhost // by what follows "*."
	only   *Vhost            // for every name, where no vhost is configured
	groups []*group
	env    environment
}

// environment is what nodes need from outside.
type environment struct {
	wrap     func(net.Conn) net.Conn
	resolver Resolver
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	log      *slog.Logger
	random   func() float64 // [0,1)
}

// New makes a Table, and starts resolvers and probes, which Close ends. It
// waits for neither. The error joins one ConfigError for each mistake.
func New(o Options) (*Table, error) {
	t := &Table{servers: map[serverKey]*server{}}
	t.ctx, t.end = context.WithCancel(context.Background())
	if err := t.Update(o); err != nil {
		t.end()
		return nil, err
	}
	return t, nil
}

// Check says what New and Update would refuse o for. It changes nothing.
func Check(o Options) error {
	_, err := newRoutes(o)
	return err
}

// Update replaces all routes at once, or none where o has a mistake. A node
// that stays (same upstream, name and URL) keeps its live counts, health and
// DNS answers. Tunnels of a node that is gone go on, and so do dials under way.
func (t *Table) Update(o Options) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	r, err := newRoutes(o)
	if err != nil {
		return err
	}
	first := t.routes.Load() == nil
	keep := make(map[serverKey]*server)
	for _, g := range r.groups {
		for _, n := range g.nodes {
			key := serverKey{g.name, n.name, n.loc.url}
			s := t.servers[key]
			if s == nil {
				s = newServer(n, !first)
			}
			n.server = s
			keep[key] = s
		}
	}
	// Nothing can fail from here on.
	for key, s := range t.servers {
		if keep[key] == nil {
			s.retire()
		}
	}
	t.servers = keep
	for _, g := range r.groups {
		for _, n := range g.nodes {
			n.server.follow(t, n)
		}
	}
	t.routes.Store(r)
	return nil
}

// Close ends resolvers and probes and waits for them. Tunnels go on.
func (t *Table) Close() error {
	t.mu.Lock()
	t.closed = true
	t.end()
	t.mu.Unlock()
	t.jobs.Wait()
	return nil
}

func newEnvironment(o Options) environment {
	e := environment{wrap: o.Wrap, resolver: o.Resolver, dial: o.Dial, log: o.Log, random: o.randFloat}
	if e.resolver == nil {
		e.resolver = net.DefaultResolver
	}
	if e.dial == nil {
		e.dial = dialer.DialContext
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.random == nil {
		e.random = rand.Float64
	}
	return e
}

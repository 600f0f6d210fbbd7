// Package upstream finds the XMPP server for a stream and connects to it. It routes a
// server name to a group of nodes, chooses one by load and health, dials it, and does
// the client's half of the opening handshake (RFC 6455, section 4.1). The result is a
// conn ready for frames.
//
// It does not talk to clients, reads no frames except in its own probes, and does not
// know the configuration file: its options are plain values.
//
//	Routes ── Vhost ── group ── Node ── server ── address
//	              one configuration's │ kept by the Table
//
// Routes, Vhost, group and Node never change: a new configuration makes new ones, and a
// client keeps those that it started with. State that outlives a reload is below: a
// server is the lasting part of a Node (its DNS answers), and an address is one place
// where it listens (live tunnels, health, pace). The Table keeps them and matches them
// to the nodes of new Routes.
//
// A node is one entry in the configuration. If its name has several addresses, or SRV
// records, they share its weight, while limits apply to each.
//
// Health of an address:
//
//	        a dial or a probe fails              time out is over
//	up ───────────────────────────────► out ───────────────────────► trial
//	 ▲                                   ▲                             │
//	 │ works: filled slowly, 30 s        └──── fails: out for longer ──┤
//	 └─────────────────────────────────────────────────────────────────┘
//
// Addresses that are out are tried last, but they are tried. If probes are on, an
// address that failed them stays out until a probe works.
package upstream

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"wssgate/ports"
)

// ErrNoRoute is the error for a server name without a vhost.
var ErrNoRoute = errors.New("no vhost")

// A Table keeps the servers behind all Routes. Make one with New. All methods are safe
// for concurrent use.
type Table struct {
	routes atomic.Pointer[Routes] // the newest

	mu      sync.Mutex // held by Commit, Drain and Close, never across I/O
	servers map[serverKey]*server
	drained map[nodeName]bool // by Drain
	closed  bool
	jobs    sync.WaitGroup // resolvers and probes
	ctx     context.Context
	end     context.CancelFunc
}

// Routes map server names to nodes, for one Options. They never change.
type Routes struct {
	exact  map[string]*Vhost // by server name
	wild   map[string]*Vhost // by what follows "*."
	only   *Vhost            // for every name if no vhost is configured
	groups []*group
	env    *environment
}

// environment has the external dependencies of nodes.
type environment struct {
	wrap     func(net.Conn) net.Conn
	resolver Resolver
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	log      *slog.Logger
	random   func() float64 // [0,1)
}

// New makes a Table, and starts resolvers and probes in the background, which Close
// stops. The error joins one ConfigError per mistake.
func New(o Options) (*Table, error) {
	r, err := Prepare(o)
	if err != nil {
		return nil, err
	}
	t := &Table{servers: map[serverKey]*server{}, drained: map[nodeName]bool{}}
	t.ctx, t.end = context.WithCancel(context.Background())
	t.Commit(r)
	return t, nil
}

// Routes returns those of the newest Commit.
func (t *Table) Routes() *Routes { return t.routes.Load() }

// Prepare checks o and makes Routes from it, which can be used after their Commit.
// Until then nothing changes. The error joins one ConfigError per mistake.
func Prepare(o Options) (*Routes, error) { return newRoutes(o) }

// Commit gives Routes their servers, once, and stops servers that are not in them. A
// node that stays (same upstream, name and URL) keeps its live counts, health and DNS
// answers. Tunnels of removed nodes stay, and so do dials in progress; holders of older
// Routes may still dial. After Close, Commit does nothing.
func (t *Table) Commit(r *Routes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	first := t.routes.Load() == nil
	keep := make(map[serverKey]*server)
	for n := range r.nodes() {
		key := serverKey{n.called(), n.loc.url}
		s := t.servers[key]
		if s == nil {
			s = newServer(n, !first)
		}
		n.server = s
		keep[key] = s
	}
	for key, s := range t.servers {
		if keep[key] == nil {
			s.retire()
		}
	}
	t.servers = keep
	if before := t.routes.Load(); before != nil {
		for _, g := range r.groups {
			if old := before.group(g.name); old != nil {
				g.lost = old.lost
			}
		}
	}
	for n := range r.nodes() {
		n.server.follow(t, n)
	}
	t.routes.Store(r)
}

// Drain stops new streams to a node, regardless of its options, or lets the options
// decide again. It also applies after a Commit, and to a node that is configured later.
func (t *Table) Drain(upstream, node string, drained bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nodeName{upstream, node}
	if delete(t.drained, name); drained {
		t.drained[name] = true
	}
	for n := range t.routes.Load().nodes() {
		if n.called() == name {
			n.server.drained.Store(drained || n.drain)
		}
	}
}

// nodes yields all nodes.
func (r *Routes) nodes() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for _, g := range r.groups {
			for _, n := range g.nodes {
				if !yield(n) {
					return
				}
			}
		}
	}
}

// Close stops resolvers and probes and waits for them. Tunnels stay.
func (t *Table) Close() error {
	t.mu.Lock()
	if !t.closed {
		for _, s := range t.servers {
			if !s.gone.Load() {
				s.leavePlaces()
			}
		}
	}
	t.closed = true
	t.end()
	t.mu.Unlock()
	t.jobs.Wait()
	return nil
}

func newEnvironment(o Options) *environment {
	e := &environment{wrap: o.Wrap, resolver: o.Resolver, dial: o.Dial, log: o.Log, random: o.Random}
	if e.resolver == nil {
		e.resolver = net.DefaultResolver
	}
	if e.dial == nil {
		e.dial = ports.From(dialer)
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.random == nil {
		e.random = rand.Float64
	}
	return e
}

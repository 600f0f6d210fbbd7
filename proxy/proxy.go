// Package proxy takes one client connection from accept to close: TLS, the
// opening handshake, the tunnel to the upstream, the closing handshake.
//
// Callers supply the rest: the certificate (a function for tls.Config), the upstream of
// a stream (package upstream), and the meaning of the XMPP in the frames (package xmpp).
// The package reads no files and no configuration; package gate gives it Options.
//
// The stages of a connection, and its owner in each:
//
//	accept     Serve's goroutine            a place at the door (door.go)
//	hello      the conn's own goroutine     until the ClientHello is complete (early.go)
//	handshake  the same                     a slot, while it computes
//	request    the same                     reads the opening handshake, 16 KiB at most
//	dial       the same                     until the upstream answers 101
//	tunnel     an event loop                no goroutine, no buffer while idle
//
// A Server consists of the following parts, and has no state and no lock of its own. Each
// part is in a file of its name and owns the state that it changes. It knows only the
// parts above it in this list that it needs, and never the Server:
//
//	current     the current configuration; one atomic pointer (configuration.go)
//	access      the operator's bans; one lock
//	door        connections that are not tunnels yet, and the number of all; one lock
//	clients     connections of each client address; one lock, held while door's is taken
//	drains      drains that turn new clients away, and the number admitted; one lock
//	shortage    whether memory is short; atomics
//	admission   gives a connection its place in these five, and takes it back
//	acceptor    the listeners; one lock (accept.go)
//	loops       the event loops, and through them the tunnels; one lock
//	dialler     the dials that clients and tunnels wait for; a WaitGroup (dial.go)
//	guard       failed logins of each client address; one lock
//	journal     the lines about finished tunnels; one lock
//	tunnels     what all tunnels share of the above, and their counts; atomics
//	pages       requests that are not upgrades to WebSocket; one lock
//	ingress     what a connection needs until it is a tunnel; atomics
//	tracer      the one tunnel that is traced; an atomic pointer (trace.go)
//
// All settings that may change while the Server runs are in one Configuration behind one
// atomic pointer. A connection loads it twice: at accept, for the places and limits
// before TLS; and at its ClientHello, for everything from the certificate to the 101 or
// the refusal. So a reload in between never mixes the certificate of one Configuration
// with the routes of another, and never waits. A tunnel keeps its vhost and settings of
// the second load. A further request on a connection that the pages kept loads the
// pointer again.
//
// The connection's goroutine closes it on failure; after loops.take has returned nil, its
// loop does. A request that is not a WebSocket upgrade goes to an http.Server, which owns
// the connection until it has answered (pages.go). A panic before the tunnel ends only
// that connection (panic.go).
package proxy

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Options configure a new Server. ChallengeCertificate and Log may be nil.
type Options struct {
	Configuration // the first one

	// ChallengeCertificate answers a CA's ClientHello, which offers only acme-tls/1
	// (RFC 8737). GetCertificate is not called for it, and the connection ends after
	// the handshake. Nil, nil means that there is no such challenge. It may read a
	// disk, because no client waits for it. Nil: no CA gets an answer.
	ChallengeCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	NoRing bool // make no system calls in batches by io_uring, even if the kernel has it

	Log *slog.Logger // must not block, because the event loops write to it; nil: slog.Default()
}

// A Server serves clients on any number of listeners. Make one with New. Its methods are
// safe for concurrent use.
type Server struct {
	log       *slog.Logger
	panicked  panicFunc
	now       *current
	access    *accessControl
	door      *door // the admission's
	admission *admission
	acceptor  *acceptor
	loops     *loops
	dialler   *dialler
	guard     *guard
	journal   *journal
	tunnels   *tunnels
	pages     *pages
	ingress   *ingress
	tracer    *tracer
}

// New makes a Server and starts its event loop, which Shutdown ends. An error is that of
// the system call for the loop's poller.
func New(o Options) (*Server, error) {
	return newServer(o, func(s *Server) (*loops, error) {
		if o.NoRing {
			return newLoops(true, nil, s.panicked)
		}
		return newLoops(true, s.noRing, s.panicked)
	})
}

// noRing logs why the loops don't batch their system calls.
func (s *Server) noRing(err error) {
	s.log.Info("io_uring is not available: each read and write is a system call of its own", "err", err)
}

// newServer is New with the loops that start returns. At its call, log and panicked are
// set.
func newServer(o Options, start func(s *Server) (*loops, error)) (*Server, error) {
	s := &Server{log: o.Log, now: new(current)}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.panicked = logPanics(s.log)
	var err error
	if s.loops, err = start(s); err != nil {
		return nil, err
	}
	s.access = &accessControl{now: s.now}
	s.admission = newAdmission(s.access)
	s.door = s.admission.door
	s.dialler = newDialler(s.loops, s.panicked)
	s.guard = newGuard(s.log)
	s.journal = &journal{log: s.log}
	s.tunnels = &tunnels{
		access: s.access, guard: s.guard, dialler: s.dialler, loops: s.loops,
		admission: s.admission, journal: s.journal, ids: newTunnelIDs(),
	}
	s.Configure(o.Configuration)
	s.pages = newPages(s.log, s.panicked)
	var ca *challenges
	if o.ChallengeCertificate != nil {
		ca = &challenges{answer: o.ChallengeCertificate, door: s.door}
	}
	clients := newTLSConfig(s.now, ca)
	s.ingress = &ingress{
		now: s.now, log: s.log, panicked: s.panicked, tls: clients, tlsECH: withECH(clients, s.now),
		admission: s.admission, door: s.door, access: s.access, guard: s.guard,
		dialler: s.dialler, pages: s.pages, tunnels: s.tunnels,
	}
	s.acceptor = newAcceptor(s.log, s.door, s.ingress.admit)
	s.tracer = &tracer{loops: s.loops}
	if !Lends() {
		s.log.Warn("unsupported Go release in this build: idle connections keep their TLS buffers")
	}
	return s, nil
}

// Configure applies c to every connection that is accepted, or sends its ClientHello,
// from now on. Other connections keep the Configuration that they began with. Configure
// stores one pointer and does not block. What all connections share changes at once:
// the handshake slots and the sampling of the log.
func (s *Server) Configure(c Configuration) {
	set := c.Settings
	connections := ConnectionLimit(set.Connections)
	if set.Connections > connections {
		s.log.Warn("limits.connections exceeds what the file descriptor limit allows", "connections", set.Connections, "allowed", connections,
			"hint", DescriptorHint)
	}
	if allowed, few := FewDescriptors(set.Connections); few {
		s.log.Warn("the file descriptor limit allows few connections", "allowed", allowed, "hint", DescriptorHint)
	}
	if c.Pages == nil {
		c.Pages = http.NotFoundHandler()
	}
	s.now.Store(&configuration{c, &settings{
		Settings:    set,
		connections: connections,
		tunnel:      tunnelSettings{backlog: set.ClientBacklog, brake: &s.admission.shortage.brake, ping: set.Ping, pong: set.Pong, frames: set.FramesPerSecond},
	}})
	s.door.configure(connections, set.Handshakes)
	s.guard.configure(set.LoginFailures, time.Now())
	s.journal.sample.Store(int64(set.LogSample))
}

// WrapUpstream is for upstream.Options.Wrap. It prepares a connection to a node so that
// the event loop can drive it later, below TLS if there is any.
func WrapUpstream(conn net.Conn) net.Conn { return &sock{conn: conn} }

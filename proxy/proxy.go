// Package proxy takes one client connection from accept to close: TLS, the
// opening handshake, the tunnel to the upstream, the closing handshake.
//
// It asks others for everything that is not the connection itself: which
// certificate answers (a function for tls.Config), which upstream takes the
// stream (package upstream), what the XMPP in the frames means (package xmpp).
// It reads no files and knows no configuration; package gate hands it Options.
//
// The way of a connection, and who owns it there:
//
//	accept     Serve's goroutine            a place at the door (door.go)
//	hello      the conn's own goroutine     until the ClientHello is whole (early.go)
//	handshake  the same                     a slot, while it computes
//	request    the same                     reads the opening handshake, 16 KiB at most
//	dial       the same                     the upstream has said 101
//	tunnel     an event loop                no goroutine, no buffer while idle
//
// A Server is its parts, and has neither state nor a lock of its own. Each part has a
// file of its name, and owns what it changes. It knows the parts above it in this list,
// where it needs them, and never the Server:
//
//	current     the configuration in force: one atomic pointer
//	access      the operator's bans; one lock
//	door        connections that are not tunnels yet, and the number of all; one lock
//	clients     connections of each client address; one lock, held while door's is taken
//	drains      who turns new clients away, and the number admitted; one lock
//	shortage    whether memory is short; atomics (shed.go)
//	admission   gives a connection its place in these five, and takes it back
//	acceptor    the listeners; one lock
//	loops       the event loops, and through them the tunnels; one lock
//	dialler     the dials that clients and tunnels wait for; jobs to wait for
//	guard       failed logins of each client address; one lock
//	journal     the lines about finished tunnels; one lock
//	tunnels     what all tunnels share of the above, and their counts; atomics
//	pages       requests that are no WebSocket; one lock
//	ingress     what a connection needs until it is a tunnel; atomics
//	tracer      the one tunnel that is traced; an atomic pointer
//
// All that may change while the Server runs is one Configuration behind one atomic
// pointer. A connection takes it twice: at accept, for the places and limits that
// come before TLS; and at its ClientHello, for everything from the certificate to
// the 101 or the refusal. So a reload in between neither mixes the certificate of
// one with the routes of another, nor has to wait. Of the second one a tunnel keeps
// its vhost and its settings. A further request on a connection that the pages kept
// is a new beginning.
//
// A goroutine closes the connection when it gives up; once loops.take has
// returned nil a loop does. A request that is no WebSocket upgrade goes to
// an http.Server, which owns the connection until it has answered (pages.go). A panic
// on the way in ends the connection alone (panic.go).
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

	// ChallengeCertificate answers a CA's ClientHello, which offers acme-tls/1
	// and nothing else (RFC 8737); GetCertificate is not asked then, and the
	// connection ends with the handshake. Nil, nil: there is no such challenge.
	// It may read a disk, as no client waits for it. Nil: no CA is answered.
	ChallengeCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	NoRing bool // batches no system calls by io_uring, even where the kernel has it

	Log *slog.Logger // waits for nobody, for the event loops write to it; nil: slog.Default()
}

// A Server serves clients on any number of listeners. Make one with New; its
// methods may be called at the same time.
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

// New makes a Server and starts its event loop, which Shutdown ends.
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

// newServer is New with loops of the caller's.
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
	s.ingress = &ingress{
		now: s.now, log: s.log, panicked: s.panicked, tls: newTLSConfig(s.now, ca),
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

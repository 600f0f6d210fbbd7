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
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/access"
	"wssgate/upstream"
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

// A Configuration is what the Server uses for a connection. All fields but Pages are
// required. The values that they refer to must not change when the Server gets another
// Configuration.
type Configuration struct {
	// GetCertificate answers a ClientHello; nil, nil means that the name is
	// refused with the alert unrecognized_name. It must not block.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// HasCertificate reports whether GetCertificate has one for a server name.
	// A ticket of an earlier connection is worth nothing without it.
	HasCertificate func(serverName string) bool

	// Routes say which upstream takes a stream. Their Options.Wrap must be
	// WrapUpstream.
	Routes *upstream.Routes

	// Pages answers what is no WebSocket upgrade: HTTP/1.1 under the TLS server
	// name, which Host agrees with. A handler may keep its client waiting: it
	// then sets the deadline for writing itself (http.ResponseController), and that
	// for reading where it wants a body: else a client has 2 s for one. Each
	// request's context ends when Shutdown begins. Nil: 404 for everything.
	Pages http.Handler

	// Access says which client addresses may come; nil: all.
	Access *access.Rules

	Settings Settings
}

// Settings are numbers. Tunnels go on under those that they began with.
type Settings struct {
	Connections   int   // connections at once; never more than file descriptors allow, and 0: as many
	PerClient     int   // connections from one client address; 0: no limit
	Handshakes    int   // TLS handshakes at once; at least 1
	Message       int64 // bytes of one message from a client; 0: no limit
	ClientBacklog int   // bytes that may wait for a client that is slow to read

	// FramesPerSecond is how many frames of a client's are read in a second, twice as
	// many at once; a client that goes on with more is closed. 0: any number.
	FramesPerSecond int

	// LogSample writes one of so many lines about finished tunnels, that of the
	// first one included, and each that is a warning. 0 and 1: every line.
	LogSample int

	LoginFailures LoginFailures // from one client address; zero: they are not counted

	// ProxyProtocol are the networks whose connections must begin with a PROXY
	// header, version 1 or 2, which is believed.
	ProxyProtocol []netip.Prefix

	HandshakeTimeout time.Duration // for TLS
	RequestTimeout   time.Duration // for the opening handshake's request
	Ping             time.Duration // silence of a client before it is asked; 0: never
	Pong             time.Duration // what it then has to answer
}

// A Server serves clients on any number of listeners. Make one with New; its
// methods may be called at the same time.
type Server struct {
	challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error) // nil: no CA is answered
	log       *slog.Logger
	tls       *tls.Config
	now       atomic.Pointer[configuration]
	pages     *pages
	door      *door
	guard     *guard
	bans      access.Bans // the operator's
	loops     *loops
	journal   *journal
	stats     stats
	ids       atomic.Uint64             // the last tunnelID
	tracing   atomic.Pointer[TraceLine] // of the one tunnel, at most: the first line
	short     atomic.Bool               // of memory: nobody new is let in
	brake     brake                     // the same: no backlog grows

	challenges atomic.Int32    // CAs' that are being answered
	ctx        context.Context // ends when Shutdown's deadline passes
	cancel     context.CancelFunc
	jobs       sync.WaitGroup // what tunnels wait for: dials, questions
	job        func(f func()) // runs f as one of them, in a goroutine of its own
	stop       chan struct{}  // closed by stopAccepting
	mu         sync.Mutex
	stopped    bool          // nothing is accepted any more
	draining   bool          // Shutdown has begun
	ended      bool          // idle is closed
	empty      bool          // emptied is closed
	orders     []activeDrain // the newest first; never changed in place
	listeners  map[net.Listener]struct{}
	clients    map[clientKey]int // connections of each client address, while limited
	idle       chan struct{}     // closed by the last connection's end once draining
	admitted   int               // open connections of clients that no drain turned away, from that judgement on
	emptied    chan struct{}     // closed by the last of their ends once draining
}

// A configuration is a Configuration with what is derived from it.
type configuration struct {
	Configuration
	*settings // for themselves: a tunnel keeps these, and must not keep the rest
}

type settings struct {
	Settings
	connections int
	tunnel      tunnelSettings
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
	s := &Server{
		challenge: o.ChallengeCertificate,
		log:       o.Log,
		door:      newDoor(),
		guard:     newGuard(),
		stop:      make(chan struct{}),
		listeners: map[net.Listener]struct{}{},
		clients:   map[clientKey]int{},
		idle:      make(chan struct{}),
		emptied:   make(chan struct{}),
	}
	s.ids.Store(firstTunnelID())
	s.job = s.jobs.Go
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = slog.Default()
	}
	s.tls = s.tlsConfig()
	var err error
	if s.loops, err = start(s); err != nil {
		return nil, err
	}
	s.journal = &journal{log: s.log}
	s.Configure(o.Configuration)
	s.pages = newPages(s)
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
		tunnel:      tunnelSettings{backlog: set.ClientBacklog, brake: &s.brake, ping: set.Ping, pong: set.Pong, frames: set.FramesPerSecond},
	}})
	s.door.configure(connections, set.Handshakes)
	s.guard.configure(set.LoginFailures, time.Now())
	s.journal.sample.Store(int64(set.LogSample))
}

// Pages returns a handler that calls the current Pages, for requests from other
// listeners.
func (s *Server) Pages() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now.Load().Pages.ServeHTTP(w, r) })
}

// Connections returns how many connections are open, tunnels included.
func (s *Server) Connections() int { return s.door.connections() }

// WrapUpstream is for upstream.Options.Wrap. It prepares a connection to a node so that
// the event loop can drive it later, below TLS if there is any.
func WrapUpstream(conn net.Conn) net.Conn { return &sock{conn: conn} }

// Package admin is the operator's listener: health for probes, metrics for Prometheus,
// a status page for people, lists of tunnels, and a few commands.
//
// It makes no decisions about the gate, and of the gate's packages it only uses proxy's
// counts. It gets its data from the functions in Options, and passes commands on to
// them. It keeps two things in memory, both bounded: samples of the last hour
// (history.go) and the last warnings (warnings.go). From all of that it derives the
// findings (findings.go).
//
//	/healthz              the process works
//	/readyz               the gate accepts clients
//	/                     the page (page.go)
//	/status               the content of the page, as JSON (status.go)
//	/metrics              for Prometheus (metrics.go)
//	/debug/pprof/         profiles, if Access.Debug is set
//	/tunnels, /clients    open tunnels (tunnels.go)
//	/trace                events of one tunnel (tunnels.go)
//	POST /reload, /drain, /pardon  (actions.go)
//	POST /close, /deny    (tunnels.go)
//	POST /acme            (acme.go)
//
// A client of this listener can stop the gate, so access.go checks every request first:
// no foreign web page may make one, and if the listener can be reached from outside, a
// request must have the token.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/access"
	"wssgate/fair"
	"wssgate/panics"
	"wssgate/proxy"
)

// Options configure a new Server. The functions are called concurrently and should
// return at once. Gate and Counts are required.
type Options struct {
	// Gate describes the current state of the gate.
	Gate func() Gate

	// Counts returns the gate's counts. It is called every SampleEvery, and must be
	// cheap.
	Counts func() proxy.Counts

	// Memory returns the memory of the process. It is called every SampleEvery. Nil:
	// unknown.
	Memory func() Memory

	// NotReady returns why the gate cannot accept clients, one reason per entry; none:
	// it can. Nil: it always can.
	NotReady func() []string

	// Alive returns why the gate should be restarted; nil error: no reason. Nil:
	// never.
	Alive func() error

	// Reload reads the configuration again and returns its mistakes, one per entry.
	// Nil: not supported.
	Reload func(context.Context) error

	// Drain begins or stops a drain. It returns when the drain has begun, not when it
	// has ended. Nil: not supported.
	Drain func(DrainRequest) error

	// Pardon forgets the failed logins of a client address, or of its /64, or of all
	// addresses for the zero Addr. It returns the number of addresses. Nil: not
	// supported.
	Pardon func(client netip.Addr) int

	// Tunnels lists open tunnels. Clients lists the client addresses that have some,
	// with their total number. CloseTunnels begins to close tunnels and returns their
	// number. All three wait only for the event loops. Nil: not supported.
	Tunnels      func(proxy.TunnelQuery) proxy.TunnelList
	Clients      func(limit int) (total int, busiest []proxy.ClientCount)
	CloseTunnels func(proxy.TunnelFilter) int

	// Ban refuses the clients of a network for a while; zero lifts the ban and returns
	// other bans that include the network, or proxy.ErrNotBanned if there is none.
	// Nil: not supported.
	Ban func(network netip.Prefix, duration time.Duration) (rest []access.Ban, err error)

	// Trace calls line for each event of a tunnel: proxy.Server.Trace. Nil: not
	// supported.
	Trace func(ctx context.Context, id string, line func(proxy.TraceLine) error) error

	// ACME carries out a command for the certificate of a name, and describes the
	// result. A revocation waits for the CA, within the context. Nil: not supported.
	ACME func(context.Context, ACMERequest) (said string, err error)

	// Warnings are shown on the page; nil: none.
	Warnings *Warnings

	// Connections is the limit for all listeners together. 0: 64.
	Connections int

	// Panicked logs a panic and counts it; v is the result of recover. Nil: the panic
	// is logged to Log.
	Panicked func(v any)

	Access Access
	Log    *slog.Logger // nil: slog.Default()
}

// maxConns is the default of Options.Connections: Prometheus, a few probes and a few
// people.
const maxConns = 64

// A Server answers the operator, on any number of listeners. Create one with New, end
// it with Close. All methods are safe for concurrent use.
type Server struct {
	options Options
	log     *slog.Logger
	access  atomic.Pointer[Access]
	handler http.Handler // guarded
	http    *http.Server
	conns   fair.Conns
	guesses guesses
	history *history
	stop    context.CancelFunc
	jobs    sync.WaitGroup
}

// New returns a Server and starts to sample the counts until Close.
func New(o Options) *Server {
	s := &Server{options: o, log: o.Log, history: newHistory()}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.SetAccess(o.Access)
	s.conns.Max = cmp.Or(o.Connections, maxConns)
	s.conns.Panicked = s.panicked
	s.handler = s.recovered(s.conns.Handler(s.guard(s.routes())))
	s.http = &http.Server{
		Handler:           s.handler,
		ConnContext:       s.conns.ConnContext,
		ConnState:         s.conns.ConnState,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.jobs.Go(func() { panics.Keep(ctx.Done(), panics.Admin, func() { s.sample(ctx) }) })
	return s
}

// Serve answers on ln until ln or the Server is closed, and closes ln. It returns
// other errors of Accept.
func (s *Server) Serve(ln net.Listener) error {
	err := s.http.Serve(s.conns.Listen(ln))
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ServeHTTP answers one request, as for a listener of Serve.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// answerPatience is how long Close waits for answers that are under way: who asked for
// the end of a gate without clients reads that it has begun.
const answerPatience = 500 * time.Millisecond

// Close ends all connections, listeners and goroutines of the Server. It waits for
// requests under way, but no longer than half a second.
func (s *Server) Close() {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
	defer cancel()
	s.http.Shutdown(ctx)
	s.http.Close()
	s.jobs.Wait()
}

// recovered limits the effect of a panic to one request and its connection.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				s.panicked(v)
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// survive is deferred in goroutines whose panic would end the process: net/http catches
// panics only in its own goroutines.
func (s *Server) survive() {
	if v := recover(); v != nil {
		s.panicked(v)
	}
}

func (s *Server) panicked(v any) {
	if s.options.Panicked != nil {
		s.options.Panicked(v)
		return
	}
	s.log.Error("panic", "err", v, "stack", string(debug.Stack()))
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /tunnels", s.serveTunnels)
	mux.HandleFunc("GET /clients", s.serveClients)
	mux.HandleFunc("GET /trace", s.serveTrace)
	mux.HandleFunc("POST /close", s.serveClose)
	mux.HandleFunc("POST /deny", s.serveDeny)
	mux.HandleFunc("POST /reload", s.serveReload)
	mux.HandleFunc("POST /drain", s.serveDrain)
	mux.HandleFunc("POST /pardon", s.servePardon)
	mux.HandleFunc("POST /acme", s.serveACME)

	profiles := http.NewServeMux()
	profiles.HandleFunc("GET /debug/pprof/", pprof.Index)
	profiles.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/", func(w http.ResponseWriter, r *http.Request) {
		if !s.access.Load().Debug {
			http.Error(w, "404 Not Found\n\nSet admin_debug = true and reload.", http.StatusNotFound)
			return
		}
		// A profile takes as long as requested.
		http.NewResponseController(w).SetWriteDeadline(time.Time{})
		profiles.ServeHTTP(w, r)
	})
	return mux
}

// serveHealth reports whether the gate itself works, regardless of its dependencies: a
// restart would not fix those.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if s.options.Alive != nil {
		if err := s.options.Alive(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Write([]byte("ok\n"))
}

// maxReasons bounds the reasons in an answer: thousands of names may lack a
// certificate, and probes ask every few seconds.
const maxReasons = 20

// notReady is never nil.
func (s *Server) notReady() (why []string) {
	if s.options.NotReady != nil {
		why = s.options.NotReady()
	}
	if n := len(why) - maxReasons; n > 0 {
		why = append(why[:maxReasons:maxReasons], fmt.Sprintf("and %d more", n))
	}
	fill(&why)
	return why
}

// serveReady shows the reasons only to requests with permission: a probe has no token.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	why := s.notReady()
	if len(why) == 0 {
		w.Write([]byte("ready\n"))
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	w.Write([]byte("not ready\n"))
	if !s.access.Load().allows(r) {
		return
	}
	for _, line := range why {
		w.Write([]byte(line + "\n"))
	}
}

// Package gate puts the other packages together. It starts what a configuration
// describes, reloads it, and drains it.
//
//	gate.go       the parts of a gate, and its loop
//	reload.go     reads a new configuration beside the loop and puts it into force
//	listeners.go  opens, keeps and closes listeners
//	drain.go      drains nodes and the whole gate; the order of the end
//	handover.go   another process takes over without refused connections
//	admin.go      the operator's listener
package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/fair"
	"wssgate/listen"
	"wssgate/memory"
	"wssgate/panics"
	"wssgate/proxy"
	"wssgate/systemd"
	"wssgate/upstream"
	"wssgate/web"
)

// A gate is one running wssgate, with everything that a configuration
// describes.
//
//	start   reads certificates and routes, opens listeners, then accepts
//	        connections; an error starts nothing
//	reload  reads and checks the whole file and prepares everything that can fail
//	        or takes time, then switches new connections over at once, by storing
//	        one pointer (proxy.Server.Configure); an error changes nothing
//	drain   closes the listeners, then the tunnels, then everything else
//
// One goroutine, Serve's loop, owns it. The loop never waits for a file system,
// a CA, DNS or the log: gather reads everything for a reload in another
// goroutine, and passes it back through gathered. So whatever hangs, the loop
// still sends watchdog signals, accepts commands and drains. Each of these
// waits has a deadline:
//
//	a file, a folder          files.Patience for a call; then without it
//	the names of listeners    listenerPatience, beside the loop; then without them
//	the configuration         startFilesPatience, then the program ends
//	files of upstreams, CAs   files.Patience, then it starts without those
//	the start, after SIGTERM  startPatience
//	everything in a drain     drain.timeout and exitPatience, whatever hangs
//	the log, at the exit      LogPatience
type gate struct {
	cfg       *config.Config
	log       *slog.Logger
	level     *slog.LevelVar
	store     *certstore.Store
	upstreams *upstream.Table
	acme      *obtainer
	ech       echKeys
	page      http.Handler // answers instead of the site's own page; nil: the site answers
	site      *web.Site    // the newest
	server    *proxy.Server
	memory    *memory.Guard
	plain     *plainHTTP
	listeners map[string]net.Listener // by address in the configuration
	takenOut  map[proxy.Target]func() // drains of nodes with drain = true in the latest file that names them; the function ends the drain
	accepting sync.WaitGroup          // for wss
	serving   sync.WaitGroup          // for everything else
	failed    chan error              // a listener failed
	console   *console
	watch     *config.Watch
	access    *accessWatch
	sockets   *listen.Sockets
	notify    *systemd.Notifier
	gathered  chan *gathered // the result of the current reload's reading
	reloading []func(error)  // callers waiting for the current reload; nil: there is none
	next      []func(error)  // callers that have requested another reload since
	missing   []missing      // listeners that could not be opened yet
	opening   bool           // they are being opened
	late      chan lateListeners
	retry     bool                 // the last reload failed because DNS did not answer
	logged    map[string]time.Time // lines of failed reloads, with their times; see logsAgain
	again     <-chan struct{}      // closed when the file that the last reload could not read answers again
}

// Serving are the parts of Serve that are not in the configuration file.
type Serving struct {
	Reload  <-chan os.Signal // each signal reloads the configuration
	Pages   http.Handler     // answers requests that are not WebSocket upgrades; nil: the site's own
	Sockets *listen.Sockets
	Notify  *systemd.Notifier // closed by Serve; nil: no service manager
}

// Serve runs the gate that cfg describes until ctx ends, then drains it. It
// returns the exit status. The log goes to stderr. Call it once per process: it
// replaces slog's default logger.
func Serve(ctx context.Context, cfg *config.Config, how Serving, stderr io.Writer) int {
	defer how.Notify.Close()
	level := new(slog.LevelVar)
	lines := QueueOf(stderr)
	lines.Serving.Store(true)
	defer lines.Close(LogPatience)
	log, warnings := withWarnings(NewLogger(lines, cfg.Log, level, lines.Terminal))
	// Code that uses the default logger writes to the same log.
	slog.SetDefault(log)
	slog.SetLogLoggerLevel(slog.LevelDebug)
	defer memory.Keep()()
	console := newConsole(warnings, lines.Queue)
	g, err := awaitGate(ctx, func() (*gate, error) { return start(cfg, log, level, how, console) })
	if err != nil {
		for _, err := range splitError(err) {
			PrintError(lines, err)
		}
		listen.AwaitRemovals(listen.RemovalPatience)
		return statusFailed
	}
	if g == nil {
		log.Warn("ended during startup")
		return statusOK
	}
	status := statusOK
	var ended atomic.Pointer[time.Time] // when ctx ended
	defer context.AfterFunc(ctx, func() { ended.Store(new(time.Now())) })()
	g.notify.Ready(g.summary())
	beats, stopBeats := g.notify.Beats()
	defer stopBeats()
	turns := time.NewTicker(loopTurn)
	defer turns.Stop()
	running := true
	turn := func() {
		console.turned()
		select {
		case <-turns.C:
			g.turned()
		case l := <-g.late:
			g.openedLate(l)
		case <-how.Reload:
			g.reload(nil)
		case r := <-g.gathered:
			g.reloaded(r)
		case <-g.again:
			g.tryReloadAgain()
		case do := <-console.asked:
			do()
		case <-beats:
			g.notify.Alive()
		case <-console.drainAll:
			running = false
		case <-g.watch.Changed:
			g.reload(nil)
		case err := <-g.failed:
			log.Error("listener", "err", err)
			status, running = statusFailed, false
		case <-ctx.Done():
			running = false
		}
	}
	for running {
		panics.Catch(panics.Process, turn)
	}
	patience := g.cfg.Drain.Timeout + exitPatience
	deadline := time.Now().Add(patience)
	if at := ended.Load(); at != nil { // ctx may have ended while the loop applied a change
		deadline = at.Add(patience)
	}
	drained := make(chan error, 1)
	go func() {
		_, err := panics.Do(panics.Process, func() (struct{}, error) { return struct{}{}, g.drain() })
		drained <- err
	}()
	select {
	case err = <-drained:
		listen.AwaitRemovals(time.Until(deadline))
	case <-time.After(time.Until(deadline)):
		err = fmt.Errorf("%w: some parts did not stop within %v; exiting anyway", proxy.ErrDrainDeadline, patience)
	}
	if errors.Is(err, proxy.ErrDrainDeadline) {
		log.Warn("drain", "err", err)
		status = max(status, statusDrained)
	} else if err != nil {
		log.Error("drain", "err", err)
		status = statusFailed
	} else if status == statusOK {
		log.Info("drained")
	}
	return status
}

// These results of Serve are exit statuses of the program.
const (
	statusOK      = 0 // drained
	statusFailed  = 1 // an error
	statusDrained = 3 // the drain's deadline passed with tunnels still open
)

const (
	startPatience = time.Second            // for a start that SIGTERM interrupts
	exitPatience  = time.Second            // for everything that ends beside the drain
	LogPatience   = 700 * time.Millisecond // for queued lines at the exit
	loopTurn      = 5 * time.Second        // the loop runs at least this often
)

// awaitGate waits for the start. Once ctx has ended, it waits only briefly,
// then returns nil and abandons the start.
func awaitGate(ctx context.Context, start func() (*gate, error)) (*gate, error) {
	type result struct {
		g   *gate
		err error
	}
	started := make(chan result, 1)
	go func() {
		g, err := panics.Do(panics.Process, start)
		started <- result{g, err}
	}()
	late := make(<-chan time.Time)
	for done := ctx.Done(); ; {
		select {
		case r := <-started:
			return r.g, r.err
		case <-done:
			done, late = nil, time.After(startPatience)
		case <-late:
			return nil, nil
		}
	}
}

// start starts everything, or nothing.
func start(cfg *config.Config, log *slog.Logger, level *slog.LevelVar, how Serving, console *console) (_ *gate, err error) {
	g := &gate{cfg: cfg, log: log, level: level, page: how.Pages, listeners: map[string]net.Listener{}, failed: make(chan error, 1),
		takenOut: map[proxy.Target]func(){}, console: console, sockets: how.Sockets, notify: how.Notify, gathered: make(chan *gathered, 1), late: make(chan lateListeners, 1)}
	g.watch = config.NewWatch(cfg.File, cfg.Sum, log)
	g.access = &accessWatch{log: log}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	g.store, err = cfg.OpenCertificates(cfg.Certificates.Watch, log)
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // reading thousands of certificates leaves megabytes of garbage
	options, err := upstreamOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	if g.upstreams, err = upstream.New(options); err != nil {
		return nil, err
	}
	g.acme = newObtainer(g.store, log)
	change, err := g.acme.prepare(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.acme.abandon(change)
		}
	}()
	g.ech.install(g.ech.prepare(g, cfg))
	routes := g.upstreams.Routes()
	g.sockets.Know(listen.LookUpHosts(cfg.Listen.Addresses()))
	g.sockets.Ready = g.sockets.OpenUnix(cfg.Listen.Addresses(), nil)
	o, err := g.openListeners(cfg, routes)
	listen.CloseReady(g.sockets.Ready)
	g.sockets.Ready = nil
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	g.server, err = proxy.New(proxy.Options{
		Configuration:        g.configuration(cfg, g.store.View(), routes, o.web),
		ChallengeCertificate: g.acme.challengeCertificate,
		NoRing:               cfg.Listen.IOUring == "off",
		Log:                  log,
	})
	if err != nil {
		return nil, err
	}
	g.guardMemory(cfg)
	g.acme.install(change, cfg)
	for target, out := range nodesOf(cfg) {
		if out {
			g.takenOut[target] = func() {} // no clients to drain yet
		}
	}
	conns := &fair.Conns{Max: proxy.DescriptorReserve().HTTP, Refuses: g.server.DeniesPlain,
		Panicked: func(cause any) { panics.Caught(log, panics.HTTP, cause) }}
	g.plain = newPlainHTTP(g.server.Recover(panics.HTTP, conns.Handler(g.acme.handler(g.server.Pages()))), conns, log, g.failed)
	console.install(g, cfg, o.operator)
	g.accept(o.wss)
	g.console.listens(g.listeners)
	g.plain.accept(o.http)
	g.miss(o.missing)
	g.acme.begin(change)
	g.watch.Set(cfg.WatchConfig)
	g.access.set(cfg.AccessFiles)
	g.again = cfg.Back()
	g.sayUnread()
	return g, nil
}

// configuration returns the server's configuration, whose Site belongs to the
// gate.
func (g *gate) configuration(cfg *config.Config, certificates *certstore.View, routes *upstream.Routes, pages web.Options) proxy.Configuration {
	pages.HasCertificate = certificates.Has
	g.site = web.New(pages)
	for _, text := range cfg.ForeignSources() {
		g.log.Warn(text, "hint", config.ForeignSourcesHint)
	}
	return proxy.Configuration{
		GetCertificate: certificates.GetCertificate,
		HasCertificate: certificates.Has,
		Routes:         routes,
		Pages:          g.site,
		ECH:            g.ech.on.Load().options(),
		Access:         cfg.Access.Rules,
		Settings:       proxySettings(cfg),
	}
}

// summary describes the gate in one line.
func (g *gate) summary() string {
	s := fmt.Sprintf("serving %d names", g.store.Names())
	if !g.console.lastReload() {
		s += "; the last reload changed nothing, see the log"
	}
	return s
}

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/certstore"
	"wssgate/fair"
	"wssgate/files"
	"wssgate/logqueue"
	"wssgate/memory"
	"wssgate/proxy"
	"wssgate/upstream"
	"wssgate/web"
	"wssgate/xmpp"
)

// A gate is one running wssgate: everything that a configuration describes,
// put together.
//
//	start   certificates and routes are read, then listeners are opened, then
//	        connections are accepted; a mistake in any of it starts nothing
//	reload  the file is read and checked as a whole, and all that can fail or takes
//	        its time is prepared; then new connections are served by it at once, by
//	        one store of one pointer (proxy.Server.Configure); what is bad changes nothing
//	drain   listeners close, tunnels are closed, then everything else ends
//
// One goroutine, serve's loop, owns it. The loop never waits for a file system, a
// CA, DNS or the log: what a reload reads is gathered beside it, by gather, and comes
// back through gathered; whatever hangs there, the loop goes on to give signs of
// life, to take requests, and to drain. Each of these waits has a deadline:
//
//	a file, a folder          files.Patience for a call; then it goes on without
//	the names of listeners    listenerPatience, beside the loop
//	the configuration         startFilesPatience, then the program ends
//	the start, after SIGTERM  startPatience
//	all that a drain does     drain.timeout and exitPatience, whatever hangs
//	the log, at the exit      logPatience
type gate struct {
	cfg       *Config
	log       *slog.Logger
	level     *slog.LevelVar
	store     *certstore.Store
	upstreams *upstream.Table
	acme      *obtainer
	page      http.Handler // what answers in place of the site's own page; nil: nothing
	site      *web.Site    // the newest
	server    *proxy.Server
	memory    *memory.Guard
	plain     *plainHTTP
	listeners map[string]net.Listener // by their address in the configuration
	takenOut  map[proxy.Target]func() // nodes for which the file said drain = true when it last named them, and what stops their drains
	accepting sync.WaitGroup          // for wss
	serving   sync.WaitGroup          // for all else
	failed    chan error              // a listener broke
	desk      *desk
	watch     *fileWatch
	access    *accessWatch
	sockets   *sockets
	notify    *notifier
	gathered  chan *gathered  // what a reload that is under way has read
	reloading []func(error)   // who waits for the reload that is under way; nil: none is
	next      []func(error)   // who asked for another one meanwhile
	again     <-chan struct{} // closed when the file that the last reload could not read answers again
}

// serving is how serve runs a gate, beside what its configuration says.
type serving struct {
	reload  <-chan os.Signal // reads the file again
	pages   http.Handler     // answers requests that are no WebSocket upgrades; nil: the site's own
	sockets *sockets
	notify  *notifier // closed by serve; nil: nobody wants to know
}

// serve runs the gate that cfg describes until ctx ends, then drains it, and
// returns the exit status.
func serve(ctx context.Context, cfg *Config, how serving, stderr io.Writer) int {
	defer how.notify.close()
	level := new(slog.LevelVar)
	lines := queueOf(stderr)
	lines.serving.Store(true)
	defer lines.Close(logPatience)
	log, warnings := withWarnings(newLogger(lines, cfg.Log, level, lines.terminal))
	// What the standard library has nobody to tell, goes there too.
	slog.SetDefault(log)
	slog.SetLogLoggerLevel(slog.LevelDebug)
	defer memory.Keep()()
	desk := newDesk(warnings, lines.Queue)
	g, err := awaitGate(ctx, func() (*gate, error) { return startGate(cfg, log, level, how, desk) })
	if err != nil {
		printError(lines, err)
		awaitRemovals(removalPatience)
		return exitFailed
	}
	if g == nil {
		log.Warn("ended while it started")
		return exitOK
	}
	status := exitOK
	var ended atomic.Pointer[time.Time] // when ctx did
	defer context.AfterFunc(ctx, func() { ended.Store(new(time.Now())) })()
	g.notify.ready(g.summary())
	beats, stopBeats := g.notify.beats()
	defer stopBeats()
	turns := time.NewTicker(loopTurn)
	defer turns.Stop()
	for running := true; running; {
		desk.turned()
		select {
		case <-turns.C:
		case <-how.reload:
			g.reload(nil)
		case r := <-g.gathered:
			g.reloaded(r)
		case <-g.again:
			g.reloadWith(nil, true)
		case do := <-desk.asked:
			do()
		case <-beats:
			g.notify.alive()
		case <-desk.drainAll:
			running = false
		case <-g.watch.changed:
			g.reload(nil)
		case err := <-g.failed:
			log.Error("listener", "err", err)
			status, running = exitFailed, false
		case <-ctx.Done():
			running = false
		}
	}
	patience := g.cfg.Drain.Timeout + exitPatience
	deadline := time.Now().Add(patience)
	if at := ended.Load(); at != nil { // the loop may have been in the middle of a change
		deadline = at.Add(patience)
	}
	drained := make(chan error, 1)
	go func() { drained <- g.drain() }()
	select {
	case err = <-drained:
		awaitRemovals(time.Until(deadline))
	case <-time.After(time.Until(deadline)):
		err = fmt.Errorf("%w: not all has ended after %v; ending without it", proxy.ErrDrainDeadline, patience)
	}
	if errors.Is(err, proxy.ErrDrainDeadline) {
		log.Warn("drain", "err", err)
		status = max(status, exitDrained)
	} else if status == exitOK {
		log.Info("drained")
	}
	return status
}

const (
	startPatience = time.Second            // for a start that SIGTERM comes into
	exitPatience  = time.Second            // for all that ends beside the drain
	logPatience   = 700 * time.Millisecond // for lines that wait at the exit
	loopTurn      = 5 * time.Second        // the loop turns at least so often
)

// awaitGate waits for the start, but not for long once ctx has ended: then it
// returns nil, and the start is left to itself.
func awaitGate(ctx context.Context, start func() (*gate, error)) (*gate, error) {
	type result struct {
		g   *gate
		err error
	}
	started := make(chan result, 1)
	go func() {
		g, err := start()
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

// A lineQueue is standard error, which may be a pipe that nobody empties: all of the
// program writes to it through one queue.
type lineQueue struct {
	*logqueue.Queue
	terminal bool
	serving  atomic.Bool // serve has it
	served   atomic.Bool // it is closed
}

func newLineQueue(stderr io.Writer) *lineQueue {
	return &lineQueue{terminal: isTerminal(stderr), Queue: logqueue.New(stderr, logqueue.Size, func(lost int) {
		slog.Warn("the log was not read: lines are lost", "lines", lost)
	})}
}

// queueOf is the queue that a command was given for its standard error.
func queueOf(stderr io.Writer) *lineQueue {
	if q, ok := stderr.(*lineQueue); ok {
		return q
	}
	return newLineQueue(stderr)
}

// printError prints an error for people, with its hint where it has one.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "wssgate: %v\n", err)
	if hinted, ok := errors.AsType[interface {
		error
		HintText() string
	}](err); ok {
		fmt.Fprintf(w, "  hint: %s\n", hinted.HintText())
	}
}

// startGate starts everything, or nothing.
func startGate(cfg *Config, log *slog.Logger, level *slog.LevelVar, how serving, desk *desk) (_ *gate, err error) {
	g := &gate{cfg: cfg, log: log, level: level, page: how.pages, listeners: map[string]net.Listener{}, failed: make(chan error, 1),
		takenOut: map[proxy.Target]func(){}, desk: desk, sockets: how.sockets, notify: how.notify, gathered: make(chan *gathered, 1)}
	g.watch = newConfigWatch(cfg.File, cfg.Sum, log)
	g.access = &accessWatch{log: log}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	g.store, err = cfg.openCertificates(cfg.Certificates.Watch, log)
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // reading thousands of certificates leaves megabytes behind
	options, err := cfg.upstreamOptions(log)
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
	routes := g.upstreams.Routes()
	g.sockets.know(lookUpHosts(&cfg.Listen))
	o, err := g.openListeners(cfg, routes)
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
		Log:                  log,
	})
	if err != nil {
		return nil, err
	}
	g.guardMemory(cfg)
	g.acme.install(change, cfg)
	for target, out := range cfg.nodes() {
		if out {
			g.takenOut[target] = func() {} // no client has come yet
		}
	}
	g.plain = newPlainHTTP(g.server.Recover(proxy.PanicHTTP, g.acme.handler(g.server.Pages())),
		&fair.Conns{Max: proxy.DescriptorReserve().HTTP, Refuses: g.server.DeniesPlain}, log, g.failed)
	desk.install(g, cfg, o.operator)
	g.accept(o.wss)
	g.desk.listens(g.listeners)
	g.plain.accept(o.http)
	g.acme.begin(change)
	g.watch.set(cfg.WatchConfig)
	g.access.set(cfg.accessFiles)
	return g, nil
}

// configuration is what the server goes by. The Site in it becomes the gate's.
func (g *gate) configuration(cfg *Config, certificates *certstore.View, routes *upstream.Routes, pages web.Options) proxy.Configuration {
	pages.HasCertificate = certificates.Has
	g.site = web.New(pages)
	return proxy.Configuration{
		GetCertificate: certificates.GetCertificate,
		HasCertificate: certificates.Has,
		Routes:         routes,
		Pages:          g.site,
		Access:         cfg.Access.rules,
		Settings:       cfg.proxySettings(),
	}
}

// opened are listeners that nobody accepts from yet.
type opened struct {
	wss, http map[string]net.Listener // by their address in the configuration
	operator  *adminListener
	web       web.Options // what answers name the port of a listener; HasCertificate is missing
}

func (o *opened) close() {
	for _, m := range []map[string]net.Listener{o.wss, o.http} {
		for _, ln := range m {
			ln.Close()
		}
	}
	if o.operator != nil {
		o.operator.close()
	}
}

// openListeners opens those of cfg that are not open yet, all of them or none.
func (g *gate) openListeners(cfg *Config, routes *upstream.Routes) (_ *opened, err error) {
	o := &opened{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	g.sockets.replace(g.leaving(cfg))
	if o.wss, err = g.open("wss", cfg.Listen.WSS, g.listeners); err != nil {
		return nil, err
	}
	var have map[string]net.Listener
	if g.plain != nil {
		have = g.plain.listeners
	}
	if o.http, err = g.open("http", cfg.Listen.HTTP, have); err != nil {
		return nil, err
	}
	if o.operator, err = g.desk.open(cfg, g.sockets); err != nil {
		return nil, err
	}
	if g.server == nil { // the first time
		if err = g.sockets.unused(&cfg.Listen); err != nil {
			return nil, err
		}
	}
	o.web, err = g.webOptions(cfg, routes, publicPort(cfg.Listen.WSS, g.listeners, o.wss))
	return o, err
}

// leaving returns the listeners that cfg has no more, but for systemd's, which stay
// open.
func (g *gate) leaving(cfg *Config) (gone []net.Listener) {
	look := func(key string, listeners map[string]net.Listener, addrs []string) {
		for addr, ln := range listeners {
			if !slices.Contains(addrs, addr) && g.sockets.find(key, addr) == nil {
				gone = append(gone, ln)
			}
		}
	}
	look("wss", g.listeners, cfg.Listen.WSS)
	if g.plain != nil {
		look("http", g.plain.listeners, cfg.Listen.HTTP)
	}
	if g.desk.ln != nil {
		look("admin", map[string]net.Listener{g.desk.addr: g.desk.ln}, []string{cfg.Listen.Admin})
	}
	return gone
}

// open opens the listeners of one key that are not open yet, all of them or none.
func (g *gate) open(key string, addrs []string, have map[string]net.Listener) (map[string]net.Listener, error) {
	opened := map[string]net.Listener{}
	for _, addr := range addrs {
		if have[addr] != nil || opened[addr] != nil {
			continue
		}
		ln, err := g.sockets.listen(key, addr)
		if err != nil {
			for _, ln := range opened {
				ln.Close()
			}
			return nil, fmt.Errorf("listen.%s: %w", key, err)
		}
		opened[addr] = ln
	}
	return opened, nil
}

// accept begins to serve listeners.
func (g *gate) accept(opened map[string]net.Listener) {
	for addr, ln := range opened {
		g.listeners[addr] = ln
		g.log.Info("listening", "listener", "wss", "addr", ln.Addr().String())
		g.accepting.Go(func() {
			if err := g.server.Serve(ln); err != nil {
				select {
				case g.failed <- fmt.Errorf("listener %q: %w", addr, err):
				default: // the first one is enough
				}
			}
		})
	}
}

// reload begins to read the file again, to take it whole or not at all; tunnels go
// on. Then, which may be nil, is told what came of it. What is asked for while a
// reload is under way is done after it, once.
func (g *gate) reload(then func(error)) { g.reloadWith(then, false) }

// reloadWith is reload; patient is reloadConfig's.
func (g *gate) reloadWith(then func(error), patient bool) {
	if then == nil {
		then = func(error) {}
	}
	if g.reloading != nil {
		g.next = append(g.next, then)
		return
	}
	g.reloading, g.again = append(g.reloading, then), nil
	g.notify.reloading()
	file, open := g.cfg.File, g.addresses()
	go func() { g.gathered <- g.gather(file, open, patient) }()
}

// A place for a listener in the configuration.
type listenerAddress struct{ key, addr string }

// addresses are those where the gate listens.
func (g *gate) addresses() map[listenerAddress]bool {
	open := map[listenerAddress]bool{{"admin", g.desk.addr}: true}
	for addr := range g.listeners {
		open[listenerAddress{"wss", addr}] = true
	}
	for addr := range g.plain.listeners {
		open[listenerAddress{"http", addr}] = true
	}
	return open
}

// A gathered is a configuration with what had to be read for it.
type gathered struct {
	cfg          *Config
	certificates *certstore.Change
	acme         *acmeChange
	hosts        hosts                             // of listeners
	unix         map[listenerAddress]*unixListener // that are new
	err          error                             // instead of all else
}

// gather reads what a reload needs. It runs beside the loop, and so changes nothing
// of the gate.
// Open are the addresses where it listens already; patient see reloadConfig.
func (g *gate) gather(file string, open map[listenerAddress]bool, patient bool) *gathered {
	cfg, err := reloadConfig(context.Background(), file, patient, func(sum [sha256.Size]byte) { g.watch.seen(file, sum) })
	r := &gathered{cfg: cfg}
	if err == nil {
		r.certificates, err = cfg.prepareCertificates(g.store)
	}
	if err == nil {
		r.acme, err = g.acme.prepare(cfg)
	}
	if err == nil {
		r.hosts = lookUpHosts(&cfg.Listen)
		r.unix, err = g.sockets.openUnix(&cfg.Listen, open)
	}
	if err != nil {
		r.abandon(g)
		return g.gatherNothing(err)
	}
	return r
}

// gatherNothing reads certificates where nothing else is taken: they are mended
// apart from the file.
func (g *gate) gatherNothing(why error) *gathered {
	if err := g.store.Reload(); err != nil && !files.IsHang(err) {
		g.log.Error("reload", "err", err)
	}
	return &gathered{err: why}
}

// abandon undoes gather.
func (r *gathered) abandon(g *gate) {
	if r.certificates != nil {
		r.certificates.Abandon()
	}
	g.acme.abandon(r.acme)
	for _, ln := range r.unix {
		ln.Close()
	}
}

// reloaded ends a reload with what it has gathered.
func (g *gate) reloaded(r *gathered) {
	err := r.err
	if err == nil {
		if err = g.take(r); err != nil {
			go func() { g.gathered <- g.gatherNothing(err) }()
			return
		}
	}
	g.again = files.FreeAfter(err)
	g.desk.reloaded(err)
	if err == nil {
		g.log.Info("reloaded", "names", g.store.Names(), "problems", len(g.store.Problems()))
	} else {
		for _, mistake := range splitError(err) {
			g.log.Error("reload", "err", mistake)
		}
		g.log.Error("reload: nothing was changed")
	}
	g.notify.ready(g.summary())
	for _, then := range g.reloading {
		then(err)
	}
	g.reloading = nil
	next := g.next
	g.next = nil
	for _, then := range next {
		g.reload(then)
	}
}

// take does the rest that can fail, and puts what was gathered into force; or
// nothing of it.
func (g *gate) take(r *gathered) error {
	options, err := r.cfg.upstreamOptions(g.log)
	c := &change{gathered: r}
	if err == nil {
		c.routes, err = upstream.Prepare(options)
	}
	if err == nil {
		g.sockets.know(r.hosts)
		g.sockets.ready = r.unix
		c.opened, err = g.openListeners(r.cfg, c.routes)
	}
	g.sockets.ready = nil
	if err != nil {
		r.abandon(g) // closes twice what was opened from ready, which does no harm
		return err
	}
	g.commit(c)
	return nil
}

// A change is a configuration that can be put into force without a failure.
// Nobody sees anything of it before commit.
type change struct {
	*gathered
	routes *upstream.Routes
	opened *opened
}

// commit puts a configuration into force. Clients see none of it before Configure,
// and then all of it: what they could see until then comes in a View, Routes and a
// Site that nobody has yet. What follows is no client's.
func (g *gate) commit(c *change) {
	cfg, before := c.cfg, g.site
	certificates := c.certificates.Commit()
	g.acme.install(c.acme, cfg) // into certificates
	g.upstreams.Commit(c.routes)
	g.server.Configure(g.configuration(cfg, certificates, c.routes, c.opened.web))
	before.Close()
	g.guardMemory(cfg)
	g.drainNodes(cfg)
	setLevel(g.level, cfg.Log.Level)
	g.desk.install(g, cfg, c.opened.operator)
	g.accept(c.opened.wss)
	g.plain.accept(c.opened.http)
	g.handOn(g.leaving(cfg))
	for addr, ln := range g.listeners {
		if !slices.Contains(cfg.Listen.WSS, addr) {
			ln.Close()
			delete(g.listeners, addr)
			g.log.Info("not listening any more", "listener", "wss", "addr", ln.Addr().String())
		}
	}
	g.desk.listens(g.listeners)
	g.plain.leave(cfg.Listen.HTTP)
	g.acme.begin(c.acme)
	if err := g.sockets.unused(&cfg.Listen); err != nil {
		for _, err := range splitError(err) {
			g.log.Warn("clients of a socket wait until a reload takes it again", "err", err)
		}
	}
	if cfg.Log.Format != g.cfg.Log.Format {
		g.log.Warn("log.format changes with a restart only")
	}
	g.watch.set(cfg.WatchConfig)
	g.access.set(cfg.accessFiles)
	g.cfg = cfg
}

// drainNodes begins to drain the nodes that cfg takes out, and no more those
// that it takes in again. A node that cfg does not name goes on as it was: its
// drain comes to its end, but must not wait for the node's return.
func (g *gate) drainNodes(cfg *Config) {
	for target, out := range cfg.nodes() {
		switch stop, was := g.takenOut[target]; {
		case out && !was:
			tunnels, stop := g.server.StartDrain(target, proxy.Pacing{Timeout: cfg.Drain.Timeout, Pace: cfg.Drain.Pace})
			g.takenOut[target] = stop
			g.log.Info("drain", "upstream", target.Upstream, "node", target.Node, "tunnels", tunnels)
		case !out && was:
			stop()
			delete(g.takenOut, target)
			g.log.Info("drain stopped", "upstream", target.Upstream, "node", target.Node)
		}
	}
}

// nodes yields all nodes, and whether the configuration takes them out.
func (c *Config) nodes() iter.Seq2[proxy.Target, bool] {
	return func(yield func(proxy.Target, bool) bool) {
		for name, u := range c.Upstream {
			for _, n := range u.Nodes {
				if !yield(proxy.Target{Upstream: name, Node: n.Name}, n.Drain) {
					return
				}
			}
		}
	}
}

// drain lets clients go, and then ends everything.
func (g *gate) drain() error {
	g.desk.leaves(g.server.Connections(), g.cfg.Drain.Timeout)
	g.log.Info("drain", "connections", g.server.Connections(), "timeout", g.cfg.Drain.Timeout)
	g.notify.stopping(fmt.Sprintf("drains %d connections", g.server.Connections()), g.cfg.Drain.Timeout+stopPatience)
	defer g.notify.keepAlive()()
	return g.stop()
}

// stopPatience is what all may take that a drain does besides draining.
const stopPatience = plainPatience + settlePatience

// summary is the gate in a line.
func (g *gate) summary() string {
	s := fmt.Sprintf("serves %d names", g.store.Names())
	if !g.desk.lastReload() {
		s += "; the last reload changed nothing, see the log"
	}
	return s
}

// pacing is what the configuration says of drains.
func (g *gate) pacing() proxy.Pacing {
	p := proxy.Pacing{Timeout: g.cfg.Drain.Timeout, Pace: g.cfg.Drain.Pace}
	if redirect := g.cfg.Drain.Redirect; len(redirect) > 0 {
		p.Redirect = func(v *upstream.Vhost, host string) string { return elsewhere(redirect, v, host) }
	}
	return p
}

// elsewhere chooses where a client of a vhost goes during a drain: to one of
// the URLs of drain.redirect, or, for "nodes", to the public one of a node, but
// for that which led it here: it would come back at once, again and again.
func elsewhere(redirect []string, vhost *upstream.Vhost, host string) string {
	here, _ := xmpp.ParseTarget("wss://" + host)
	var urls []string
	for _, url := range redirect {
		if url != "nodes" {
			urls = append(urls, url)
			continue
		}
		for _, public := range vhost.PublicURLs(false) {
			if there, err := xmpp.ParseTarget(public); err == nil && there.Address("") != here.Address("") {
				urls = append(urls, public)
			}
		}
	}
	if len(urls) == 0 {
		return ""
	}
	return urls[rand.IntN(len(urls))]
}

// plainPatience is how long a drain waits for answers to plain requests.
const plainPatience = 5 * time.Second

// stop ends everything that was started, in the order in which a connection
// needs it.
func (g *gate) stop() error {
	var err error
	g.watch.set(false)
	g.access.set(nil)
	if g.reloading != nil {
		go func() { (<-g.gathered).abandon(g) }() // when it has been gathered
	}
	if g.acme != nil {
		g.serving.Go(g.acme.close) // no order waits for a CA that finds nobody here any more
	}
	if g.server != nil {
		pacing := g.pacing()
		if pacing.Redirect == nil { // else who comes now is to be sent elsewhere
			began := time.Now()
			g.handOver(min(settlePatience, pacing.Timeout/2))
			pacing.Timeout = max(0, pacing.Timeout-time.Since(began))
		}
		g.serving.Go(func() { g.plain.shutdown(min(pacing.Timeout, plainPatience)) })
		// A context of its own: the one that SIGTERM ended is of no use.
		err = g.server.Shutdown(context.Background(), pacing)
		g.desk.close() // last of the listeners: it shows how the drain goes
		g.accepting.Wait()
		g.memory.Close()
	}
	g.serving.Wait()
	if g.site != nil {
		g.site.Close()
	}
	if g.upstreams != nil {
		g.upstreams.Close()
	}
	if g.store != nil {
		g.store.Close()
	}
	return err
}

// splitError takes joined errors apart: one line of the log for each mistake.
func splitError(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// newLogger writes to w as the configuration says.
func newLogger(w io.Writer, cfg Log, level *slog.LevelVar, terminal bool) *slog.Logger {
	setLevel(level, cfg.Level)
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String()) // JSON would have nanoseconds
		}
		return a
	}}
	if cfg.Format == "json" || cfg.Format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// setLevel takes one of the words that loadConfig has checked.
func setLevel(level *slog.LevelVar, word string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(word)); err == nil {
		level.Set(l)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

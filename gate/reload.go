package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/files"
	"wssgate/listen"
	"wssgate/panics"
	"wssgate/proxy"
	"wssgate/upstream"
)

// reload starts to read the file again and apply it, all or nothing; tunnels
// stay. It calls then, which may be nil, with the result. Requests during a
// reload are merged into one reload after it.
func (g *gate) reload(then func(error)) {
	if then == nil {
		then = func(error) {}
	}
	if g.reloading != nil || g.opening { // two that open the same path would interfere
		g.next = append(g.next, then)
		return
	}
	g.beginReload([]func(error){then}, false)
}

// beginReload starts a reload for the callers in asked. See config.Config.Reload for patient.
func (g *gate) beginReload(asked []func(error), patient bool) {
	g.reloading, g.again, g.retry = asked, nil, false
	g.notify.Reloading()
	cfg, open := g.cfg, g.addresses()
	go func() { g.gathered <- g.gather(cfg, open, patient) }()
}

// A gathered is a configuration with everything that was read for it.
type gathered struct {
	cfg          *config.Config
	certificates *certstore.Change
	acme         *acmeChange
	ech          *echRun
	hosts        listen.Hosts                    // addresses of the listeners' host names
	unix         map[listen.Address]listen.Ready // new listeners
	err          error                           // if set, the other fields are not
	also         error                           // in addition to err: the error of the certificates
}

// gather reads everything that a reload needs. It runs beside the loop and
// changes nothing in the gate. cfg is in force. open are the addresses on which
// the gate already listens; see config.Config.Reload for patient. A panic
// becomes the error of the reload.
func (g *gate) gather(cfg *config.Config, open map[listen.Address]bool, patient bool) (out *gathered) {
	r := &gathered{}
	defer func() {
		if cause := recover(); cause != nil {
			panics.Caught(g.log, panics.Reload, cause)
			r.abandon(g)
			out = &gathered{err: fmt.Errorf("panic: %v", cause)}
		}
	}()
	var err error
	r.cfg, err = cfg.Reload(context.Background(), patient, func(sum [sha256.Size]byte) { g.watch.Seen(cfg.File, sum) })
	if err == nil {
		r.certificates, err = r.cfg.PrepareCertificates(g.store)
	}
	if err == nil {
		r.acme, err = g.acme.prepare(r.cfg)
	}
	if err == nil {
		r.ech = g.ech.prepare(g, r.cfg)
		r.hosts = listen.LookUpHosts(r.cfg.Listen.Addresses())
		r.unix = g.sockets.OpenUnix(r.cfg.Listen.Addresses(), open)
	}
	if err != nil {
		r.abandon(g)
		return g.gatherNothing(err)
	}
	return r
}

// gatherNothing reads only the certificates: an error in the file must not delay their
// renewal.
func (g *gate) gatherNothing(why error) *gathered {
	r := &gathered{err: why}
	panics.Catch(panics.Reload, func() {
		if err := g.store.Reload(); err != nil && !files.IsHang(err) {
			r.also = err
		}
	})
	return r
}

// abandon undoes gather.
func (r *gathered) abandon(g *gate) {
	if r.certificates != nil {
		r.certificates.Abandon()
	}
	g.acme.abandon(r.acme)
	g.ech.abandon(r.ech)
	listen.CloseReady(r.unix)
}

// reloaded finishes a reload with what was gathered for it.
func (g *gate) reloaded(r *gathered) {
	err := r.err
	if err == nil {
		if _, err = panics.Do(panics.Reload, func() (struct{}, error) { return struct{}{}, g.take(r) }); err != nil {
			go func() { g.gathered <- g.gatherNothing(err) }()
			return
		}
	}
	g.again = files.FreeAfter(err)
	g.retry = g.again == nil && err != nil && listen.IsPending(err) // DNS does not report when it answers again
	g.console.reloaded(err)
	if err == nil {
		g.logged = nil
		g.again = g.cfg.Back()
		g.log.Info("reloaded", "names", g.store.Names(), "problems", len(g.store.Problems()))
	} else {
		g.logFailure(errors.Join(r.also, err))
	}
	g.notify.Ready(g.summary())
	asked, next := g.reloading, g.next
	g.reloading, g.next = nil, nil
	for _, then := range asked {
		then(err)
	}
	if next != nil {
		g.beginReload(next, false)
	}
}

// logFailure logs why a reload failed.
func (g *gate) logFailure(err error) {
	some := false
	for _, mistake := range splitError(err) {
		if g.logsAgain(mistake) {
			g.log.Error("reload", "err", mistake)
			some = true
		}
	}
	if some {
		g.log.Error("reload: nothing was changed")
	}
}

// repeatAfter is how long a retried reload does not repeat a line.
const repeatAfter = time.Minute

// ownPort matches the port of the gate's end of a connection, which always
// differs.
var ownPort = regexp.MustCompile(`:\d+->`)

// logsAgain reports whether to log an error of the current reload. If someone
// requested the reload, it logs every error. A retry logs new errors, and
// others once in repeatAfter.
func (g *gate) logsAgain(err error) bool {
	now := time.Now()
	maps.DeleteFunc(g.logged, func(_ string, at time.Time) bool { return now.Sub(at) >= repeatAfter })
	text := ownPort.ReplaceAllString(err.Error(), ":->")
	if _, known := g.logged[text]; known && len(g.reloading) == 0 {
		return false
	}
	if g.logged == nil {
		g.logged = map[string]time.Time{}
	}
	g.logged[text] = now
	return true
}

// upstreamOptions returns the options in cfg, for connections that become
// tunnels.
func upstreamOptions(cfg *config.Config, log *slog.Logger) (upstream.Options, error) {
	o, err := cfg.UpstreamOptions(log)
	o.Wrap = proxy.WrapUpstream
	return o, err
}

// take carries out the remaining steps that can fail, and then applies what was
// gathered, or nothing.
func (g *gate) take(r *gathered) error {
	options, err := upstreamOptions(r.cfg, g.log)
	c := &change{gathered: r}
	if err == nil {
		c.routes, err = upstream.Prepare(options)
	}
	if err == nil {
		g.sockets.Know(r.hosts)
		for _, err := range r.hosts.Errors() {
			if g.logsAgain(err) {
				g.log.Warn("listen: a name was not found; keeping its last address", "err", err)
			}
		}
		g.sockets.Ready = r.unix
		c.opened, err = g.openListeners(r.cfg, c.routes)
	}
	g.sockets.Ready = nil
	if err != nil {
		r.abandon(g)
		return err
	}
	g.commit(c)
	return nil
}

// A change is a configuration that can be applied without an error. It is invisible
// until commit.
type change struct {
	*gathered
	routes *upstream.Routes
	opened *opened
}

// commit applies a configuration. For clients, Configure switches everything at once:
// its View, Routes and Site are new, so nothing changes before. The rest does not
// concern clients.
func (g *gate) commit(c *change) {
	cfg, before := c.cfg, g.site
	certificates := c.certificates.Commit()
	g.acme.install(c.acme, cfg) // adds to the certificates
	g.ech.install(c.ech)
	g.upstreams.Commit(c.routes)
	g.server.Configure(g.configuration(cfg, certificates, c.routes, c.opened.web))
	before.Close()
	g.miss(c.opened.missing)
	g.guardMemory(cfg)
	g.drainNodes(cfg)
	setLevel(g.level, cfg.Log.Level)
	g.console.install(g, cfg, c.opened.operator)
	g.accept(c.opened.wss)
	g.plain.accept(c.opened.http)
	g.handOn(g.leaving(cfg))
	for addr, ln := range g.listeners {
		if !slices.Contains(cfg.Listen.WSS, addr) {
			ln.Close()
			delete(g.listeners, addr)
			g.log.Info("no longer listening", "listener", "wss", "addr", ln.Addr().String())
		}
	}
	g.console.listens(g.listeners)
	g.plain.leave(cfg.Listen.HTTP)
	g.acme.begin(c.acme)
	if err := g.sockets.Unused(cfg.Listen.Addresses()); err != nil {
		for _, err := range splitError(err) {
			g.log.Warn("clients of an unused socket wait until a reload uses it again", "err", err)
		}
	}
	if cfg.Listen.IOUring != g.cfg.Listen.IOUring {
		g.log.Warn("listen.io_uring changes only with a restart")
	}
	if cfg.Log.Format != g.cfg.Log.Format {
		g.log.Warn("log.format changes only with a restart")
	}
	g.watch.Set(cfg.WatchConfig)
	g.access.set(cfg.AccessFiles)
	g.cfg.Leave(cfg)
	g.cfg = cfg
	g.sayUnread()
}

// sayUnread logs which upstreams are out because a file of theirs hangs.
func (g *gate) sayUnread() {
	for name, err := range g.cfg.UnreadUpstreams() {
		g.log.Warn("upstream: out until its file can be read", "upstream", name, "err", err)
	}
}

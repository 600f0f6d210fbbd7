package gate

import (
	"fmt"
	"net"
	"slices"
	"time"

	"wssgate/admin"
	"wssgate/config"
	"wssgate/listen"
	"wssgate/panics"
)

// A missing is a configured listener that cannot be opened because DNS or a
// file system does not answer. The gate serves without it, shows a finding, and
// tries again every loopTurn.
type missing struct {
	listen.Address
	err   error // of the last attempt
	since time.Time
}

// mayMiss records in o that a listener could not be opened, and reports whether
// the gate may continue without it. It may at the start, if DNS or a file
// system does not answer. Later it may if the listener is already missing,
// whatever the error. A reload in which the listener would replace another one
// fails instead, and is tried again.
func (g *gate) mayMiss(o *opened, key, addr string, err error) bool {
	m := missing{listen.Address{Key: key, Addr: addr}, err, time.Now()}
	i := slices.IndexFunc(g.missing, func(known missing) bool { return known.Address == m.Address })
	switch {
	case err == nil:
		return false
	case i >= 0:
		m.since = g.missing[i].since
	case g.server != nil || !listen.IsPending(err):
		return false
	}
	o.missing = append(o.missing, m)
	return true
}

// openAdmin is console.open, but may continue without the listener.
func (g *gate) openAdmin(o *opened, cfg *config.Config) (*adminListener, error) {
	l, err := g.console.open(cfg, g.sockets)
	if l != nil && g.mayMiss(o, "admin", cfg.Listen.Admin, err) {
		l.addr = g.console.addr // of the existing one
		return l, nil
	}
	return l, err
}

// miss records which listeners are missing.
func (g *gate) miss(now []missing) {
	for _, m := range now {
		if !slices.ContainsFunc(g.missing, func(known missing) bool { return known.Address == m.Address }) {
			g.log.Warn("listener: cannot be opened yet; trying again", "listener", m.Key, "addr", m.Addr, "err", m.err)
		}
	}
	g.missing = now
	list := make([]admin.MissingListener, 0, len(now))
	for _, m := range now {
		list = append(list, admin.MissingListener{Name: m.Key, Addr: m.Addr, Err: m.err.Error(), Since: m.since})
	}
	g.console.mu.Lock()
	defer g.console.mu.Unlock()
	g.console.missing = list
}

// lateListeners is the result of openMissing.
type lateListeners struct {
	hosts listen.Hosts
	unix  map[listen.Address]listen.Ready
}

// openMissing begins to open the missing listeners in another goroutine;
// openedLate completes that. No reload begins in between.
func (g *gate) openMissing() {
	if len(g.missing) == 0 || g.opening || g.reloading != nil {
		return
	}
	wanted := map[string][]string{}
	for _, m := range g.missing {
		wanted[m.Key] = append(wanted[m.Key], m.Addr)
	}
	g.opening = true
	go func() {
		var l lateListeners
		panics.Catch(panics.Listener, func() {
			l.hosts = listen.LookUpHosts(wanted)
			l.unix = g.sockets.OpenUnix(wanted, nil)
		})
		g.late <- l
	}()
}

// openedLate takes over the opened listeners, and begins a reload that had to
// wait.
func (g *gate) openedLate(l lateListeners) {
	g.opening = false
	g.sockets.Know(l.hosts)
	g.sockets.Ready = l.unix
	var still []missing
	for _, m := range g.missing {
		ln, err := g.sockets.Open(m.Key, m.Addr)
		if err != nil {
			m.err = fmt.Errorf("listen.%s: %w", m.Key, err)
			still = append(still, m)
			continue
		}
		one := map[string]net.Listener{m.Addr: ln}
		switch m.Key {
		case "wss":
			g.accept(one)
		case "http":
			g.plain.accept(one)
		default:
			g.console.listen(m.Addr, ln)
		}
	}
	listen.CloseReady(g.sockets.Ready)
	g.sockets.Ready = nil
	g.miss(still)
	g.console.listens(g.listeners)
	if next := g.next; next != nil && g.reloading == nil {
		g.next = nil
		g.beginReload(next, false)
	}
}

// turned retries what failed because DNS or a file system did not answer. A
// listener that can be opened does not wait for a reload that another one makes
// fail.
func (g *gate) turned() {
	g.openMissing()
	if g.retry {
		g.tryReloadAgain()
	}
}

// tryReloadAgain repeats a reload that failed because something did not answer.
func (g *gate) tryReloadAgain() {
	g.again, g.retry = nil, false
	if g.opening || g.reloading != nil { // a reload is running or follows
		if g.next == nil {
			g.next = []func(error){}
		}
		return
	}
	g.beginReload([]func(error){}, true)
}

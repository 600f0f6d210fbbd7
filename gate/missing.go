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

// A missing is a listener that is configured and can't be opened as long as DNS or a
// file system does not answer. The gate serves without it, shows it as a finding, and
// tries again every loopTurn.
type missing struct {
	listen.Address
	err   error // of the last try
	since time.Time
}

// mayMiss notes in o that a listener could not be opened, where the gate may go on
// without it: at the start, if nothing answers; and whatever the error is if the
// listener is missing already. A reload that would put it in the place of another fails
// instead, and is tried again.
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

// openAdmin is console.open, which may miss.
func (g *gate) openAdmin(o *opened, cfg *config.Config) (*adminListener, error) {
	l, err := g.console.open(cfg, g.sockets)
	if l != nil && g.mayMiss(o, "admin", cfg.Listen.Admin, err) {
		l.addr = g.console.addr // of the one that there is
		return l, nil
	}
	return l, err
}

// miss notes which listeners are missing now.
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

// lateListeners is what openMissing has found out.
type lateListeners struct {
	hosts listen.Hosts
	unix  map[listen.Address]listen.Ready
}

// openMissing begins to open what is missing, beside the loop; openedLate ends it. No
// reload begins in between.
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

// openedLate takes what could be opened, and begins a reload that had to wait.
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

// turned tries again what DNS or a file system was in the way of. A listener that can
// be opened need not wait for a reload that fails for another.
func (g *gate) turned() {
	g.openMissing()
	if g.retry {
		g.tryReloadAgain()
	}
}

// tryReloadAgain is for a reload that failed because something did not answer.
func (g *gate) tryReloadAgain() {
	g.again, g.retry = nil, false
	if g.opening || g.reloading != nil { // one comes anyway, or after this
		if g.next == nil {
			g.next = []func(error){}
		}
		return
	}
	g.beginReload([]func(error){}, true)
}

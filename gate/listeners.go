package gate

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"wssgate/config"
	"wssgate/listen"
	"wssgate/panics"
	"wssgate/upstream"
	"wssgate/web"
)

// opened holds listeners that do not accept connections yet.
type opened struct {
	wss, http map[string]net.Listener // by address in the configuration
	operator  *adminListener
	missing   []missing   // listeners that could not be opened yet
	web       web.Options // for answers that contain a listener's port; HasCertificate is not set
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

// openListeners opens the listeners of cfg that are not open yet, all or none.
// Its error lists all that cannot be opened. If DNS or a file system does not
// answer, the listener becomes missing instead: at the start, or in a reload if
// it was missing before.
func (g *gate) openListeners(cfg *config.Config, routes *upstream.Routes) (_ *opened, err error) {
	o := &opened{}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	g.sockets.Replace(g.leaving(cfg))
	var have map[string]net.Listener
	if g.plain != nil {
		have = g.plain.listeners
	}
	var errs [3]error
	o.wss, errs[0] = g.open(o, "wss", cfg.Listen.WSS, g.listeners)
	o.http, errs[1] = g.open(o, "http", cfg.Listen.HTTP, have)
	o.operator, errs[2] = g.openAdmin(o, cfg)
	if err = errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if g.server == nil { // the start
		if err = g.sockets.Unused(cfg.Listen.Addresses()); err != nil {
			return nil, err
		}
	}
	o.web, err = g.webOptions(cfg, routes, publicPort(cfg.Listen.WSS, g.listeners, o.wss))
	return o, err
}

// leaving returns the listeners that are not in cfg, except systemd's, which stay open.
func (g *gate) leaving(cfg *config.Config) (gone []net.Listener) {
	look := func(key string, listeners map[string]net.Listener, addrs []string) {
		for addr, ln := range listeners {
			if !slices.Contains(addrs, addr) && g.sockets.Find(key, addr) == nil {
				gone = append(gone, ln)
			}
		}
	}
	look("wss", g.listeners, cfg.Listen.WSS)
	if g.plain != nil {
		look("http", g.plain.listeners, cfg.Listen.HTTP)
	}
	if g.console.ln != nil {
		look("admin", map[string]net.Listener{g.console.addr: g.console.ln}, []string{cfg.Listen.Admin})
	}
	return gone
}

// open opens the listeners of one key that are not open yet. It opens as many
// as it can.
func (g *gate) open(o *opened, key string, addrs []string, have map[string]net.Listener) (map[string]net.Listener, error) {
	opened := map[string]net.Listener{}
	var errs []error
	for _, addr := range addrs {
		if have[addr] != nil || opened[addr] != nil {
			continue
		}
		ln, err := g.sockets.Open(key, addr)
		if g.mayMiss(o, key, addr, err) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("listen.%s: %w", key, err))
			continue
		}
		opened[addr] = ln
	}
	return opened, errors.Join(errs...)
}

// accept begins to serve listeners.
func (g *gate) accept(opened map[string]net.Listener) {
	for addr, ln := range opened {
		g.listeners[addr] = ln
		g.log.Info("listening", "listener", "wss", "addr", ln.Addr().String())
		g.accepting.Go(func() {
			var err error
			panics.Keep(nil, panics.Listener, func() { err = g.server.Serve(ln) })
			if err != nil {
				select {
				case g.failed <- fmt.Errorf("listener %q: %w", addr, err):
				default: // the first error is enough
				}
			}
		})
	}
}

// addresses returns the addresses on which the gate listens.
func (g *gate) addresses() map[listen.Address]bool {
	open := map[listen.Address]bool{{Key: "admin", Addr: g.console.addr}: true}
	for addr := range g.listeners {
		open[listen.Address{Key: "wss", Addr: addr}] = true
	}
	for addr := range g.plain.listeners {
		open[listen.Address{Key: "http", Addr: addr}] = true
	}
	return open
}

package main

import (
	"net"
	"net/url"

	"wssgate/upstream"
	"wssgate/web"
	"wssgate/xmpp"
)

// webOptions says what is answered to requests that are no WebSocket upgrades, but
// for HasCertificate. Port is where clients reach the TLS listener.
func (g *gate) webOptions(cfg *Config, routes *upstream.Routes, port int) (web.Options, error) {
	o := web.Options{
		AllowsOrigin: func(serverName, origin string) error {
			v, err := routes.Lookup(serverName)
			if err != nil {
				return err
			}
			return v.AllowsOrigin(origin)
		},
		// What is polled for by BOSH is a new request each time, so that a drain
		// ends sessions too.
		TurnsAway: func(serverName string) bool {
			v, err := routes.Lookup(serverName)
			return err == nil && g.server.TurnsAway(v)
		},
		Port:    port,
		MaxBody: int64(cfg.Limits.Message),
		Page:    g.page,
		Log:     g.log,
	}
	if len(cfg.Vhost) == 0 {
		route, err := routes.Lookup("")
		if err != nil {
			return o, err
		}
		o.Any.WebSocket = publicURLs(&Vhost{}, route)
	}
	for _, v := range cfg.Vhost {
		route, err := routes.Lookup(v.Names[0])
		if err != nil {
			return o, err
		}
		wv := web.Vhost{Names: v.Names, Domains: v.Domains, WebSocket: publicURLs(v, route), Path: v.Path}
		for domain := range v.ByDomain {
			wv.Domains = append(wv.Domains[:len(wv.Domains):len(wv.Domains)], domain)
		}
		for _, l := range v.Links {
			wv.Links = append(wv.Links, xmpp.Link{Rel: l.Rel, Href: l.Href})
		}
		if v.BOSH != "" {
			if wv.BOSH, err = url.Parse(v.BOSH); err != nil {
				return o, err
			}
			if wv.TLS, err = cfg.upstreamTLS(cfg.Upstream[v.Upstream]); err != nil {
				return o, err
			}
		}
		o.Vhosts = append(o.Vhosts, wv)
	}
	return o, nil
}

// publicURLs returns the wss URLs that a vhost's clients are to be told: the
// one of the file, or those of the nodes that take new streams. None: the
// gate's own.
func publicURLs(v *Vhost, route *upstream.Vhost) func() []string {
	switch {
	case v.PublicURL != "":
		return func() []string { return []string{v.PublicURL} }
	case v.Route == "to":
		return nil // it leads to several upstreams, and only the gate knows which
	}
	return func() []string { return route.PublicURLs(true) }
}

// publicPort returns the port of the wss listener that URLs name: 443 where one
// has it, else the first one's in the order of the configuration. 0: all are
// unix sockets, and what is in front of them has the port.
func publicPort(addrs []string, listeners ...map[string]net.Listener) int {
	port := 0
	for _, addr := range addrs {
		for _, m := range listeners {
			if ln := m[addr]; ln != nil {
				if tcp, ok := ln.Addr().(*net.TCPAddr); ok && (port == 0 || tcp.Port == 443) {
					port = tcp.Port
				}
			}
		}
	}
	return port
}

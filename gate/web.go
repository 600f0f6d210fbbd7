package gate

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"wssgate/config"
	"wssgate/listen"
	"wssgate/proxy"
	"wssgate/upstream"
	"wssgate/web"
	"wssgate/xmpp"
)

// maxBOSHRequests bounds BOSH requests, which cost much more than tunnels: 1 GiB.
const maxBOSHRequests = 16 << 10

// webOptions returns how to answer requests that are not WebSocket upgrades. It
// does not set HasCertificate. port is where clients reach the TLS listener.
func (g *gate) webOptions(cfg *config.Config, routes *upstream.Routes, port int) (web.Options, error) {
	o := web.Options{
		AllowsOrigin: func(serverName, origin string) error {
			v, err := routes.Lookup(serverName)
			if err != nil {
				return err
			}
			return v.AllowsOrigin(origin)
		},
		TakesStream: func(serverName, path, domain string) error {
			v, err := routes.Lookup(serverName)
			if err != nil {
				return err
			}
			return errors.Join(v.AllowsPath(path), v.AllowsDomain(domain), v.TakesNew(domain))
		},
		AllowsClient: func(name string, client netip.Addr) error {
			if !g.server.Allows(cfg.Access.Rules, client) {
				return errors.New("denied by access.allow, access.deny or a ban")
			}
			if v, err := routes.Lookup(name); err == nil {
				return v.AllowsClient(client)
			}
			return nil
		},
		// Each BOSH poll is a new request, so a drain ends sessions, too.
		TurnsAway: func(serverName string) bool {
			v, err := routes.Lookup(serverName)
			return err == nil && g.server.TurnsAway(v)
		},
		Port:     port,
		MaxBody:  int64(cfg.Limits.Message),
		IdleBOSH: proxy.DescriptorReserve().BOSH,
		// A client has two connections, one of them with a request.
		BOSHRequests: min(max(proxy.ConnectionLimit(cfg.Limits.Connections)/2, 1), maxBOSHRequests),
		Page:         g.page,
		Log:          g.log,
	}
	if cfg.Limits.LoginFailures != (config.Rate{}) {
		o.Logins = boshLogins{g}
	}
	if len(cfg.Vhost) == 0 {
		route, err := routes.Lookup("")
		if err != nil {
			return o, err
		}
		o.Any.WebSocket = publicURLs(&config.Vhost{}, route)
	}
	configs := map[string]*tls.Config{}
	tlsOf := func(name string) (*tls.Config, error) {
		if c, ok := configs[name]; ok {
			return c, nil
		}
		c, err := cfg.UpstreamTLS(cfg.Upstream[name])
		configs[name] = c
		return c, err
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
			if wv.TLS, err = tlsOf(v.Upstream); err != nil {
				return o, err
			}
			wv.Sources = cfg.Upstream[v.Upstream].Sources()
			if len(v.Domains) > 0 {
				wv.AllowsDomain = route.AllowsDomain
			}
		}
		o.Vhosts = append(o.Vhosts, wv)
	}
	return o, nil
}

// boshLogins reaches the server through the gate, because the first Site is made before
// the server.
type boshLogins struct{ *gate }

func (b boshLogins) LoginsRefused(r *http.Request) time.Duration { return b.server.LoginsRefused(r) }
func (b boshLogins) LoginsEnded(r *http.Request, failed int) (slow, banned time.Duration) {
	return b.server.LoginsEnded(r, failed)
}

// publicURLs returns the wss URLs to announce to clients of a vhost: the
// configured one, or those of the nodes that accept new streams. If there are
// none, clients use the gate's own URL, unless all is true.
func publicURLs(v *config.Vhost, route *upstream.Vhost) func() ([]string, bool) {
	switch {
	case v.PublicURL != "":
		return func() ([]string, bool) {
			if v.Route != "to" && route.TakesNew("") != nil {
				return nil, true
			}
			return []string{v.PublicURL}, true
		}
	case v.Route == "to":
		return nil // the vhost has several upstreams, and only the gate knows which one to use
	}
	// The gate's own name leads to these nodes, too: if none of them accepts
	// new streams, including fallbacks, clients must not be sent there.
	return func() ([]string, bool) { return route.PublicURLs(true), route.TakesNew("") != nil }
}

// publicPort returns the port of the wss listener for URLs. It is 443 if a
// listener has it, otherwise that of the first listener in the configuration. 0
// means that all are unix sockets, and the proxy in front of them has the port.
func publicPort(addrs []string, listeners ...map[string]net.Listener) int {
	port := 0
	for _, addr := range addrs {
		at := configuredPort(addr) // the listener may not be open yet
		for _, m := range listeners {
			if ln := m[addr]; ln != nil {
				at = 0
				if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
					at = tcp.Port
				}
			}
		}
		if port == 0 || at == 443 {
			port = at
		}
	}
	return port
}

// configuredPort returns the port of an address in the configuration, or 0 if
// it has none of its own.
func configuredPort(addr string) int {
	network, address, err := listen.ParseAddress(addr)
	if err != nil || network != "tcp" {
		return 0
	}
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}

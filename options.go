package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"wssgate/proxy"
	"wssgate/upstream"
)

// What the packages get of a Config. No package knows another's part of it.

// handshakesPerProcessor is what limits.handshakes = 0 stands for.
const handshakesPerProcessor = 8

// framesPerSecond is what limits.frames_per_second = 0 stands for. The cheapest
// frames at that rate cost the gate well under a hundredth of a processor.
const framesPerSecond = 5000

func (c *Config) proxySettings() proxy.Settings {
	s := proxy.Settings{
		Connections:      c.Limits.Connections,
		PerClient:        c.Limits.PerClient,
		Handshakes:       c.Limits.Handshakes,
		FramesPerSecond:  c.Limits.FramesPerSecond,
		Message:          int64(c.Limits.Message),
		ClientBacklog:    int(c.Limits.ClientBacklog),
		HandshakeTimeout: c.Timeouts.Handshake,
		RequestTimeout:   c.Timeouts.Request,
		Ping:             c.Timeouts.Ping,
		Pong:             c.Timeouts.Pong,
		LogSample:        c.Log.Sample,
		LoginFailures:    proxy.LoginFailures(c.Limits.LoginFailures),
	}
	for _, network := range c.Listen.ProxyProtocol {
		s.ProxyProtocol = append(s.ProxyProtocol, netip.MustParsePrefix(network)) // checked when it was loaded
	}
	if s.FramesPerSecond == 0 {
		s.FramesPerSecond = framesPerSecond
	}
	if s.Handshakes == 0 {
		s.Handshakes = handshakesPerProcessor * runtime.GOMAXPROCS(0)
	}
	return s
}

// upstreamOptions reads the files that upstreams name.
func (c *Config) upstreamOptions(log *slog.Logger) (upstream.Options, error) {
	o := upstream.Options{Wrap: proxy.WrapUpstream, Log: log}
	for name, u := range c.Upstream {
		g := upstream.GroupOptions{
			Name:            name,
			Balance:         u.Balance,
			ProxyProtocol:   u.ProxyProtocol,
			Host:            u.Host,
			Redirects:       u.Redirects,
			XMPP:            u.XMPP,
			DialTimeout:     u.DialTimeout,
			ResolveInterval: u.Resolve,
			MaxConnections:  u.MaxConnections,
			ConnectRate:     u.ConnectionsPerSecond,
			Health: upstream.HealthOptions{
				Interval: u.Health.Interval,
				Timeout:  u.Health.Timeout,
				Domain:   u.Health.Domain,
				Path:     u.Health.Path,
			},
		}
		g.Nodes = u.nodeOptions()
		var err error
		if g.TLS, err = u.tlsConfig(); err != nil {
			return o, fmt.Errorf("upstream.%s: %w", name, err)
		}
		o.Upstreams = append(o.Upstreams, g)
	}
	slices.SortFunc(o.Upstreams, func(a, b upstream.GroupOptions) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, v := range c.Vhost {
		o.Vhosts = append(o.Vhosts, upstream.VhostOptions{
			Names: v.Names, Upstream: v.Upstream, Node: v.Node, Fallback: v.Fallback,
			Path: v.Path, Origins: v.Origins, Domains: v.Domains,
			RouteTo: v.Route == "to", ByDomain: v.ByDomain, Access: v.Access.rules,
		})
	}
	return o, nil
}

func (u *Upstream) nodeOptions() (nodes []upstream.NodeOptions) {
	for _, n := range u.Nodes {
		nodes = append(nodes, upstream.NodeOptions{
			URL: n.URL, Name: n.Name, PublicURL: n.PublicURL, Weight: n.Weight, Drain: n.Drain,
		})
	}
	return nodes
}

// tlsConfig is for wss nodes; nil where the file says nothing about them.
func (u *Upstream) tlsConfig() (*tls.Config, error) {
	if u.CA == "" && u.ServerName == "" && u.ClientCertificate == "" {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: u.ServerName}
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: no certificate in %q", u.CA)
		}
	}
	if u.ClientCertificate != "" {
		cert, err := tls.LoadX509KeyPair(u.ClientCertificate, u.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client_certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// certificateDirectory is where certificates are read from; "" for nowhere:
// who has them all from ACME need not make an empty folder.
func (c *Config) certificateDirectory() string {
	if len(c.ACME.Names) > 0 {
		if _, err := os.Stat(c.Certificates.Directory); errors.Is(err, fs.ErrNotExist) {
			return ""
		}
	}
	return c.Certificates.Directory
}

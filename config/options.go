package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"wssgate/certstore"
	"wssgate/ports"
	"wssgate/upstream"
)

// These functions convert a Config to the options of other packages.

// UpstreamOptions converts the upstreams and vhosts. It does not wait for
// files: they have been read. Its error names the upstream.
func (c *Config) UpstreamOptions(log *slog.Logger) (upstream.Options, error) {
	o := upstream.Options{Log: log}
	for name, u := range c.Upstream {
		g := upstream.GroupOptions{
			Name:            name,
			Balance:         u.Balance,
			ProxyProtocol:   u.ProxyProtocol,
			Host:            u.Host,
			Redirects:       u.Redirects,
			XMPP:            u.XMPP,
			Sources:         u.Sources(),
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
		g.Nodes = u.NodeOptions()
		var err error
		if g.TLS, err = c.UpstreamTLS(u); err != nil {
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
			RouteTo: v.Route == "to", ByDomain: v.ByDomain, Access: v.Access.Rules,
		})
	}
	return o, nil
}

// Sources returns the addresses from which an upstream is dialled. If there are
// none, the kernel chooses.
func (u *Upstream) Sources() []netip.Addr { return u.sources }

// ForeignSources returns a text for each source address of an upstream that
// this machine does not have now. It may get the address later.
func (c *Config) ForeignSources() (texts []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		for _, s := range c.Upstream[name].sources {
			if !ports.Here(s) {
				texts = append(texts, fmt.Sprintf("upstream %q: source: %q is not an address of this machine", name, s))
			}
		}
	}
	return texts
}

// ForeignSourcesHint is the hint for each text of ForeignSources.
const ForeignSourcesHint = "connections come from the other addresses; add it to an interface, or correct it"

// NodeOptions converts the nodes, in their order.
func (u *Upstream) NodeOptions() (nodes []upstream.NodeOptions) {
	for _, n := range u.Nodes {
		nodes = append(nodes, upstream.NodeOptions{
			URL: n.URL, Name: n.Name, PublicURL: n.PublicURL, Weight: n.Weight, Drain: n.Drain,
		})
	}
	return nodes
}

// UpstreamTLS is for wss nodes; nil if the file has no settings for them. If a file of
// the upstream has not been read, every handshake fails: the system's roots are not those
// that the operator trusts.
func (c *Config) UpstreamTLS(u *Upstream) (*tls.Config, error) {
	if err := c.unreadOf(u); err != nil {
		return refuse(err), nil
	}
	if u.CA == "" && u.ServerName == "" && u.ClientCertificate == "" {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: u.ServerName}
	if u.CA != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(c.Files[u.CA]) {
			return nil, fmt.Errorf("ca: no certificate in %q", u.CA)
		}
	}
	if u.ClientCertificate != "" {
		cert, err := tls.X509KeyPair(c.Files[u.ClientCertificate], c.Files[u.ClientKey])
		if err != nil {
			return nil, fmt.Errorf("client_certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// OpenCertificates calls certstore.Open for c.
func (c *Config) OpenCertificates(watch bool, log *slog.Logger) (*certstore.Store, error) {
	o := certstore.Options{Directory: c.Certificates.Directory, Watch: watch, Log: log}
	store, err := certstore.Open(o)
	if c.needsNoDirectory(err) {
		o.Directory = ""
		return certstore.Open(o)
	}
	return store, err
}

// PrepareCertificates calls store.Prepare for c.
func (c *Config) PrepareCertificates(store *certstore.Store) (*certstore.Change, error) {
	change, err := store.Prepare(c.Certificates.Directory, c.Certificates.Watch)
	if c.needsNoDirectory(err) {
		return store.Prepare("", false)
	}
	return change, err
}

// needsNoDirectory reports whether an error only means that the certificate
// directory is missing. It may be, if ACME obtains all certificates.
func (c *Config) needsNoDirectory(err error) bool {
	return c.ACME.On() && errors.Is(err, fs.ErrNotExist)
}

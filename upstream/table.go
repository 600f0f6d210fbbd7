package upstream

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A group is one upstream of the configuration. It never changes, except for lost,
// which outlives it.
type group struct {
	name          string
	nodes         []*Node
	balance       string
	proxyProtocol string
	hostOfNode    bool
	sources       []netip.Addr
	redirects     string
	xmpp          bool
	dialTimeout   time.Duration
	resolveEvery  time.Duration
	health        HealthOptions
	env           *environment
	all           []*group // of its configuration
	lost          *lostRedirects
}

// newRoutes checks o and makes routes from it. Their nodes have no server yet.
func newRoutes(o Options) (*Routes, error) {
	r := &Routes{exact: map[string]*Vhost{}, wild: map[string]*Vhost{}, env: newEnvironment(o)}
	var m mistakes
	if len(o.Upstreams) == 0 {
		m.add("upstream", "at least one is required")
	}
	for _, g := range o.Upstreams {
		where := fmt.Sprintf("upstream %q", g.Name)
		if r.group(g.Name) != nil {
			m.add(where, "configured twice")
		}
		r.groups = append(r.groups, newGroup(where, g, r.env, &m))
	}
	for _, g := range r.groups {
		g.all = r.groups
	}
	switch {
	case len(o.Vhosts) == 0 && len(r.groups) == 1:
		r.only = &Vhost{name: "*", group: r.groups[0]}
	case len(o.Vhosts) == 0 && len(r.groups) > 1:
		m.add("vhost", "required if there are several upstreams (%d)", len(r.groups))
	}
	for i, v := range o.Vhosts {
		r.addVhost(i, v, &m)
	}
	return r, m.err()
}

func (r *Routes) group(name string) *group {
	i := slices.IndexFunc(r.groups, func(g *group) bool { return g.name == name })
	if i < 0 {
		return nil
	}
	return r.groups[i]
}

func newGroup(where string, o GroupOptions, env *environment, m *mistakes) *group {
	g := &group{
		name:          o.Name,
		balance:       cmp.Or(o.Balance, balanceLeast),
		proxyProtocol: o.ProxyProtocol,
		hostOfNode:    o.Host == "node",
		sources:       slices.Clone(o.Sources),
		redirects:     cmp.Or(o.Redirects, "follow"),
		xmpp:          o.XMPP,
		dialTimeout:   cmp.Or(o.DialTimeout, DefaultDialTimeout),
		resolveEvery:  cmp.Or(o.ResolveInterval, DefaultResolveInterval),
		health:        o.Health,
		env:           env,
		lost:          &lostRedirects{},
	}
	if o.Name == "" {
		m.add("upstream", "one has no name")
	}
	if !slices.Contains([]string{balanceLeast, balanceRandom, balanceHash}, g.balance) {
		m.add(where, "balance: %q is not known", o.Balance)
	}
	if !slices.Contains([]string{"", proxyV1, proxyV2}, o.ProxyProtocol) {
		m.add(where, "proxy_protocol: %q is not known", o.ProxyProtocol)
	}
	if !slices.Contains([]string{"", "client", "node"}, o.Host) {
		m.add(where, "host: %q is not known", o.Host)
	}
	if !slices.Contains([]string{"follow", "rewrite", "off"}, g.redirects) {
		m.add(where, "redirects: %q is not known", o.Redirects)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"dial_timeout", o.DialTimeout}, {"resolve", o.ResolveInterval},
		{"health.interval", o.Health.Interval}, {"health.timeout", o.Health.Timeout},
	} {
		if d.value < 0 || d.value > 0 && d.value < 10*time.Millisecond {
			m.add(where, "%s: %v is too short", d.key, d.value)
		}
	}
	if g.health.Timeout == 0 {
		g.health.Timeout = min(DefaultHealthTimeout, cmp.Or(g.health.Interval, DefaultHealthTimeout))
	}
	if p := o.Health.Path; p != "" && p[0] != '/' {
		m.add(where, "health.path: %q does not begin with a slash", p)
	}
	if len(o.Nodes) == 0 {
		m.add(where, "no nodes")
	}
	names := map[string]bool{}
	for i, no := range o.Nodes {
		n, ok := newNode(where, i, g, o, no, m)
		if ok && names[n.name] {
			m.add(where, "node %q: configured twice", n.name)
		}
		names[n.name] = true
		g.nodes = append(g.nodes, n)
	}
	return g
}

func newNode(where string, i int, g *group, o GroupOptions, no NodeOptions, m *mistakes) (*Node, bool) {
	n := &Node{group: g, publicURL: no.PublicURL, weight: float64(cmp.Or(no.Weight, 1)), drain: no.Drain,
		limits: limits{
			connections: cmp.Or(no.MaxConnections, o.MaxConnections),
			rate:        cmp.Or(no.ConnectRate, o.ConnectRate),
		}}
	loc, err := ParseNodeURL(no.URL)
	n.loc, n.name = loc, cmp.Or(no.Name, loc.HostPort())
	if err == nil || no.Name != "" {
		where = fmt.Sprintf("%s: node %q", where, n.name)
	} else {
		where = fmt.Sprintf("%s: node %d", where, i+1) // the URL may hold a password
	}
	if err != nil {
		m.add(where, "url: %v", err)
		return n, false
	}
	if no.PublicURL != "" {
		if _, err := ParseURL(no.PublicURL, "wss"); err != nil {
			m.add(where, "public_url: %q: %v", no.PublicURL, err)
		}
	}
	if no.Weight < 0 || no.Weight > 1000 {
		m.add(where, "weight: %d is not between 1 and 1000", no.Weight)
	}
	if n.limits.connections < 0 || n.limits.rate < 0 {
		m.add(where, "a limit is negative")
	}
	if loc.TLS {
		n.tls = nodeTLS(o.TLS, loc)
	}
	return n, true
}

// nodeTLS makes the TLS configuration for one node.
func nodeTLS(base *tls.Config, loc NodeURL) *tls.Config {
	c := &tls.Config{}
	if base != nil {
		c = base.Clone()
	}
	c.ServerName = cmp.Or(c.ServerName, loc.serverName())
	c.NextProtos = []string{"http/1.1"}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.DynamicRecordSizingDisabled = true
	if c.ClientSessionCache == nil {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	return c
}

func (r *Routes) addVhost(i int, o VhostOptions, m *mistakes) {
	where := fmt.Sprintf("vhost %d", i+1)
	if len(o.Names) > 0 {
		where = fmt.Sprintf("vhost %q", o.Names[0])
	} else {
		m.add(where, "no names")
	}
	v := &Vhost{path: o.Path, node: o.Node, fallback: o.Fallback}
	v.group = r.group(o.Upstream)
	if o.Upstream == "" && len(r.groups) == 1 {
		v.group = r.groups[0]
	}
	switch {
	case v.group != nil:
	case o.Upstream == "" && len(r.groups) > 1:
		m.add(where, "upstream: required, because %d are configured", len(r.groups))
	case o.Upstream != "":
		m.add(where, "upstream %q is not configured", o.Upstream)
	}
	if o.Node != "" && v.group != nil && !slices.ContainsFunc(v.group.nodes, func(n *Node) bool { return n.name == o.Node }) {
		m.add(where, "node %q is not in upstream %q", o.Node, v.group.name)
	}
	if o.Fallback && o.Node == "" {
		m.add(where, "fallback without a node")
	}
	if o.Path != "" && (o.Path[0] != '/' || strings.ContainsAny(o.Path, "?# ")) {
		m.add(where, "path: %q is not a path", o.Path)
	}
	for _, s := range o.Origins {
		p, err := ParseOrigin(s)
		if err != nil {
			m.add(where, "origins: %q: %v", s, err)
		}
		v.origins = append(v.origins, p)
	}
	for _, s := range o.Domains {
		v.domains = append(v.domains, parseNamePattern(s))
	}
	r.addByDomain(where, v, o, m)
	for _, s := range o.Names {
		named, table, p := *v, r.exact, parseNamePattern(s)
		named.name = s
		if p.wild {
			table = r.wild
		}
		if table[p.name] != nil {
			m.add(where, "name %q: another vhost has it", s)
		}
		table[p.name] = &named
	}
}

func (r *Routes) addByDomain(where string, v *Vhost, o VhostOptions, m *mistakes) {
	v.routeTo, v.byDomain, v.access = o.RouteTo, map[string]*group{}, o.Access
	if len(o.ByDomain) > 0 && !o.RouteTo {
		m.add(where, "by_domain without route = \"to\"")
	}
	for domain, name := range o.ByDomain {
		g := r.group(name)
		if g == nil {
			m.add(where, "by_domain: upstream %q is not configured", name)
		}
		v.byDomain[domain] = g
	}
}

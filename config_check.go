package main

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// The checks go through the Config in the order of its structs. They bring
// values into their normal form where there is one (names, addresses), fill
// in what a key refers to by default, and report everything that would make
// a package refuse its options. Which mistakes a value can have is said where
// the value is parsed: addresses and URLs in config_net.go, names in
// config_names.go, files in config_files.go.

func (c *Config) check(ms *mistakes) {
	root := keyPath{}
	c.Listen.check(ms, root.key("listen"), c.File)
	if c.Certificates.Directory == "" {
		ms.add(root.key("certificates").key("directory"), "", "is empty")
	}
	c.ACME.check(ms, root.key("acme"))
	c.checkUpstreams(ms, root.key("upstream"))
	c.checkVhosts(ms, root.key("vhost"))
	c.Limits.check(ms, root.key("limits"))
	c.Timeouts.check(ms, root.key("timeouts"))
	c.Drain.check(ms, root.key("drain"))
	ms.notNegative(root.key("log").key("sample"), c.Log.Sample)
}

func (c *Config) checkUpstreams(ms *mistakes, p keyPath) {
	if len(c.Upstream) == 0 {
		ms.add(p, `write [upstream.tigase], and below it nodes = ["ws://127.0.0.1:5290/"]`, "there is none, want at least one")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		up := p.named(name)
		if name == "" {
			ms.add(up, "", "the name is empty")
		}
		c.Upstream[name].check(ms, up)
	}
}

func (u *Upstream) check(ms *mistakes, p keyPath) {
	if len(u.Nodes) == 0 {
		ms.add(p.key("nodes"), `write nodes = ["ws://127.0.0.1:5290/"]`, "there is none, want at least one")
	}
	tls := false
	for i, n := range u.Nodes {
		np := p.key("nodes").item(i, n.Name)
		key := np.key("url")
		if n.isString {
			key.shown = p.key("nodes").shown
		}
		loc, err := parseNodeURL(n.URL)
		if n.URL == "" && !n.isString {
			ms.add(key, "", "is missing")
		} else if err != nil {
			hint := ""
			if strings.HasPrefix(n.URL, "http") || !strings.Contains(n.URL, "://") {
				hint = `the upstream speaks WebSocket; write "ws://127.0.0.1:5290/"`
			}
			ms.add(key, hint, "%q: %v", n.URL, err)
		}
		tls = tls || loc.tls
		if n.Name == "" {
			n.Name = loc.hostPort
		}
		for _, other := range u.Nodes[:i] {
			switch {
			case other.Name == n.Name && n.Name != "":
				ms.add(np.key("name"), "each node of an upstream has a name of its own", "%q is the name of another node", n.Name)
			case other.URL == n.URL:
				ms.add(key, "", "%q is the URL of another node", n.URL)
			}
		}
		if n.PublicURL != "" {
			if err := checkURL(n.PublicURL, "wss"); err != nil {
				ms.add(np.key("public_url"), "", "%q: %v", n.PublicURL, err)
			}
		}
		if n.Weight < 1 || n.Weight > 1000 {
			ms.add(np.key("weight"), "drain = true takes a node out", "%d is not 1 to 1000", n.Weight)
		}
	}
	ms.positive(p.key("dial_timeout"), u.DialTimeout)
	ms.positive(p.key("resolve"), u.Resolve)
	ms.notNegative(p.key("max_connections"), u.MaxConnections)
	ms.notNegative(p.key("connections_per_second"), u.ConnectionsPerSecond)
	u.checkTLS(ms, p, tls)
	u.Health.check(ms, p.key("health"))
}

// checkTLS checks what is for wss nodes only.
func (u *Upstream) checkTLS(ms *mistakes, p keyPath, tls bool) {
	ms.eitherBoth(p, "client_certificate", u.ClientCertificate, "client_key", u.ClientKey)
	for key, value := range map[string]string{
		"ca": u.CA, "server_name": u.ServerName, "client_certificate": u.ClientCertificate, "client_key": u.ClientKey,
	} {
		if value != "" && !tls {
			ms.add(p.key(key), "", "is for wss nodes, and there is none")
		}
	}
	if u.CA != "" {
		ms.checkFile(p.key("ca"), u.CA, checkRoots)
	}
	if u.ClientCertificate != "" && u.ClientKey != "" {
		ms.checkFile(p.key("client_certificate"), u.ClientCertificate, keyPairWith(u.ClientKey))
	}
	if u.ServerName != "" {
		name, err := domainName(u.ServerName)
		if err != nil {
			ms.add(p.key("server_name"), "", "%q %v", u.ServerName, err)
		}
		u.ServerName = name
	}
}

func (h *Health) check(ms *mistakes, p keyPath) {
	if h.Interval == 0 {
		return // off
	}
	ms.positive(p.key("timeout"), h.Timeout)
	ms.checkPath(p.key("path"), h.Path)
	if h.Domain != "" {
		if _, err := domainName(h.Domain); err != nil {
			ms.add(p.key("domain"), "", "%q %v", h.Domain, err)
		}
	}
}

func (c *Config) checkVhosts(ms *mistakes, p keyPath) {
	if len(c.Vhost) == 0 && len(c.Upstream) > 1 {
		ms.add(p, "write a [[vhost]] for each, with names and upstream",
			"there is none, and %d upstreams to choose from", len(c.Upstream))
	}
	owner := map[string]keyPath{} // of a server name
	for i, v := range c.Vhost {
		vp := p.item(i, first(v.Names))
		if len(v.Names) == 0 {
			ms.add(vp.key("names"), `write names = ["example1.com"]`, "there is none, want at least one")
		}
		for j, name := range v.Names {
			normal, err := serverName(name)
			if err != nil {
				ms.add(vp.key("names"), "", "%q %v", name, err)
			} else if other, ok := owner[normal]; ok && other == vp {
				ms.add(vp.key("names"), "", "%q stands there twice", name)
			} else if ok {
				ms.add(vp.key("names"), "a server name belongs to one vhost", "%q is a name of %s too", name, other.shown)
			} else {
				owner[normal] = vp
			}
			v.Names[j] = normal
		}
		c.checkTargets(ms, vp, v)
		v.check(ms, vp)
	}
}

// checkTargets checks what a vhost refers to, and fills in the only upstream.
func (c *Config) checkTargets(ms *mistakes, p keyPath, v *Vhost) {
	names := slices.Sorted(maps.Keys(c.Upstream))
	if v.Upstream == "" && len(names) == 1 {
		v.Upstream = names[0]
	}
	exists := func(p keyPath, name string) {
		if c.Upstream[name] == nil && len(names) > 0 {
			ms.add(p, orElse(didYouMean(name, names), "there is "+quotedOr(names)), "there is no upstream %q", name)
		}
	}
	if v.Upstream == "" && len(names) > 1 {
		ms.add(p.key("upstream"), "", "is missing, and there is a choice of %s", quotedOr(names))
	} else {
		exists(p.key("upstream"), v.Upstream)
	}
	for _, domain := range slices.Sorted(maps.Keys(v.ByDomain)) {
		dp := p.key("by_domain").named(domain)
		normal, err := serverName(domain)
		if err != nil {
			ms.add(dp, "", "%q %v", domain, err)
		}
		exists(dp, v.ByDomain[domain])
		if normal != domain && err == nil {
			v.ByDomain[normal] = v.ByDomain[domain]
			delete(v.ByDomain, domain)
		}
	}
	if len(v.ByDomain) > 0 && v.Route != "to" {
		ms.add(p.key("by_domain"), `write route = "to" as well`, `is for route = "to"`)
	}
	if v.Fallback && v.Node == "" {
		ms.add(p.key("fallback"), "", "is for a vhost with a node")
	}
	if u := c.Upstream[v.Upstream]; u != nil && v.Node != "" {
		var nodes []string
		for _, n := range u.Nodes {
			nodes = append(nodes, n.Name)
		}
		if !slices.Contains(nodes, v.Node) && len(nodes) > 0 {
			ms.add(p.key("node"), orElse(didYouMean(v.Node, nodes), "there is "+quotedOr(nodes)),
				"upstream %q has no node %q", v.Upstream, v.Node)
		}
	}
}

// check checks what needs no look at the rest of the file.
func (v *Vhost) check(ms *mistakes, p keyPath) {
	for i, domain := range v.Domains {
		normal, err := serverName(domain)
		if err != nil {
			ms.add(p.key("domains"), "", "%q %v", domain, err)
		}
		v.Domains[i] = normal
	}
	for i, origin := range v.Origins {
		normal, err := parseOrigin(origin)
		if err != nil {
			ms.add(p.key("origins"), "", "%q: %v", origin, err)
		}
		v.Origins[i] = normal
	}
	ms.checkPath(p.key("path"), v.Path)
	if v.BOSH != "" {
		if err := checkURL(v.BOSH, "http", "https"); err != nil {
			ms.add(p.key("bosh"), "", "%q: %v", v.BOSH, err)
		}
	}
	for i, l := range v.Links {
		lp := p.key("links").item(i, l.Rel)
		if l.Rel == "" {
			ms.add(lp.key("rel"), "", "is missing")
		}
		if err := checkURL(l.Href, "http", "https", "ws", "wss"); err != nil {
			ms.add(lp.key("href"), "", "%q: %v", l.Href, err)
		}
	}
}

// Bounds below which no real stream works.
const (
	minMessage       = 10_000   // bytes; what a server must at least allow for a stanza, RFC 6120, section 13.12
	minClientBacklog = 16 << 10 // bytes; one TLS record
	maxBuffer        = 1 << 30  // bytes; one client alone could take that much memory
)

func (l *Limits) check(ms *mistakes, p keyPath) {
	ms.notNegative(p.key("connections"), l.Connections)
	ms.notNegative(p.key("per_client"), l.PerClient)
	ms.notNegative(p.key("handshakes"), l.Handshakes)
	if l.Message < minMessage {
		ms.add(p.key("message"), "", "%v is less than the %d bytes that XMPP demands (RFC 6120, section 13.12)", l.Message, minMessage)
	}
	if l.ClientBacklog < minClientBacklog {
		ms.add(p.key("client_backlog"), "", "%v is less than %v, one TLS record", l.ClientBacklog, Size(minClientBacklog))
	}
	for key, size := range map[string]Size{"message": l.Message, "client_backlog": l.ClientBacklog} {
		if size > maxBuffer {
			ms.add(p.key(key), "", "%v is more than %v", size, Size(maxBuffer))
		}
	}
}

func (t *Timeouts) check(ms *mistakes, p keyPath) {
	ms.positive(p.key("handshake"), t.Handshake)
	ms.positive(p.key("request"), t.Request)
	ms.positive(p.key("pong"), t.Pong)
	if t.Ping != 0 && t.Ping < time.Second {
		ms.add(p.key("ping"), "", "%v is less than a second", t.Ping)
	}
}

func (d *Drain) check(ms *mistakes, p keyPath) {
	ms.notNegative(p.key("pace"), d.Pace)
	for _, target := range d.Redirect {
		if target == "nodes" {
			continue
		}
		if err := checkURL(target, "wss"); err != nil {
			ms.add(p.key("redirect"), `write "wss://HOST:5291/", or "nodes" for the public URLs of the other nodes`, "%q: %v", target, err)
		}
	}
}

func (ms *mistakes) positive(p keyPath, d time.Duration) {
	if d <= 0 {
		ms.add(p, "", "is 0, want more: every wait has an end")
	}
}

func (ms *mistakes) notNegative(p keyPath, n int) {
	if n < 0 {
		ms.add(p, "", "%d is negative", n)
	}
}

// eitherBoth demands both of two keys or neither.
func (ms *mistakes) eitherBoth(p keyPath, key1, value1, key2, value2 string) {
	switch {
	case value1 != "" && value2 == "":
		ms.add(p.key(key2), "", "is missing, and %s is set", key1)
	case value1 == "" && value2 != "":
		ms.add(p.key(key1), "", "is missing, and %s is set", key2)
	}
}

// checkPath checks the path of a URL that may be empty.
func (ms *mistakes) checkPath(p keyPath, s string) {
	switch {
	case s == "":
	case s[0] != '/':
		ms.add(p, "", "%q does not begin with a slash", s)
	case strings.ContainsAny(s, "?# \t\r\n"):
		ms.add(p, "", "%q has a character that no path has", s)
	case strings.Contains(s, "//"), path.Clean(s) != s && path.Clean(s)+"/" != s:
		ms.add(p, "", "%q is not the shortest way to write it, which is %q", s, path.Clean(s))
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

// minWait is the least duration for upstreams. Package upstream refuses less, because
// no real server could answer in time.
const minWait = 10 * time.Millisecond

func (c *Config) checkUpstreams(ms *mistakes, p keyPath) {
	if len(c.Upstream) == 0 {
		ms.add(p, `write [upstream.tigase], and below it nodes = ["ws://127.0.0.1:5290/"]`, "at least one is required")
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
		ms.add(p.key("nodes"), `write nodes = ["ws://127.0.0.1:5290/"]`, "at least one is required")
	}
	u.checkSource(ms, p.key("source"))
	tls, tcp := false, false
	for i, n := range u.Nodes {
		np := p.key("nodes").item(i, n.Name)
		key := np.key("url")
		if n.isString {
			key.shown = p.key("nodes").shown
		}
		loc, err := upstream.ParseNodeURL(n.URL)
		if n.URL == "" && !n.isString {
			ms.add(key, "", "is missing")
		} else if err != nil {
			ms.add(key, nodeHint(n.URL), "%q: %v", n.URL, err)
		}
		tls, tcp = tls || loc.TLS, tcp || loc.Unix == ""
		if family := u.lacksSourceFor(loc.Host); family != "" {
			ms.add(p.key("source"), "add an address of that family", "has no %s address, but node %q needs one", family, n.URL)
		}
		if n.Name == "" {
			n.Name = loc.HostPort()
		}
		for _, other := range u.Nodes[:i] {
			switch {
			case other.URL == n.URL:
				ms.add(key, "write each node once; weight gives it a larger share", "%q is the URL of another node", n.URL)
			case other.Name == n.Name && n.isString:
				ms.add(key, fmt.Sprintf(`give each a name: { name = "a", url = %q }`, n.URL), "%q has the host and port of another node", n.URL)
			case other.Name == n.Name && n.Name != "":
				ms.add(np.key("name"), "give each node of an upstream its own name", "%q is the name of another node", n.Name)
			}
		}
		if n.PublicURL != "" {
			n.PublicURL = ms.publicURL(np.key("public_url"), "", n.PublicURL, "wss")
		}
		if n.Weight < 1 || n.Weight > 1000 {
			ms.add(np.key("weight"), "drain = true takes a node out of service", "%d is not between 1 and 1000", n.Weight)
		}
	}
	ms.positive(p.key("dial_timeout"), u.DialTimeout)
	ms.notShort(p.key("dial_timeout"), u.DialTimeout)
	ms.positive(p.key("resolve"), u.Resolve)
	ms.notShort(p.key("resolve"), u.Resolve)
	ms.notNegative(p.key("max_connections"), u.MaxConnections)
	ms.notNegative(p.key("connections_per_second"), u.ConnectionsPerSecond)
	if len(u.Source) > 0 && !tcp {
		ms.add(p.key("source"), "", "applies only to TCP nodes, and there are none")
	}
	u.checkTLS(ms, p, tls)
	u.Health.check(ms, p.key("health"))
}

// maxSources bounds the list. This many allow seven million connections.
const maxSources = 256

func (u *Upstream) checkSource(ms *mistakes, p keyPath) {
	u.sources = nil
	if len(u.Source) > maxSources {
		ms.add(p, "", "%d addresses are more than %d", len(u.Source), maxSources)
		return
	}
	for _, s := range u.Source {
		addr, err := netip.ParseAddr(s)
		addr = addr.Unmap()
		switch {
		case err != nil:
			ms.add(p, `write addresses of this machine without a port, as in ["10.0.0.5", "10.0.0.6"]`, "%q is not an IP address", s)
		case addr.Zone() != "" || addr.IsLinkLocalUnicast() && addr.Is6():
			ms.add(p, "", "%q is a link-local address, which needs an interface", s)
		case addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			ms.add(p, "write addresses of this machine", "%q is not the address of a machine", s)
		case slices.Contains(u.sources, addr):
			ms.add(p, "write each address once", "%q is listed twice", s)
		default:
			u.sources = append(u.sources, addr)
		}
	}
}

// lacksSourceFor returns the address family of host if host is an address and
// no source belongs to that family. It returns "" if one does, or none is
// configured.
func (u *Upstream) lacksSourceFor(host string) string {
	to, err := netip.ParseAddr(host)
	to = to.Unmap()
	if err != nil || len(u.sources) == 0 || slices.ContainsFunc(u.sources, func(s netip.Addr) bool { return s.Is4() == to.Is4() }) {
		return ""
	}
	if to.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// checkTLS checks the keys that apply only to wss nodes.
func (u *Upstream) checkTLS(ms *mistakes, p keyPath, tls bool) {
	ms.eitherBoth(p, "client_certificate", u.ClientCertificate, "client_key", u.ClientKey)
	for key, value := range map[string]string{
		"ca": u.CA, "server_name": u.ServerName, "client_certificate": u.ClientCertificate, "client_key": u.ClientKey,
	} {
		if value != "" && !tls {
			ms.add(p.key(key), "", "applies only to wss nodes, and there are none")
		}
	}
	if u.CA != "" {
		ms.checkDeferrable(p.key("ca"), u.CA, checkRoots)
	}
	if u.ClientCertificate != "" && u.ClientKey != "" {
		ms.checkDeferrable(p.key("client_certificate"), u.ClientCertificate, ms.keyPairWith(u.ClientKey))
	}
	if u.ServerName != "" {
		name, err := domainName(u.ServerName)
		if err != nil {
			ms.add(p.key("server_name"), nameHint(u.ServerName, domainName), "%q %v", u.ServerName, err)
		}
		u.ServerName = name
	}
}

func (h *Health) check(ms *mistakes, p keyPath) {
	if h.Interval > 0 { // otherwise probes are off
		ms.positive(p.key("timeout"), h.Timeout)
	}
	ms.notShort(p.key("interval"), h.Interval)
	ms.notShort(p.key("timeout"), h.Timeout)
	ms.checkPath(p.key("path"), h.Path)
	if h.Domain != "" {
		if _, err := xmpp.NormalDomain(h.Domain); err != nil {
			ms.add(p.key("domain"), nameHint(h.Domain, xmpp.NormalDomain), "%v", err)
		}
	}
}

// notShort checks the minimum of a duration. 0 is checked elsewhere.
func (ms *mistakes) notShort(p keyPath, d time.Duration) {
	if d > 0 && d < minWait {
		ms.add(p, "", "%v is less than %v", d, minWait)
	}
}

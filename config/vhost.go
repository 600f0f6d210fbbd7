package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"wssgate/upstream"
	"wssgate/xmpp"
)

func (c *Config) checkVhosts(ms *mistakes, p keyPath) {
	if len(c.Vhost) == 0 && len(c.Upstream) > 1 {
		ms.add(p, "write a [[vhost]] for each, with names and upstream",
			"at least one is required, because there are %d upstreams", len(c.Upstream))
	}
	owner := map[string]keyPath{} // by server name
	for i, v := range c.Vhost {
		vp := p.item(i, first(v.Names))
		if len(v.Names) == 0 {
			ms.add(vp.key("names"), `write names = ["example1.com"]`, "at least one is required")
		}
		for j, name := range v.Names {
			normal, err := ServerName(name)
			if err != nil {
				hint := nameHint(name, ServerName)
				if name == "*" {
					hint = "names are listed; without [[vhost]] every name with a certificate is served"
				}
				ms.add(vp.key("names"), hint, "%q %v", name, err)
			} else if other, ok := owner[normal]; ok && other == vp {
				ms.add(vp.key("names"), "", "%q is listed twice", name)
			} else if ok {
				ms.add(vp.key("names"), "a server name belongs to one vhost", "%q is also a name of %s", name, other.shown)
			} else {
				owner[normal] = vp
			}
			v.Names[j] = normal
		}
		c.checkTargets(ms, vp, v)
		v.check(ms, vp)
	}
}

// checkTargets checks a vhost's references, and fills in the only upstream.
func (c *Config) checkTargets(ms *mistakes, p keyPath, v *Vhost) {
	names := slices.Sorted(maps.Keys(c.Upstream))
	if v.Upstream == "" && len(names) == 1 {
		v.Upstream = names[0]
	}
	exists := func(p keyPath, name string) {
		if c.Upstream[name] == nil && len(names) > 0 {
			ms.add(p, cmp.Or(DidYouMean(name, names), "there is "+quotedOr(names)), "there is no upstream %q", name)
		}
	}
	if v.Upstream == "" && len(names) > 1 {
		ms.add(p.key("upstream"), "", "is required, because there are several upstreams: %s", quotedOr(names))
	} else {
		exists(p.key("upstream"), v.Upstream)
	}
	for _, domain := range slices.Sorted(maps.Keys(v.ByDomain)) {
		dp := p.key("by_domain").named(domain)
		normal, err := xmpp.NormalDomain(domain)
		if err != nil {
			ms.add(dp, "", "%v", err)
		}
		exists(dp, v.ByDomain[domain])
		if normal != domain && err == nil {
			if _, twice := v.ByDomain[normal]; twice {
				ms.add(dp, "", "%q is listed twice", normal)
			}
			v.ByDomain[normal] = v.ByDomain[domain]
			delete(v.ByDomain, domain)
		}
	}
	if len(v.ByDomain) > 0 && v.Route != "to" {
		ms.add(p.key("by_domain"), `add route = "to"`, `requires route = "to"`)
	}
	if v.Fallback && v.Node == "" {
		ms.add(p.key("fallback"), "", "requires node")
	}
	if u := c.Upstream[v.Upstream]; u != nil && v.Node != "" {
		var nodes []string
		for _, n := range u.Nodes {
			if n.Name != "" { // otherwise its URL is invalid, which is reported there
				nodes = append(nodes, n.Name)
			}
		}
		if !slices.Contains(nodes, v.Node) && len(nodes) > 0 {
			ms.add(p.key("node"), cmp.Or(DidYouMean(v.Node, nodes), "there is "+quotedOr(nodes)),
				"upstream %q has no node %q", v.Upstream, v.Node)
		}
	}
}

// check checks everything that does not depend on the rest of the file.
func (v *Vhost) check(ms *mistakes, p keyPath) {
	for i, domain := range v.Domains {
		normal, err := domainPattern(domain)
		if err != nil {
			ms.add(p.key("domains"), nameHint(domain, domainPattern), "%v", err)
		}
		v.Domains[i] = normal
	}
	for i, origin := range v.Origins {
		normal, err := upstream.ParseOrigin(origin)
		if err != nil {
			ms.add(p.key("origins"), originHint(origin), "%q: %v", origin, err)
		}
		v.Origins[i] = normal.String()
	}
	ms.checkPath(p.key("path"), v.Path)
	if v.BOSH != "" {
		if u, err := upstream.ParseURL(v.BOSH, "http", "https"); err != nil {
			ms.add(p.key("bosh"), urlHint(v.BOSH, "http", func(s string) error { _, err := upstream.ParseURL(s, "http"); return err }), "%q: %v", v.BOSH, err)
		} else if strings.Trim(u.Path, "/") == "" {
			ms.add(p.key("bosh"), `write one, such as "/http-bind"; Tigase accepts any`, "%q: has no path for clients to request", v.BOSH)
		}
	}
	if v.PublicURL != "" {
		v.PublicURL = ms.publicURL(p.key("public_url"), "", v.PublicURL, "wss")
	}
	for i, l := range v.Links {
		lp := p.key("links").item(i, l.Rel)
		if l.Rel == "" {
			ms.add(lp.key("rel"), "", "is missing")
		}
		l.Href = ms.publicURL(lp.key("href"), "", l.Href, "http", "https", "ws", "wss")
	}
}

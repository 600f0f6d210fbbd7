package config

import (
	"maps"
	"slices"
	"strings"

	"wssgate/certstore"
)

// A ServedName is a server name with its certificates and its destination.
type ServedName struct {
	Name         string
	Certificates []certstore.Entry // one for each key type; none: clients are refused
	vhost        *Vhost            // nil if no vhost has the name; then upstream is ""
	upstream     string
}

// Served lists the names of the vhosts, in the order of the file, and then other names
// that have certificates.
func (c *Config) Served(entries []certstore.Entry) []ServedName {
	chosen := map[string][]certstore.Entry{}
	var names []string // of certificates, in the order of entries
	for _, e := range entries {
		if chosen[e.Name] == nil {
			names = append(names, e.Name)
		}
		chosen[e.Name] = append(chosen[e.Name], e)
	}
	certificates := func(name string) []certstore.Entry {
		var out []certstore.Entry
		for _, n := range []string{name, WildcardFor(name)} {
			for _, e := range chosen[n] {
				if e.Chosen && !slices.ContainsFunc(out, func(o certstore.Entry) bool { return keyFamily(o) == keyFamily(e) }) {
					out = append(out, e)
				}
			}
		}
		return out
	}

	var list []ServedName
	vhosts := map[string]*Vhost{}
	for _, v := range c.Vhost {
		for _, name := range v.Names {
			vhosts[name] = v
		}
	}
	covered := map[string]bool{} // wildcards of vhosts with certificates for exact names
	for _, name := range names {
		if vhosts[name] == nil && vhosts[WildcardFor(name)] != nil {
			covered[WildcardFor(name)] = true
		}
	}
	for _, v := range c.Vhost {
		for _, name := range v.Names {
			own := certificates(name)
			if len(own) > 0 || !covered[name] {
				list = append(list, ServedName{name, own, v, v.Upstream})
			}
		}
	}
	for _, name := range names {
		if vhosts[name] != nil {
			continue
		}
		s := ServedName{Name: name, Certificates: certificates(name)}
		if v := vhosts[WildcardFor(name)]; v != nil {
			s.vhost, s.upstream = v, v.Upstream
		} else if len(c.Vhost) == 0 {
			s.upstream = slices.Collect(maps.Keys(c.Upstream))[0]
		}
		list = append(list, s)
	}
	return list
}

// keyFamily returns "ECDSA", "RSA" or "Ed25519". A name has at most one
// certificate of each.
func keyFamily(e certstore.Entry) string {
	family, _, _ := strings.Cut(e.KeyType, " ")
	return family
}

// WildcardFor returns the wildcard that covers an exact name.
func WildcardFor(name string) string {
	_, rest, ok := strings.Cut(name, ".")
	if !ok || strings.HasPrefix(name, "*.") {
		return ""
	}
	return "*." + rest
}

// Target describes where tunnels to a name lead.
func (c *Config) Target(s ServedName) string {
	u := c.Upstream[s.upstream]
	if u == nil {
		return "none: no vhost has this name"
	}
	var urls []string
	for _, n := range u.Nodes {
		if s.vhost == nil || s.vhost.Node == "" || s.vhost.Node == n.Name || s.vhost.Fallback {
			urls = append(urls, n.URL)
		}
	}
	return s.upstream + ": " + strings.Join(urls, ", ")
}

package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"wssgate/access"
)

// The reasons why a vhost refuses a request.
var (
	ErrPath   = errors.New("path is not served")    // 403
	ErrOrigin = errors.New("origin is not allowed") // 403
	ErrDomain = errors.New("domain is not served")  // host-unknown
	ErrClient = errors.New("client is not allowed") // 403
)

// A Vhost is the configuration of one server name or wildcard. It never changes; a
// client keeps its Vhost across a reload.
type Vhost struct {
	name     string
	group    *group
	node     string // the pinned node, or ""
	fallback bool
	path     string
	origins  []Origin
	domains  []namePattern
	routeTo  bool
	byDomain map[string]*group
	access   *access.Rules
}

// A namePattern is a domain in normal form or, if wild, the part after "*.".
type namePattern struct {
	name string
	wild bool
}

func parseNamePattern(s string) namePattern {
	name, wild := strings.CutPrefix(s, "*.")
	return namePattern{name, wild}
}

func (p namePattern) matches(domain string) bool {
	if p.wild {
		_, domain, _ = strings.Cut(domain, ".")
	}
	return p.name == domain
}

// Lookup returns the vhost of a TLS server name, or an ErrNoRoute. An exact name wins
// over a wildcard of one label.
func (r *Routes) Lookup(serverName string) (*Vhost, error) {
	if r.only != nil {
		return r.only, nil
	}
	name := strings.ToLower(strings.TrimSuffix(serverName, "."))
	if v := r.exact[name]; v != nil {
		return v, nil
	}
	if label, rest, _ := strings.Cut(name, "."); label != "" {
		if v := r.wild[rest]; v != nil {
			return v, nil
		}
	}
	return nil, fmt.Errorf("%w for server name %q", ErrNoRoute, serverName)
}

// Name returns the configured name, such as "*.example1.com", or "*" if no vhost is
// configured. It never contains client input: it may be the label of a metric.
func (v *Vhost) Name() string { return v.name }

// Upstream returns the name of the vhost's upstream.
func (v *Vhost) Upstream() string { return v.group.name }

// AllowsPath returns an error that is ErrPath if the vhost has a path and path differs
// from it. path is the request target without its query.
func (v *Vhost) AllowsPath(path string) error {
	if v.path == "" || v.path == path {
		return nil
	}
	return fmt.Errorf("vhost %q: path %q: %w", v.name, path, ErrPath)
}

// AllowsOrigin returns an error that is ErrOrigin if the vhost has a list of origins
// without this value of the Origin header. An empty origin is allowed, because such a
// request does not come from a browser.
func (v *Vhost) AllowsOrigin(origin string) error {
	if len(v.origins) == 0 || origin == "" {
		return nil
	}
	if o, err := ParseOrigin(origin); err == nil && slices.ContainsFunc(v.origins, func(p Origin) bool { return p.matches(o) }) {
		return nil
	}
	return fmt.Errorf("vhost %q: origin %q: %w", v.name, origin, ErrOrigin)
}

// AllowsClient returns an error that is ErrClient if the vhost's access lists deny an
// address. The lists may change while the Vhost does not. The zero Addr, of a unix
// socket, is allowed.
func (v *Vhost) AllowsClient(client netip.Addr) error {
	if v.access.Allows(client) {
		return nil
	}
	return fmt.Errorf("vhost %q: client %s: %w", v.name, client, ErrClient)
}

// AllowsDomain returns an error that is ErrDomain if the vhost has a list of XMPP
// domains without this one. domain is in its normal form.
func (v *Vhost) AllowsDomain(domain string) error {
	if len(v.domains) == 0 || slices.ContainsFunc(v.domains, func(p namePattern) bool { return p.matches(domain) }) {
		return nil
	}
	return fmt.Errorf("vhost %q: domain %q: %w", v.name, domain, ErrDomain)
}

// ReadsTo reports whether the vhost must know the domain in `to` before the upstream
// sees anything of the stream: it has a list of domains, or routes by them.
func (v *Vhost) ReadsTo() bool { return len(v.domains) > 0 || v.routeTo }

// RoutesTo reports whether `to` must be known before dialling. Then call Dial on the
// result of ForDomain.
func (v *Vhost) RoutesTo() bool { return v.routeTo }

// ForDomain returns v with the upstream for an XMPP domain in normal form.
func (v *Vhost) ForDomain(domain string) *Vhost {
	if g := v.byDomain[domain]; g != nil {
		other := *v
		other.group, other.node = g, ""
		return &other
	}
	return v
}

// TakesNew returns an error that is ErrDrained if no node accepts new streams of v.
// domain is the XMPP domain, which matters only if v routes by domain.
func (v *Vhost) TakesNew(domain string) error {
	if v.routeTo {
		v = v.ForDomain(domain)
	}
	for _, n := range v.group.nodes {
		if !n.Leaving() && (v.node == "" || v.node == n.name || v.fallback) {
			return nil
		}
	}
	return fmt.Errorf("vhost %q: upstream %q: %w", v.name, v.group.name, ErrDrained)
}

// Nodes returns the number of nodes in the vhost's upstream.
func (v *Vhost) Nodes() int { return len(v.group.nodes) }

// PublicURLs returns the public URLs of the upstream's nodes that accept new streams,
// in configured order; with pinned, only of the pinned node, if there is one.
func (v *Vhost) PublicURLs(pinned bool) []string {
	var urls []string
	for _, n := range v.group.nodes {
		if n.publicURL != "" && !n.Leaving() && (!pinned || v.node == "" || v.node == n.name) {
			urls = append(urls, n.publicURL)
		}
	}
	return urls
}

// XMPP reports whether the vhost's upstream speaks only XMPP.
func (v *Vhost) XMPP() bool { return v.group.xmpp }

// Redirects returns how redirects of the vhost's upstream are handled: "follow",
// "rewrite" or "off".
func (v *Vhost) Redirects() string { return v.group.redirects }

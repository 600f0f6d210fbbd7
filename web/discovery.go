package web

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"

	"wssgate/xmpp"
)

// Paths of the discovery documents (XEP-0156, section 3; nodes.json is ours).
const (
	pathXRD   = "/.well-known/host-meta"
	pathJRD   = "/.well-known/host-meta.json"
	pathNodes = "/nodes.json"
)

func isDiscovery(path string) bool {
	return path == pathXRD || path == pathJRD || path == pathNodes
}

// discover answers with one of the documents: that of v or, if v is nil, that of all
// vhosts with the XMPP domain name.
func (s *Site) discover(w http.ResponseWriter, r *http.Request, name string, v *vhost) {
	h := w.Header()
	// Browsers ask from pages of other origins (XEP-0156, section 3).
	h.Set("Access-Control-Allow-Origin", "*")
	if !allow(w, r, http.MethodGet, http.MethodHead, http.MethodOptions) {
		return
	}
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "*")
		h.Set("Access-Control-Max-Age", "86400") // seconds
		w.WriteHeader(http.StatusNoContent)
		return
	}
	vhosts := []*vhost{v}
	if v == nil {
		vhosts = s.byDomain(name)
	}
	d := s.discovery(r, name, vhosts)
	switch {
	case len(d.WebSocket)+len(d.Links) > 0:
	case len(vhosts) > 0 && s.named(r, name, vhosts):
		unavailable(w, "This name is not accepting new clients at the moment. Try again later.")
		return
	default:
		notFound(w, "There is no XMPP service for this name.")
		return
	}
	h.Set("X-Content-Type-Options", "nosniff")
	// The order differs for each client; a cache would give all clients the same.
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", xmpp.TypeJSON)
	switch r.URL.Path {
	case pathXRD:
		h.Set("Content-Type", xmpp.TypeXRD)
		w.Write(d.XRD())
	case pathJRD:
		w.Write(d.JRD())
	case pathNodes:
		w.Write(d.Nodes())
	}
}

// discovery merges the links of the vhosts, without duplicates, and keeps those that
// the client can use now.
func (s *Site) discovery(r *http.Request, name string, vhosts []*vhost) (d xmpp.Discovery) {
	for _, v := range vhosts {
		about := v.about(name)
		for _, u := range s.urlsOf(r, name, v, about) {
			if !slices.Contains(d.WebSocket, u) {
				d.WebSocket = append(d.WebSocket, u)
			}
		}
		links := v.Links
		if own := s.own(r, name, v); v.bosh != nil && own != "" && s.takesBOSH(r, own, v, about) {
			links = append([]xmpp.Link{{Rel: xmpp.RelBOSH, Href: "https://" + own + v.bosh.path}}, links...)
		}
		for _, l := range links {
			if !slices.Contains(d.Links, l) {
				d.Links = append(d.Links, l)
			}
		}
	}
	return d
}

// named reports whether the client could use some address at other times.
func (s *Site) named(r *http.Request, name string, vhosts []*vhost) bool {
	return slices.ContainsFunc(vhosts, func(v *vhost) bool { return len(v.urls()) > 0 || s.own(r, name, v) != "" })
}

// urlsOf returns the URLs of a vhost that now accept the client's streams to one of the
// domains: the configured ones, or else the gate's own.
func (s *Site) urlsOf(r *http.Request, name string, v *vhost, domains []string) (urls []string) {
	all := false
	if v.WebSocket != nil {
		urls, all = v.WebSocket()
	}
	refused := func(u string) bool { return !s.takes(r, u, domains) }
	urls = slices.DeleteFunc(slices.Clone(urls), refused)
	if own := s.own(r, name, v); len(urls) == 0 && !all && own != "" {
		urls = slices.DeleteFunc([]string{"wss://" + own + cmp.Or(v.Path, "/")}, refused)
	}
	return urls
}

// about returns the XMPP domains of a document of v that was requested for name: name
// itself if it is a domain of v, otherwise all of v's domains.
func (v *vhost) about(name string) []string {
	if len(v.Domains) == 0 || slices.Contains(v.Domains, name) || slices.Contains(v.Domains, wildcard(name)) {
		return []string{name}
	}
	return v.Domains
}

// takes reports whether a URL now accepts the client's streams to one of the domains,
// which may be wildcards. URLs of other servers always do.
func (s *Site) takes(r *http.Request, wss string, domains []string) bool {
	u, err := url.Parse(wss)
	if err != nil || s.byName(u.Hostname()) == nil {
		return true
	}
	return s.lets(r, u.Hostname()) && slices.ContainsFunc(domains, func(domain string) bool {
		return s.options.TakesStream == nil || s.options.TakesStream(normal(u.Hostname()), cmp.Or(u.EscapedPath(), "/"), domain) == nil
	})
}

// takesBOSH is takes for the BOSH of a vhost.
func (s *Site) takesBOSH(r *http.Request, own string, v *vhost, domains []string) bool {
	host, _ := hostName(own)
	return s.lets(r, host) && slices.ContainsFunc(domains, func(domain string) bool {
		return v.AllowsDomain == nil || v.AllowsDomain(domain) == nil
	})
}

// lets reports whether a client may now use one of our names.
func (s *Site) lets(r *http.Request, name string) bool {
	return s.options.HasCertificate(name) && s.keepsOut(r, name) == nil && (s.options.TurnsAway == nil || !s.options.TurnsAway(name))
}

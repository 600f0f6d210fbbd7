package web

import (
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

// discover answers with one of the documents: v's, or where that is nil, what
// all vhosts together have for the XMPP domain of that name.
func (s *Site) discover(w http.ResponseWriter, r *http.Request, name string, v *vhost) {
	h := w.Header()
	// Clients in browsers ask from the pages of other origins (XEP-0156,
	// section 3).
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
	if len(d.WebSocket)+len(d.Links) == 0 {
		notFound(w, "There is no XMPP service for this name.")
		return
	}
	h.Set("X-Content-Type-Options", "nosniff")
	// The order is another one for each client; a cache would give all the same.
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

// discovery adds up what the vhosts have to tell, each thing once. URLs of ours at
// which none of the domains would be taken are left out.
func (s *Site) discovery(r *http.Request, name string, vhosts []*vhost) (d xmpp.Discovery) {
	for _, v := range vhosts {
		urls := slices.DeleteFunc(slices.Clone(v.urls()), func(u string) bool { return !s.takes(u, v.about(name)) })
		own := s.own(r, name, v)
		if len(urls) == 0 && own != "" {
			path := v.Path
			if path == "" {
				path = "/"
			}
			urls = []string{"wss://" + own + path}
		}
		for _, u := range urls {
			if !slices.Contains(d.WebSocket, u) {
				d.WebSocket = append(d.WebSocket, u)
			}
		}
		links := v.Links
		if v.bosh != nil && own != "" {
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

// about returns the XMPP domains that a document of v is about, where name was
// asked for it: that, or all of v's where it is no domain but an address of theirs.
func (v *vhost) about(name string) []string {
	if len(v.Domains) == 0 || slices.Contains(v.Domains, name) || slices.Contains(v.Domains, wildcard(name)) {
		return []string{name}
	}
	return v.Domains
}

// takes reports whether streams to one of the domains, which may be wildcards, are
// taken at a URL.
func (s *Site) takes(wss string, domains []string) bool {
	u, err := url.Parse(wss)
	if err != nil || s.options.AllowsDomain == nil {
		return true
	}
	return slices.ContainsFunc(domains, func(domain string) bool { return s.options.AllowsDomain(u.Hostname(), domain) == nil })
}

package web

import (
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A vhost is a Vhost with what is made of it.
type vhost struct {
	Vhost
	bosh *bosh // nil: none
}

// urls are the URLs to list that are not the gate's own.
func (v *vhost) urls() []string {
	if v.WebSocket == nil {
		return nil
	}
	urls, _ := v.WebSocket()
	return urls
}

// New makes a Site.
func New(o Options) *Site {
	s := &Site{options: o, names: map[string]*vhost{}, domains: map[string][]*vhost{}, log: o.Log}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.options.HasCertificate == nil {
		s.options.HasCertificate = func(string) bool { return true }
	}
	if s.options.MaxBody == 0 {
		s.options.MaxBody = 1 << 20
	}
	if s.options.IdleBOSH == 0 {
		s.options.IdleBOSH = boshIdle
	}
	s.asked = newAskedLogins()
	s.slots = &boshSlots{most: cmp.Or(o.BOSHRequests, boshRequests)}
	s.transports = transports(append(o.Vhosts[:len(o.Vhosts):len(o.Vhosts)], o.Any), s.options.IdleBOSH)
	if len(o.Vhosts) == 0 {
		s.any = s.newVhost(o.Any)
	}
	for _, options := range o.Vhosts {
		v := s.newVhost(options)
		for _, name := range v.Names {
			s.names[name] = v
		}
		for _, domain := range v.Domains {
			s.domains[domain] = append(s.domains[domain], v)
		}
	}
	return s
}

func (s *Site) newVhost(o Vhost) *vhost {
	v := &vhost{Vhost: o}
	if o.BOSH != nil {
		v.bosh = newBOSH(o, s.slots, s.transports[o.way()], s.log)
	}
	return v
}

// Close gives up idle connections to BOSH. Requests are still answered.
func (s *Site) Close() {
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

// byName returns the vhost of a server name, the exact one before a wildcard of
// one label; nil where there is none.
func (s *Site) byName(name string) *vhost {
	if s.any != nil && s.options.HasCertificate(name) {
		return s.any
	}
	if v := s.names[normal(name)]; v != nil {
		return v
	}
	return s.names[wildcard(name)]
}

// byDomain returns all vhosts that may take streams to an XMPP domain.
func (s *Site) byDomain(domain string) []*vhost {
	if vs := s.domains[normal(domain)]; len(vs) > 0 {
		return vs
	}
	return s.domains[wildcard(domain)]
}

// normal is the normal form of a name that is ASCII already, as Host and the
// TLS server name are.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// wildcard returns the wildcard that a name falls under.
func wildcard(name string) string {
	_, rest, _ := strings.Cut(normal(name), ".")
	return "*." + rest
}

// authority is a name with the port of the TLS listener.
func (s *Site) authority(name string) string {
	return withPort(name, strconv.Itoa(cmp.Or(s.options.Port, 443)))
}

func withPort(name, port string) string {
	if port == "443" {
		return name
	}
	return net.JoinHostPort(name, port)
}

// own returns where the gate itself serves a vhost, as a client may be told who
// asked under name: host and perhaps port; empty where nobody can say.
func (s *Site) own(r *http.Request, name string, v *vhost) string {
	covers := v == s.any || slices.Contains(v.Names, name) || slices.Contains(v.Names, wildcard(name))
	authority := s.authority
	if _, port, err := net.SplitHostPort(r.Host); r.TLS != nil && err == nil && port != "" {
		// What worked for this request works again, behind a port mapping too.
		authority = func(name string) string { return withPort(name, port) }
	} else if r.TLS != nil && covers {
		return name
	}
	if covers {
		return authority(name)
	}
	for _, other := range v.Names {
		if !strings.HasPrefix(other, "*.") {
			return authority(other)
		}
	}
	// Names are wildcards all: only what is configured helps.
	if urls := v.urls(); len(urls) > 0 {
		if u, err := url.Parse(urls[0]); err == nil {
			return u.Host
		}
	}
	return ""
}

// hostName takes a Host apart and returns its name in normal form, without the
// port. It reports false for what is no name: a redirect would repeat it.
func hostName(host string) (name string, ok bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	name = normal(host)
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return "", false
		}
	}
	return name, name != "" && len(name) <= 253
}

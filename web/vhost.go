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

// A vhost is a Vhost with the values derived from it.
type vhost struct {
	Vhost
	bosh *bosh // nil: no BOSH
}

// urls returns the configured URLs, without the gate's own.
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

// Close closes idle connections to BOSH servers. Requests are still answered.
func (s *Site) Close() {
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

// byName returns the vhost of a server name, or nil. An exact name wins over a
// wildcard.
func (s *Site) byName(name string) *vhost {
	if s.any != nil && s.options.HasCertificate(name) {
		return s.any
	}
	if v := s.names[normal(name)]; v != nil {
		return v
	}
	return s.names[wildcard(name)]
}

// byDomain returns all vhosts that may accept streams to an XMPP domain.
func (s *Site) byDomain(domain string) []*vhost {
	if vs := s.domains[normal(domain)]; len(vs) > 0 {
		return vs
	}
	return s.domains[wildcard(domain)]
}

// normal returns the normal form of a name in ASCII, such as a Host or a TLS server
// name.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// wildcard returns the wildcard that covers a name.
func wildcard(name string) string {
	_, rest, _ := strings.Cut(normal(name), ".")
	return "*." + rest
}

// authority returns a name with the port of the TLS listener.
func (s *Site) authority(name string) string {
	return withPort(name, strconv.Itoa(cmp.Or(s.options.Port, 443)))
}

func withPort(name, port string) string {
	if port == "443" {
		return name
	}
	return net.JoinHostPort(name, port)
}

// own returns the host, and port if needed, at which the gate serves a vhost, for a
// client that asked for name. It is empty if unknown.
func (s *Site) own(r *http.Request, name string, v *vhost) string {
	covers := v == s.any || slices.Contains(v.Names, name) || slices.Contains(v.Names, wildcard(name))
	authority := s.authority
	if _, port, err := net.SplitHostPort(r.Host); r.TLS != nil && err == nil && port != "" {
		// The address of this request works again, even behind a port mapping.
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
	// All names are wildcards: only configured URLs help.
	if urls := v.urls(); len(urls) > 0 {
		if u, err := url.Parse(urls[0]); err == nil {
			return u.Host
		}
	}
	return ""
}

// hostName returns the name in a Host, in normal form and without the port. It reports
// false for invalid names: a redirect would repeat them.
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

package web

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A table is a Site's options, ready to be looked up. It never changes.
type table struct {
	options Options
	names   map[string]*vhost   // by server name, or "*." and what follows one label
	domains map[string][]*vhost // by XMPP domain likewise; several may have one
	any     *vhost              // where no vhost is configured
	log     *slog.Logger
}

// A vhost is a Vhost with what is made of it.
type vhost struct {
	Vhost
	bosh *bosh // nil: none
}

func newTable(o Options) *table {
	t := &table{options: o, names: map[string]*vhost{}, domains: map[string][]*vhost{}, log: o.Log}
	if t.log == nil {
		t.log = slog.Default()
	}
	if t.options.MaxBody == 0 {
		t.options.MaxBody = 1 << 20
	}
	if len(o.Vhosts) == 0 {
		t.any = newVhost(o.Any, t.log)
	}
	for _, options := range o.Vhosts {
		v := newVhost(options, t.log)
		for _, name := range v.Names {
			t.names[name] = v
		}
		for _, domain := range v.Domains {
			t.domains[domain] = append(t.domains[domain], v)
		}
	}
	return t
}

func newVhost(o Vhost, log *slog.Logger) *vhost {
	v := &vhost{Vhost: o}
	if o.BOSH != nil {
		v.bosh = newBOSH(o.BOSH, o.TLS, log)
	}
	return v
}

// close gives up what is idle.
func (t *table) close() {
	if t.any != nil && t.any.bosh != nil {
		t.any.bosh.close()
	}
	for _, v := range t.names {
		if v.bosh != nil {
			v.bosh.close()
		}
	}
}

// byName returns the vhost of a server name, the exact one before a wildcard of
// one label; nil where there is none.
func (t *table) byName(name string) *vhost {
	if t.any != nil && t.options.HasCertificate(name) {
		return t.any
	}
	if v := t.names[normal(name)]; v != nil {
		return v
	}
	return t.names[wildcard(name)]
}

// byDomain returns all vhosts that may take streams to an XMPP domain.
func (t *table) byDomain(domain string) []*vhost {
	if vs := t.domains[normal(domain)]; len(vs) > 0 {
		return vs
	}
	return t.domains[wildcard(domain)]
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
func (t *table) authority(name string) string {
	if t.options.Port == 0 || t.options.Port == 443 {
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(t.options.Port))
}

// own returns where the gate itself serves a vhost, as a client may be told who
// asked under name: host and perhaps port; empty where nobody can say.
func (t *table) own(r *http.Request, name string, v *vhost) string {
	covers := v == t.any || slices.Contains(v.Names, name) || slices.Contains(v.Names, wildcard(name))
	if covers && r.TLS != nil {
		// What worked for this request works again, behind a port mapping too.
		if _, port, err := net.SplitHostPort(r.Host); err == nil && port != "443" {
			return net.JoinHostPort(name, port)
		}
		return name
	}
	if covers {
		return t.authority(name)
	}
	for _, other := range v.Names {
		if !strings.HasPrefix(other, "*.") {
			return t.authority(other)
		}
	}
	// Names are wildcards all: only what is configured helps.
	if len(v.WebSocket) > 0 {
		if u, err := url.Parse(v.WebSocket[0]); err == nil {
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

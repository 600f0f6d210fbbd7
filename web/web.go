// Package web answers HTTP requests that are not WebSocket upgrades: discovery
// documents (XEP-0156), BOSH (XEP-0124), a page for people who open the address in a
// browser, and on plain HTTP a redirect to https.
//
// It has no listeners. A [Site] handles requests with and without TLS; packages proxy
// and gate serve them. It reads no files. Its Options have a function that reports
// which names have a certificate.
//
//	path                            under TLS            plain
//	/.well-known/host-meta          XRD                  XRD
//	/.well-known/host-meta.json     JRD                  JRD
//	/nodes.json                     list of URLs         list of URLs
//	the path of the vhost's BOSH    its BOSH             redirect
//	/                               a page               redirect
//	where WebSockets are accepted   426                  redirect
//	others                          404                  redirect
//
// The TLS server name or the Host selects the vhost. A vhost answers for its names, and
// for its XMPP domains, because XEP-0156 uses https://DOMAIN/. Names without a vhost
// get 404 for every path.
package web

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"wssgate/xmpp"
)

// Options configure a Site.
type Options struct {
	// Vhosts in the order of the configuration. If there are none, Any applies: it has
	// every name with a certificate.
	Vhosts []Vhost
	Any    Vhost

	// HasCertificate reports whether a server name can be reached under TLS. Nil: all
	// can.
	HasCertificate func(serverName string) bool

	// AllowsOrigin returns an error if the Origin of a browser may not use the vhost of
	// a server name. Nil: every origin may.
	AllowsOrigin func(serverName, origin string) error

	// TakesStream returns an error if the vhost of a server name accepts no streams to
	// an XMPP domain at a path now. Nil: it accepts all.
	TakesStream func(serverName, path, domain string) error

	// AllowsClient returns an error if a client may not use the vhost of a name. The
	// name comes from TLS or from a plain HTTP request, and may have no vhost. Nil:
	// every client may. The address is zero for unix sockets.
	AllowsClient func(name string, client netip.Addr) error

	// TurnsAway reports whether a drain refuses new clients of a server name; its BOSH
	// then answers 503. Nil: never.
	TurnsAway func(serverName string) bool

	// Logins counts failed logins over BOSH. Nil: they are not counted.
	Logins Logins

	// Port is the port of the TLS listener, for URLs in answers to requests on other
	// ports. 0: 443.
	Port int

	// MaxBody bounds the body of a BOSH request, in bytes. 0: 1 MiB.
	MaxBody int64

	// IdleBOSH is the maximum number of idle connections to BOSH servers, for all
	// vhosts together. 0: 64.
	IdleBOSH int

	// BOSHRequests is the maximum number of concurrent BOSH requests, for all vhosts
	// together. 0: 2048.
	BOSHRequests int

	// Page answers all other requests under TLS. Nil: a page that explains the address,
	// and 404.
	Page http.Handler

	Log *slog.Logger // nil: slog.Default()
}

// Logins counts failed logins by client address. A proxy.Server implements it.
type Logins interface {
	// LoginsRefused returns how long a client is refused for failed logins. 0: it is
	// not.
	LoginsRefused(r *http.Request) time.Duration

	// LoginsEnded is called with the number of logins that failed in the answer to a
	// request; 0 means that one succeeded. The answer waits for slow. If banned is not
	// 0, the client gets no answer for that long, this one included.
	LoginsEnded(r *http.Request, failed int) (slow, banned time.Duration)
}

// A Vhost describes how a Site answers for some names.
type Vhost struct {
	Names   []string // TLS server names in their normal form, exact or "*."
	Domains []string // XMPP domains, likewise; discovery answers for them too

	// WebSocket returns the wss URLs to list now. Nil, or an empty list without all:
	// the URL of this request, or of the TLS listener, with Path. URLs with our names
	// are listed only if the client can use them now.
	WebSocket func() (urls []string, all bool)
	Path      string // empty: "/"

	// BOSH is the server for requests to its path. Nil: none.
	BOSH *url.URL
	TLS  *tls.Config // for an https BOSH; nil: the system's roots. Vhosts that share one share connections

	// Sources are the addresses from which BOSH servers are dialled, as for
	// ports.Memory.Dial.
	Sources []netip.Addr

	// AllowsDomain returns an error if clients may not open a stream by BOSH to an XMPP
	// domain, in normal form. Nil: all are allowed.
	AllowsDomain func(domain string) error

	Links []xmpp.Link // further links of the discovery documents
}

// A Site answers requests by its Options. It never changes: a reload makes a new one.
// Its methods are safe for concurrent use.
type Site struct {
	options Options
	names   map[string]*vhost   // by server name, or by "*." plus the rest of a wildcard
	domains map[string][]*vhost // by XMPP domain, likewise; several vhosts may share one
	any     *vhost              // if no vhost is configured
	log     *slog.Logger

	asked      *askedLogins            // by all vhosts' BOSH
	slots      *boshSlots              // of all vhosts' BOSH
	transports map[way]*http.Transport // to BOSH
}

// ServeHTTP answers a request. The server name selects the vhost under TLS, and must
// agree with Host; without TLS, Host does. Connections end with the answer, except for
// BOSH: clients do not ask for a second document or page.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	keep := w.Header().Get("Connection") != "close"
	w.Header().Set("Connection", "close")
	if r.TLS == nil {
		s.plain(w, r)
		return
	}
	name := normal(r.TLS.ServerName)
	v := s.byName(name)
	switch {
	case !s.allowsClient(r, name):
		forbidden(w)
	case isDiscovery(r.URL.Path):
		s.discover(w, r, name, v)
	case v == nil:
		notFound(w, "There is no XMPP service for this name.")
	case v.bosh != nil && r.URL.Path == v.bosh.path:
		v.bosh.serve(w, r, s, keep)
	case s.options.Page != nil:
		s.options.Page.ServeHTTP(w, r)
	default:
		s.page(w, r, v)
	}
}

// keepsOut returns an error if the client may not use the vhost of a name.
func (s *Site) keepsOut(r *http.Request, name string) error {
	if s.options.AllowsClient == nil {
		return nil
	}
	client, _ := netip.ParseAddrPort(r.RemoteAddr)
	return s.options.AllowsClient(name, client.Addr())
}

func (s *Site) allowsClient(r *http.Request, name string) bool {
	err := s.keepsOut(r, name)
	if err != nil {
		s.log.Debug("request refused", "client", r.RemoteAddr, "host", r.Host, "code", http.StatusForbidden, "err", err)
	}
	return err == nil
}

func notFound(w http.ResponseWriter, text string) {
	http.Error(w, "404 Not Found\n\n"+text, http.StatusNotFound)
}

// allow reports whether the request has one of the methods. If it has not, allow
// answers the request.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	list := strings.Join(methods, ", ")
	w.Header().Set("Allow", list)
	http.Error(w, "405 Method Not Allowed\n\nThis path accepts "+list+".", http.StatusMethodNotAllowed)
	return false
}

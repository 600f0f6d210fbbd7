// Package web answers HTTP requests that are not WebSocket upgrades:
// discovery documents (XEP-0156), BOSH (XEP-0124), a page for people who open
// the address in a browser, and on plain HTTP a redirect to https.
//
// It has no listeners. A [Site] handles requests with and without TLS; packages proxy
// and gate serve them. It reads no files, and its Options say which names have a
// certificate.
//
//	path                            under TLS            plain
//	/.well-known/host-meta          XRD                  XRD
//	/.well-known/host-meta.json     JRD                  JRD
//	/nodes.json                     list of URLs         list of URLs
//	the path of the vhost's BOSH    its BOSH             redirect
//	/                               a page               redirect
//	where WebSockets are taken      426                  redirect
//	others                          404                  redirect
//
// Whose document it is, says the TLS server name or Host: a vhost answers for
// its names, and for its XMPP domains, as XEP-0156 asks at https://DOMAIN/.
// Names that nobody serves get 404 for everything.
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
	// Vhosts in the order of the configuration. Any stands for them where there
	// are none: it has every name with a certificate.
	Vhosts []Vhost
	Any    Vhost

	// HasCertificate reports whether a server name can be reached under TLS. Nil: all
	// can.
	HasCertificate func(serverName string) bool

	// AllowsOrigin returns an error where a browser's Origin may not use the
	// vhost of a server name. Nil: any may.
	AllowsOrigin func(serverName, origin string) error

	// TakesStream returns an error where the vhost of a server name takes no streams
	// to an XMPP domain at a path now. Nil: all take any.
	TakesStream func(serverName, path, domain string) error

	// AllowsClient returns an error where a client may not use the vhost of a
	// server name, or of a name that plain HTTP was asked for; it may be of no
	// vhost. Nil: any client may. Addresses are zero for unix sockets.
	AllowsClient func(name string, client netip.Addr) error

	// TurnsAway reports whether a drain keeps new clients of a server name out;
	// its BOSH then answers 503. Nil: never.
	TurnsAway func(serverName string) bool

	// Logins judges those that fail over BOSH; nil: nobody does.
	Logins Logins

	// Port is where clients reach the TLS listener, for URLs in answers to
	// requests that came another way. 0: 443.
	Port int

	// MaxBody bounds the body of a BOSH request, in bytes. 0: 1 MiB.
	MaxBody int64

	// IdleBOSH is how many connections to BOSH servers may be kept idle, all
	// vhosts together. 0: 64.
	IdleBOSH int

	// BOSHRequests is how many requests of BOSH are under way at once, of all vhosts
	// together. 0: 2048.
	BOSHRequests int

	// Page answers what nothing else does under TLS. Nil: a page that says what
	// this is, and 404.
	Page http.Handler

	Log *slog.Logger // nil: slog.Default()
}

// Logins counts failed logins by client address. A Server of package proxy does.
type Logins interface {
	// LoginsRefused says for how long a request is to be refused for them; 0: it
	// is not.
	LoginsRefused(r *http.Request) time.Duration

	// LoginsEnded is told how many logins failed in the answer to a request; none
	// where there is one that did not. The answer then waits for slow; or banned
	// says for how long that client gets none, this one neither.
	LoginsEnded(r *http.Request, failed int) (slow, banned time.Duration)
}

// A Vhost describes how a Site answers for some names.
type Vhost struct {
	Names   []string // TLS server names in their normal form, exact or "*."
	Domains []string // XMPP domains likewise, which discovery answers for too

	// WebSocket returns the wss URLs to list now. Nil, or none unless that is all:
	// the URL that the request was made at, or would be on the TLS listener, with
	// Path. Of those at our names only what the client can use now is listed.
	WebSocket func() (urls []string, all bool)
	Path      string // empty: "/"

	// BOSH is where requests for its path go; nil: nowhere.
	BOSH *url.URL
	TLS  *tls.Config // for a BOSH that is https; nil: the system's roots. Vhosts with one in common share connections

	// Sources are the addresses from which BOSH servers are dialled, as for
	// ports.Memory.Dial.
	Sources []netip.Addr

	// AllowsDomain returns an error where a stream by BOSH may not be opened to an
	// XMPP domain, in its normal form. Nil: to any.
	AllowsDomain func(domain string) error

	Links []xmpp.Link // further links of the discovery documents
}

// A Site answers requests by its Options. It never changes: a reload makes a new one.
// Its methods are safe for concurrent use.
type Site struct {
	options Options
	names   map[string]*vhost   // by server name, or "*." and what follows one label
	domains map[string][]*vhost // by XMPP domain likewise; several may have one
	any     *vhost              // where no vhost is configured
	log     *slog.Logger

	asked      *askedLogins            // by all vhosts' BOSH
	slots      *boshSlots              // of all vhosts' BOSH
	transports map[way]*http.Transport // to BOSH
}

// ServeHTTP answers a request that came under TLS for the server name that its
// Host agrees with, and one that came without for its Host. Connections end with
// the answer, but for those of BOSH that the caller would keep: who gets a document
// or a page has no second question.
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

// keepsOut returns an error where the client may not use the vhost of a name.
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

// allow answers requests by other methods than these, and reports whether it
// did not have to.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	list := strings.Join(methods, ", ")
	w.Header().Set("Allow", list)
	http.Error(w, "405 Method Not Allowed\n\nThis path accepts "+list+".", http.StatusMethodNotAllowed)
	return false
}

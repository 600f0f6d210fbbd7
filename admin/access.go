package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Access configures who may do what. A Server accepts a new one at any time.
type Access struct {
	// Token is what every request must bear, but those in open. Empty: none,
	// and then only the machine itself is answered.
	Token string

	// Debug adds /debug/pprof/.
	Debug bool
}

// SetAccess replaces the Access for requests that come from now on.
func (s *Server) SetAccess(a Access) { s.access.Store(&a) }

// open are the paths that need no token: what a kubelet's probe asks, which
// can't keep a secret, and the page, which is empty until somebody logs in.
var open = map[string]bool{"/healthz": true, "/readyz": true, "/": true}

// allows reports whether a request bears the token, if there is one
// (RFC 6750, section 2.1).
func (a *Access) allows(r *http.Request) bool {
	if a.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Sums are of one length, so that the time tells nothing of the token's.
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(a.Token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// guard keeps out what neither the operator nor a program of the operator's
// has sent.
//
// A browser can be made to send requests by any page that it shows. Three
// things tell them from the operator's own. Origin and Sec-Fetch-Site say from
// where a page makes a request to somewhere else. DNS rebinding makes that
// somewhere else look like the page's own: the attacker's name then resolves
// to our address; but it is the attacker's name that stands in Host. And no
// answer allows another origin to read it. A page can't add the Authorization
// of somebody else, so that a request with the token may have any Host.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := s.access.Load()
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

		refuse := func(status int, why string) {
			s.log.Debug("admin request refused", "client", r.RemoteAddr, "host", r.Host, "path", r.URL.Path, "code", status, "err", why)
			http.Error(w, why, status)
		}
		bears := a.allows(r)
		if !bears && r.Header.Get("Authorization") != "" {
			// Whatever it asks for: the answers of open paths differ too.
			s.guesses.wrong(r, s.log)
		}
		switch {
		case a.Token == "" && !isLocal(r):
			refuse(http.StatusForbidden, "403 Forbidden\n\nWithout admin_token_file, only requests from this machine are allowed.")
		case !sameSite(r):
			refuse(http.StatusForbidden, "403 Forbidden\n\nThis request comes from a page of another site. If you followed a link, copy its address instead.")
		case !bears && !open[r.URL.Path]:
			h.Set("WWW-Authenticate", `Bearer realm="wssgate"`)
			refuse(http.StatusUnauthorized, "401 Unauthorized\n\nSend \"Authorization: Bearer TOKEN\" with the token in admin_token_file.")
		case !isPlainHost(r.Host) && !(a.Token != "" && (bears || r.URL.Path == "/")):
			refuse(http.StatusMisdirectedRequest, "421 Misdirected Request\n\nUse an IP address or localhost in place of the name, or send the token.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether a request came over loopback or a unix socket.
func isLocal(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.Network() == "unix"
	}
	return tcp.IP.IsLoopback()
}

// sameSite reports whether a request comes from no page at all, from our own,
// or from somebody who typed the address (Fetch Metadata, section 2.4).
func sameSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return false
	}
	origin := r.Header.Values("Origin")
	if len(origin) == 0 {
		return true
	}
	u, err := url.Parse(origin[0])
	// What terminates TLS in front of us makes it https.
	return err == nil && len(origin) == 1 && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// isPlainHost reports whether a Host is an IP address or localhost: what no
// attacker can make resolve to something else. No Host at all is one, too: so
// a load balancer's check in HTTP/1.0 asks, and no browser does.
func isPlainHost(hostport string) bool {
	host := hostport
	if host == "" {
		return true
	}
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

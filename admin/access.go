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

// Access configures the permissions of requests. A Server accepts a new one at any
// time.
type Access struct {
	// Token must be in every request, except for the paths in open. Empty: no token;
	// then the Server answers only requests from this machine.
	Token string

	// Debug adds /debug/pprof/.
	Debug bool
}

// SetAccess replaces the Access for later requests. It is safe for concurrent use.
func (s *Server) SetAccess(a Access) { s.access.Store(&a) }

// open are the paths that need no token: those for a kubelet's probes, which can't
// keep a secret, and the page, which is empty until somebody logs in.
var open = map[string]bool{"/healthz": true, "/readyz": true, "/": true}

// allows reports whether a request has the token, if one is required (RFC 6750,
// section 2.1).
func (a *Access) allows(r *http.Request) bool {
	if a.Token == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Sums have one length, so the time reveals nothing about the token's length.
	got, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(a.Token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// guard refuses requests that come neither from the operator nor from one of the
// operator's programs.
//
// Any page can make the browser that shows it send requests. Three checks distinguish
// those from the operator's. Origin and Sec-Fetch-Site name the source of a
// cross-origin request. With DNS rebinding a request looks same-origin, because the
// attacker's name resolves to our address, but Host contains the attacker's name. No
// answer allows another origin to read it. A page can't add an Authorization that it
// does not know, so a request with the token may have any Host.
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
			// For all paths, because the answers of open paths differ as well.
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

// sameSite reports whether a request comes from our own page, from an address that a
// person entered, or not from a page at all (Fetch Metadata, section 2.4).
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
	// https: a TLS terminator may be in front of the gate.
	return err == nil && len(origin) == 1 && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// isPlainHost reports whether a Host is an IP address or localhost, which an attacker
// can't make resolve to another address. A missing Host counts as well: a load
// balancer's HTTP/1.0 check has none, and a browser always sends it.
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

package web

import (
	"log/slog"
	"net/http"
	"time"
)

// plain answers a request without TLS.
func (s *Site) plain(w http.ResponseWriter, r *http.Request) {
	name, ok := hostName(r.Host)
	switch {
	case !ok:
		http.Error(w, "400 Bad Request\n\nThe request's Host is not a name.", http.StatusBadRequest)
	case !s.allowsClient(r, name):
		forbidden(w)
	case isDiscovery(r.URL.Path):
		s.discover(w, r, name, s.byName(name))
	default:
		s.redirect(w, r, name)
	}
}

// redirect sends a client to the same path under https, if the name has TLS.
func (s *Site) redirect(w http.ResponseWriter, r *http.Request, name string) {
	if s.byName(name) == nil && !s.options.HasCertificate(name) {
		notFound(w, "Nothing is served under this name.")
		return
	}
	target := r.URL.EscapedPath()
	if target == "" || target[0] != '/' { // of "OPTIONS *" and CONNECT
		target = "/"
	}
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", "https://"+s.authority(name)+target)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// Limits of the server for plain HTTP. It serves nothing large or slow.
const (
	plainHeader    = 5 * time.Second  // for a request's header
	plainTimeout   = 10 * time.Second // for a request, and again for its answer
	plainMaxHeader = 8 << 10          // bytes; net/http adds 4 KiB of its own
)

// NewPlainServer returns a server for plain HTTP around a handler, which is a Site or
// wraps one. A connection serves one request, and lasts at most 20 s. The listener must
// limit the number of connections.
func NewPlainServer(handler http.Handler, log *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: plainHeader,
		ReadTimeout:       plainTimeout,
		WriteTimeout:      plainTimeout,
		MaxHeaderBytes:    plainMaxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	return server
}

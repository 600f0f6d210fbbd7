package proxy

import (
	"net/http"

	"wssgate/panics"
)

// panicked is panics.Caught with the Server's log.
func (s *Server) panicked(where panics.Place, v any, attrs ...any) {
	panics.Caught(s.log, where, v, attrs...)
}

// Recover returns a handler that calls next; a panic in it ends only that request and
// its connection. net/http does this as well, but logs the panic like the errors of
// scanners.
func (s *Server) Recover(where panics.Place, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler { // a handler's way to end the connection
					s.panicked(where, v, "client", r.RemoteAddr, "path", r.URL.Path)
				}
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// A panicFunc is told of a panic in the goroutine that panicked.
type panicFunc = func(where panics.Place, cause any, attrs ...any)

package proxy

import (
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
)

// panicPlaces are where panics are caught; each is counted from the start.
var panicPlaces = []string{"admin", "http", "pages"}

// Panicked writes a panic down, with the stack of the goroutine that calls, and
// counts it under a word of the program's own. v is what recover returned.
func (s *Server) Panicked(where string, v any) {
	s.stats.panics.get(where, func() *atomic.Int64 { return new(atomic.Int64) }).Add(1)
	s.log.Error("panic", "where", where, "err", v, "stack", string(debug.Stack()))
}

// Recover returns next, of which a panic ends that request and its connection
// alone. It is written down as one of where.
func (s *Server) Recover(where string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler: // a handler's way to end the connection
				panic(v)
			default:
				s.Panicked(where, v)
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// DeniesPlain reports whether a client may not even connect without TLS, and counts
// it. One that is only not among those allowed may: a CA that looks for an answer to
// its http-01 challenge is no client.
func (s *Server) DeniesPlain(client netip.Addr) bool {
	denies := s.now.Load().Access.Denies(client)
	if denies {
		s.stats.refused[limitAccess].Add(1)
	}
	return denies
}

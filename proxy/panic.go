package proxy

import (
	"net/http"
	"runtime/debug"
)

// A PanicPlace is where a panic was met. None ends the process: what it happened to
// ends, its place is given back, and somebody is told.
type PanicPlace int

const (
	PanicHandshake PanicPlace = iota // TLS of a client
	PanicRequest                     // a client's request, up to the 101, the dial included
	PanicTunnel                      // a turn of a tunnel
	PanicPages                       // a handler of Configuration.Pages
	PanicHTTP                        // one of plain HTTP
	PanicAdmin                       // the operator's listener
)

var panicPlaces = [...]string{
	PanicHandshake: "handshake", PanicRequest: "request", PanicTunnel: "tunnel",
	PanicPages: "pages", PanicHTTP: "http", PanicAdmin: "admin",
}

// Panicked counts a panic and writes it down with the stack. The function that
// recovers from it calls this: v is what recover returned, attrs say whom it met.
func (s *Server) Panicked(where PanicPlace, v any, attrs ...any) {
	s.stats.panics[where].Add(1)
	s.log.Error("panic", append(attrs, []any{"where", panicPlaces[where], "err", v, "stack", string(debug.Stack())}...)...)
}

// Recover returns next, of which a panic ends that request and its connection alone.
// net/http would do that too, but its own line about it is one for scanners.
func (s *Server) Recover(where PanicPlace, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler { // a handler's way to end the connection
					s.Panicked(where, v, "client", r.RemoteAddr, "path", r.URL.Path)
				}
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

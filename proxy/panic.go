package proxy

import (
	"net/http"
	"runtime/debug"
)

// A PanicPlace is the part of the gate that caught a panic. A panic never ends the
// process: it ends the connection or request that caused it, frees its place, and is
// logged and counted.
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

// Panicked counts a panic and logs it with its stack. Call it from the function that
// recovers: v is what recover returned, and attrs identify the connection or request.
func (s *Server) Panicked(where PanicPlace, v any, attrs ...any) {
	s.stats.panics[where].Add(1)
	s.log.Error("panic", append(attrs, []any{"where", panicPlaces[where], "err", v, "stack", string(debug.Stack())}...)...)
}

// Recover returns a handler that calls next; a panic in it ends only that request and
// its connection. net/http does this as well, but logs the panic like the errors of
// scanners.
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

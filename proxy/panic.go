package proxy

import "runtime/debug"

// A PanicPlace is where a panic was met. None ends the process: what it happened to
// ends, its place is given back, and somebody is told.
type PanicPlace int

const (
	PanicHandshake PanicPlace = iota // TLS of a client
	PanicRequest                     // a client's request, up to the 101, the dial included
	PanicPages                       // a handler of Configuration.Pages
	PanicTunnel                      // a turn of a tunnel
	PanicAdmin                       // the operator's listener
)

var panicPlaces = [...]string{
	PanicHandshake: "handshake", PanicRequest: "request", PanicPages: "pages",
	PanicTunnel: "tunnel", PanicAdmin: "admin",
}

// Panicked counts a panic and writes it down with the stack. The function that
// recovers from it calls this: v is what recover returned, attrs say whom it met.
func (s *Server) Panicked(where PanicPlace, v any, attrs ...any) {
	s.stats.panics[where].Add(1)
	s.log.Error("panic", append(attrs, "where", panicPlaces[where], "err", v, "stack", string(debug.Stack()))...)
}

package proxy

import (
	"log/slog"
	"net/http"

	"wssgate/panics"
)

// A panicFunc is called with a panic, in the goroutine that panicked.
type panicFunc = func(where panics.Place, cause any, attrs ...any)

// logPanics returns a panicFunc that writes to log.
func logPanics(log *slog.Logger) panicFunc {
	return func(where panics.Place, cause any, attrs ...any) { panics.Caught(log, where, cause, attrs...) }
}

// recovering implements Server.Recover.
func recovering(panicked panicFunc, where panics.Place, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler { // a handler's way to end the connection
					panicked(where, v, "client", r.RemoteAddr, "path", r.URL.Path)
				}
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// Package panics prevents a panic from ending the process and keeps essential
// goroutines running: every goroutine runs in Catch or Keep, or its function recovers
// by itself and calls Caught. A test of package main finds goroutines that do not.
//
// Each panic is logged as an error with its stack and counted by the Place that caught
// it. A panic while a lock is held without a deferred unlock leaves it locked; this
// package can't prevent that.
package panics

import (
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"time"
)

// A Place is the part of the gate that caught a panic.
type Place string

// All Places. Unless stated otherwise, a panic ends one connection, request or job.
const (
	Handshake    Place = "handshake"    // TLS handshake of a client
	Request      Place = "request"      // a client's request, up to the 101, including the dial
	Tunnel       Place = "tunnel"       // a turn of a tunnel
	Loop         Place = "loop"         // an event loop, outside a turn
	Pages        Place = "pages"        // HTTP of a client on a TLS listener
	HTTP         Place = "http"         // plain HTTP
	Admin        Place = "admin"        // the operator's listener
	Listener     Place = "listener"     // accepting
	Reload       Place = "reload"       // reading the configuration
	Files        Place = "files"        // a job on files
	Config       Place = "config"       // watching the configuration
	Access       Place = "access"       // watching access lists
	Certificates Place = "certificates" // reading and watching certificates
	ACME         Place = "acme"         // obtaining certificates
	DNS          Place = "dns"          // resolving and watching names
	Probe        Place = "probe"        // probing nodes
	Memory       Place = "memory"       // watching memory
	Log          Place = "log"          // writing the log
	Systemd      Place = "systemd"      // notifying systemd
	Process      Place = "process"      // start, signals, drain
)

var all = []Place{Handshake, Request, Tunnel, Loop, Pages, HTTP, Admin, Listener, Reload, Files, Config, Access,
	Certificates, ACME, DNS, Probe, Memory, Log, Systemd, Process}

var counts = struct {
	sync.Mutex
	of map[string]int64
}{of: map[string]int64{}}

// Counts returns how many panics each Place has caught since the process began.
func Counts() map[string]int64 {
	counts.Lock()
	defer counts.Unlock()
	n := make(map[string]int64, len(all))
	for _, p := range all {
		n[string(p)] = 0
	}
	maps.Copy(n, counts.of)
	return n
}

// Caught counts a panic and logs it with its stack. Call it from the function that
// recovers: v is what recover returned, and attrs identify the connection or request.
// A nil log is slog.Default().
func Caught(log *slog.Logger, where Place, v any, attrs ...any) {
	counts.Lock()
	counts.of[string(where)]++
	counts.Unlock()
	if log == nil {
		log = slog.Default()
	}
	log.Error("panic", append(attrs, []any{"where", string(where), "err", v, "stack", string(debug.Stack())}...)...)
}

// Catch calls f. A panic in it is caught and returned as the error.
func Catch(where Place, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
			Caught(nil, where, v)
		}
	}()
	f()
	return nil
}

// Do returns the results of f; a panic in f becomes its error.
func Do[T any](where Place, f func() (T, error)) (v T, err error) {
	if caught := Catch(where, func() { v, err = f() }); caught != nil {
		err = caught
	}
	return v, err
}

// The pauses before f is called again.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// Keep calls f until it returns. After a panic it calls f again after a pause, which
// grows while f soon panics again; it returns instead if stop is closed by then. A nil
// stop is never closed. Deferred calls of f run after each panic.
func Keep(stop <-chan struct{}, where Place, f func()) {
	pause := minPause
	for {
		began := time.Now()
		if Catch(where, f) == nil {
			return
		}
		if time.Since(began) > maxPause {
			pause = minPause
		}
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

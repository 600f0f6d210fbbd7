package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"wssgate/fair"
	"wssgate/panics"
	"wssgate/web"
)

// plainHTTP serves listen.http. Its methods belong to one goroutine, except for
// those of its handler.
type plainHTTP struct {
	log       *slog.Logger
	server    *http.Server
	conns     *fair.Conns
	listeners map[string]net.Listener // by address in the configuration
	failed    chan<- error
	serving   sync.WaitGroup
}

// newPlainHTTP makes a server around a handler. conns limits its connections.
func newPlainHTTP(handler http.Handler, conns *fair.Conns, log *slog.Logger, failed chan<- error) *plainHTTP {
	server := web.NewPlainServer(handler, log)
	server.ConnContext, server.ConnState = conns.ConnContext, conns.ConnState
	return &plainHTTP{log: log, server: server, conns: conns, listeners: map[string]net.Listener{}, failed: failed}
}

// accept begins to serve listeners.
func (p *plainHTTP) accept(opened map[string]net.Listener) {
	for addr, ln := range opened {
		p.listeners[addr] = ln
		p.log.Info("listening", "listener", "http", "addr", ln.Addr().String())
		p.serving.Go(func() { p.serve(addr, p.conns.Listen(ln)) })
	}
}

// leave closes the listeners that are not in addrs.
func (p *plainHTTP) leave(addrs []string) {
	for addr, ln := range p.listeners {
		if !slices.Contains(addrs, addr) {
			ln.Close()
			delete(p.listeners, addr)
			p.log.Info("no longer listening", "listener", "http", "addr", ln.Addr().String())
		}
	}
}

func (p *plainHTTP) serve(addr string, ln net.Listener) {
	_, err := panics.Do(panics.HTTP, func() (struct{}, error) { return struct{}{}, p.server.Serve(ln) })
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return // closed on purpose
	}
	select {
	case p.failed <- fmt.Errorf("listener %q: %w", addr, err):
	default: // the first error is enough
	}
}

// shutdown closes the listeners. It closes the connections once they are
// answered, or patience is over. Call it once.
func (p *plainHTTP) shutdown(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		p.server.Close()
	}
	p.serving.Wait()
}

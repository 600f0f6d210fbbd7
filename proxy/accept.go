package proxy

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// An acceptor accepts connections from any number of listeners until it is closed. Its
// methods are safe for concurrent use.
type acceptor struct {
	log   *slog.Logger
	door  *door
	admit func(net.Conn) // owns the connection; the next accept waits for its return
	stop  chan struct{}  // closed by close

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
}

func newAcceptor(log *slog.Logger, door *door, admit func(net.Conn)) *acceptor {
	return &acceptor{log: log, door: door, admit: admit, stop: make(chan struct{}), listeners: map[net.Listener]struct{}{}}
}

// serve implements Server.Serve.
func (a *acceptor) serve(ln net.Listener) error {
	defer ln.Close()
	if !a.add(ln) {
		return nil
	}
	defer a.remove(ln)
	deferAccept(ln)
	wait := time.Duration(0)
	for {
		a.door.awaitRoom(a.stop)
		conn, err := ln.Accept()
		switch {
		case err == nil:
			wait = 0
			a.admit(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		case passes(err):
			if wait = min(max(2*wait, minAcceptWait), maxAcceptWait); wait == minAcceptWait {
				a.log.Warn("accept", "addr", ln.Addr().String(), "err", err)
			}
			a.door.shed()
			select {
			case <-time.After(wait):
			case <-a.stop:
			}
		default:
			return err
		}
	}
}

// add returns false if the acceptor is closed.
func (a *acceptor) add(ln net.Listener) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.listeners[ln] = struct{}{}
	}
	return !a.closed
}

func (a *acceptor) remove(ln net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.listeners, ln)
}

// close closes the listeners. A second call does nothing.
func (a *acceptor) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	close(a.stop)
	for ln := range a.listeners {
		ln.Close()
	}
}

const (
	minAcceptWait = 5 * time.Millisecond
	maxAcceptWait = time.Second
)

// passes reports whether an accept error is temporary.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EINTR, syscall.EPROTO, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

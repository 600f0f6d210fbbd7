// Package systemd tells systemd the state of the service (sd_notify(3)): that it is
// ready, reloads, drains, and is alive. If systemd did not ask for notifications, it
// does nothing.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"wssgate/files"
	"wssgate/panics"
)

// systemd and a service communicate by environment variables and datagrams: sockets
// that systemd has opened for us (sd_listen_fds(3)), and our state (sd_notify(3)).
// They have no effect elsewhere.

// A Notifier tells systemd the state of the service. A nil Notifier does nothing. Its
// methods do not block: one goroutine sends, in a job of the socket's Place, so that a
// systemd that does not read is a finding, as a file system is.
type Notifier struct {
	conn  net.Conn
	beat  time.Duration // between two watchdog signals; 0: none is expected
	place *files.Place  // of the socket
	path  string        // of the socket
	wake  chan struct{} // pending has something, or it is closed
	done  chan struct{}

	mu      sync.Mutex
	pending []string // waiting to be sent, the oldest first
	closed  bool
}

// maxPending is how many messages wait while systemd does not read. The oldest are
// dropped first, because the newest have the current state.
const maxPending = 16

// New returns nil if systemd did not ask for notifications. getenv is os.Getenv.
func New(getenv func(string) string) (*Notifier, error) {
	address := getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return nil, nil // none, or, in a virtual machine, vsock
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return nil, fmt.Errorf("systemd: NOTIFY_SOCKET: %w", err)
	}
	n := &Notifier{conn: conn, place: files.New("systemd", nil), path: address, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 1 {
			n.beat = time.Duration(usec) * time.Microsecond / 2
		}
	}
	go func() {
		defer close(n.done)
		panics.Keep(n.done, panics.Systemd, n.send)
	}()
	return n, nil
}

// say queues assignments, one per line. A failure to deliver them is logged.
func (n *Notifier) say(lines ...string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.pending = append(n.pending, strings.Join(lines, "\n"))
	n.pending = n.pending[max(0, len(n.pending)-maxPending):]
	n.mu.Unlock()
	n.poke()
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// send sends queued messages until the queue is empty and the notifier is closed.
func (n *Notifier) send() {
	for range n.wake {
		for {
			n.mu.Lock()
			if len(n.pending) == 0 {
				closed := n.closed
				n.mu.Unlock()
				if closed {
					return
				}
				break
			}
			message := n.pending[0]
			n.pending = n.pending[1:]
			n.mu.Unlock()
			_, err := files.Await(context.Background(), n.place, func() (struct{}, error) {
				return struct{}{}, n.place.Call(n.path, func() error {
					_, err := n.conn.Write([]byte(message))
					return err
				})
			})
			if err != nil && !errors.Is(err, net.ErrClosed) {
				slog.Warn("cannot notify systemd", "err", err) // the current default logger, which does not block
			}
		}
	}
}

// Ready reports that the service is ready, after a start or a reload.
func (n *Notifier) Ready(status string) { n.say("READY=1", "STATUS="+oneLine(status)) }

// Reloading must be followed by Ready. The time tells systemd that it answers this
// signal, not an earlier one (Type=notify-reload).
func (n *Notifier) Reloading() {
	n.say("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// Stopping asks for the time that the drain may take in addition to TimeoutStopSec=.
func (n *Notifier) Stopping(status string, takes time.Duration) {
	n.say("STOPPING=1", "STATUS="+oneLine(status), "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(takes.Microseconds(), 10))
}

// Alive sends a watchdog signal, unless another notification is queued.
func (n *Notifier) Alive() {
	if n == nil {
		return
	}
	n.mu.Lock()
	idle := len(n.pending) == 0
	n.mu.Unlock()
	if idle {
		n.say("WATCHDOG=1")
	}
}

// Beats returns a channel that has an entry whenever a watchdog signal is due.
func (n *Notifier) Beats() (c <-chan time.Time, stop func()) {
	if n == nil || n.beat == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(n.beat)
	return t.C, t.Stop
}

// KeepAlive sends watchdog signals until stop is called.
func (n *Notifier) KeepAlive() (stop func()) {
	beats, stopBeats := n.Beats()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		panics.Keep(done, panics.Systemd, func() {
			for {
				select {
				case <-beats:
					n.Alive()
				case <-done:
					return
				}
			}
		})
	}()
	return func() {
		stopBeats()
		close(done)
		<-ended
	}
}

// notifyPatience is how long Close waits for queued messages.
const notifyPatience = 100 * time.Millisecond

// Close sends queued notifications, for at most notifyPatience.
func (n *Notifier) Close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.poke()
	select {
	case <-n.done:
	case <-time.After(notifyPatience):
	}
	n.conn.Close()
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// Package systemd reports the state of the service to systemd (sd_notify(3)):
// ready, reloading, draining, alive. It does nothing if systemd did not ask for
// notifications.
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

// systemd passes NOTIFY_SOCKET and the watchdog's interval in environment
// variables. The service answers with datagrams (sd_notify(3)).

// A Notifier reports the state of the service to systemd. A nil Notifier does
// nothing. Its methods are safe for concurrent use and do not block: one
// goroutine sends, in a job of the socket's Place. So a systemd that does not
// read becomes a finding, like a file system that hangs.
type Notifier struct {
	conn  net.Conn
	beat  time.Duration // interval of watchdog signals; 0: none are expected
	place *files.Place  // of the socket
	path  string        // of the socket
	wake  chan struct{} // pending has messages, or the Notifier is closed
	done  chan struct{}

	mu      sync.Mutex
	pending []string // messages to send, oldest first
	closed  bool
}

// maxPending bounds the messages that wait while systemd does not read. The
// oldest are dropped first, because the newest have the current state.
const maxPending = 16

// New returns a Notifier, or nil if systemd did not ask for notifications.
// getenv is os.Getenv. It returns an error if NOTIFY_SOCKET cannot be used.
func New(getenv func(string) string) (*Notifier, error) {
	address := getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return nil, nil // none, or vsock in a virtual machine
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

// say queues assignments, one per line. Failures to deliver them are logged.
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

// send sends queued messages until the queue is empty and the Notifier is
// closed.
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

// Ready reports that the service is ready, after a start or a reload. status is
// shown by systemctl status.
func (n *Notifier) Ready(status string) { n.say("READY=1", "STATUS="+oneLine(status)) }

// Reloading reports that a reload begins. Ready must follow. The message
// contains the time, by which systemd recognizes the answer to its latest
// signal (Type=notify-reload).
func (n *Notifier) Reloading() {
	n.say("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// Stopping reports that the service drains. It requests the time that the drain
// may take in addition to TimeoutStopSec=.
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

// Beats returns a channel that receives a value whenever a watchdog signal is
// due. stop ends that.
func (n *Notifier) Beats() (c <-chan time.Time, stop func()) {
	if n == nil || n.beat == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(n.beat)
	return t.C, t.Stop
}

// KeepAlive sends watchdog signals in the background until stop is called.
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

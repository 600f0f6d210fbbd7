package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"wssgate/files"
)

// What systemd and a service say to each other: sockets that it has opened for
// us (sd_listen_fds(3)), and how we are (sd_notify(3)). Both are a few
// environment variables and datagrams, and mean nothing elsewhere.

// firstInherited is the descriptor of the first socket.
const firstInherited = 3

// An inherited socket is systemd's, which keeps it open whatever becomes of us:
// clients then wait in its queue for the next process. It stays open here too,
// so that a reload may give it up and take it again.
type inherited struct {
	file *os.File
	name string // FileDescriptorName=, by default the name of the socket unit
	addr net.Addr
}

// inheritSockets returns the sockets that were passed to this process, and
// removes the variables that told of them. getenv and unsetenv are os's.
func inheritSockets(getenv func(string) string, unsetenv func(string) error) ([]*inherited, error) {
	pid, count, names := getenv("LISTEN_PID"), getenv("LISTEN_FDS"), strings.Split(getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		unsetenv(name)
	}
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // none, or for another process
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1000 {
		return nil, fmt.Errorf("systemd: LISTEN_FDS is %q, want a number", count)
	}
	var all []*inherited
	for i := range n {
		fd := firstInherited + i
		syscall.CloseOnExec(fd)
		s := &inherited{file: os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))}
		if i < len(names) {
			s.name = names[i]
		}
		ln, err := net.FileListener(s.file)
		if err != nil {
			return nil, fmt.Errorf("systemd: socket %d, %q: not one to listen on: %w", fd, s.name, err)
		}
		s.addr = ln.Addr()
		ln.Close() // a duplicate
		all = append(all, s)
	}
	return all, nil
}

// find returns the inherited socket that is bound to an address of the
// configuration. One that is called "wss", "http" or "admin" is for that key of
// [listen] only. Nil: there is none.
func (s *sockets) find(key, addr string) *inherited {
	for _, i := range s.inherited {
		other := slices.Contains([]string{"wss", "http", "admin"}, i.name) && i.name != key
		if !other && i.isBoundTo(addr, s.hosts) {
			return i
		}
	}
	return nil
}

// unused is the error for inherited sockets that a configuration has no use for:
// their clients would wait for ever.
func (s *sockets) unused(l *Listen) error {
	used := map[*inherited]bool{}
	for key, addrs := range map[string][]string{"wss": l.WSS, "http": l.HTTP, "admin": {l.Admin}} {
		for _, addr := range addrs {
			used[s.find(key, addr)] = true
		}
	}
	var errs []error
	for _, i := range s.inherited {
		if !used[i] {
			errs = append(errs, fmt.Errorf("systemd: socket %q, %q: no address of [listen] in the configuration is it", i.name, i.addr))
		}
	}
	return errors.Join(errs...)
}

func (i *inherited) isBoundTo(addr string, known hosts) bool {
	network, address, err := listenAddress(addr)
	if err != nil {
		return false
	}
	switch bound := i.addr.(type) {
	case *net.UnixAddr:
		return network == "unix" && bound.Name == address
	case *net.TCPAddr:
		if network != "tcp" {
			return false
		}
		wanted, err := resolveTCP(address, known)
		switch {
		case err != nil || wanted.Port != bound.Port:
			return false
		case wanted.IP == nil: // every address of the machine
			return bound.IP.IsUnspecified()
		}
		return wanted.IP.Equal(bound.IP)
	}
	return false
}

// resolveTCP is net.ResolveTCPAddr for hosts that are known.
func resolveTCP(address string, known hosts) (*net.TCPAddr, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host, err = known.address(host); err != nil {
		return nil, err
	}
	return net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
}

// A notifier tells systemd how the service is. Nil tells nobody. Whoever says something
// does not wait: one goroutine sends, in a job of the socket's place, so that a systemd
// that does not read is a finding as a file system is.
type notifier struct {
	conn  net.Conn
	beat  time.Duration // between two signs of life; 0: none is wanted
	place *files.Place  // of the socket
	path  string        // of the socket
	wake  chan struct{} // pending has something, or it is closed
	done  chan struct{}

	mu      sync.Mutex
	pending []string // what waits to be sent, the oldest first
	closed  bool
}

// maxPending is how many messages wait while systemd does not read; the oldest go
// first, for the newest say how it is.
const maxPending = 16

// newNotifier returns nil where nobody wants to know. Getenv is os.Getenv.
func newNotifier(getenv func(string) string) (*notifier, error) {
	address := getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return nil, nil // none, or, in a virtual machine, vsock
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return nil, fmt.Errorf("systemd: NOTIFY_SOCKET: %w", err)
	}
	n := &notifier{conn: conn, place: files.New("systemd", nil), path: address, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 1 {
			n.beat = time.Duration(usec) * time.Microsecond / 2
		}
	}
	go n.send()
	return n, nil
}

// say has assignments sent, one of a line. That nobody hears them is no reason to
// stop.
func (n *notifier) say(lines ...string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.pending = append(n.pending, strings.Join(lines, "\n"))
	n.pending = n.pending[max(0, len(n.pending)-maxPending):]
	n.mu.Unlock()
	n.poke()
}

func (n *notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// send sends what waits until there is nothing more and the notifier is closed.
func (n *notifier) send() {
	defer close(n.done)
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
				slog.Warn("systemd", "err", err) // the log of the moment, which waits for nobody
			}
		}
	}
}

func (n *notifier) ready(status string) { n.say("READY=1", "STATUS="+oneLine(status)) }

// reloading must be followed by ready. The time tells systemd that it is an
// answer to its signal, not to an earlier one (Type=notify-reload).
func (n *notifier) reloading() {
	n.say("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// stopping asks for the time that the drain may take beside TimeoutStopSec=.
func (n *notifier) stopping(status string, takes time.Duration) {
	n.say("STOPPING=1", "STATUS="+oneLine(status), "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(takes.Microseconds(), 10))
}

// alive gives a sign of life, where nothing else waits to be sent.
func (n *notifier) alive() {
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

// beats returns a channel that has an entry whenever a sign of life is due.
func (n *notifier) beats() (c <-chan time.Time, stop func()) {
	if n == nil || n.beat == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(n.beat)
	return t.C, t.Stop
}

// keepAlive gives signs of life until stop is called.
func (n *notifier) keepAlive() (stop func()) {
	beats, stopBeats := n.beats()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-beats:
				n.alive()
			case <-done:
				return
			}
		}
	}()
	return func() {
		stopBeats()
		close(done)
		<-ended
	}
}

// notifyPatience is how long close waits for what is not sent yet.
const notifyPatience = 100 * time.Millisecond

func (n *notifier) close() {
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

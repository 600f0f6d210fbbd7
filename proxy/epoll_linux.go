package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// eventBatch is the maximum number of events that one wait returns.
const eventBatch = 256

// An epoll is the poller for connections with a descriptor: a level-triggered epoll
// instance.
type epoll struct {
	fd     int
	waker  int         // eventfd; readable after wake
	conns  []connEntry // by descriptor
	events []unix.EpollEvent
	ready  int // number of events
	batch  *batch
	ring   *ring // used by the batch; nil: none
}

type connEntry struct {
	tunnel *tunnel
	leg    *leg
}

// newSystemPoller creates the system's poller for descriptors. If noRing is not nil,
// the poller gets a ring, or noRing is called with the reason why it has none, now or
// later, and whether the same would be true of others.
func newSystemPoller(noRing func(why error, forAll bool)) (poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	waker, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	p := &epoll{fd: fd, waker: waker, events: make([]unix.EpollEvent, eventBatch)}
	if err := p.control(unix.EPOLL_CTL_ADD, waker, unix.EPOLLIN); err != nil {
		p.close()
		return nil, err
	}
	if noRing != nil {
		if p.ring, err = newRing(func(why error) { noRing(why, false) }); err != nil {
			noRing(err, ringForbidden(err))
		} else {
			p.batch = newBatch(p.ring.do)
		}
	}
	return p, nil
}

func (p *epoll) wait(timeout time.Duration) {
	ms := -1
	if timeout != never {
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	if p.ready > 1 || p.batch.waiting() {
		// After a large batch, more events are usually ready.
		if p.ready = pollNow(p.fd, p.events); p.ready > 0 || p.batch.waiting() {
			return
		}
	}
	n, err := unix.EpollWait(p.fd, p.events, ms)
	if err != nil && err != unix.EINTR {
		panic(fmt.Sprintf("proxy: epoll_wait: %v", err)) // our own descriptor is broken
	}
	p.ready = max(n, 0)
}

// deliver looks each tunnel up when its event is due: one that ended earlier in the
// batch is no longer in the table.
func (p *epoll) deliver(tell func(*tunnel, *leg, readiness)) (woken bool) {
	p.batch.left(tell)
	if p.batch != nil && p.ready > 1 {
		for _, ev := range p.events[:p.ready] {
			if int(ev.Fd) != p.waker && ev.Events&unix.EPOLLIN != 0 {
				if entry := p.conns[ev.Fd]; entry.tunnel != nil {
					p.batch.read(entry.tunnel, entry.leg)
				}
			}
		}
		p.batch.begin()
	}
	for _, ev := range p.events[:p.ready] {
		if int(ev.Fd) == p.waker {
			var counter [8]byte
			unix.Read(p.waker, counter[:])
			woken = true
			continue
		}
		entry := p.conns[ev.Fd]
		if entry.tunnel == nil {
			continue
		}
		var is readiness
		if ev.Events&unix.EPOLLIN != 0 {
			is |= inputReady
		}
		if ev.Events&unix.EPOLLOUT != 0 {
			is |= roomReady
		}
		if ev.Events&unix.EPOLLRDHUP != 0 {
			is |= endReady
		}
		if ev.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			is |= failed
		}
		p.batch.turnOf(entry.tunnel)
		tell(entry.tunnel, entry.leg, is)
	}
	p.batch.end(tell)
	return woken
}

func (p *epoll) wake() {
	one := [8]byte{1}
	unix.Write(p.waker, one[:]) // fails only if the counter is full, and then it is readable anyway
}

func (p *epoll) batching() *batch { return p.batch }

func (p *epoll) close() {
	p.ring.close()
	unix.Close(p.waker)
	unix.Close(p.fd)
}

func (p *epoll) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, op, fd, &ev))
}

// duplicate returns a second descriptor of a connection's socket. It is non-blocking,
// like net's own.
func duplicate(conn net.Conn) (int, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("fcntl", dupErr)
}

// closeDescriptor closes a result of duplicate; -1 is none.
func closeDescriptor(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// osConn is the rawConn of a socket that epoll waits for.
type osConn struct {
	poller  *epoll
	fd      int
	watched bool // it is in the epoll instance
}

// join adds the socket to a poller's table.
func (c *osConn) join(p poller, t *tunnel, leg *leg) {
	c.poller = p.(*epoll)
	if missing := c.fd + 1 - len(c.poller.conns); missing > 0 {
		c.poller.conns = append(c.poller.conns, make([]connEntry, missing)...)
	}
	c.poller.conns[c.fd] = connEntry{t, leg}
}

// leave removes the socket.
func (c *osConn) leave() {
	c.watch(0)
	c.poller.conns[c.fd] = connEntry{}
}

func (c *osConn) read(b []byte) (int, error) {
	for {
		n, err := receive(c.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != 0:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c *osConn) write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, err := send(c.fd, b[sent:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return sent, errAgain
		case err != 0:
			return sent, os.NewSyscallError("write", err)
		}
		sent += n
	}
	return sent, nil
}

func (c *osConn) unacknowledged() int {
	n, err := unix.IoctlGetInt(c.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (c *osConn) closeWrite() bool { return unix.Shutdown(c.fd, unix.SHUT_WR) == nil }

// watch keeps a socket in the epoll instance while any event is awaited, even if only a
// failure, which epoll always reports.
func (c *osConn) watch(want interest) {
	var events uint32
	if want&forInput != 0 {
		events |= unix.EPOLLIN
	}
	if want&forRoom != 0 {
		events |= unix.EPOLLOUT
	}
	if want&forEnd != 0 {
		events |= unix.EPOLLRDHUP
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case want == 0 && !c.watched:
		return
	case want == 0:
		op = unix.EPOLL_CTL_DEL
	case !c.watched:
		op = unix.EPOLL_CTL_ADD
	}
	c.watched = want != 0
	if err := c.poller.control(op, c.fd, events); err != nil {
		// Out of kernel memory or max_user_watches: the tunnel can't continue.
		c.watched = false
		if entry := c.poller.conns[c.fd]; entry.leg != nil {
			entry.leg.sock.fail(err)
		}
	}
}

func (c *osConn) close(reset bool) {
	if reset {
		unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	c.poller.conns[c.fd] = connEntry{}
	unix.Close(c.fd)
}

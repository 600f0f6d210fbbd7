package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wssgate/upstream"
)

// eventBatch is how many events one wait returns at the most.
const eventBatch = 256

// A loop is an event loop: one goroutine, one epoll instance, level-triggered.
// Everything but the inbox and pressure.busy belongs to that goroutine.
type loop struct {
	group    *loops
	epoll    int
	wake     int // eventfd; readable while the inbox has something
	work     *turn
	conns    []connEntry // by descriptor
	timers   timers      // all tunnels of this loop
	pressure pressure
	orders   standing
	quit     bool
	done     chan struct{}

	mu    sync.Mutex
	inbox []func()
	shut  bool // the loop takes nothing any more
}

type connEntry struct {
	tunnel *tunnel
	leg    *leg
}

// newLoop starts an event loop. It ends with close.
func newLoop(group *loops) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	l := &loop{group: group, epoll: epoll, wake: wake, work: newTurn(), done: make(chan struct{})}
	l.work.now = l.now()
	l.pressure.since = l.work.now
	if err := l.control(unix.EPOLL_CTL_ADD, wake, unix.EPOLLIN); err != nil {
		unix.Close(wake)
		unix.Close(epoll)
		return nil, err
	}
	go l.run()
	return l, nil
}

// run is the loop's goroutine.
func (l *loop) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, eventBatch)
	for now := l.now(); !l.quit; {
		n, err := unix.EpollWait(l.epoll, events, l.timeout(now))
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("proxy: epoll_wait: %v", err)) // our own descriptor is broken
		}
		l.work.now = l.now()
		began := l.work.now
		l.dispatch(events[:max(n, 0)])
		for {
			t, _ := l.timers.next(l.work.now)
			if t == nil {
				break
			}
			t.expire(l.work)
			l.after(t)
		}
		l.work.moved.into(&l.group.done)
		now = l.now()
		l.group.done.lag.add(now - began)
		l.measure(began, now)
	}
	for len(l.timers) > 0 {
		t := l.timers[0]
		t.done = true
		t.end(l.work, reasonDrain, 0)
		l.after(t)
	}
	l.work.moved.into(&l.group.done)
	unix.Close(l.wake)
	unix.Close(l.epoll)
}

// dispatch hands out a batch of events, the inbox last: a tunnel that ended earlier
// in the batch has left the table, and one that comes by the inbox may have its
// descriptors, but not its events.
func (l *loop) dispatch(events []unix.EpollEvent) {
	woken := false
	for _, ev := range events {
		if int(ev.Fd) == l.wake {
			woken = true
			continue
		}
		entry := l.conns[ev.Fd]
		if entry.tunnel == nil {
			continue
		}
		const gone = unix.EPOLLERR | unix.EPOLLHUP
		if entry.leg.sock.wantEnd && ev.Events&(unix.EPOLLRDHUP|gone) != 0 {
			entry.tunnel.hungUp(l.work)
		} else {
			entry.tunnel.event(l.work, entry.leg, ev.Events&(unix.EPOLLIN|gone) != 0, ev.Events&(unix.EPOLLOUT|gone) != 0)
		}
		l.after(entry.tunnel)
		if l.pressure.shed > 0 && entry.tunnel.movable() {
			l.move(entry.tunnel)
		}
	}
	if woken {
		l.drainInbox()
	}
}

func (l *loop) now() time.Duration { return time.Since(l.group.started) }

// timeout is how long epoll_wait may sleep from now on, in its milliseconds.
func (l *loop) timeout(now time.Duration) int {
	_, wait := l.timers.next(now)
	if wait == never {
		return -1
	}
	return int(min((wait+time.Millisecond-1)/time.Millisecond, 1<<30))
}

// after follows every turn of t.
func (l *loop) after(t *tunnel) {
	if !t.done {
		l.timers.update(t)
		return
	}
	l.timers.remove(t)
	t.onDone(t, l.work.now)
}

func (l *loop) take(t *tunnel) error {
	// Duplicates, so that Go's own poller forgets the sockets: it would wake
	// up for each event too.
	client, err := duplicate(t.client.sock.conn)
	if err != nil {
		return err
	}
	upstream := -1
	if !t.upstream.sock.closed() {
		if upstream, err = duplicate(t.upstream.sock.conn); err != nil {
			unix.Close(client)
			return err
		}
	}
	if !l.post(func() { l.start(t, client, upstream) }) {
		unix.Close(client)
		if upstream >= 0 {
			unix.Close(upstream)
		}
		return net.ErrClosed
	}
	return nil
}

// start makes the loop the owner of t and of the descriptors; upstream is -1
// where t has none yet.
func (l *loop) start(t *tunnel, client, upstream int) {
	l.own(t, &t.client, client)
	if upstream >= 0 {
		l.own(t, &t.upstream, upstream)
	}
	t.start(l.work)
	l.timers.add(t)
	l.orders.catch(t, l.work)
	l.after(t)
}

// swap gives t the upstream that the leg up is, whose socket is fd.
func (l *loop) swap(t *tunnel, up *upstream.Conn, next leg, fd int) {
	if t.done {
		unix.Close(fd)
		next.sock.conn.Close()
		up.Release()
		return
	}
	t.upstream = next
	l.own(t, &t.upstream, fd)
	t.dialled(l.work, up)
	l.orders.catch(t, l.work)
	l.after(t)
}

// own takes a socket over from Go's poller.
func (l *loop) own(t *tunnel, leg *leg, fd int) {
	s := leg.sock
	s.conn.Close()
	s.conn = nil
	s.os.fd = fd
	s.raw = &s.os
	l.join(t, leg)
}

// join enters a socket into the loop's table.
func (l *loop) join(t *tunnel, leg *leg) {
	c := &leg.sock.os
	c.loop = l
	if missing := c.fd + 1 - len(l.conns); missing > 0 {
		l.conns = append(l.conns, make([]connEntry, missing)...)
	}
	l.conns[c.fd] = connEntry{t, leg}
}

// drain begins to carry out an order.
func (l *loop) drain(o *drainOrder) {
	l.orders = append(l.orders, o)
	chosen := o.chosen(l.timers)
	for i, at := range o.moments(len(chosen), l.work.now) {
		chosen[i].drainAt, chosen[i].patience = at, o.patience()
	}
	l.rearm(chosen)
}

// undrain forgets an order.
func (l *loop) undrain(o *drainOrder) {
	l.orders = l.orders.without(o)
	chosen := slices.DeleteFunc(o.chosen(l.timers), l.orders.has)
	for _, t := range chosen {
		t.drainAt = 0
	}
	l.rearm(chosen)
}

// rearm gives tunnels their place among the timers after their times changed.
func (l *loop) rearm(tunnels []*tunnel) {
	for _, t := range tunnels {
		t.due = t.nextDue(l.work.now)
		l.after(t)
	}
}

// close ends the loop and closes its tunnels. What was posted before is done
// first.
func (l *loop) close() {
	l.mu.Lock()
	if !l.shut {
		l.shut = true
		l.push(func() { l.quit = true })
	}
	l.mu.Unlock()
	<-l.done
}

// post has f run in the loop's goroutine. It reports false, and drops f, where
// the loop is closed.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.shut {
		l.push(f)
	}
	return !l.shut
}

// push is for post and close; l.mu is held.
func (l *loop) push(f func()) {
	l.inbox = append(l.inbox, f)
	if len(l.inbox) == 1 {
		one := [8]byte{1}
		unix.Write(l.wake, one[:]) // fails only where the counter is full, and then it is readable too
	}
}

func (l *loop) drainInbox() {
	var counter [8]byte
	unix.Read(l.wake, counter[:])
	l.mu.Lock()
	posted := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

func (l *loop) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, fd, &ev))
}

// duplicate returns a second descriptor of a connection's socket. It does not
// block, as net's own does not.
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

// hasDescriptor reports whether an event loop can drive conn.
func hasDescriptor(conn net.Conn) bool {
	_, ok := conn.(syscall.Conn)
	return ok
}

// epollConn is the rawConn of a socket that an event loop drives.
type osConn = epollConn

type epollConn struct {
	loop    *loop
	fd      int
	watched uint32 // events the descriptor is registered for; 0: it is not
}

func (c *epollConn) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c *epollConn) write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, err := unix.Write(c.fd, b[sent:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return sent, errAgain
		case err != nil:
			return sent, os.NewSyscallError("write", err)
		}
		sent += n
	}
	return sent, nil
}

func (c *epollConn) unacknowledged() int {
	n, err := unix.IoctlGetInt(c.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (c *epollConn) closeWrite() { unix.Shutdown(c.fd, unix.SHUT_WR) }

// watch takes a socket that is to wait for nothing out of the epoll instance:
// a hang-up would be reported again and again.
func (c *epollConn) watch(read, write, end bool) {
	var events uint32
	if end {
		events |= unix.EPOLLRDHUP
	}
	if read {
		events |= unix.EPOLLIN
	}
	if write {
		events |= unix.EPOLLOUT
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case events == c.watched:
		return
	case c.watched == 0:
		op = unix.EPOLL_CTL_ADD
	case events == 0:
		op = unix.EPOLL_CTL_DEL
	}
	if err := c.loop.control(op, c.fd, events); err != nil {
		// Out of kernel memory or of max_user_watches: the tunnel can't go on.
		if entry := c.loop.conns[c.fd]; entry.leg != nil {
			entry.leg.sock.err = err
		}
		return
	}
	c.watched = events
}

func (c *epollConn) close() {
	c.loop.conns[c.fd] = connEntry{}
	unix.Close(c.fd)
}

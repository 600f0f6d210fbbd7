package proxy

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"wssgate/upstream"
)

// loops is the driver on Linux: event loops, as many as there is work for.
//
// One loop costs less CPU for a message than two, as long as it keeps up:
// events come in larger batches, and one thread wakes instead of two. So there
// is one at first, and all tunnels are its. A loop that is busy for nearly all
// of a window hands some of its tunnels, those that just had an event, to one
// that is not; when there is little to do again, they go back to the first.
// There are at most as many loops as processors.
//
// A tunnel belongs to one loop at any time. It moves between two turns, with
// its sockets, its timers and whatever waits in it; it does not notice.
type loops struct {
	started time.Time // the clock of all tunnels
	max     int
	moved   atomic.Int64 // tunnels that changed their loop
	done    load         // by all of them

	mu     sync.Mutex
	list   []*loop // the first one is never idle while another is not
	orders standing
	closed bool
}

const (
	window    = 100 * time.Millisecond // that a loop's load is measured over
	saturated = window * 85 / 100      // busy for so much of a window: it sheds
	calm      = window * 40 / 100      // busy for so little, both together: one is enough
	shedShare = 8                      // it sheds one in so many of its tunnels for each window
)

// newDriver returns the driver for connections that have a descriptor.
func newDriver() (driver, error) {
	d := &loops{started: time.Now(), max: runtime.GOMAXPROCS(0)}
	if _, err := d.grow(); err != nil {
		return nil, err
	}
	return d, nil
}

// grow starts one loop more.
func (d *loops) grow() (*loop, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.list) == d.max {
		return nil, errors.New("no further loop")
	}
	l, err := newLoop(d)
	if err == nil {
		orders := slices.Clone(d.orders)
		l.post(func() { l.orders = orders })
		d.list = append(d.list, l)
	}
	return l, err
}

// all returns the loops there are now.
func (d *loops) all() []*loop {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

func (d *loops) take(t *tunnel) error { return d.all()[0].take(t) }

func (d *loops) counted() *load { return &d.done }

// swap and do find t on the loop where it was when its greeting began to dial:
// a tunnel with a greeting does not move.
func (d *loops) swap(t *tunnel, up *upstream.Conn) error {
	next := upstreamLeg(up)
	fd, err := duplicate(next.sock.conn)
	if err != nil {
		return err
	}
	l := t.client.sock.os.loop
	if !l.post(func() { l.swap(t, up, next, fd) }) {
		unix.Close(fd)
		return net.ErrClosed
	}
	return nil
}

func (d *loops) do(t *tunnel, f func(*turn)) {
	l := t.client.sock.os.loop
	l.post(func() {
		if !t.done {
			f(l.work)
			l.after(t)
		}
	})
}

func (d *loops) count(o *drainOrder) int {
	total := 0
	for _, l := range d.all() {
		n := make(chan int, 1)
		if l.post(func() { n <- len(o.chosen(l.timers)) }) {
			total += <-n
		}
	}
	return total
}

func (d *loops) drain(o *drainOrder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders = append(d.orders, o)
	for _, l := range d.list {
		l.post(func() { l.drain(o) })
	}
}

func (d *loops) undrain(o *drainOrder) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders = d.orders.without(o)
	for _, l := range d.list {
		l.post(func() { l.undrain(o) })
	}
}

// close ends the loops in their order. A tunnel that is moving when its new
// loop is gone already is closed by the old one.
func (d *loops) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	for _, l := range d.all() {
		l.close()
	}
}

// pressure is what one loop knows of the last window. Only busy is others' to
// read.
type pressure struct {
	busy   atomic.Int64 // nanoseconds outside epoll_wait, since the start
	since  time.Duration
	before []int64 // every loop's busy when the window began
	shed   int     // tunnels still to be moved
	to     *loop
}

// measure is called by l after each batch of events, which took from began
// until now. At the end of a window it decides whether tunnels are to move.
func (l *loop) measure(began, now time.Duration) {
	l.pressure.busy.Add(int64(now - began))
	if now-l.pressure.since < window {
		return
	}
	list := l.group.all()
	busy := make([]time.Duration, len(list))
	for i, other := range list {
		total := other.pressure.busy.Load()
		if i < len(l.pressure.before) {
			busy[i] = time.Duration(total-l.pressure.before[i]) * window / (now - l.pressure.since)
			l.pressure.before[i] = total
		} else {
			l.pressure.before = append(l.pressure.before, total)
		}
	}
	l.pressure.since = now
	l.pressure.shed, l.pressure.to = 0, nil
	me := slices.Index(list, l)
	share := max(len(l.timers)/shedShare, 1)
	switch {
	case me > 0 && busy[0]+busy[me] < calm:
		l.pressure.shed, l.pressure.to = share, list[0]
	case busy[me] >= saturated && len(l.timers) > 1:
		calmest := slices.Index(busy, slices.Min(busy))
		if busy[calmest] < saturated/2 {
			l.pressure.shed, l.pressure.to = share, list[calmest]
		} else if more, err := l.group.grow(); err == nil {
			l.pressure.shed, l.pressure.to = share, more
		}
	}
}

// move hands t to the loop that l sheds to; t had an event just now.
func (l *loop) move(t *tunnel) {
	l.pressure.shed--
	to := l.pressure.to
	l.timers.remove(t)
	for _, leg := range []*leg{&t.client, &t.upstream} {
		if !leg.sock.closed() {
			leg.sock.os.watch(false, false, false)
			l.conns[leg.sock.os.fd] = connEntry{}
		}
	}
	if to.post(func() { to.adopt(t) }) {
		l.group.moved.Add(1)
		return
	}
	l.adopt(t) // the other is closed; so will we be
}

// adopt makes l the owner of a tunnel that is no loop's.
func (l *loop) adopt(t *tunnel) {
	for _, leg := range []*leg{&t.client, &t.upstream} {
		if s := leg.sock; !s.closed() {
			l.join(t, leg)
			s.os.watch(s.wantRead, s.wantOut, s.wantEnd)
		}
	}
	l.timers.add(t)
	l.orders.catch(t, l.work)
	l.after(t)
}

package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"wssgate/upstream"
)

// loops has the event loops of a Server, as many as the load needs.
//
// One loop needs less CPU per message than two, as long as it keeps up: events come in
// larger batches, and one thread wakes instead of two. So the first loop has all tunnels
// at the beginning. A loop that is busy for nearly all of a window moves some of its
// tunnels, those that just had an event, to a loop with less work. When the load falls
// again, they go back to the first loop. There are at most as many loops as processors.
//
// A tunnel belongs to one loop at any time. It moves between two turns, with its sockets,
// its timers and its waiting bytes, and does not notice.
type loops struct {
	started     time.Time // the clock of all tunnels
	max         int
	newPoller   func() (poller, error)
	rings       *rings                               // nil: io_uring is not used
	descriptors bool                                 // pollers wait for descriptors
	processors  func() (used time.Duration, ok bool) // of the process, since its start; nil: unknown
	panicked    panicFunc                            // in the goroutine that panicked
	random      *rand.Rand                           // shared by all loops
	migrated    atomic.Int64                         // moves of tunnels to another loop
	done        load                                 // of all loops
	pumps       sync.WaitGroup                       // goroutines that pump connections

	// pump returns the rawConn for a leg without a descriptor, which reports to l.
	pump func(l *loop, t *tunnel, leg *leg) rawConn

	mu     sync.Mutex
	list   []*loop // the first one is never idle while another is not
	orders drainOrders
	visits int // calls of each in progress
	closed bool
}

const (
	window    = 100 * time.Millisecond // of the measurement of a loop's load
	saturated = window * 85 / 100      // a loop that used a processor for this part of a window sheds
	calm      = window * 40 / 100      // two loops that are busy for less, together, become one
	shedShare = 8                      // a loop sheds one in this many of its tunnels per window
)

// newLoops starts the first loop. If system is true, connections with a descriptor use
// the system's poller, if there is one; otherwise goroutines pump all connections, in
// one loop, because pumped connections do not move. panicked is called for each panic
// in a turn. If noRing is not nil, the loops batch their system calls by io_uring; see
// rings for noRing.
func newLoops(system bool, noRing func(error), panicked panicFunc) (*loops, error) {
	d := &loops{started: time.Now(), max: 1, newPoller: newWakePoller, panicked: panicked, random: rand.New(systemRandom{}), pump: pump}
	if system {
		d.newPoller = func() (poller, error) { return newSystemPoller(nil) }
		if noRing != nil {
			d.rings = &rings{refused: noRing}
			d.newPoller = d.rings.newPoller
		}
		d.max, d.descriptors, d.processors = runtime.GOMAXPROCS(0), true, processTime
	}
	_, err := d.grow()
	if errors.Is(err, errors.ErrUnsupported) {
		return newLoops(false, nil, panicked)
	}
	return d, err
}

// ring returns the state of io_uring, as Counts.IOUring.
func (d *loops) ring() string {
	if d.rings == nil {
		return "off"
	}
	return d.rings.String()
}

// rings knows which loops use io_uring.
//
// A loop that can't, continues without it. If the kernel forbids it, others do not try;
// if it is short of descriptors or memory, each new loop tries. refused is called with
// each reason, in the goroutine of the loop or before its poller is returned, and once
// for loops that have the same.
type rings struct {
	refused func(error)

	mu      sync.Mutex
	loops   int
	without []string // the reasons of those without a ring
	forAll  bool     // no other one will have one
}

func (r *rings) newPoller() (poller, error) {
	r.mu.Lock()
	skip := r.forAll
	if skip {
		r.loops++
		r.without = append(r.without, r.without[len(r.without)-1])
	}
	r.mu.Unlock()
	if skip {
		return newSystemPoller(nil)
	}
	p, err := newSystemPoller(func(why error, forAll bool) {
		text := why.Error()
		r.mu.Lock()
		known := slices.Contains(r.without, text)
		r.without, r.forAll = append(r.without, text), r.forAll || forAll
		r.mu.Unlock()
		if !known {
			r.refused(why)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.loops++
	}
	return p, err
}

// String is "on" if all loops have a ring, or says which have none and why.
func (r *rings) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch n := len(r.without); {
	case n == 0:
		return "on"
	case n >= r.loops: // the first loop is counted after it is refused
		return r.without[n-1]
	default:
		return fmt.Sprintf("on, but not in %d of %d event loops: %s", n, r.loops, r.without[n-1])
	}
}

// systemRandom is the source of math/rand/v2, which is safe for concurrent use.
type systemRandom struct{}

func (systemRandom) Uint64() uint64 { return rand.Uint64() }

// grow starts one more loop.
func (d *loops) grow() (*loop, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.list) == d.max {
		return nil, errors.New("the event loops are closed or at their maximum")
	}
	l, err := newLoop(d)
	if err == nil {
		orders := slices.Clone(d.orders)
		l.post(func() { l.orders = orders })
		d.list = append(d.list, l)
	}
	return l, err
}

// all returns the current loops.
func (d *loops) all() []*loop {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.list)
}

// take gives t to a loop, which owns it from here. After an error the caller closes both
// sockets.
func (d *loops) take(t *tunnel) error {
	client, err := d.hold(t.client.sock)
	if err != nil {
		return err
	}
	upstream, err := d.hold(t.upstream.sock)
	if err != nil {
		closeDescriptor(client)
		return err
	}
	l := d.all()[0]
	if !l.post(func() { l.start(t, client, upstream) }) {
		closeDescriptor(client)
		closeDescriptor(upstream)
		return net.ErrClosed
	}
	return nil
}

// hold returns a second descriptor of a socket, which outlives the first. It returns -1
// if goroutines must pump the socket, because it has no descriptor, or none is
// available.
func (d *loops) hold(s *sock) (int, error) {
	if !d.descriptors || s.state == sockClosed {
		return -1, nil
	}
	fd, err := duplicate(s.conn)
	for _, pumped := range []error{errors.ErrUnsupported, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, pumped) {
			return -1, nil
		}
	}
	return fd, err
}

// swap gives t another upstream, after its old one was closed, in a turn that calls
// tunnel.dialled. After an error the caller still owns up. The loop of t is the one from
// which its greeting began to dial: a tunnel with a greeting does not move.
func (d *loops) swap(t *tunnel, up *upstream.Conn) error {
	next := upstreamLeg(up)
	fd, err := d.hold(next.sock)
	if err != nil {
		return err
	}
	l := t.loop
	if !l.post(func() { l.swap(t, up, next, fd) }) {
		closeDescriptor(fd)
		return net.ErrClosed
	}
	return nil
}

// do calls f in a turn of t, unless t is done. t has a greeting.
func (d *loops) do(t *tunnel, f func(*turn)) {
	l := t.loop
	l.post(func() {
		if !t.done {
			l.turn(t, f)
		}
	})
}

// lose ends t after a panic of its dial.
func (d *loops) lose(t *tunnel) {
	l := t.loop
	l.post(func() { l.lose(t) })
}

// visit calls f for every tunnel once, each in a turn of its own, and returns when it
// has seen all.
func (d *loops) visit(f func(t *tunnel, w *turn)) {
	d.each(func(l *loop) {
		for _, t := range slices.Clone(l.timers) { // a turn may reorder them
			l.turn(t, func(w *turn) { f(t, w) })
		}
	})
}

// survey calls f for every tunnel once, in the goroutine of its loop, and returns when
// it has seen all. f must not change the tunnel. now is the loop's clock.
func (d *loops) survey(f func(t *tunnel, now time.Duration)) {
	d.each(func(l *loop) {
		for _, t := range l.timers {
			f(t, l.work.now)
		}
	})
}

// each calls f in the goroutine of one loop after the other. No tunnel moves meanwhile:
// f could miss a tunnel that moves, or see it twice.
func (d *loops) each(f func(l *loop)) {
	d.mu.Lock()
	d.visits++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.visits--
		d.mu.Unlock()
	}()
	for _, l := range d.all() {
		seen := make(chan struct{})
		if l.post(func() {
			defer close(seen)
			f(l)
		}) {
			<-seen
		}
	}
}

// drain applies an order until undrain, also to later tunnels.
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

// close ends all tunnels at once, and the loops in their order. If a tunnel moves to a
// loop that is closed already, its old loop closes it.
func (d *loops) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	for _, l := range d.all() {
		l.close()
	}
	d.pumps.Wait()
}

// pressure is a loop's load in the last window. Other loops read only busy.
//
// A loop is busy while it handles events, and while it waits for a processor to handle
// them. That wait is not a reason to shed: a second loop would wait as well, and both
// would cost more. So the busy time of all loops together is at most the processor time
// of the process.
type pressure struct {
	busy   atomic.Int64 // nanoseconds outside epoll_wait, since the start
	since  time.Duration
	before []int64       // every loop's busy when the window began
	used   time.Duration // of processors, by the process, when the window began
	shed   int           // tunnels still to be moved
	to     *loop
}

// measure is called after each batch of events, which took from began until now. At the
// end of a window it decides whether tunnels move.
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
	l.used(busy, now-l.pressure.since)
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

// used subtracts the time that the loops waited for processors in a window.
func (l *loop) used(busy []time.Duration, length time.Duration) {
	if l.group.processors == nil {
		return
	}
	total, ok := l.group.processors()
	if !ok {
		return
	}
	used := (total - l.pressure.used) * window / length
	l.pressure.used = total
	all := time.Duration(0)
	for _, b := range busy {
		all += b
	}
	if used >= all {
		return
	}
	for i := range busy {
		busy[i] = busy[i] * used / all
	}
}

// move hands t to the loop that l sheds to, unless the tunnels are being visited; t had
// an event just now.
func (l *loop) move(t *tunnel) {
	to := l.pressure.to
	if to == nil { // the pressure is gone
		return
	}
	l.pressure.shed--
	l.group.mu.Lock()
	if l.group.visits > 0 {
		l.group.mu.Unlock()
		return
	}
	l.timers.remove(t)
	for _, leg := range []*leg{&t.client, &t.upstream} {
		if leg.sock.state != sockClosed {
			leg.sock.raw.(polled).leave()
		}
	}
	posted := to.post(func() { to.adopt(t) }) // runs before posts of a later visit
	l.group.mu.Unlock()
	if posted {
		l.group.migrated.Add(1)
		return
	}
	l.adopt(t) // the other loop is closed, and this one will be
}

// adopt makes l the owner of a tunnel without a loop.
func (l *loop) adopt(t *tunnel) {
	for _, leg := range []*leg{&t.client, &t.upstream} {
		if s := leg.sock; s.state != sockClosed {
			s.raw.(polled).join(l.poller, t, leg)
			s.raw.watch(s.want)
		}
	}
	t.loop = l
	l.timers.add(t)
	l.turn(t, func(w *turn) { l.orders.catch(t, w) })
}

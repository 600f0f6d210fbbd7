package proxy

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// A loop is an event loop: one goroutine that owns tunnels. It waits for their sockets,
// gives each a turn when something happens, calls expire when it is due, and removes
// tunnels that are done. Everything but the inbox and pressure.busy belongs to that
// goroutine.
//
// It waits by means of its poller. On Linux that is epoll. Elsewhere, and for
// connections without a descriptor, as in tests with a fake clock, a pump of two
// goroutines for each connection posts events to the loop's inbox.
//
// A panic in a turn ends only that tunnel. After a panic outside a turn the loop
// continues with its tunnels; if the next round panics as well, it ends them and
// continues without any (mend).
type loop struct {
	group    *loops
	poller   poller
	work     *turn
	timers   timers // all tunnels of this loop
	pressure pressure
	leaving  []*tunnel // for another loop, after this batch
	orders   drainOrders
	quit     bool
	last     time.Duration                  // the end of the last round
	broken   int                            // consecutive rounds that panicked outside a turn
	tellEach func(*tunnel, *leg, readiness) // tell; made once
	done     chan struct{}

	mu    sync.Mutex
	inbox []func()
	shut  bool // the loop accepts nothing any more
}

// A poller waits for the sockets of one loop. Only the loop calls its methods, except
// wake.
type poller interface {
	// wait waits until a socket is ready, wake is called, or the timeout ends. With
	// never it has no timeout.
	wait(timeout time.Duration)
	// deliver calls tell for each socket that was ready, and reports whether wake was
	// called.
	deliver(tell func(*tunnel, *leg, readiness)) (woken bool)
	wake()
	// batching returns the batch with which turns read and write during deliver; nil:
	// none.
	batching() *batch
	close()
}

// newLoop starts an event loop. It ends with close.
func newLoop(group *loops) (*loop, error) {
	p, err := group.newPoller()
	if err != nil {
		return nil, err
	}
	l := &loop{group: group, poller: p, work: newTurn(), done: make(chan struct{})}
	l.work.batch = p.batching()
	l.work.now = l.now()
	l.tellEach = l.tell
	l.pressure.since = l.work.now
	go l.run()
	return l, nil
}

// run is the goroutine of the loop.
func (l *loop) run() {
	defer close(l.done)
	for l.last = l.now(); !l.quit; {
		l.round()
	}
	for len(l.timers) > 0 {
		t := l.timers[0]
		l.turn(t, t.last)
	}
	l.work.traffic.into(&l.group.done)
	l.poller.close()
}

// round waits once, and handles everything that is due then.
func (l *loop) round() {
	defer l.mend()
	_, timeout := l.timers.next(l.last)
	l.poller.wait(timeout)
	began := l.now()
	l.work.now = began
	woken := l.poller.deliver(l.tellEach)
	l.leave()
	if woken {
		l.drainInbox() // last: a posted function may use the descriptor of a tunnel that just ended
	}
	for {
		t, _ := l.timers.next(l.work.now)
		if t == nil {
			break
		}
		l.turn(t, t.expire)
	}
	l.work.traffic.into(&l.group.done)
	l.last = l.now()
	l.group.done.lag.add(l.last - began)
	l.measure(began, l.last)
	l.broken = 0
}

func (l *loop) now() time.Duration { return time.Since(l.group.started) }

// tell passes an event to its tunnel.
func (l *loop) tell(t *tunnel, leg *leg, is readiness) {
	defer l.rescue(t)
	t.event(l.work, leg, is)
	l.after(t)
	if l.pressure.shed > len(l.leaving) && !slices.Contains(l.leaving, t) {
		l.leaving = append(l.leaving, t)
	}
}

// leave moves the tunnels in leaving to their new loops, between two batches.
func (l *loop) leave() {
	for len(l.leaving) > 0 {
		last := len(l.leaving) - 1
		t := l.leaving[last]
		l.leaving[last] = nil
		if l.leaving = l.leaving[:last]; t.movable() {
			l.move(t)
		}
	}
}

// turn lends t a turn for f.
func (l *loop) turn(t *tunnel, f func(*turn)) {
	defer l.rescue(t)
	f(l.work)
	l.after(t)
}

// after follows every turn of t.
func (l *loop) after(t *tunnel) {
	if !t.done {
		l.timers.update(t)
		return
	}
	l.timers.remove(t)
	t.over = true
	t.onDone(t, l.work.now)
}

// rescue is deferred around a turn of t. A panic ends t without a closing handshake. The
// loop gets new buffers, because the turn may have left the old ones in any state.
func (l *loop) rescue(t *tunnel) {
	cause := recover()
	if cause == nil {
		return
	}
	l.group.panicked(panics.Tunnel, cause)
	now, batch := l.work.now, l.work.batch
	l.work = newTurn()
	l.work.now, l.work.batch = now, batch
	l.lose(t)
}

// mend is deferred around a round. A panic outside a turn has most likely left all tunnels
// intact, and events are not lost, because epoll is level-triggered. So the loop tries
// once more with its tunnels. If that panics as well, the tunnels or the poller are
// broken: the loop ends all tunnels and gets a new poller.
func (l *loop) mend() {
	cause := recover()
	if cause == nil {
		return
	}
	l.broken++
	l.group.panicked(panics.Loop, cause, "tunnels", len(l.timers), "again", l.broken)
	l.work = newTurn()
	l.work.batch = l.poller.batching()
	l.last = l.now()
	l.work.now = l.last
	l.leaving = nil
	if l.broken == 1 {
		l.caught(func() { l.work.batch.end(l.tellEach) }) // otherwise pending writes would wait for the next round
		for i, t := range l.timers {
			t.place.index = i
		}
		heap.Init(&l.timers)
	} else {
		l.caught(l.startOver)
		time.Sleep(min(time.Duration(l.broken)*brokenPause, time.Second))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inbox) > 0 { // the wake may have been lost
		l.poller.wake()
	}
}

// brokenPause is the increase of the pause after each round that panics.
const brokenPause = 10 * time.Millisecond

// startOver ends all tunnels and replaces the poller, in any state.
func (l *loop) startOver() {
	tunnels := l.timers
	l.timers = nil
	for _, t := range tunnels {
		t.place.index = -1
		l.caught(func() { l.lose(t) })
	}
	next, err := l.group.newPoller()
	if err != nil {
		return // no descriptors: keep the old one
	}
	l.mu.Lock()
	old := l.poller
	l.poller = next
	l.mu.Unlock()
	l.work.batch = next.batching()
	l.caught(old.close)
}

// lose ends t after a panic, without a closing handshake, unless it is over. If a step
// panics, the other steps still follow.
func (l *loop) lose(t *tunnel) {
	if t.over {
		return
	}
	t.over = true
	if l.timers.has(t) {
		l.timers.remove(t)
	}
	l.caught(t.abandon)
	for _, leg := range []*leg{&t.client, &t.upstream} {
		l.caught(leg.sock.abandon)
	}
	l.caught(func() { t.onDone(t, l.work.now) })
}

// caught calls f, and catches its panic.
func (l *loop) caught(f func()) {
	defer func() {
		if cause := recover(); cause != nil {
			l.group.panicked(panics.Tunnel, cause)
		}
	}()
	f()
}

// start makes the loop the owner of t and its sockets.
func (l *loop) start(t *tunnel, client, upstream int) {
	t.loop = l
	t.due = never
	l.timers.add(t)
	l.turn(t, func(w *turn) {
		l.own(t, &t.client, client)
		if t.upstream.sock.state != sockClosed {
			l.own(t, &t.upstream, upstream)
		}
		t.start(w)
		l.orders.catch(t, w)
	})
}

// swap gives t the upstream up with the leg next, whose second descriptor is fd.
func (l *loop) swap(t *tunnel, up *upstream.Conn, next leg, fd int) {
	if t.done {
		closeDescriptor(fd)
		next.sock.conn.Close()
		up.Release()
		return
	}
	t.upstream = next
	l.turn(t, func(w *turn) {
		l.own(t, &t.upstream, fd)
		t.dialled(w, up)
		l.orders.catch(t, w)
	})
}

// own begins the second phase of a socket with its second descriptor fd. With -1 the
// group's pump takes the socket.
func (l *loop) own(t *tunnel, leg *leg, fd int) {
	s := leg.sock
	if fd < 0 {
		s.raw = l.group.pump(l, t, leg)
		return
	}
	s.conn.Close() // otherwise Go's own poller would wake up for each event too
	s.conn = nil
	s.os.fd = fd
	s.raw = &s.os
	s.os.join(l.poller, t, leg)
}

// drain begins to apply an order.
func (l *loop) drain(o *drainOrder) {
	l.orders = append(l.orders, o)
	chosen := o.chosen(l.timers)
	for i, at := range o.moments(len(chosen), l.work.now, l.group.random) {
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

// rearm updates the timers of tunnels whose times have changed. A tunnel that is due, and
// has not had its turn yet, stays due.
func (l *loop) rearm(tunnels []*tunnel) {
	for _, t := range tunnels {
		t.due = min(t.due, t.nextDue(l.work.now))
		l.after(t)
	}
}

// close ends the loop and closes its tunnels, after everything that was posted before.
func (l *loop) close() {
	l.mu.Lock()
	if !l.shut {
		l.shut = true
		l.push(func() { l.quit = true })
	}
	l.mu.Unlock()
	<-l.done
}

// post makes the loop's goroutine call f. It returns false, and drops f, if the loop is
// closed.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.shut {
		l.push(f)
	}
	return !l.shut
}

// push is for post and close. The caller holds l.mu.
func (l *loop) push(f func()) {
	l.inbox = append(l.inbox, f)
	if len(l.inbox) == 1 {
		l.poller.wake()
	}
}

// drainInbox calls everything that was posted.
func (l *loop) drainInbox() {
	l.mu.Lock()
	posted := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, f := range posted {
		l.do(f)
	}
}

// do calls one posted function. A function for one tunnel has a rescue of its own.
func (l *loop) do(f func()) {
	defer func() {
		if cause := recover(); cause != nil {
			l.group.panicked(panics.Tunnel, cause)
		}
	}()
	f()
}

// A wakePoller waits only for wake.
type wakePoller struct {
	woken chan struct{}
	was   bool
}

func newWakePoller() (poller, error) { return &wakePoller{woken: make(chan struct{}, 1)}, nil }

func (p *wakePoller) wait(timeout time.Duration) {
	p.was = false
	select {
	case <-p.woken:
		p.was = true
		return
	default:
	}
	switch {
	case timeout <= 0:
		return
	case timeout == never:
		<-p.woken
		p.was = true
		return
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.woken:
		p.was = true
	case <-timer.C:
	}
}

func (p *wakePoller) deliver(func(*tunnel, *leg, readiness)) (woken bool) { return p.was }

func (p *wakePoller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *wakePoller) batching() *batch { return nil }

func (p *wakePoller) close() {}

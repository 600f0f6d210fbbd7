package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// The maximum work for one event: reads of a socket, and their bytes. A turn reads each
// leg once; it returns to a client with TLS when its upstream accepts bytes again.
const (
	simMaxReads     = 16
	simMaxReadBytes = 3 * turnBudget
)

// simRoom is how many of the gate's bytes a kernel holds.
const simRoom = 48 << 10 // bytes

var errSimReset = errors.New("connection reset by peer")

// A simStream is one direction of a simulated TCP connection.
type simStream struct {
	flight  []byte // sent, in transit
	here    []byte // arrived, not read; a peer of the gate reads at once
	fin     bool   // sent, after flight
	finHere bool   // arrived, after here
	stalled bool   // nothing arrives: the network is broken, or the reader does not read
}

// pending reports whether the network has something to move.
func (s *simStream) pending() bool {
	return !s.stalled && (len(s.flight) > 0 || s.fin && !s.finHere)
}

// A simPeer is the other end of a simSocket. The simulation's goroutine calls it.
type simPeer interface {
	receive(b []byte)
	hungUp(reset bool) // the gate's FIN, or RST
}

// A simSocket is the gate's end of a simulated TCP connection. In its first phase it is
// a net.Conn, whose Read blocks; then the rawConn of a loop with a simPoller.
type simSocket struct {
	w       *simWorld
	name    string
	peer    simPeer
	local   net.Addr
	remote  net.Addr
	in, out simStream // to the gate, and from it
	broken  error     // the peer reset it
	closed  bool      // by the gate: the descriptor is closed
	reset   bool      // and with RST
	told    bool      // the peer has been told

	expired bool // first phase: its deadline has passed
	changed sync.Cond

	poller *simPoller // second phase
	fd     int        // index in its table
	tunnel *tunnel
	leg    *leg
	want   interest
	spins  int // consecutive events without a change

	reads, readBytes int   // in this event
	written          int64 // since the start
}

func (w *simWorld) newSocket(name string, peer simPeer, local, remote net.Addr) *simSocket {
	s := &simSocket{w: w, name: name, peer: peer, local: local, remote: remote, fd: -1}
	s.changed.L = &w.mu
	w.sockets = append(w.sockets, s)
	return s
}

// First phase.

func (s *simSocket) Read(b []byte) (int, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.expired:
			return 0, os.ErrDeadlineExceeded
		case len(s.in.here) > 0 || s.broken != nil || s.in.finHere:
			return s.take(b)
		}
		s.changed.Wait()
	}
}

func (s *simSocket) Write(b []byte) (int, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.expired:
		return 0, os.ErrDeadlineExceeded
	case s.broken != nil:
		return 0, s.broken
	}
	s.out.flight = append(s.out.flight, b...)
	return len(b), nil
}

func (s *simSocket) Close() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.shut(false)
	return nil
}

func (s *simSocket) LocalAddr() net.Addr                { return s.local }
func (s *simSocket) RemoteAddr() net.Addr               { return s.remote }
func (s *simSocket) SetReadDeadline(t time.Time) error  { return s.SetDeadline(t) }
func (s *simSocket) SetWriteDeadline(t time.Time) error { return nil }

func (s *simSocket) SetDeadline(t time.Time) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.expired = !t.IsZero() && !time.Now().Before(t)
	if !t.IsZero() && !s.expired {
		time.AfterFunc(time.Until(t), func() {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			s.expired = s.poller == nil && !s.closed
			s.changed.Broadcast()
		})
	}
	s.changed.Broadcast()
	return nil
}

// Second phase.

func (s *simSocket) read(b []byte) (int, error) {
	s.reads++
	n, err := s.take(b)
	s.readBytes += n
	return n, err
}

// take reads from the bytes that have arrived.
func (s *simSocket) take(b []byte) (int, error) {
	switch {
	case s.broken != nil:
		return 0, s.broken
	case len(s.in.here) > 0:
		n := copy(b, s.in.here)
		s.in.here = s.in.here[n:]
		return n, nil
	case s.in.finHere:
		return 0, io.EOF
	}
	return 0, errAgain
}

func (s *simSocket) room() int { return max(simRoom-len(s.out.flight), 0) }

func (s *simSocket) write(b []byte) (int, error) {
	switch {
	case s.closed || s.out.fin:
		s.w.fail("%s: %d bytes are written behind its end", s.name, len(b))
		return 0, net.ErrClosed
	case s.broken != nil:
		return 0, s.broken
	}
	n := min(len(b), s.room())
	s.out.flight = append(s.out.flight, b[:n]...)
	s.written += int64(n)
	if n < len(b) {
		return n, errAgain
	}
	return n, nil
}

func (s *simSocket) unacknowledged() int { return len(s.out.flight) }
func (s *simSocket) closeWrite() bool    { s.out.fin = true; return true }
func (s *simSocket) watch(want interest) { s.want = want }

func (s *simSocket) close(reset bool) {
	if s.closed {
		s.w.fail("%s: closed twice", s.name)
	}
	s.leave()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.shut(reset)
}

// shut closes the descriptor. As in a kernel, unread bytes turn this into a reset, and
// a reset drops bytes in transit.
func (s *simSocket) shut(reset bool) {
	if s.closed {
		return
	}
	s.closed = true
	s.reset = reset || len(s.in.here) > 0
	if s.out.fin = true; s.reset {
		s.out.flight, s.out.stalled = nil, false
	}
	s.w.trace("%s: closed by the gate, reset %t", s.name, s.reset)
	s.changed.Broadcast()
}

func (s *simSocket) join(p poller, t *tunnel, l *leg) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.poller, s.tunnel, s.leg = p.(*simPoller), t, l
	if s.fd = slices.Index(s.poller.conns, nil); s.fd < 0 { // the lowest free one, as in a kernel
		s.fd = len(s.poller.conns)
		s.poller.conns = append(s.poller.conns, nil)
	}
	s.poller.conns[s.fd] = s
}

func (s *simSocket) leave() {
	if s.fd >= 0 {
		s.poller.conns[s.fd] = nil
		s.fd = -1
	}
}

// ready returns the readiness that epoll would report now.
func (s *simSocket) ready() (is readiness) {
	if s.want == 0 {
		return 0
	}
	broken := s.broken != nil
	if s.want&forInput != 0 && (len(s.in.here) > 0 || s.in.finHere || broken) {
		is |= inputReady
	}
	if s.want&forRoom != 0 && (s.room() > 0 || broken) {
		is |= roomReady
	}
	if s.want&forEnd != 0 && (s.in.finHere || broken) {
		is |= endReady
	}
	if broken || s.in.finHere && s.out.fin {
		is |= failed
	}
	return is
}

// The network.

// carry moves up to n bytes towards the gate, and FIN after the last.
func (s *simSocket) carry(n int) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n = min(n, len(s.in.flight))
	switch {
	case s.closed && n > 0: // a kernel answers this with RST
		s.reset, s.in.flight, s.out.flight, s.out.stalled = true, nil, nil, false
		return
	case s.broken == nil:
		s.in.here = append(s.in.here, s.in.flight[:n]...)
	}
	s.in.flight = s.in.flight[n:]
	s.in.finHere = s.in.fin && len(s.in.flight) == 0
	s.changed.Broadcast()
}

// carryBack moves up to n bytes to the peer, and signals the end after the last.
func (s *simSocket) carryBack(n int) {
	s.w.mu.Lock()
	n = min(n, len(s.out.flight))
	b := s.out.flight[:n:n]
	s.out.flight = s.out.flight[n:]
	if len(s.out.flight) == 0 {
		s.out.flight = nil
	}
	ends := s.out.fin && len(s.out.flight) == 0 && !s.told
	s.told, s.out.finHere = s.told || ends, s.told || ends
	reset := s.reset
	s.w.mu.Unlock()
	if len(b) > 0 && s.broken == nil {
		s.peer.receive(b)
	}
	if ends && s.broken == nil {
		s.peer.hungUp(reset)
	}
}

// send is for the peer.
func (s *simSocket) send(b []byte) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.in.fin && s.broken == nil {
		s.in.flight = append(s.in.flight, b...)
	}
}

// finish sends the peer's FIN.
func (s *simSocket) finish() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.in.fin = true
}

// breaks sends the peer's RST: unread bytes are lost.
func (s *simSocket) breaks() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.broken == nil {
		s.broken = errSimReset
	}
	s.in, s.out = simStream{fin: true, finHere: true}, simStream{fin: s.out.fin, finHere: true}
	s.changed.Broadcast()
}

// A simPoller is a loop's poller. The loop waits in it until the simulation passes it a
// batch of events; when the loop returns to it, all due work is done.
type simPoller struct {
	w      *simWorld
	conns  []*simSocket // by descriptor
	parked chan struct{}
	resume chan simBatch
	batch  simBatch
	group  *batch    // nil: every call is separate
	due    time.Time // the latest time to wake the loop; zero: never
	moving bool      // parked is about to receive
	closed bool

	mu    sync.Mutex
	woken bool
}

// A simBatch is the result of one wait.
type simBatch struct {
	events []simEvent
	woken  bool
}

// A simEvent is a socket's readiness when the batch was made. By the time of its turn,
// another socket may have its descriptor.
type simEvent struct {
	fd   int
	is   readiness
	slow time.Duration // duration of its turn
}

func (w *simWorld) newPoller() (poller, error) {
	p := &simPoller{w: w, parked: make(chan struct{}, 1), resume: make(chan simBatch), moving: true}
	if w.batches {
		p.group = newBatch(p.do)
	}
	w.pollers = append(w.pollers, p)
	return p, nil
}

func (p *simPoller) wait(timeout time.Duration) {
	if p.due = (time.Time{}); timeout != never {
		p.due = time.Now().Add(timeout)
	}
	p.parked <- struct{}{}
	p.batch = <-p.resume
}

func (p *simPoller) deliver(tell func(*tunnel, *leg, readiness)) (woken bool) {
	if p.group.waiting() {
		p.w.left++
	}
	p.group.left(tell)
	if p.group != nil && (len(p.batch.events) > 1 || p.w.oneIn(2)) {
		for _, e := range p.batch.events {
			if s := p.conns[e.fd]; s != nil && e.is&inputReady != 0 && !p.w.oneIn(8) {
				p.group.read(s.tunnel, s.leg)
			}
		}
		p.group.begin()
	}
	for _, e := range p.batch.events {
		s := p.conns[e.fd]
		if s == nil {
			continue
		}
		p.group.turnOf(s.tunnel)
		before, fresh := s.looks(), s.ready()&e.is
		s.reads, s.readBytes = 0, 0
		p.w.trace("event %s: %s", s.name, e.is)
		tell(s.tunnel, s.leg, e.is)
		if s.reads > simMaxReads || s.readBytes > simMaxReadBytes {
			p.w.fail("%s: %d reads of %d bytes for one event", s.name, s.reads, s.readBytes)
		}
		if fresh != 0 && s.fd == e.fd && s.looks() == before && s.ready()&fresh != 0 {
			if s.spins++; s.spins >= 3 {
				p.w.fail("%s: told of %s %d times, and nothing comes of it", s.name, e.is, s.spins)
			}
		} else {
			s.spins = 0
		}
		if e.slow > 0 {
			time.Sleep(e.slow)
		}
		if p.w.oneIn(8) && p.group != nil {
			p.group.flush() // as if the batch had no room left
		}
	}
	p.group.end(tell)
	return p.batch.woken
}

// do makes the calls of a batch, some of them incompletely.
func (p *simPoller) do(calls []call) {
	for i := range calls {
		c := &calls[i]
		s := c.s.raw.(*simSocket)
		switch {
		case !c.write:
			c.n, c.err = s.read(c.b)
		case p.w.oneIn(6):
			c.n, c.err = s.write(c.b[:p.w.rnd.IntN(len(c.b))])
		default:
			c.n, c.err = s.write(c.b)
		}
		if c.n < len(c.b) && c.write {
			p.w.late++
		}
	}
}

// looks returns all parts of a socket that an event can change.
func (s *simSocket) looks() any {
	return struct {
		here, pend int
		written    int64
		want       interest
		state      sockState
		why        reason
		due        time.Duration
	}{len(s.in.here), s.leg.sock.out.size, s.written, s.want, s.leg.sock.state, s.tunnel.why, s.tunnel.due}
}

func (is readiness) String() string {
	var s string
	for i, name := range []string{"input", "room", "end", "failed"} {
		if is&(1<<i) != 0 {
			s += " " + name
		}
	}
	return s
}

func (p *simPoller) batching() *batch { return p.group }

func (p *simPoller) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woken = true
}

func (p *simPoller) close() {
	p.closed = true
	p.parked <- struct{}{}
}

// pending returns an event for each socket that is ready.
func (p *simPoller) pending() (events []simEvent) {
	for fd, s := range p.conns {
		if s != nil {
			if is := s.ready(); is != 0 {
				events = append(events, simEvent{fd: fd, is: is})
			}
		}
	}
	return events
}

func (p *simPoller) isWoken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.woken
}

// run makes the loop handle a batch.
func (p *simPoller) run(b simBatch) {
	if b.woken {
		p.mu.Lock()
		p.woken = false
		p.mu.Unlock()
	}
	p.w.meet()
	p.resume <- b
	<-p.parked
	p.w.settle()
}

// pump is loops.pump: it gives a simulated socket to the loop.
func (w *simWorld) pump(l *loop, t *tunnel, leg *leg) rawConn {
	s := leg.sock.conn.(*simSocket)
	s.join(l.poller, t, leg)
	if c, ok := s.peer.(*simClient); ok {
		c.begins(t)
	}
	return s
}

// A simDial is a dial that waits for the simulation's decision.
type simDial struct {
	node   *simNode
	answer chan *simLink // nil: refused
}

func (w *simWorld) dial(ctx context.Context, _, address string) (net.Conn, error) {
	d := &simDial{w.node(address), make(chan *simLink, 1)}
	w.mu.Lock()
	w.dials = append(w.dials, d)
	w.mu.Unlock()
	select {
	case l := <-d.answer:
		if l == nil {
			return nil, errors.New("connection refused")
		}
		return l.socket, nil
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dials = slices.DeleteFunc(w.dials, func(x *simDial) bool { return x == d })
		select {
		case l := <-d.answer:
			if l != nil {
				l.socket.shut(false)
			}
		default:
		}
		return nil, ctx.Err()
	}
}

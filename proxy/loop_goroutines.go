package proxy

import (
	"net"
	"slices"
	"sync"
	"time"

	"wssgate/upstream"
)

// goroutines is the driver that spends goroutines: for each tunnel one that
// reads and one that writes on either side, and a timer. Its turns come from a
// pool, and are held for as long as a turn lasts.
type goroutines struct {
	started time.Time
	turns   sync.Pool
	wg      sync.WaitGroup
	load    load

	mu      sync.Mutex
	tunnels map[*pumped]struct{}
	orders  standing
	shut    bool
}

func newGoroutines() *goroutines {
	return &goroutines{
		started: time.Now(),
		turns:   sync.Pool{New: func() any { return newTurn() }},
		tunnels: map[*pumped]struct{}{},
	}
}

// pumped is a tunnel of the goroutine driver. mu serializes its turns.
type pumped struct {
	d     *goroutines
	mu    sync.Mutex
	t     *tunnel
	timer *time.Timer
	conns [2]*pumpedConn
	over  bool
}

func (d *goroutines) take(t *tunnel) error {
	p := &pumped{d: d, t: t}
	p.conns[0] = p.newConn(&t.client)
	if !t.upstream.sock.closed() {
		p.conns[1] = p.newConn(&t.upstream)
	}
	p.mu.Lock() // before others can find it: they wait until it has started
	defer p.mu.Unlock()
	d.mu.Lock()
	if d.shut {
		d.mu.Unlock()
		return net.ErrClosed
	}
	d.tunnels[p] = struct{}{}
	orders := d.orders
	d.wg.Add(2) // for the client's; Shutdown must not find zero
	d.mu.Unlock()

	p.pump(p.conns[0])
	if p.conns[1] != nil {
		d.wg.Add(2)
		p.pump(p.conns[1])
	}
	p.turn(func(w *turn) {
		p.timer = time.AfterFunc(time.Hour, p.expired)
		t.start(w)
		orders.catch(t, w)
	})
	return nil
}

func (p *pumped) newConn(l *leg) *pumpedConn {
	c := &pumpedConn{p: p, leg: l, conn: l.sock.conn}
	c.wanted.L = &p.mu
	c.writable.L = &p.mu
	return c
}

// pump starts the goroutines of a connection, which the driver's WaitGroup
// counts already; p.mu is held.
func (p *pumped) pump(c *pumpedConn) {
	c.leg.sock.raw = c
	go c.readFrom()
	go c.writeTo()
}

// turn lends t a turn for f; p.mu is held.
func (p *pumped) turn(f func(*turn)) {
	if p.over {
		return
	}
	w := p.d.turns.Get().(*turn)
	defer p.d.turns.Put(w)
	w.now = time.Since(p.d.started)
	f(w)
	w.moved.into(&p.d.load)
	if !p.t.done {
		if p.t.due == never {
			p.timer.Stop()
		} else {
			p.timer.Reset(p.t.due - w.now)
		}
		return
	}
	p.over = true
	p.timer.Stop()
	for _, c := range p.conns {
		if c != nil {
			c.wanted.Broadcast()
			c.writable.Broadcast()
		}
	}
	p.d.mu.Lock()
	delete(p.d.tunnels, p)
	p.d.mu.Unlock()
	p.t.onDone(p.t, w.now)
}

func (p *pumped) expired() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(func(w *turn) {
		if w.now >= p.t.due {
			p.t.expire(w)
		}
	})
}

// swap: the tunnel's old upstream is closed, so that its goroutines end by
// themselves.
func (d *goroutines) swap(t *tunnel, up *upstream.Conn) error {
	p := t.client.sock.raw.(*pumpedConn).p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return net.ErrClosed
	}
	t.upstream = upstreamLeg(up)
	p.conns[1] = p.newConn(&t.upstream)
	d.wg.Add(2)
	p.pump(p.conns[1])
	d.mu.Lock()
	orders := d.orders
	d.mu.Unlock()
	p.turn(func(w *turn) {
		t.dialled(w, up)
		orders.catch(t, w)
	})
	return nil
}

func (d *goroutines) do(t *tunnel, f func(*turn)) {
	p := t.client.sock.raw.(*pumpedConn).p
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(f)
}

func (d *goroutines) count(o *drainOrder) int {
	n := 0
	d.each(func(p *pumped) { n += len(o.chosen([]*tunnel{p.t})) })
	return n
}

func (d *goroutines) drain(o *drainOrder) {
	d.mu.Lock()
	d.orders = append(slices.Clone(d.orders), o)
	now := time.Since(d.started)
	d.mu.Unlock()
	var chosen []*tunnel
	d.each(func(p *pumped) { chosen = append(chosen, o.chosen([]*tunnel{p.t})...) })
	moments := map[*tunnel]time.Duration{}
	for i, at := range o.moments(len(chosen), now) {
		moments[chosen[i]] = at
	}
	d.setDrains(moments, o.patience())
}

func (d *goroutines) undrain(o *drainOrder) {
	d.mu.Lock()
	d.orders = d.orders.without(o)
	others := d.orders
	d.mu.Unlock()
	moments := map[*tunnel]time.Duration{}
	d.each(func(p *pumped) {
		if o.matches(p.t) && !others.has(p.t) {
			moments[p.t] = 0
		}
	})
	d.setDrains(moments, 0)
}

// setDrains gives tunnels the time of their drain.
func (d *goroutines) setDrains(moments map[*tunnel]time.Duration, patience time.Duration) {
	d.each(func(p *pumped) {
		if at, ok := moments[p.t]; ok {
			p.turn(func(w *turn) {
				p.t.drainAt, p.t.patience = at, patience
				p.t.due = p.t.nextDue(w.now)
			})
		}
	})
}

func (d *goroutines) close() {
	d.mu.Lock()
	d.shut = true
	d.mu.Unlock()
	d.each(func(p *pumped) {
		p.turn(func(w *turn) {
			p.t.done = true
			p.t.end(w, reasonDrain, 0)
		})
	})
	d.wg.Wait()
}

func (d *goroutines) counted() *load { return &d.load }

func (d *goroutines) each(f func(*pumped)) {
	d.mu.Lock()
	all := make([]*pumped, 0, len(d.tunnels))
	for p := range d.tunnels {
		all = append(all, p)
	}
	d.mu.Unlock()
	for _, p := range all {
		p.mu.Lock()
		f(p)
		p.mu.Unlock()
	}
}

// pumpedConn is the rawConn of the goroutine driver. Its fields belong to
// whoever holds p.mu, but for conn.
type pumpedConn struct {
	p    *pumped
	leg  *leg
	conn net.Conn

	in       []byte // read, not yet taken by the tunnel
	inErr    error  // follows in
	reading  bool   // the tunnel wants to read
	ending   bool   // or to hear of the end alone
	wanted   sync.Cond
	pending  []byte // being written; empty: the next write is welcome
	writable sync.Cond
	closed   bool
}

func (c *pumpedConn) read(b []byte) (int, error) {
	if len(c.in) == 0 {
		if c.inErr != nil {
			return 0, c.inErr
		}
		return 0, errAgain
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *pumpedConn) write(b []byte) (int, error) {
	if len(c.pending) > 0 {
		return 0, errAgain
	}
	n := min(len(b), blockSize)
	c.pending = append(c.pending, b[:n]...)
	c.writable.Signal()
	if n < len(b) {
		return n, errAgain
	}
	return n, nil
}

func (c *pumpedConn) unacknowledged() int { return 0 }

// closeWrite does nothing where the connection can't be closed by halves, or
// something is still being written: the tunnel's deadline closes it.
func (c *pumpedConn) closeWrite() {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && len(c.pending) == 0 {
		half.CloseWrite()
	}
}

func (c *pumpedConn) watch(read, _, end bool) {
	c.reading, c.ending = read, end
	c.wanted.Signal()
}

// close lets what is being written go out, for at most closeTimeout.
func (c *pumpedConn) close() {
	c.closed = true
	c.conn.SetReadDeadline(time.Unix(1, 0))
	c.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.wanted.Broadcast()
	c.writable.Broadcast()
}

func (c *pumpedConn) readFrom() {
	defer c.p.d.wg.Done()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.conn.Read(buf)
		c.p.mu.Lock()
		c.in, c.inErr = buf[:n], err
		for !c.closed && !c.p.over && (len(c.in) > 0 || c.inErr != nil) {
			for !c.reading && !(c.ending && c.inErr != nil) && !c.closed && !c.p.over {
				c.wanted.Wait()
			}
			if c.ending {
				c.p.turn(c.p.t.hungUp)
			} else {
				c.p.turn(func(w *turn) { c.p.t.event(w, c.leg, true, false) })
			}
			if len(c.in) == 0 && c.inErr != nil {
				break
			}
		}
		over := c.closed || c.p.over || err != nil
		c.p.mu.Unlock()
		if over {
			return
		}
	}
}

// writeTo writes what the tunnel hands over, and closes the connection at the
// end.
func (c *pumpedConn) writeTo() {
	defer c.p.d.wg.Done()
	defer c.conn.Close()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for {
		for len(c.pending) == 0 && !c.closed && !c.p.over {
			c.writable.Wait()
		}
		if len(c.pending) == 0 {
			return
		}
		b := c.pending
		c.p.mu.Unlock()
		_, err := c.conn.Write(b)
		c.p.mu.Lock()
		c.pending = c.pending[:0]
		if err != nil && !c.closed {
			c.leg.sock.err = err
		}
		if !c.closed {
			c.p.turn(func(w *turn) { c.p.t.event(w, c.leg, false, true) })
		}
	}
}

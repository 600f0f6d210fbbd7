package proxy

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// What the Server does when memory is short. Whoever measures it says so
// (SetShort), and asks for as much as is to be given up (Shed); nothing here
// knows a limit.

const (
	// shedLeast is what a tunnel must hold to be shed, in bytes: a client that is
	// a moment behind is not what the memory went into. Where there is no time, the
	// largest go first all the same, but many small ones can be too much as well.
	shedLeast       = 64 << 10
	shedLeastAtOnce = 4 << 10

	// requestCost is what a request of BOSH takes beside its body: the goroutines
	// and buffers of two HTTP connections, in bytes.
	requestCost = 64 << 10

	// requestPatience is how long its client has to take the 503.
	requestPatience = time.Second
)

// errShort is why a tunnel was shed.
var errShort = errors.New("memory is short (limits.memory)")

// SetShort tells the Server whether memory is short. While it is, the Server closes new
// connections at once, and answers opening handshakes and BOSH requests on others with
// 503. Tunnels continue, but if brake is true, a tunnel whose backlog grows beyond 64
// KiB ends.
func (s *Server) SetShort(short, brake bool) {
	s.short.Store(short)
	s.brake.on.Store(brake)
}

// Braked returns how many tunnels the brake has ended.
func (s *Server) Braked() int { return int(s.brake.ended.Load()) }

// A brake keeps backlogs from growing while it is on.
type brake struct {
	on    atomic.Bool
	ended atomic.Int64 // tunnels
}

// Shed ends the largest consumers of memory until about that many bytes are free, or no
// large ones are left. It ends tunnels like those of slow clients, and resets their
// connections after patience; BOSH requests get 503. If sockets is true, data in the
// kernel counts as well. Shed returns how many it ended, and how many bytes they used.
// Calls must not overlap.
func (s *Server) Shed(bytes int64, sockets bool, patience time.Duration) (tunnels, requests int, freed int64) {
	floor := int64(shedLeast)
	if patience == 0 {
		floor = shedLeastAtOnce
	}
	var held []int64
	s.loops.visit(func(t *tunnel, _ *turn) {
		if n := t.backlog(sockets); n >= floor {
			held = append(held, n)
		}
	})
	held = append(held, s.pages.weights()...)
	least := leastToShed(held, bytes, floor)
	s.loops.visit(func(t *tunnel, w *turn) {
		if n := t.backlog(sockets); n >= least && freed < bytes {
			if t.why == reasonNone {
				tunnels++ // others are counted
			}
			t.shed(w, patience)
			freed += n
		}
	})
	requests, n := s.pages.shed(least, bytes-freed)
	return tunnels, requests, freed + n
}

// leastToShed returns the size from which on things are to be given up so that
// the largest of them add up to bytes; floor where all do not.
func leastToShed(sizes []int64, bytes, floor int64) int64 {
	slices.SortFunc(sizes, func(a, b int64) int { return cmp.Compare(b, a) })
	for _, n := range sizes {
		if bytes -= n; bytes <= 0 {
			return n
		}
	}
	return floor
}

// backlog is what waits for the ends of a tunnel, in bytes: here, and with sockets
// true in the kernel.
func (t *tunnel) backlog(sockets bool) int64 {
	n := 0
	for _, l := range []*leg{&t.client, &t.upstream} {
		n += l.sock.out.size + len(l.unscanned)
		if sockets && l.sock.state != sockClosed {
			n += l.sock.raw.unacknowledged()
		}
	}
	if g := t.greeting; g != nil {
		n += len(g.frames) + len(g.answers)
	}
	if v := t.vetting; v != nil {
		n += len(v.kept)
	}
	return int64(n + len(t.pend))
}

// shed ends the tunnel for what waits for its client, which has patience to take
// it. One that is ending already has no more than that.
func (t *tunnel) shed(w *turn, patience time.Duration) {
	t.begin(w)
	if t.why == reasonNone {
		t.client.err = errShort
	}
	t.endFor(reasonSlowClient, w.now+patience)
	t.closeBy = min(t.closeBy, w.now+patience)
	t.settle(w)
}

// brakes ends a tunnel that would grow while none may: at once, for a Close frame
// behind its backlog would free nothing. It reports whether it did. It is asked
// before the upstream is read, when what waits is what the kernel did not take.
func (t *tunnel) brakes(w *turn) bool {
	if t.client.sock.out.size <= shedLeast || t.settings.brake == nil || !t.settings.brake.on.Load() {
		return false
	}
	if t.why == reasonNone {
		t.client.err = errShort
		t.settings.brake.ended.Add(1)
	}
	t.endFor(reasonSlowClient, w.now)
	t.cutOff()
	t.closeBy = min(t.closeBy, w.now)
	return true
}

// weights returns what each request under way takes.
func (p *pages) weights() (out []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.requests {
		out = append(out, conn.weight())
	}
	return out
}

// shed ends requests that take at least so much, until so many bytes are free.
func (p *pages) shed(least, bytes int64) (n int, freed int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn, end := range p.requests {
		if freed >= bytes {
			break
		}
		if w := conn.weight(); w >= least {
			end()
			conn.SetReadDeadline(time.Unix(1, 0)) // the body may be what it waits for
			conn.SetWriteDeadline(time.Now().Add(requestPatience))
			n++
			freed += w
		}
	}
	return n, freed
}

func (c *pageConn) weight() int64 { return requestCost + c.received.Load() }

package proxy

import (
	"cmp"
	"errors"
	"slices"
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
)

// errShort is why a tunnel was shed.
var errShort = errors.New("memory is short (limits.memory)")

// shed is Server.Shed.
func shed(loops *loops, pages *pages, bytes int64, sockets bool, patience time.Duration) (tunnels, requests int, freed int64) {
	floor := int64(shedLeast)
	if patience == 0 {
		floor = shedLeastAtOnce
	}
	var held []int64
	loops.visit(func(t *tunnel, _ *turn) {
		if n := t.backlog(sockets); n >= floor {
			held = append(held, n)
		}
	})
	held = append(held, pages.weights()...)
	least := leastToShed(held, bytes, floor)
	loops.visit(func(t *tunnel, w *turn) {
		if n := t.backlog(sockets); n >= least && freed < bytes {
			if t.why == reasonNone {
				tunnels++ // others are counted
			}
			t.shed(w, patience)
			freed += n
		}
	})
	requests, n := pages.shed(least, bytes-freed)
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

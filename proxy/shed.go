package proxy

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// The reaction to a shortage of memory. The caller measures memory: it reports a shortage
// (SetShort), and asks for a number of bytes (Shed). Nothing here knows a limit.

const (
	// shedLeast is the least size of a tunnel that is shed, in bytes: a client that is
	// a moment behind does not use much memory. In an emergency the least size is
	// shedLeastAtOnce, because many small tunnels can be too much as well; the largest
	// still go first.
	shedLeast       = 64 << 10
	shedLeastAtOnce = 4 << 10
)

// errShort is the error of a tunnel that was shed.
var errShort = errors.New("memory is short (limits.memory)")

// shed is Server.Shed.
func shed(loops *loops, pages *pages, bytes int64, sockets bool, patience time.Duration) (tunnels, requests int, freed int64) {
	floor := int64(shedLeast)
	if patience == 0 {
		floor = shedLeastAtOnce
	}
	var held []int64
	before := map[*tunnel]int64{}
	loops.visit(func(t *tunnel, _ *turn) {
		if n := t.backlog(sockets); n >= floor {
			held = append(held, n)
			before[t] = n
		}
	})
	held = append(held, pages.weights()...)
	least := leastToShed(held, bytes, floor)
	loops.visit(func(t *tunnel, w *turn) {
		// Its client may have taken some bytes since it was chosen.
		if n := t.backlog(sockets); n >= floor && max(n, before[t]) >= least && freed < bytes {
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

// leastToShed returns the least size to shed so that the largest sizes add up to bytes, or
// floor if all together do not.
func leastToShed(sizes []int64, bytes, floor int64) int64 {
	slices.SortFunc(sizes, func(a, b int64) int { return cmp.Compare(b, a) })
	for _, n := range sizes {
		if bytes -= n; bytes <= 0 {
			return n
		}
	}
	return floor
}

// backlog returns the bytes that wait for the ends of a tunnel: here, and with sockets in
// the kernel as well.
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

// shed ends the tunnel. Its client has patience to take what waits for it, even if the
// tunnel was ending with more time.
func (t *tunnel) shed(w *turn, patience time.Duration) {
	t.begin(w)
	if t.why == reasonNone {
		t.client.err = errShort
	}
	t.endFor(reasonSlowClient, w.now+patience)
	t.closeBy = min(t.closeBy, w.now+patience)
	t.settle(w)
}

// brakes ends a tunnel with a large backlog while the brake is on, and reports whether it
// did. It ends it at once, because a Close frame after the backlog would free nothing.
// It is called before the upstream is read, when only bytes that the kernel did not take
// are waiting.
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

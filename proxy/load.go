package proxy

import (
	"sync/atomic"
	"time"
)

// A load is what the loops have done. Others may read it at any time.
type load struct {
	bytesIn, bytesOut   atomic.Int64 // of WebSocket, from and to clients
	framesIn, framesOut atomic.Int64
	lag                 histogram // how long it was busy with one batch of events
}

// traffic is what went through in a turn, or in a batch of them: plain numbers
// of the loop's own, so that a frame costs no atomic operation.
type traffic struct {
	bytesIn, bytesOut   int64
	framesIn, framesOut int64
}

func (m *traffic) add(fromClient bool, bytes, frames int64) {
	if fromClient {
		m.bytesIn += bytes
		m.framesIn += frames
	} else {
		m.bytesOut += bytes
		m.framesOut += frames
	}
}

// into adds m to the load, and makes it zero again.
func (m *traffic) into(l *load) {
	if *m == (traffic{}) {
		return
	}
	l.bytesIn.Add(m.bytesIn)
	l.bytesOut.Add(m.bytesOut)
	l.framesIn.Add(m.framesIn)
	l.framesOut.Add(m.framesOut)
	*m = traffic{}
}

// histogramBounds suit both a batch of the event loop and a dial: what is
// normal there lies in the first half, what hurts in the second.
var histogramBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// A histogram counts durations. Its methods may be called at the same time;
// the zero value is empty.
type histogram struct {
	counts [len(histogramBounds) + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

func newHistogram() *histogram { return new(histogram) }

func (h *histogram) add(d time.Duration) {
	i := 0
	for i < len(histogramBounds) && d > histogramBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) durations() Durations {
	d := Durations{Bounds: histogramBounds[:], Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		d.Counts[i] = h.counts[i].Load()
	}
	return d
}

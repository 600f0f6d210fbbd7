package proxy

import (
	"sync/atomic"
	"time"
)

// Durations is a histogram. Counts[i] are those of at most Bounds[i]; the
// last, which has no bound, are all others.
type Durations struct {
	Bounds []time.Duration `json:"bounds_ns"`
	Counts []uint64        `json:"counts"`
	Sum    time.Duration   `json:"sum_ns"`
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

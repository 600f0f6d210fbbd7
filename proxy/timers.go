package proxy

import (
	"container/heap"
	"time"
)

// timerPlace is a tunnel's place among the timers of its loop.
type timerPlace struct {
	index int
	due   time.Duration // the order of the heap; never later than tunnel.due
}

// timers orders the tunnels of a loop by their due time. It is lazy: a tunnel whose time
// moves back keeps its place until the old time comes, so that traffic costs no
// reordering.
type timers []*tunnel

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].place.due < h[j].place.due }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place.index, h[j].place.index = i, j
}

func (h *timers) Push(x any) {
	t := x.(*tunnel)
	t.place.index = len(*h)
	*h = append(*h, t)
}

func (h *timers) Pop() any {
	old := *h
	last := len(old) - 1
	t := old[last]
	old[last] = nil
	*h = old[:last]
	t.place.index = -1
	return t
}

func (h *timers) add(t *tunnel) {
	t.place.due = t.due
	heap.Push(h, t)
}

func (h *timers) remove(t *tunnel) { heap.Remove(h, t.place.index) }

// has reports whether t is in h.
func (h timers) has(t *tunnel) bool {
	return t.place.index < len(h) && t.place.index >= 0 && h[t.place.index] == t
}

// update is called after each turn of t.
func (h *timers) update(t *tunnel) {
	if t.due < t.place.due {
		t.place.due = t.due
		heap.Fix(h, t.place.index)
	}
}

// next returns a tunnel that is due, or nil and the time until one is.
func (h *timers) next(now time.Duration) (*tunnel, time.Duration) {
	for len(*h) > 0 {
		t := (*h)[0]
		if t.place.due > now {
			return nil, t.place.due - now
		}
		if t.due <= now {
			return t, 0
		}
		t.place.due = t.due
		heap.Fix(h, 0)
	}
	return nil, never
}

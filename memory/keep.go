package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"wssgate/panics"
)

// A gate's heap is many small objects that live long: a few KiB for each
// connection. Go's own habits suit it badly at both ends. With few connections
// the heap is so small that it is collected for every thirty handshakes, which
// was a quarter of all CPU that clients cost who come and go. With many, a
// share of the heap as room to grow is megabytes that nobody uses, and what a
// storm of clients took stays for minutes.
//
// So two things are done here: the collector gets room in bytes rather than as
// a share of the heap, and once things are calm, spare memory goes back to the
// system.
const (
	roomBase  = 8 << 20 // bytes that the heap may grow between two collections,
	roomShare = 4       // and one more for so many bytes that live

	minPercent = 25
	maxPercent = 200 // a higher one would raise Go's smallest heap over roomBase

	// The system gets memory back when at least so much is spare, looked for
	// once in an interval. It costs a collection, so that no more than one
	// part of restShare of the time goes into it.
	spareBase     = 2 << 20 // bytes
	spareShare    = 8       // one more for so many bytes that live
	spareInterval = 5 * time.Second
	restShare     = 50
)

// Keep looks after the process's heap until stop is called. GOGC, where it is
// set, is obeyed: then spare memory is given back, and no more is done.
func Keep() (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		panics.Keep(done, panics.Memory, func() { giveMemoryBack(done) })
	}()
	var p *pacer
	if os.Getenv("GOGC") == "" {
		p = startPacer()
	}
	return func() {
		if p != nil {
			p.stopped.Store(true)
		}
		close(done)
		<-ended
	}
}

// A pacer sets the collector's percentage anew after each collection.
type pacer struct {
	percent int
	stopped atomic.Bool
}

func startPacer() *pacer {
	p := &pacer{percent: maxPercent}
	debug.SetGCPercent(p.percent)
	p.await()
	return p
}

// await has pace called after the next collection: that is when an object that
// nobody refers to is cleaned up.
func (p *pacer) await() {
	type canary struct{ _ *pacer } // with a pointer, or it would share its memory with others
	runtime.AddCleanup(new(canary), (*pacer).pace, p)
}

func (p *pacer) pace() {
	if p.stopped.Load() {
		return
	}
	h := readHeap()
	// Setting it stops all goroutines for a moment, so a small change waits.
	if percent := percentFor(h.live, h.stacks); percent < p.percent*9/10 || percent > p.percent*11/10 {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	p.await()
}

// percentFor is the percentage that gives a heap its room. Go takes it of the
// stacks too.
func percentFor(live, stacks uint64) int {
	room := roomBase + live/roomShare
	return int(min(max(room*100/max(live+stacks, 1), minPercent), maxPercent))
}

// giveMemoryBack returns spare memory to the system, until done is closed.
func giveMemoryBack(done <-chan struct{}) {
	rest := spareInterval
	var kept uint64 // spare, and still so when it was last given back
	for {
		select {
		case <-done:
			return
		case <-time.After(rest):
		}
		rest = spareInterval
		h := readHeap()
		kept = min(kept, h.spare())
		if h.spare()-kept < spareBase+h.live/spareShare {
			continue
		}
		began := time.Now()
		debug.FreeOSMemory()
		rest = max(rest, time.Since(began)*restShare)
		kept = readHeap().spare()
	}
}

// heapState is what Go says of its heap, in bytes.
type heapState struct {
	live    uint64 // found by the last collection
	stacks  uint64 // that it looked at
	objects uint64 // live ones and garbage
	unused  uint64 // between objects
	free    uint64 // not yet given back
}

// spare is what the heap has and nobody needs, more or less: some of what is
// between objects can't be given back.
func (h heapState) spare() uint64 {
	return h.objects + h.unused + h.free - min(h.live, h.objects)
}

func readHeap() heapState {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	var h heapState
	for i, field := range []*uint64{&h.live, &h.stacks, &h.objects, &h.unused, &h.free} {
		if samples[i].Value.Kind() == metrics.KindUint64 { // a Go release may drop one
			*field = samples[i].Value.Uint64()
		}
	}
	return h
}

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

// A gate's heap has many small, long-lived objects: a few KiB for each connection. Go's
// defaults suit it badly at both ends. With few connections, the heap is so small that
// it is collected every thirty handshakes, which was a quarter of all CPU for clients
// that connect and disconnect. With many, growing by a share of the heap means
// megabytes of unused memory, and the memory of a storm of clients stays for minutes.
//
// Keep therefore gives the collector room in bytes instead of a share of the heap, and
// returns spare memory to the system when the load is low.
const (
	roomBase  = 8 << 20 // bytes that the heap may grow between two collections,
	roomShare = 4       // plus one per roomShare live bytes

	minPercent = 25
	maxPercent = 200 // a higher percentage would raise Go's minimum heap over roomBase

	// Memory is returned to the system once at least this much is spare, checked once
	// per interval. Returning it costs a collection, which may take at most one part in
	// restShare of the time.
	spareBase     = 2 << 20 // bytes
	spareShare    = 8       // plus one per spareShare live bytes
	spareInterval = 5 * time.Second
	restShare     = 50
)

// Keep manages the process's heap until stop is called. If GOGC is set, Keep obeys it
// and only returns spare memory.
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

// A pacer adjusts the collector's percentage after each collection.
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

// await arranges a call of pace after the next collection, when an unreachable object
// is cleaned up.
func (p *pacer) await() {
	type canary struct{ _ *pacer } // without the pointer, it would share its memory with others
	runtime.AddCleanup(new(canary), (*pacer).pace, p)
}

func (p *pacer) pace() {
	if p.stopped.Load() {
		return
	}
	h := readHeap()
	// A change stops all goroutines for a moment, so small ones are skipped.
	if percent := percentFor(h.live, h.stacks); percent < p.percent*9/10 || percent > p.percent*11/10 {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	p.await()
}

// percentFor returns the percentage that gives a heap its room. Go also applies it to
// the stacks.
func percentFor(live, stacks uint64) int {
	room := roomBase + live/roomShare
	return int(min(max(room*100/max(live+stacks, 1), minPercent), maxPercent))
}

// giveMemoryBack returns spare memory to the system until done is closed.
func giveMemoryBack(done <-chan struct{}) {
	rest := spareInterval
	var kept uint64 // spare memory that remained the last time
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

// heapState is the state of Go's heap, in bytes.
type heapState struct {
	live    uint64 // found by the last collection
	stacks  uint64 // scanned by it
	objects uint64 // live objects and garbage
	unused  uint64 // between objects
	free    uint64 // not returned yet
}

// spare returns the unused part of the heap, approximately: some of the space between
// objects can't be returned.
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
		if samples[i].Value.Kind() == metrics.KindUint64 { // a Go release may drop a metric
			*field = samples[i].Value.Uint64()
		}
	}
	return h
}

package certstore

import (
	"bytes"
	"runtime"
)

// A der is a run of bytes in an arena: a leaf or a private key. It never
// changes. The zero der is empty.
//
// Callers can only copy its bytes. The chunk's memory goes back to the system
// when the last der in it is collected, and a slice would not keep it alive.
type der struct {
	chunk *chunk
	off   uint32
	len   uint32
}

// A chunk is memory outside the Go heap. On the heap, GOGC would make ten
// thousand certificates cost 50 to 100 percent more memory.
type chunk struct{ mem []byte }

const chunkSize = 256 << 10 // bytes; about 200 certificates

// An arena fills one chunk after another. It is not safe for concurrent use,
// but its ders are.
type arena struct {
	chunk *chunk
	used  int
}

// put copies b into the arena.
func (a *arena) put(b []byte) der {
	if len(b) == 0 {
		return der{}
	}
	if a.chunk == nil || len(a.chunk.mem)-a.used < len(b) {
		a.chunk, a.used = newChunk(max(chunkSize, len(b))), 0
	}
	d := der{a.chunk, uint32(a.used), uint32(copy(a.chunk.mem[a.used:], b))}
	a.used += len(b)
	return d
}

// onHeap makes a der of b, which must not change afterwards.
func onHeap(b []byte) der { return der{&chunk{b}, 0, uint32(len(b))} }

// bytes returns a copy.
func (d der) bytes() []byte {
	if d.chunk == nil {
		return nil
	}
	b := bytes.Clone(d.chunk.mem[d.off : d.off+d.len])
	runtime.KeepAlive(d.chunk)
	return b
}

func (d der) compare(o der) int {
	if d == o || d.chunk == nil || o.chunk == nil {
		return int(d.len) - int(o.len)
	}
	c := bytes.Compare(d.chunk.mem[d.off:d.off+d.len], o.chunk.mem[o.off:o.off+o.len])
	runtime.KeepAlive(d.chunk)
	runtime.KeepAlive(o.chunk)
	return c
}

func (d der) equal(o der) bool { return d.compare(o) == 0 }

package certstore

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// newChunk asks the system for memory, and the heap where the system has none.
func newChunk(size int) *chunk {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return &chunk{make([]byte, size)}
	}
	unix.Madvise(mem, unix.MADV_DONTDUMP) // private keys have no business in a core dump; only advice
	c := &chunk{mem}
	runtime.AddCleanup(c, func(mem []byte) { unix.Munmap(mem) }, mem)
	return c
}

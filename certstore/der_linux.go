package certstore

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// newChunk allocates memory from the system or, if that fails, from the heap.
func newChunk(size int) *chunk {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return &chunk{make([]byte, size)}
	}
	unix.Madvise(mem, unix.MADV_DONTDUMP) // keeps private keys out of core dumps; best effort
	c := &chunk{mem}
	runtime.AddCleanup(c, func(mem []byte) { unix.Munmap(mem) }, mem)
	return c
}

package proxy

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring makes many reads and writes with one system call, by io_uring (io_uring(7)).
// No call waits in it: all have MSG_DONTWAIT, so the kernel makes each one when it
// accepts it, and do returns when all are made.
type ring struct {
	fd             int
	mapped         [][]byte // the queues, and the entries of the submission queue
	sqes           []sqe
	cqes           []cqe
	sqHead, sqTail *uint32     // the kernel takes calls from the head; we add at the tail
	cqHead, cqTail *uint32     // the reverse, for results
	broken         bool        // the kernel refused a call that it accepted before: each call is now made alone
	lost           func(error) // nil: already called
}

// From linux/io_uring.h.
const (
	ringEntries = batchSlots // a power of two

	ringCoop    = 1 << 8     // IORING_SETUP_COOP_TASKRUN: Linux 5.19
	ringGet     = 1 << 0     // IORING_ENTER_GETEVENTS
	ringSQEs    = 0x10000000 // IORING_OFF_SQES
	ringOneMap  = 1 << 0     // IORING_FEAT_SINGLE_MMAP
	ringOpSend  = 26
	ringOpRecv  = 27
	ringBadFile = -int32(unix.EBADF)
)

type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, workers uint32
	_                                                                     [3]uint32
	sq                                                                    struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

type sqe struct {
	op, flags uint8
	priority  uint16
	fd        int32
	offset    uint64
	addr      uint64
	len       uint32
	msgFlags  uint32
	data      uint64
	_         [3]uint64
}

type cqe struct {
	data  uint64
	res   int32
	flags uint32
}

// newRing creates a ring and tests it. The error shows what the kernel, or a seccomp
// filter, refuses. Linux before 5.19 is refused for its missing flags: the ring was
// never tested there. lost is called once if the kernel refuses later.
func newRing(lost func(error)) (*ring, error) {
	p := ringParams{flags: ringCoop}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, ringEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd), lost: lost} // close-on-exec, like every ring
	if p.features&ringOneMap == 0 {
		r.close()
		return nil, errors.New("io_uring_setup: the kernel is too old")
	}
	queues, err := r.mmap(0, max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{}))))
	if err != nil {
		return nil, err
	}
	entries, err := r.mmap(ringSQEs, p.sqEntries*uint32(unsafe.Sizeof(sqe{})))
	if err != nil {
		return nil, err
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&queues[offset])) }
	r.sqHead, r.sqTail, r.cqHead, r.cqTail = at(p.sq.head), at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&entries[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&queues[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries {
		*at(p.sq.array + i*4) = i // an identity map between the queue and its entries
	}
	r.add(0, ringOpRecv, -1, nil, 0)
	if errno = r.enter(1); errno != 0 {
		r.close()
		return nil, os.NewSyscallError("io_uring_enter", errno)
	}
	if _, res, ok := r.result(); !ok || res != ringBadFile {
		r.close()
		return nil, os.NewSyscallError("io_uring_enter: recv", syscall.Errno(-res))
	}
	return r, nil
}

// mmap maps a part of the ring; on an error it closes the ring.
func (r *ring) mmap(offset int64, size uint32) ([]byte, error) {
	b, err := unix.Mmap(r.fd, offset, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		r.close()
		return nil, os.NewSyscallError("mmap", err)
	}
	r.mapped = append(r.mapped, b)
	return b, nil
}

// close may be called again. After it, do makes each call alone.
func (r *ring) close() {
	if r == nil || r.fd < 0 {
		return
	}
	for _, b := range r.mapped {
		unix.Munmap(b)
	}
	unix.Close(r.fd)
	*r = ring{fd: -1, broken: true, lost: r.lost}
}

// do makes calls, at most ringEntries of them.
func (r *ring) do(calls []call) {
	if r.broken {
		if r.lost != nil { // after a panic in an earlier do
			r.lose(errBatch)
		}
		for i := range calls {
			calls[i].alone()
		}
		return
	}
	for i := range calls {
		c := &calls[i]
		if c.write {
			r.add(i, ringOpSend, c.s.os.fd, c.b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		} else {
			r.add(i, ringOpRecv, c.s.os.fd, c.b, unix.MSG_DONTWAIT)
		}
		c.made = false
	}
	r.broken = true // until all calls are made: after a panic the queues are unusable
	failure := r.enter(len(calls))
	for {
		i, res, ok := r.result()
		if !ok {
			break
		}
		calls[i].returned(res)
	}
	if r.broken = failure != 0; r.broken {
		r.lose(os.NewSyscallError("io_uring_enter", failure))
	}
	for i := range calls {
		if !calls[i].made { // interrupted, or not accepted by the kernel
			calls[i].alone()
		}
	}
}

// lose stops the use of the ring, and gives back what it holds.
func (r *ring) lose(why error) {
	lost := r.lost
	r.lost = nil
	r.close()
	lost(why)
}

// ringForbidden reports whether the kernel refuses every ring, and not one for lack of
// descriptors or memory.
func ringForbidden(err error) bool {
	return !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EAGAIN)
}

// add queues a call, at place i of those that enter submits.
func (r *ring) add(i int, op uint8, fd int, b []byte, flags uint32) {
	tail := *r.sqTail
	r.sqes[tail&uint32(len(r.sqes)-1)] = sqe{op: op, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))),
		len: uint32(len(b)), msgFlags: flags, data: uint64(i)}
	atomic.StoreUint32(r.sqTail, tail+1)
}

// enter submits n calls, and returns when the results of the accepted ones are
// available. On an error, the kernel has accepted some of them or none; enter forgets
// the others.
func (r *ring) enter(n int) syscall.Errno {
	taken := 0
	var failure syscall.Errno
	for taken < n && failure == 0 {
		// It does not wait, because the calls do not; see raw_linux.go.
		k, _, errno := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n-taken), 0, 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			failure = errno
		case k == 0:
			failure = unix.EIO
		default:
			taken += int(k)
		}
	}
	if failure != 0 {
		atomic.StoreUint32(r.sqTail, atomic.LoadUint32(r.sqHead))
	}
	for {
		missing := taken - int(atomic.LoadUint32(r.cqTail)-*r.cqHead)
		if missing <= 0 {
			return failure
		}
		// A kernel that deferred a call after all owns the buffer until the call is
		// done.
		syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, uintptr(missing), ringGet, 0, 0)
	}
}

// result takes one result from the queue.
func (r *ring) result() (i int, res int32, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, 0, false
	}
	c := r.cqes[head&uint32(len(r.cqes)-1)]
	atomic.StoreUint32(r.cqHead, head+1)
	return int(c.data), c.res, true
}

// returned stores the kernel's result.
func (c *call) returned(res int32) {
	errno := syscall.Errno(max(-res, 0))
	if errno == unix.EINTR || errno == unix.ENOMEM || errno == unix.ECANCELED {
		return
	}
	c.made, c.n, c.err = true, int(max(res, 0)), nil
	switch {
	case errno == unix.EAGAIN:
		c.err = errAgain
	case errno != 0 && c.write:
		c.err = os.NewSyscallError("write", errno)
	case errno != 0:
		c.err = os.NewSyscallError("read", errno)
	case c.n == 0 && !c.write:
		c.err = io.EOF
	}
}

// alone makes one call without the ring.
func (c *call) alone() {
	if c.made = true; c.write {
		c.n, c.err = c.s.os.write(c.b)
	} else {
		c.n, c.err = c.s.os.read(c.b)
	}
}

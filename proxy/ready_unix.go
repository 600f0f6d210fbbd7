//go:build unix

package proxy

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable waits until conn has something to read, an end or an error
// included, or until its deadline. It needs no buffer. A connection without a
// descriptor is readable at once.
func waitReadable(conn net.Conn) error {
	rc := rawOf(conn)
	if rc == nil {
		return nil
	}
	return rc.Read(hasInput)
}

// readable reports whether waitReadable would return at once.
func readable(conn net.Conn) bool {
	rc := rawOf(conn)
	if rc == nil {
		return true
	}
	ready := false
	err := rc.Read(func(fd uintptr) bool {
		ready = hasInput(fd)
		return true
	})
	return ready || err != nil
}

func hasInput(fd uintptr) bool {
	var one [1]byte
	_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK)
	return err != unix.EAGAIN && err != unix.EINTR
}

// readNow reads what conn has without waiting; ok is false where it has
// nothing, or where it can't tell.
func readNow(conn net.Conn, b []byte) (n int, err error, ok bool) {
	rc := rawOf(conn)
	if rc == nil {
		return 0, nil, false
	}
	if err := rc.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	}); err != nil {
		return 0, err, true
	}
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil, false
	case err != nil:
		return 0, err, true
	case n == 0 && len(b) > 0:
		return 0, io.EOF, true
	}
	return n, nil, true
}

func rawOf(conn net.Conn) syscall.RawConn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return rc
}

// openFiles is how many descriptors the process may have.
func openFiles() int {
	var rl unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &rl) != nil {
		return 1 << 30
	}
	return int(min(rl.Cur, 1<<30))
}

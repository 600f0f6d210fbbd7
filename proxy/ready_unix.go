//go:build unix

package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// readNow reads the available bytes of a non-blocking socket; again is true if there are
// none yet. n is 0 at the end, and with an error.
func readNow(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		switch n, err = unix.Read(int(fd), b); err {
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, true, nil
		default:
			return max(n, 0), false, err
		}
	}
}

// rawOf returns the access to a connection's descriptor, or nil if it has none.
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

// openFiles returns the number of descriptors that the process may have.
func openFiles() int {
	var rl unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &rl) != nil {
		return 1 << 30
	}
	return int(min(rl.Cur, 1<<30))
}

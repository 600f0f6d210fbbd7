package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// deferAccept asks the kernel to hold a connection until the client has sent data, for
// about a second. A TLS client speaks first, so an accepted connection usually has its
// ClientHello already, and thousands that arrive at once wait where they cost least. It
// is only an optimization.
func deferAccept(ln net.Listener) {
	sc, ok := ln.(syscall.Conn)
	if !ok || ln.Addr().Network() != "tcp" {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

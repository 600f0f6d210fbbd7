package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// deferAccept asks the kernel to keep a connection to itself until the client
// has sent something, for about a second. A client in TLS speaks first, so that
// mostly an accepted connection has its ClientHello already, and thousands that
// come at once wait where they cost least. It is a wish: where it is not
// granted, everything works.
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

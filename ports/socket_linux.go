package ports

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// loopbackNet: all of 127.0.0.0/8 belongs to this machine.
const loopbackNet = true

// chooseLate makes connect choose the port, not bind. Kernels before 4.2 lack the
// option; there each port of a source is for one server.
func chooseLate(c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}

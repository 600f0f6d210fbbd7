package upstream

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged sets how long sent data may stay unacknowledged before the kernel
// drops the connection. By default, it takes a quarter of an hour to notice a peer that
// vanished while data was in flight.
func limitUnacknowledged(network string, c syscall.RawConn, limit time.Duration) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}

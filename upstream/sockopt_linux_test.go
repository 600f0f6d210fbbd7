package upstream

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A peer that vanishes without a FIN must be noticed, and small frames must not be
// delayed.
func TestDialSocketOptions(t *testing.T) {
	c := dialOK(t, one(t, GroupOptions{}, wsURL(startNode(t, "tcp", polite))))
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct {
			name             string
			level, opt, want int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 60000},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); err != nil || got != o.want {
				t.Errorf("%s = %d, %v; want %d", o.name, got, err, o.want)
			}
		}
		option := func(opt int) int {
			n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		if lost := (option(unix.TCP_USER_TIMEOUT)/1000 - option(unix.TCP_KEEPIDLE)) / option(unix.TCP_KEEPINTVL); lost < 3 {
			t.Errorf("%d lost keep-alive probes end an idle tunnel; want at least 3", lost)
		}
	})
}

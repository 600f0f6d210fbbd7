package gate

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
)

// FreePort returns a port of 127.0.0.1 that nobody listens on, for a program
// that can't choose one by itself and tell, or that comes back to it.
//
// It is none of those that the kernel gives to outgoing connections. Such a
// port may become a client's in the moment before the program listens; and a
// client that calls it while nobody listens may be given that very port, and
// talk to itself. And until the test ends it is none that another test is given, in
// whatever process: an abstract socket with its number says that it is taken.
func FreePort(tb testing.TB) int {
	tb.Helper()
	low, high := 1024, 65535
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var first, last int
		if _, err := fmt.Sscan(string(data), &first, &last); err != nil {
			tb.Fatalf("ip_local_port_range: %v", err)
		}
		if first-low > high-last {
			high = first - 1
		} else {
			low = last + 1
		}
	}
	for range 100 {
		port := low + rand.IntN(high-low+1)
		taken, err := net.Listen("unix", fmt.Sprintf("@wssgate-test-port-%d", port))
		if err != nil {
			continue
		}
		tb.Cleanup(func() { taken.Close() })
		// All addresses, for what listens on another one is in the way as well.
		if ln, err := net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil {
			ln.Close()
			return port
		}
	}
	tb.Fatalf("no port from %d to %d is free", low, high)
	return 0
}

// FreeAddr is FreePort with 127.0.0.1 in front.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb)))
}

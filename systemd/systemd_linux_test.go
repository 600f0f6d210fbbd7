package systemd

import (
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// The watchdog expects two signals in its interval, and only from its own
// process.
func TestNotifierBeat(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@wssgate-test-" + strconv.Itoa(os.Getpid()), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, test := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"30000000", "", 15 * time.Second},
		{"30000000", strconv.Itoa(os.Getpid()), 15 * time.Second},
		{"30000000", "1", 0},
		{"", "", 0},
		{"-1", "", 0},
		{"x", "", 0},
	} {
		env := map[string]string{"NOTIFY_SOCKET": socket.LocalAddr().String(), "WATCHDOG_USEC": test.usec, "WATCHDOG_PID": test.pid}
		n, err := New(func(k string) string { return env[k] })
		if err != nil {
			t.Fatal(err)
		}
		if n.beat != test.want {
			t.Errorf("WATCHDOG_USEC=%q WATCHDOG_PID=%q: beat %v; want %v", test.usec, test.pid, n.beat, test.want)
		}
		n.Close()
	}
}

// Without NOTIFY_SOCKET, all methods do nothing.
func TestNoNotifier(t *testing.T) {
	for _, address := range []string{"", "vsock:2:1234", "relative"} {
		n, err := New(func(string) string { return address })
		if n != nil || err != nil {
			t.Errorf("NOTIFY_SOCKET=%q: got %v, %v; want none", address, n, err)
		}
		n.Ready("")
		n.Alive()
		n.KeepAlive()()
		n.Close()
	}
}

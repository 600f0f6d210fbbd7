package listen

import (
	"net"
	"os"
	"strconv"
	"testing"
)

// A socket matches the address that it is bound to, in any notation.
func TestInheritedIsBoundTo(t *testing.T) {
	tcp := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, test := range []struct {
		bound net.Addr
		addr  string
		want  bool
	}{
		{tcp("[::]:5291"), ":5291", true},
		{tcp("0.0.0.0:5291"), ":5291", true},
		{tcp("[::]:5291"), "[::]:5291", true},
		{tcp("[::]:5291"), ":5292", false},
		{tcp("127.0.0.1:5291"), ":5291", false},
		{tcp("127.0.0.1:5291"), "127.0.0.1:5291", true},
		{tcp("127.0.0.1:5291"), "127.0.0.2:5291", false},
		{tcp("[::]:5291"), "127.0.0.1:5291", false},
		{tcp("[::1]:5291"), "[::1]:5291", true},
		{tcp("127.0.0.1:5291"), "gate.test:5291", true},
		{tcp("127.0.0.1:5291"), "other.test:5291", false},
		{tcp("[::]:5291"), "unix:/run/wss", false},
		{&net.UnixAddr{Name: "/run/wss", Net: "unix"}, "unix:/run/wss", true},
		{&net.UnixAddr{Name: "/run/wss", Net: "unix"}, "unix:/run/other", false},
		{&net.UnixAddr{Name: "/run/wss", Net: "unix"}, ":5291", false},
	} {
		if got := (&Inherited{addr: test.bound}).isBoundTo(test.addr, Hosts{"gate.test": {addr: "127.0.0.1"}}); got != test.want {
			t.Errorf("isBoundTo(%q) = %v for a socket on %v; want %v", test.addr, got, test.bound, test.want)
		}
	}
}

// A socket with the name of a key of [listen] is only for that key.
func TestInheritedByName(t *testing.T) {
	for _, test := range []struct {
		name, key string
		want      bool
	}{
		{"wss", "wss", true},
		{"wss", "http", false},
		{"admin", "wss", false},
		{"wssgate.socket", "wss", true}, // the default name from systemd
		{"", "http", true},
	} {
		s := &Sockets{Inherited: []*Inherited{{name: test.name, addr: &net.TCPAddr{IP: net.IPv4zero, Port: 80}}}}
		if got := s.Find(test.key, ":80") != nil; got != test.want {
			t.Errorf("a socket called %q is for %q: %v; want %v", test.name, test.key, got, test.want)
		}
	}
}

// Sockets for another process, such as a parent, are not ours, and an invalid number is
// an error.
func TestInheritSocketsOfOthers(t *testing.T) {
	for _, test := range []struct {
		pid, fds string
		bad      bool
	}{
		{"", "", false},
		{"1", "2", false},
		{"", "1", false},
		{strconv.Itoa(os.Getpid()), "", false},
		{strconv.Itoa(os.Getpid()), "0", false},
		{strconv.Itoa(os.Getpid()), "-1", true},
		{strconv.Itoa(os.Getpid()), "many", true},
		{strconv.Itoa(os.Getpid()), "1000000000", true},
	} {
		env := map[string]string{"LISTEN_PID": test.pid, "LISTEN_FDS": test.fds, "LISTEN_FDNAMES": "wss"}
		got, err := Inherit(func(k string) string { return env[k] }, func(k string) error { delete(env, k); return nil })
		if len(got) > 0 || (err != nil) != test.bad {
			t.Errorf("LISTEN_PID=%q LISTEN_FDS=%q: got %d sockets, %v; want none, an error: %v", test.pid, test.fds, len(got), err, test.bad)
		}
		if len(env) > 0 {
			t.Errorf("%v is left for others to read", env)
		}
	}
}

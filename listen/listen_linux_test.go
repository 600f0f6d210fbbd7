package listen

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An address in use is refused in all its forms, unless it may be shared; then both
// listen.
func TestListenInUse(t *testing.T) {
	for _, test := range []struct{ first, second string }{
		{"127.0.0.1:", "127.0.0.1:"},
		{"127.0.0.1:", ":"},
		{":", "127.0.0.1:"},
		{":", ":"},
		{"[::1]:", "[::]:"},
		{"[::]:", "[::1]:"},
		{"0.0.0.0:", "127.0.0.1:"},
		{"0.0.0.0:", "localhost:"},
	} {
		ln, err := new(Sockets).Open("wss", test.first+"0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		second, err := new(Sockets).Open("wss", test.second+port)
		if err == nil {
			second.Close()
		}
		var hint *inUse
		if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &hint) || !strings.Contains(hint.HintText(), "-beside") {
			t.Errorf("listen on %q beside %q: %v; want it to be in use, and the hint", test.second, test.first, err)
		}
		if IsShared(ln, []net.Listener{ln}) {
			t.Errorf("%q: isShared though nobody else listens", test.first)
		}
		second, err = (&Sockets{Beside: true}).Open("wss", test.second+port)
		if err != nil {
			t.Errorf("listen on %q beside %q on purpose: %v", test.second, test.first, err)
		} else {
			if !IsShared(ln, []net.Listener{ln}) || !IsShared(second, []net.Listener{second}) {
				t.Errorf("%q and %q: isShared reports false", test.first, test.second)
			}
			if both := []net.Listener{ln, second}; IsShared(ln, both) {
				t.Errorf("%q and %q: isShared though both are ours", test.first, test.second)
			}
			second.Close()
		}
		ln.Close()
	}
}

// An address that this process listens on is in use for itself as well, unless its
// listener is about to be replaced.
func TestListenReplace(t *testing.T) {
	var s Sockets
	first, err := s.Open("wss", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, port, _ := net.SplitHostPort(first.Addr().String())
	for _, addr := range []string{"localhost:" + port, ":" + port} {
		if second, err := s.Open("admin", addr); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s beside one that stays: %v; want it to be in use", addr, err)
			if err == nil {
				second.Close()
			}
		}
		s.Replace([]net.Listener{first})
		if second, err := s.Open("admin", addr); err != nil {
			t.Errorf("%s in place of another: %v", addr, err)
		} else {
			second.Close()
		}
		s.Replace(nil)
	}
}

// Waiting counts the connections in a listener's queue.
func TestWaiting(t *testing.T) {
	ln, err := new(Sockets).Open("wss", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for n := range 3 {
		if got := Waiting(ln); got != n {
			t.Errorf("waiting = %d; want %d", got, n)
		}
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
}

// A process that is too busy to accept another client still owns its socket.
func TestListenUnixBusy(t *testing.T) {
	path := t.TempDir() + "/s"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err == nil {
			defer conn.Close()
		}
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("dial: %v; want a queue that is full", err)
	}
	if ln, err := new(Sockets).Open("wss", "unix:"+path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen: %v; want the name to be in use", err)
		if err == nil {
			ln.Close()
		}
	}
}

// With Beside, the new process takes the socket's name and keeps it.
func TestListenUnixBeside(t *testing.T) {
	addr := "unix:" + t.TempDir() + "/s"
	first, err := new(Sockets).Open("wss", addr)
	if err != nil {
		t.Fatal(err)
	}
	second, err := (&Sockets{Beside: true}).Open("wss", addr)
	if err != nil {
		t.Fatal(err)
	}
	if first.(*UnixListener).IsOurs(t.Context()) || !second.(*UnixListener).IsOurs(t.Context()) {
		t.Error("the name did not go over")
	}
	first.Close()
	conn, err := net.Dial("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		t.Fatalf("after the end of the first: %v", err)
	}
	conn.Close()
	second.Close()
	third, err := new(Sockets).Open("wss", addr)
	if err != nil {
		t.Fatalf("after the end of both: %v", err)
	}
	third.Close()
}

package tests

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/hang"
	"wssgate/tests/internal/wire"
)

// A systemd that reads nothing from its socket keeps nobody waiting, is a finding, and
// is told how the gate is when it reads again.
func TestNotifySocketIsNotRead(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	site.Config(t, toUpstream(u.URL)+"[drain]\ntimeout = \"1s\"\n")
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fillSocket(t, path)
	g := gate.Start(t, site.Dir, gate.Env("NOTIFY_SOCKET="+path), gate.Env("WATCHDOG_USEC=200000"))
	o := operate(t, g)
	for range 20 { // more than may wait
		o.want("POST", "/reload", 200)
	}
	eventually(t, "a finding names the socket", func() bool { return o.finding("systemd", path, "has not answered since") })
	wire.Dial(t, g.Addr("wss"), site.Client(name))
	for _, word := range []string{"READY=1", "WATCHDOG=1"} {
		conn.SetReadDeadline(time.Now().Add(gate.Patience))
		for buf := make([]byte, 4096); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("systemd did not hear %s: %v", word, err)
			}
			if strings.Contains(string(buf[:n]), word) {
				break
			}
		}
	}
	eventually(t, "the finding is gone", func() bool { return !o.finding("systemd") })
	fillSocket(t, path)
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 && status != 3 { // 3: no client answers here
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// fillSocket sends datagrams until there is no room for more.
func fillSocket(t *testing.T, path string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	for {
		if err := syscall.Sendto(fd, []byte("x"), 0, &syscall.SockaddrUnix{Name: path}); err == syscall.EAGAIN {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// An access list that hangs keeps no list of another folder away, not even where both
// are links in one folder.
func TestOneAccessListHangs(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	site.Write(t, "a.txt", []byte("192.0.2.0/24\n"))
	site.Write(t, "b.txt", []byte("192.0.2.0/24\n"))
	a, b := onMount(t, site, "a.txt"), onMount(t, site, "b.txt")
	g := site.Start(t, toUpstream(u.URL)+"[access]\ndeny = [\"file:a.txt\", \"file:b.txt\"]\n[drain]\ntimeout = \"1s\"\n")
	o := operate(t, g)
	wire.Dial(t, g.Addr("wss"), site.Client(name))
	a.Hang()
	eventually(t, "a finding names the list that hangs", func() bool {
		return o.finding("access lists", a.Dir, "has not answered since") || o.finding("access lists", "a.txt", "has not answered since")
	})
	write := func(m *hang.Mount, file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(m.Shows(), file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b, "b.txt", "127.0.0.0/8\n")
	g.WaitLine("the other list is read", func(l gate.Line) bool {
		return l.Msg() == "access list reloaded" && strings.HasSuffix(l.Str("file"), "b.txt")
	})
	write(a, "a.txt", "198.51.100.0/24\n")
	a.Resume()
	g.WaitLine("the list that hung is read", func(l gate.Line) bool {
		return l.Msg() == "access list reloaded" && strings.HasSuffix(l.Str("file"), "a.txt")
	})
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 && status != 3 {
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// A configuration on a disk that is too slow for a reload is taken all the same, without
// being asked for again.
func TestSlowConfiguration(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	shown := t.TempDir()
	m := hang.New(t, shown)
	var deny []string
	for i := range 12 {
		file := fmt.Sprintf("%d.txt", i)
		if err := os.WriteFile(filepath.Join(shown, file), []byte("192.0.2.0/24\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		deny = append(deny, fmt.Sprintf("%q", "file:"+filepath.Join(m.Dir, file)))
	}
	g := site.Start(t, toUpstream(u.URL)+"[access]\ndeny = ["+strings.Join(deny, ", ")+"]\n[drain]\ntimeout = \"1s\"\n")
	o := operate(t, g)
	m.Delay(60 * time.Millisecond)
	next := g.Mark()
	status, _ := o.ask("POST", "/reload")
	m.Delay(0)
	if status != 200 { // else the disk was not slow enough
		next("the reload", says("reloaded"))
	}
}

package tests

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/hang"
	"wssgate/tests/internal/wire"
)

// A certificate that is a link to a mount that hangs keeps no other away: not at the
// start, not later, and it is served when its mount is back.
func TestOneCertificateHangs(t *testing.T) {
	u := wire.Echo(t)
	const there = "there.test.example"
	site := gate.NewSite(t, name, there)
	shown := t.TempDir()
	path := filepath.Join(site.Dir, site.CertFile(there))
	if err := os.Rename(path, filepath.Join(shown, "there.pem")); err != nil {
		t.Fatal(err)
	}
	m := hang.New(t, shown)
	if err := os.Symlink(filepath.Join(m.Dir, "there.pem"), path); err != nil {
		t.Fatal(err)
	}
	site.Config(t, toUpstream(u.URL)+"[drain]\ntimeout = \"1s\"\n")
	m.Hang()
	g := gate.Start(t, site.Dir)
	o := operate(t, g)
	wire.Dial(t, g.Addr("wss"), site.Client(name))
	eventually(t, "a finding names the file", func() bool { return o.finding("certificates", site.CertFile(there), "has not answered since") })
	site.Write(t, "certs/new.pem", site.CA.Issue("new.test.example").PEM())
	o.want("POST", "/reload", 200)
	wire.Dial(t, g.Addr("wss"), site.Client("new.test.example"))
	m.Resume()
	eventually(t, "no finding is about the file", func() bool { return !o.finding(site.CertFile(there)) }) // it is read as well
	wire.Dial(t, g.Addr("wss"), site.Client(there))
	m.Hang()
	o.want("POST", "/reload", 200)
	wire.Dial(t, g.Addr("wss"), site.Client(there)) // as it was
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 && status != 3 {
		t.Errorf("exit status %d; want 0 or 3", status)
	}
}

// A unix socket of an upstream on a mount that hangs costs a thread, however many
// clients ask for it.
func TestUpstreamSocketHangs(t *testing.T) {
	shown := t.TempDir()
	m := hang.New(t, shown)
	ln, err := net.Listen("unix", filepath.Join(shown, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	site := gate.NewSite(t, name)
	m.Hang()
	g := site.Start(t, fmt.Sprintf("[upstream.tigase]\nnodes = \"ws+unix://%s:/ws\"\n[drain]\ntimeout = \"1s\"\n", filepath.Join(m.Dir, "s")), gate.Env("GOMAXPROCS=2")) // or threads come with processors
	o := operate(t, g)
	threads := func() int {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", g.PID()))
		return len(tasks)
	}
	before := threads()
	for range 40 {
		c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
		if resp, _ := c.Answer(wire.Request(name)); resp.StatusCode != 503 {
			t.Fatalf("status %s; want 503", resp.Status)
		}
		c.Close()
	}
	if n := threads(); n > before+10 {
		t.Errorf("%d threads, %d before", n, before)
	}
	if !o.finding(`upstream "tigase"`, m.Dir, "has not answered since") {
		t.Errorf("no finding names the socket: %+v", o.status().Findings)
	}
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// A file that the configuration names hangs at the start: the program ends with a
// line that names it.
func TestNamedFileHangsAtStart(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "deny.txt", []byte("192.0.2.0/24\n"))
	m := onMount(t, site, "deny.txt")
	site.Config(t, "[upstream.tigase]\nnodes = \"ws://127.0.0.1:1/\"\n[access]\ndeny = \"file:deny.txt\"\n")
	m.Hang()
	g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
	line := g.WaitLine("the file hangs", hangs)
	if !strings.Contains(line.Str("file"), "deny.txt") {
		t.Errorf("the line names %q", line.Str("file"))
	}
	g.WaitLine("why it ends", func(l gate.Line) bool {
		return strings.HasPrefix(l.Text, "wssgate: configuration: not read in time: ") && strings.Contains(l.Text, "deny.txt")
	})
	if status := g.Wait(); status != 1 {
		t.Errorf("exit status %d; want 1", status)
	}
}

// Standard error that is full, and a configuration that does not come: each command
// ends with the first signal.
func TestFullStandardErrorEnds(t *testing.T) {
	site := gate.NewSite(t, name)
	if err := syscall.Mkfifo(filepath.Join(site.Dir, "pipe.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "-config", "pipe.toml"}, {"check", "-config", "pipe.toml"}, {"certs", "-config", "pipe.toml"}, {"check", "-no-such-flag"}, {"nonsense"}, {"serve", "-h"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		fill(t, w)
		binary, err := gate.Build(true)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, args...)
		cmd.Dir = site.Dir
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		eventually(t, "it listens to signals", func() bool {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			for line := range strings.Lines(string(status)) {
				if mask, ok := strings.CutPrefix(line, "SigCgt:\t"); ok {
					var caught uint64
					fmt.Sscanf(mask, "%x", &caught)
					return caught&(1<<(uint(syscall.SIGTERM)-1)) != 0
				}
			}
			return len(status) == 0
		})
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(gate.Patience):
			t.Errorf("%q did not end", args)
			cmd.Process.Kill()
			<-ended
		}
		r.Close()
	}
}

// fill writes to a pipe until it is full.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	c, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c.Write(func(fd uintptr) bool {
		syscall.SetNonblock(int(fd), true)
		for {
			if _, err := syscall.Write(int(fd), make([]byte, 4096)); err != nil {
				break
			}
		}
		syscall.SetNonblock(int(fd), false)
		return true
	})
}

package tests

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// systemdSocket opens a socket as systemd does, and keeps it open.
func systemdSocket(t *testing.T) (*os.File, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // the file is a duplicate
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, ln.Addr().String()
}

// With a socket of systemd's a restart refuses nobody, though for a while there
// is no process at all.
func TestSocketActivation(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	socket, addr := systemdSocket(t)
	site.ConfigAt(t, addr, toUpstream(upstream.URL))
	if _, err := gate.Build(true); err != nil {
		t.Fatal(err)
	}
	crowd := newCrowd(t, addr, site) // it waits from the beginning
	for range 3 {
		g := gate.Start(t, site.Dir, gate.Inherit("wss", socket))
		crowd.serve(t, 50)
		g.Signal(syscall.SIGTERM)
		if status := g.Wait(); status != 0 {
			t.Errorf("exit status %d; want 0", status)
		}
	}
	gate.Start(t, site.Dir, gate.Inherit("wss", socket))
	t.Logf("figure: socket activation, %s", crowd.leave(t))
}

// A reload may give a socket of systemd's up and take it again.
func TestSocketActivationReload(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	socket, addr := systemdSocket(t)
	site.ConfigAt(t, addr, toUpstream(upstream.URL))
	g := gate.Start(t, site.Dir, gate.Inherit("wssgate.socket", socket))
	reload := func() {
		t.Helper()
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		wait("reloaded", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	}
	site.Config(t, toUpstream(upstream.URL))
	reload()
	g.WaitLine("what becomes of its clients", func(l gate.Line) bool {
		return strings.HasPrefix(l.Msg(), "clients of an unused socket wait") && strings.Contains(l.Text, addr)
	})
	site.ConfigAt(t, addr, toUpstream(upstream.URL))
	reload()
	wire.Dial(t, addr, site.Client(name)).SendText("new")
}

// A socket that the configuration has no use for would keep its clients waiting
// for ever: nothing starts.
func TestSocketActivationUnused(t *testing.T) {
	site := gate.NewSite(t, name)
	socket, addr := systemdSocket(t)
	site.Config(t, toUpstream(wire.Echo(t).URL))
	g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"}, gate.Inherit("wss", socket))
	if status := g.Wait(); status != 1 {
		t.Errorf("exit status %d; want 1", status)
	}
	if text := g.Text(); !strings.Contains(text, `systemd: socket "wss", "`+addr+`": matches no address of [listen]`) {
		t.Errorf("it does not say why:\n%s", text)
	}
}

// systemd is told when the gate is ready, how reloads go, that it lives, and
// that it drains.
func TestNotify(t *testing.T) {
	dir := t.TempDir()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// hear returns the next message but signs of life, of which it counts one.
	lives := 0
	hear := func() map[string]string {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			socket.SetReadDeadline(time.Now().Add(wire.Patience))
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) == "WATCHDOG=1" {
				lives++
				continue
			}
			message := map[string]string{}
			for line := range strings.SplitSeq(string(buf[:n]), "\n") {
				key, value, _ := strings.Cut(line, "=")
				message[key] = value
			}
			return message
		}
	}
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(upstream.URL), gate.Env("NOTIFY_SOCKET="+socket.LocalAddr().String()), gate.Env("WATCHDOG_USEC=100000"))
	if m := hear(); m["READY"] != "1" || !strings.Contains(m["STATUS"], "serving 1 name") {
		t.Errorf("when it was ready it said %v", m)
	}
	last := int64(0)
	for _, config := range []string{toUpstream(upstream.URL), toUpstream("http://no/"), toUpstream(upstream.URL)} {
		site.Config(t, config)
		g.Signal(syscall.SIGHUP)
		m := hear()
		usec, err := strconv.ParseInt(m["MONOTONIC_USEC"], 10, 64)
		if m["RELOADING"] != "1" || err != nil || usec <= last {
			t.Errorf("when it reloaded it said %v; %d before", m, last)
		}
		last = usec
		m = hear()
		bad := strings.Contains(m["STATUS"], "the last reload changed nothing")
		if want := strings.Contains(config, "http://"); m["READY"] != "1" || bad != want {
			t.Errorf("after the reload it said %v; a bad one: %v", m, want)
		}
	}
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))
	for lives = 0; lives < 2; {
		socket.SetReadDeadline(time.Now().Add(wire.Patience))
		if _, err := socket.Read(make([]byte, 64)); err != nil {
			t.Fatalf("no sign of life: %v", err)
		}
		lives++
	}
	g.Signal(syscall.SIGTERM)
	if m := hear(); m["STOPPING"] != "1" || m["EXTEND_TIMEOUT_USEC"] == "" || !strings.Contains(m["STATUS"], "1 connection") {
		t.Errorf("when it drained it said %v", m)
	}
	tunnel.WantClose(1001) // and does not answer it: the drain goes on
	for lives = 0; lives < 2; lives++ {
		socket.SetReadDeadline(time.Now().Add(wire.Patience))
		if _, err := socket.Read(make([]byte, 64)); err != nil {
			t.Fatalf("no sign of life in the drain: %v", err)
		}
	}
	tunnel.Send(wire.CloseFrame(true, 1001, ""))
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// systemd finds nothing to complain about in our units.
func TestUnits(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, unit := range []string{"wssgate.service", "wssgate.socket"} {
		data, err := os.ReadFile(deployed(t, unit))
		if err != nil {
			t.Fatal(err)
		}
		// It wants the program to be there.
		data = []byte(strings.ReplaceAll(string(data), "/usr/local/bin/wssgate", binary))
		path := filepath.Join(dir, unit)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := program(t, "systemd-analyze", "systemd", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// A gate serves although systemd can't be told.
func TestNobodyToNotify(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream("ws://127.0.0.1:9/"), gate.Env("NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "none")))
	g.WaitLine("that systemd is not told", func(l gate.Line) bool { return l.Msg() == "cannot notify systemd" })
	if !accepts(g) {
		t.Error("it does not listen")
	}
}

// All listeners that can't be opened are named at once, by a start and by a reload, which
// then changes nothing; check warns of names that are not found.
func TestListenersNotFound(t *testing.T) {
	site := gate.NewSite(t, name)
	config := "[listen]\nwss = [\"127.0.0.1:0\", \"a.invalid:0\", \"b.invalid:0\"]\nhttp = \"c.invalid:0\"\nadmin = \"\"\n" + toUpstream("ws://127.0.0.1:9/")
	site.Write(t, "bad.toml", []byte(config))
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	for command, status := range map[string]int{"serve": 1, "check": 0} {
		cmd := exec.Command(binary, command, "-config", "bad.toml")
		cmd.Dir = site.Dir
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != status {
			t.Errorf("%s: status %d; want %d", command, cmd.ProcessState.ExitCode(), status)
		}
		for _, host := range []string{"a.invalid", "b.invalid", "c.invalid"} {
			if !strings.Contains(string(out), "host name \""+host+"\": ") {
				t.Errorf("%s does not name %q:\n%s", command, host, out)
			}
		}
	}
	g := site.Start(t, toUpstream("ws://127.0.0.1:9/"))
	site.Write(t, "config.toml", []byte(config))
	g.Signal(syscall.SIGHUP)
	for _, host := range []string{"a.invalid", "b.invalid", "c.invalid"} {
		g.WaitLine(host, func(l gate.Line) bool { return l.Msg() == "reload" && strings.Contains(l.Str("err"), host) })
	}
	if !accepts(g) {
		t.Error("it does not listen any more")
	}
}

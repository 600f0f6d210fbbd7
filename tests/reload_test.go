package tests

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// SIGHUP reads config.toml again. Tunnels go on where they are, new ones go
// where the new file says; a file with a mistake changes nothing.
func TestReload(t *testing.T) {
	before, after := wire.Echo(t), wire.Echo(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(before.URL))
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))

	reload := func(config, msg string) {
		t.Helper()
		site.Config(t, config)
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		wait(msg, func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), msg) })
	}
	arrives := func(u *wire.Upstream, n int) {
		t.Helper()
		wire.Dial(t, g.Addr("wss"), site.Client(name)).SendText("new")
		if got := len(u.Requests()); got != n {
			t.Errorf("%d opening handshakes at %s; want %d", got, u.URL, n)
		}
	}

	reload(toUpstream(after.URL), "reloaded")
	arrives(after, 1)
	reload(toUpstream("http://not.a.websocket/"), "reload: nothing was changed")
	arrives(after, 2)
	if got := before.Open(); got != 1 {
		t.Errorf("%d connections to the first upstream; want the one tunnel", got)
	}
	tunnel.SendText("still here")
	tunnel.WantText("still here")
}

// A reload that fails late, when files beside config.toml turn out to be bad,
// changes nothing either: certificates, listeners and limits are as before.
func TestReloadAllOrNothing(t *testing.T) {
	upstream := wire.Echo(t)
	for what, bad := range map[string]string{
		"a directory that is not there":  "[certificates]\ndirectory = \"nowhere\"\n",
		"an ACME cache that is a file":   "[certificates]\ndirectory = \"certs2\"\n[acme]\nnames = [\"acme.test\"]\naccept_terms = true\ncache = \"file\"\n",
		"a listener that is in use":      "[certificates]\ndirectory = \"certs2\"\n",
		"a node's CA that is no more it": "[certificates]\ndirectory = \"certs2\"\n",
	} {
		site := gate.NewSite(t, name)
		g := site.Start(t, toUpstream(upstream.URL))
		if err := os.Mkdir(filepath.Join(site.Dir, "certs2"), 0o755); err != nil {
			t.Fatal(err)
		}
		site.Write(t, "certs2/other.test.pem", site.CA.Issue("other.test").PEM())
		site.Write(t, "file", nil)
		second := gate.FreeAddr(t)
		listen := fmt.Sprintf("[listen]\nwss = [\"127.0.0.1:0\", %q]\nadmin = \"127.0.0.1:0\"\n", second)
		nodes := toUpstream(upstream.URL)
		switch what {
		case "a listener that is in use":
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			listen = fmt.Sprintf("[listen]\nwss = [\"127.0.0.1:0\", %q, %q]\nadmin = \"127.0.0.1:0\"\n", second, ln.Addr())
		case "a node's CA that is no more it":
			nodes = "[upstream.xmpp]\nnodes = [\"wss://127.0.0.1:1/\"]\nca = \"file\"\n"
		}
		site.Write(t, "config.toml", []byte(listen+bad+nodes+"[limits]\nconnections = 1\n"))
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		wait(what+" to be refused", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "reload: nothing was changed") })

		for range 2 { // more than the new limit allows
			c := wire.Dial(t, g.Addr("wss"), site.Client(name))
			c.SendText("as before")
			c.WantText("as before")
		}
		raw, err := net.Dial("tcp", g.Addr("wss"))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if err := tls.Client(raw, site.Client("other.test")).Handshake(); err == nil {
			t.Errorf("%s: the new directory is in use", what)
		}
		if conn, err := net.Dial("tcp", second); err == nil {
			conn.Close()
			t.Errorf("%s: the new listener is open", what)
		}
	}
}

// A listener's address may be written in another way that is in the way of the
// old one.
func TestReloadSamePort(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	_, port, err := net.SplitHostPort(gate.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	site.ConfigAt(t, "127.0.0.1:"+port, toUpstream(upstream.URL))
	g := gate.Start(t, site.Dir)
	tunnel := wire.Dial(t, "127.0.0.1:"+port, site.Client(name))
	for _, addr := range []string{":" + port, "127.0.0.1:" + port} {
		site.ConfigAt(t, addr, toUpstream(upstream.URL))
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		if l := wait("the reload", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "reload") }); l.Msg() != "reloaded" {
			t.Fatal(l.Text)
		}
		wire.Dial(t, "127.0.0.1:"+port, site.Client(name)).SendText("new")
	}
	tunnel.SendText("still here")
	tunnel.WantText("still here")
}

// With watch_config the file is read again without a signal, and once; it may
// turn that off again.
func TestWatchConfig(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	config := func(i int, first string) {
		t.Helper()
		site.Write(t, "config.toml", fmt.Appendf(nil, "%s\n[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n%s[limits]\nper_client = %d\n",
			first, toUpstream(upstream.URL), 1000+i))
	}
	config(0, "watch_config = true")
	g := gate.Start(t, site.Dir)
	msg := func(want string) func(gate.Line) bool {
		return func(l gate.Line) bool { return l.Msg() == want }
	}
	wait := g.Mark()
	config(1, "watch_config = true")
	wait("a reload by itself", msg("reloaded"))

	wait = g.Mark()
	config(2, "watch_konfig = true")
	wait("the mistake", msg("reload: nothing was changed"))

	wait = g.Mark()
	config(3, "watch_config = false")
	wait("a reload that turns it off", msg("reloaded"))
	config(4, "watch_config = true") // nobody sees it
	wait = g.Mark()
	g.Signal(syscall.SIGHUP)
	wait("a reload by a signal", msg("reloaded"))

	wait = g.Mark()
	config(5, "log.level = \"info\"\nwatch_config = true")
	wait("a reload by itself", msg("reloaded"))
}

// A pipe in the place of config.toml is refused, and holds nothing up: neither a
// reload nor the watch, neither clients nor the end.
func TestReloadPipe(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "config.toml", []byte("watch_config = true\n[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n"+toUpstream(wire.Echo(t).URL)))
	g := gate.Start(t, site.Dir)
	path := filepath.Join(site.Dir, "config.toml")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wait := g.Mark()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	g.Signal(syscall.SIGHUP)
	wait("the refusal", func(l gate.Line) bool { return strings.Contains(l.Text, "is a pipe or a device, not a file") })
	client := wire.Dial(t, g.Addr("wss"), site.Client(name))
	client.SendText("hello")
	client.WantText("hello")
	client.Close()
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

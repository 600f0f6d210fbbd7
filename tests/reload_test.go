package tests

import (
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

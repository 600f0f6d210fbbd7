package tests

import (
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A reload that puts another address in the place of one on the same port refuses
// nobody, while clients come all the time.
func TestReloadReplacesAddress(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name)
	addr := gate.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	forms := []string{addr, ":" + port}
	site.ConfigAt(t, forms[0], toUpstream(upstream.URL))
	g := gate.Start(t, site.Dir)
	crowd := newCrowd(t, addr, site)
	for range 8 {
		slices.Reverse(forms)
		site.ConfigAt(t, forms[0], toUpstream(upstream.URL))
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		if done := wait("the reload", func(l gate.Line) bool { return strings.HasPrefix(l.Msg(), "reload") }); done.Msg() != "reloaded" {
			t.Fatal(done.Text)
		}
		crowd.serve(t, 20)
	}
	t.Logf("figure: 8 addresses replaced, %s", crowd.leave(t))
}

// Package tests runs the built binary and looks at it from outside, as its
// clients, its upstreams and its operator do.
package tests

import (
	"fmt"
	"testing"

	"wssgate/internal/leaktest"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// name is the server name of tests that need only one.
const name = "example1.test"

// toUpstream is the smallest configuration: every name to one node.
func toUpstream(url string) string {
	return fmt.Sprintf("[upstream.xmpp]\nnodes = [%q]\nxmpp = false\n", url)
}

// open starts a gate with one vhost and an upstream that the test plays
// itself, and opens a tunnel.
func open(t *testing.T, more string) (g *gate.Gate, client, upstream *wire.Conn) {
	t.Helper()
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	g = site.Start(t, toUpstream(u.URL)+more)
	client = wire.Dial(t, g.Addr("wss"), site.Client(name))
	return g, client, wire.Take(t, conns)
}

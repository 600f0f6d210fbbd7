package interop

import (
	"fmt"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// Nobody says anything to a real server without a start tag, whether it serves the
// name or not.
func TestBadStartToProsody(t *testing.T)  { checkBadStart(t, startProsody) }
func TestBadStartToEjabberd(t *testing.T) { checkBadStart(t, startEjabberd) }

func checkBadStart(t *testing.T, start func(t *testing.T, domains ...string) string) {
	const served, other = "one.example", "other.example"
	url := start(t, served)
	site := gate.NewSite(t, served, other)
	for _, name := range []string{served, other} {
		g := site.Start(t, fmt.Sprintf("[upstream.xmpp]\nnodes = [%q]\n", url))
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		c.SendText("hello")
		var said string
		for {
			f, err := c.Frame()
			if err != nil {
				t.Fatalf("%s: after %q: %v", name, said, err)
			}
			if f.Op == wire.Close {
				said += fmt.Sprintf("Close %x", f.Payload)
				break
			}
			said += string(f.Payload)
		}
		if !strings.Contains(said, "<not-well-formed ") || !strings.HasSuffix(said, "Close 03e8") {
			t.Errorf("%s: %s; want not-well-formed and Close 1000 of the gate's", name, said)
		}
	}
}

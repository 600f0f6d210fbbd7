package interop

import (
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// The domains of these tests, on one server. Streams to the second can't be
// resumed.
const (
	resumable = "example1.test"
	plain     = "example2.test"
)

// The clients of these tests; see client.mjs.
var kinds = []string{"strophe", "xmpp.js", "chromium"}

// A pair of gates stand before the same server.
type pair struct {
	site   *gate.Site
	config string
}

// forEachKind runs the test for each kind of client, with gates of its own, all
// before the same server.
func forEachKind(t *testing.T, server string, test func(t *testing.T, kind string, p *pair)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind, newPair(t, server))
		})
	}
}

func startPartlyResumable(t *testing.T) (url string) {
	t.Helper()
	return runProsody(t, "modules_disabled = { \"smacks\" }\n", resumable, plain).url
}

func newPair(t *testing.T, server string) *pair {
	t.Helper()
	return &pair{gate.NewSite(t, resumable, plain), fmt.Sprintf(`
[upstream.server]
nodes = [%q]

[[vhost]]
names = [%q]

[[vhost]]
names = [%q]
`, server, resumable, plain)}
}

// start runs a gate of the pair at addr, and returns its port.
func (p *pair) start(t *testing.T, addr, drain string) (g *gate.Gate, port string) {
	t.Helper()
	const head = "[listen]\nwss = %q\nadmin = \"127.0.0.1:0\"\n[certificates]\ndirectory = \"certs\"\n%s\n[drain]\n%s"
	p.site.Write(t, "config.toml", fmt.Appendf(nil, head, addr, p.config, drain))
	g = gate.Start(t, p.site.Dir)
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	return g, port
}

// service is the URL of a domain at a port.
func service(domain, port string) string { return "wss://" + net.JoinHostPort(domain, port) + "/" }

// A gate is drained by SIGTERM while clients are logged in, and another one
// takes its place. Whose stream can be resumed gets the Close alone, comes back
// to the same session, and hears what was said while it was away. Others are
// told system-shutdown, and log in anew.
func TestComeBackAfterRestartProsody(t *testing.T) {
	checkComeBack(t, startPartlyResumable(t))
}

// The same with the other server that Debian has.
func TestComeBackAfterRestartEjabberd(t *testing.T) {
	url, _ := runEjabberd(t, `
host_config:
  example2.test:
    modules:
      mod_disco: {}
      mod_ping: {}
      mod_roster: {}
`, resumable, plain)
	checkComeBack(t, url)
}

func checkComeBack(t *testing.T, server string) {
	t.Helper()
	forEachKind(t, server, func(t *testing.T, kind string, p *pair) {
		g, port := p.start(t, gate.FreeAddr(t), "") // the next one comes to it
		_, otherPort := p.start(t, "127.0.0.1:0", "")
		friend, friendJID := login(t, p.site, "strophe", service(resumable, otherPort), "alice@"+resumable, nil)

		a, aJID := login(t, p.site, kind, service(resumable, port), "alice@"+resumable, map[string]any{"resume": true})
		b, bJID := login(t, p.site, kind, service(plain, port), "alice@"+plain, map[string]any{"resume": true})
		a.isResumable()
		a.says(bJID, "hello")
		b.hears(aJID, "hello")
		b.says(aJID, "hello yourself")
		a.hears(bJID, "hello yourself")

		g.Signal(syscall.SIGTERM)
		if words := a.goodbye(); strings.Contains(words, "stream:error") || strings.Contains(words, "<close") {
			t.Errorf("%s: before the Close it was told %q; want nothing of the stream's end", a.name, words)
		}
		if words := b.goodbye(); !strings.Contains(words, "<system-shutdown") {
			t.Errorf("%s: before the Close it was told %q; want system-shutdown", b.name, words)
		}
		if status := g.Wait(); status != 0 {
			t.Errorf("exit status %d; want 0", status)
		}
		friend.says(aJID, "while you were away")
		friend.says(friendJID, "said")
		friend.hears(friendJID, "said") // and so the one before

		p.start(t, net.JoinHostPort("127.0.0.1", port), "")
		a.resumes(aJID, friendJID, "while you were away")
		bJID = b.online()
		a.says(bJID, "here we are")
		b.hears(aJID, "here we are")
	})
}

// A gate that is drained sends clients to a second one, in XMPP's words.
// Strophe.js follows, and resumes its stream there. xmpp.js does not: it knocks
// until the first gate takes it again.
func TestComeBackElsewhere(t *testing.T) {
	forEachKind(t, startPartlyResumable(t), func(t *testing.T, kind string, p *pair) {
		_, otherPort := p.start(t, "127.0.0.1:0", "")
		elsewhere := service(resumable, otherPort)
		g, port := p.start(t, "127.0.0.1:0", fmt.Sprintf("redirect = %q\n", elsewhere))
		here := service(resumable, port)
		friend, friendJID := login(t, p.site, "strophe", elsewhere, "alice@"+resumable, nil)
		a, aJID := login(t, p.site, kind, here, "alice@"+resumable, map[string]any{"resume": true})
		a.isResumable()

		post(t, g, "/drain?vhost="+resumable)
		a.goodbye()
		friend.says(aJID, "while you were on your way")
		sent := a.want("received", func(e event) bool { return strings.Contains(e.Data, "see-other-uri") })
		var closing struct {
			XMLName xml.Name `xml:"urn:ietf:params:xml:ns:xmpp-framing close"`
			URI     string   `xml:"see-other-uri,attr"`
		}
		if err := xml.Unmarshal([]byte(sent.Data), &closing); err != nil || closing.URI != elsewhere {
			t.Errorf("%s: sent away with %q (%v); want <close/> with %q", a.name, sent.Data, err, elsewhere)
		}
		want := elsewhere
		if kind == "xmpp.js" {
			want = here
		}
		if e := a.want("connecting", nil); e.URL != want {
			t.Errorf("%s: goes to %s; want %s", a.name, e.URL, want)
		}
		if kind == "xmpp.js" {
			post(t, g, "/drain?vhost="+resumable+"&stop")
		}
		a.resumes(aJID, friendJID, "while you were on your way")
	})
}

// The same with SIGTERM: the gate lives on, and redirects, until its last
// tunnel has ended; a client that comes for the first time follows as well.
func TestRedirectWhileShuttingDown(t *testing.T) {
	p := newPair(t, startPartlyResumable(t))
	_, otherPort := p.start(t, "127.0.0.1:0", "")
	elsewhere := service(resumable, otherPort)
	g, port := p.start(t, "127.0.0.1:0", fmt.Sprintf("timeout = \"10m\"\nredirect = %q\n", elsewhere))
	a, aJID := login(t, p.site, "strophe", service(resumable, port), "alice@"+resumable, map[string]any{"resume": true})
	a.isResumable()
	mute := wire.Dial(t, g.Addr("wss"), p.site.Client(plain))

	g.Signal(syscall.SIGTERM)
	a.goodbye()
	a.want("connecting", func(e event) bool { return e.URL == elsewhere })
	b, bJID := login(t, p.site, "strophe", service(resumable, port), "alice@"+resumable, nil)
	b.says(aJID, "here too")
	a.resumes(aJID, bJID, "here too")
	mute.Conn.Close()
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// isResumable waits until the server has said so of the client's stream, and
// the client has heard it.
func (c *client) isResumable() {
	c.t.Helper()
	c.want("received", func(e event) bool { return strings.HasPrefix(e.Data, "<enabled") })
}

// post asks the gate's operator address for something.
func post(t *testing.T, g *gate.Gate, path string) {
	t.Helper()
	resp, err := http.Post("http://"+g.Addr("admin")+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		t.Fatalf("POST %s: %s: %s", path, resp.Status, body)
	}
	http.DefaultClient.CloseIdleConnections()
}

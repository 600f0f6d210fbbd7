// Package interop runs real XMPP servers behind the built binary and real XMPP
// clients in front of it. What it needs comes from Debian and npm; where
// something is missing a test says which command installs it.
package interop

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"wssgate/internal/leaktest"
	"wssgate/tests/internal/gate"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The main job: two people, each with Strophe.js in a browser, log in on two
// vhosts of one real server through the gate, each vhost with its own
// certificate, and write to each other.
func TestBrowserProsody(t *testing.T) {
	domains := []string{"example1.test", "example2.test"}
	upstream := startProsody(t, domains...)
	checkBrowser(t, upstream, domains)
}

// The same with the other server that Debian has.
func TestBrowserEjabberd(t *testing.T) {
	domains := []string{"example1.test", "example2.test"}
	upstream := startEjabberd(t, domains...)
	checkBrowser(t, upstream, domains)
}

// The same over BOSH, beside the WebSocket of the same names.
func TestBrowserBOSH(t *testing.T) {
	domains := []string{"example1.test", "example2.test"}
	upstream := startProsody(t, domains...)
	bosh := strings.Replace(strings.Replace(upstream, "ws://", "http://", 1), "/xmpp-websocket", "/http-bind", 1)
	checkService(t, fmt.Sprintf("[upstream.server]\nnodes = [%q]\n[[vhost]]\nnames = [%q, %q]\nbosh = %q\n",
		upstream, domains[0], domains[1], bosh), "https", "/http-bind", domains)
}

func checkBrowser(t *testing.T, upstream string, domains []string) {
	t.Helper()
	checkService(t, "[upstream.server]\nnodes = [\""+upstream+"\"]\n", "wss", "/xmpp-websocket", domains)
}

// checkService has a client of each domain log in at that path of a gate with
// that configuration.
func checkService(t *testing.T, config, scheme, path string, domains []string) {
	t.Helper()
	site := gate.NewSite(t, domains...)
	g := site.Start(t, config)
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}

	var clients []browserClient
	for _, domain := range domains {
		clients = append(clients, browserClient{
			Page:     "https://" + net.JoinHostPort(domain, port) + "/",
			Service:  scheme + "://" + net.JoinHostPort(domain, port) + path,
			JID:      "alice@" + domain,
			Password: passwordOf(domain),
		})
	}
	results := browse(t, site.CA.RootPEM(), clients...)
	for i, got := range results {
		if got.Certificate.SubjectName != domains[i] {
			t.Errorf("page of %s: certificate for %q", domains[i], got.Certificate.SubjectName)
		}
		if want := "TLS 1.3"; got.Certificate.Protocol != want {
			t.Errorf("page of %s: protocol %q; want %q", domains[i], got.Certificate.Protocol, want)
		}
		if got.Status != 200 || !strings.Contains(got.Text, "XMPP over WebSocket") {
			t.Errorf("page of %s: status %d, text %q; want 200 and the page of the gate", domains[i], got.Status, got.Text)
		}
		if want := clients[i].JID + "/"; !strings.HasPrefix(got.JID, want) {
			t.Errorf("bound as %q; want %q and a resource", got.JID, want)
		}
		before := results[(i+len(results)-1)%len(results)]
		if want := "from " + before.JID; got.Message.Body != want || got.Message.From != before.JID {
			t.Errorf("%s heard %q from %q; want %q from %q", got.JID, got.Message.Body, got.Message.From, want, before.JID)
		}
	}
}

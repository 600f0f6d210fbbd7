package interop

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// sideBySide configures two servers, with a vhost each.
func sideBySide(prosody, ejabberd string) string {
	return fmt.Sprintf(`
[upstream.prosody]
nodes = [%q]

[upstream.ejabberd]
nodes = [%q]

[[vhost]]
names = ["example1.test"]
upstream = "prosody"

[[vhost]]
names = ["example2.test"]
upstream = "ejabberd"
`, prosody, ejabberd)
}

// Two real servers side by side, each behind a vhost of its own: "wssgate
// probe" finds all well at both, with the certificate of the name, and says so
// where a server does not serve the domain.
func TestProbeSideBySide(t *testing.T) {
	prosody, ejabberd := startProsody(t, "example1.test"), startEjabberd(t, "example2.test")
	site := gate.NewSite(t, "example1.test", "example2.test")
	site.Write(t, "root.pem", site.CA.RootPEM())
	g := site.Start(t, sideBySide(prosody, ejabberd))

	for _, tt := range []struct {
		host, path, domain string
		ok                 bool
	}{
		{"example1.test", "/xmpp-websocket", "example1.test", true},
		{"example2.test", "/ws", "example2.test", true},
		{"example2.test", "/ws", "example1.test", false},
		{"example3.test", "/", "example3.test", false},
	} {
		t.Run(tt.host+" "+tt.domain, func(t *testing.T) {
			out, err := probe(t, site, g, "wss://"+tt.host+tt.path, "-domain", tt.domain)
			if (err == nil) != tt.ok {
				t.Errorf("probe: %v; want success %v\n%s", err, tt.ok, out)
			}
			if tt.ok && !strings.Contains(out, "wssgate test root") {
				t.Errorf("probe names no issuer:\n%s", out)
			}
		})
	}
}

func probe(t *testing.T, site *gate.Site, g *gate.Gate, url string, args ...string) (string, error) {
	t.Helper()
	binary, err := gate.Build(true)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"probe", url, "-connect", g.Addr("wss"), "-ca", filepath.Join(site.Dir, "root.pem")}, args...)
	out, err := exec.Command(binary, args...).CombinedOutput()
	return string(out), err
}

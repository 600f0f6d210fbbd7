package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// blocks returns the ```-blocks of a document with that language.
func blocks(t *testing.T, name, language string) (all []string) {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("docs/%s has no block of %s", name, language)
	}
	return all
}

// checkDocument probes a server that is configured as its page says, in front of it and
// behind a gate that is configured as the page says: the login succeeds, the server sees
// the client's address, and nothing is diagnosed.
func checkDocument(t *testing.T, page, addr, documented, path string) {
	t.Helper()
	const domain = "example1.com"
	_, port, _ := strings.Cut(addr, ":")
	site := gate.NewSite(t, domain)
	site.Write(t, "root.pem", site.CA.RootPEM())
	g := site.Start(t, replaced(t, blocks(t, page, "toml")[0], documented, addr))
	account := loginFile(t, domain)
	for what, args := range map[string][]string{
		"in front of the node": {"ws://" + domain + ":" + port + path, "-connect", addr},
		"behind the gate":      {"wss://" + domain + "/", "-connect", g.Addr("wss"), "-ca", filepath.Join(site.Dir, "root.pem")},
	} {
		p := diagnose(t, args[0], append(args[1:], "-login", account)...)
		if !p.OK || len(p.Diagnoses) > 0 {
			t.Errorf("docs/%s, %s: ok is %v, diagnoses %q\n%+v", page, what, p.OK, p.codes(), p)
		}
		if want := strings.TrimSuffix(page, ".md"); p.Server.Name != want {
			t.Errorf("docs/%s, %s: the server is %q, want %q", page, what, p.Server.Name, want)
		}
	}
}

// A Prosody with all the settings of docs/prosody.md is well.
func TestDocumentProsody(t *testing.T) {
	if _, err := os.Stat("/usr/lib/prosody/modules/mod_ipcheck"); err != nil {
		gate.Missing(t, "prosody-modules is not installed; to run this test: sudo apt-get install prosody-modules")
	}
	p := startedProsody(t, func(dir string, port int) string {
		settings := replaced(t, strings.Join(blocks(t, "prosody.md", "lua"), "\n"), "5280", fmt.Sprint(port))
		return fmt.Sprintf(`
data_path = %[1]q
pidfile = "%[1]s/prosody.pid"
certificates = %[1]q
log = { info = "*console" }
modules_enabled = { "roster", "saslauth", "disco", "ping", "version", "ipcheck", "smacks", "websocket", "admin_shell" }
modules_disabled = { "s2s", "tls" }
authentication = "internal_hashed"
c2s_ports = {}
s2s_ports = {}
%[2]s
VirtualHost "example1.com"
`, dir, settings)
	}, "example1.com")
	checkDocument(t, "prosody.md", p.addr, "127.0.0.1:5280", "/xmpp-websocket")
	if out := p.ctl(t, "shell", "c2s", "show"); !strings.Contains(out, "sessions shown") {
		t.Errorf("prosodyctl shell c2s show: %s", out)
	}
}

// An ejabberd with all the settings of docs/ejabberd.md is well.
func TestDocumentEjabberd(t *testing.T) {
	addr, _ := startedEjabberd(t, func(_ string, port int) string {
		settings := replaced(t, strings.Join(blocks(t, "ejabberd.md", "yaml"), "\n"), "5285", fmt.Sprint(port),
			// The probe's page is there, without TLS.
			`"https://example1.com"`, fmt.Sprintf(`"https://example1.com", "http://example1.com:%d"`, port),
			"modules:\n", "modules:\n  mod_disco: {}\n  mod_roster: {}\n  mod_sic: {}\n  mod_version: {}\n")
		return "hosts:\n  - example1.com\nloglevel: info\nauth_method: internal\nauth_password_format: scram\n" + settings
	}, "example1.com")
	checkDocument(t, "ejabberd.md", addr, "127.0.0.1:5285", "/ws")
}

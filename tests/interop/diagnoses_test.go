package interop

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
)

// A probed is what "wssgate probe -json" prints, as far as it matters here.
type probed struct {
	OK     bool
	Server struct{ Name, Version string }
	Steps  []struct {
		Step     string
		Problems []struct{ Problem, Hint string }
	}
	Diagnoses []struct {
		Code, Text string
		Fixes      []struct{ Server, File, Line string }
	}
}

func (p probed) codes() string {
	var all []string
	for _, d := range p.Diagnoses {
		all = append(all, d.Code)
	}
	return strings.Join(all, " ")
}

// diagnose runs the binary's probe.
func diagnose(t *testing.T, url string, args ...string) probed {
	t.Helper()
	binary, err := gate.Build(true)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, append([]string{"probe", "-json", url}, args...)...)
	out, err := cmd.Output()
	var p probed
	if jsonErr := json.Unmarshal(out, &p); jsonErr != nil {
		t.Fatalf("%s: %v, %v\n%s", cmd, err, jsonErr, out)
	}
	if p.OK != (err == nil) {
		t.Errorf("%s: ok is %v, and %v", cmd, p.OK, err)
	}
	return p
}

// loginFile writes the account of a domain down for -login.
func loginFile(t *testing.T, domain string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "account")
	if err := os.WriteFile(file, []byte("alice@"+domain+"\n"+passwordOf(domain)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// replaced is replace in which each of the pairs must be there.
func replaced(t *testing.T, s string, pairs ...string) string {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(s, pair[0]) {
			t.Fatalf("no %q in\n%s", pair[0], s)
		}
		s = strings.ReplaceAll(s, pair[0], pair[1])
	}
	return s
}

// What Tigase offers on a plain WebSocket, and two ways to spoil it.
const (
	tigaseOffer = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism></mechanisms>" +
		"<register xmlns='http://jabber.org/features/iq-register'/><auth xmlns='http://jabber.org/features/iq-auth'/><ver xmlns='urn:xmpp:features:rosterver'/>"
	withoutSCRAM = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
	withPLUS     = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256-PLUS</mechanism><mechanism>SCRAM-SHA-256</mechanism></mechanisms>"
	sasl2Alone   = "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-256</mechanism><inline><bind xmlns='urn:xmpp:bind:0'/></inline></authentication>"
)

// startTigase runs a server with Tigase's habits, and returns its URL.
func startTigase(t *testing.T, change func(*chat.Config), domains ...string) string {
	t.Helper()
	cfg := chat.Config{Domains: domains, Habits: chat.Tigase()}
	cfg.Offer = tigaseOffer
	if change != nil {
		change(&cfg)
	}
	s, err := chat.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.URL()
}

// Seeded misconfigurations of Prosody, ejabberd and a server with Tigase's habits: the
// probe of the built binary finds each of them, and none where all is well, before a
// login and after one, in front of the node and behind the gate.
func TestDiagnoses(t *testing.T) {
	if _, err := os.Stat("/usr/lib/prosody/modules/mod_ipcheck"); err != nil {
		gate.Missing(t, "prosody-modules is not installed; to run this test: sudo apt-get install prosody-modules")
	}

	// Prosody: one that is well, with hosts that are not; one that believes another
	// proxy, and has a WebSocket at one web host only; one that waits for TLS, and has its
	// WebSocket at another path.
	prosodyHosts := []string{"p.test", "p-noscram.test", "p-nosm.test", "p-sasl2.test"}
	const more = `
VirtualHost "p-noscram.test"
disable_sasl_mechanisms = { "SCRAM-SHA-1" }
VirtualHost "p-nosm.test"
modules_disabled = { "smacks" }
VirtualHost "p-sasl2.test"
modules_enabled = { "sasl2" }
`
	with := []string{`"admin_shell" }`, `"admin_shell", "version", "ipcheck" }`}
	prosody := startedProsody(t, func(dir string, port int) string {
		return replaced(t, prosodyConfig(dir, port, prosodyHosts[:1]), with...) + more
	}, prosodyHosts...)
	strange := startedProsody(t, func(dir string, port int) string {
		return replaced(t, prosodyConfig(dir, port, prosodyHosts[:1]), append(with, `trusted_proxies = { "127.0.0.1" }`, `trusted_proxies = { "10.0.0.53" }`,
			`"websocket", `, ``)...) + "modules_enabled = { \"websocket\" }\n"
	}, prosodyHosts[0])
	secret := startedProsody(t, func(dir string, port int) string {
		return replaced(t, prosodyConfig(dir, port, prosodyHosts[:1]), append(with,
			`trusted_proxies = { "127.0.0.1" }`, `trusted_proxies = { "10.0.0.53" }`,
			`consider_websocket_secure = true`, `http_paths = { websocket = "/chat" }`)...)
	}, prosodyHosts[0])

	// ejabberd: one that is well, with hosts and listeners that are not; one that
	// believes no proxy, and takes one origin.
	ejabberdHosts := []string{"e.test", "e-noscram.test", "e-nosm.test"}
	listeners := map[string]int{"bosh": gate.FreePort(t), "tls": gate.FreePort(t)}
	site := gate.NewSite(t, "p.test", "e.test", "t.test", "t-domains.test", "t-url.test")
	pair := site.CA.Issue("e.test")
	ejabberd, _ := startedEjabberd(t, func(dir string, port int) string {
		pem := filepath.Join(dir, "both.pem")
		if err := os.WriteFile(pem, append(pair.ChainPEM(), pair.KeyPEM()...), 0o644); err != nil {
			t.Fatal(err)
		}
		return replaced(t, ejabberdConfig(port, ejabberdHosts),
			"auth_method:", fmt.Sprintf(`  -
    port: %d
    ip: "127.0.0.1"
    module: ejabberd_http
    request_handlers:
      /ws: mod_bosh
  -
    port: %d
    ip: "127.0.0.1"
    module: ejabberd_http
    tls: true
    request_handlers:
      /ws: ejabberd_http_ws
certfiles:
  - %s
auth_method:`, listeners["bosh"], listeners["tls"], pem),
			"  mod_stream_mgmt: {}\n", "  mod_sic: {}\n  mod_version: {}\n  mod_bosh: {}\n",
			"modules:", `append_host_config:
  e.test:
    modules:
      mod_stream_mgmt: {}
  e-noscram.test:
    modules:
      mod_stream_mgmt: {}
host_config:
  e-noscram.test:
    disable_sasl_mechanisms: [SCRAM-SHA-1]
modules:`)
	}, ejabberdHosts...)
	doubtful, _ := startedEjabberd(t, func(_ string, port int) string {
		return replaced(t, ejabberdConfig(port, ejabberdHosts[:1]),
			"trusted_proxies: [\"127.0.0.1\"]\n", fmt.Sprintf("websocket_origin: [\"http://e.test:%d\"]\n", port),
			"  mod_stream_mgmt: {}\n", "  mod_stream_mgmt: {}\n  mod_sic: {}\n  mod_version: {}\n")
	}, ejabberdHosts[0])

	tigase := startTigase(t, nil, "t.test", "t-url.test")
	g := site.Start(t, fmt.Sprintf(`
[upstream.prosody]
nodes = [%q]
[upstream.ejabberd]
nodes = ["ws://%s/ws"]
[upstream.tigase]
nodes = [%q]
[[vhost]]
names = ["p.test"]
upstream = "prosody"
[[vhost]]
names = ["e.test"]
upstream = "ejabberd"
[[vhost]]
names = ["t.test"]
upstream = "tigase"
[[vhost]]
names = ["t-domains.test"]
upstream = "tigase"
domains = ["other.test"]
[[vhost]]
names = ["t-url.test"]
upstream = "tigase"
public_url = "wss://chat.test/"
`, prosody.url, ejabberd, tigase))
	site.Write(t, "root.pem", site.CA.RootPEM())
	// behind is how the probe goes to the gate, and front to a node with that web host.
	behind := []string{"-connect", g.Addr("wss"), "-ca", filepath.Join(site.Dir, "root.pem")}
	front := func(addr, host, path string) (url string, args []string) {
		_, port, _ := net.SplitHostPort(addr)
		return "ws://" + net.JoinHostPort(host, port) + path, []string{"-connect", addr}
	}
	addrOf := func(url string) string { return strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/") }

	type way struct {
		name   string
		url    string
		args   []string
		login  string // domain
		want   string // codes
		server string // whose settings are named, beside the gate's; empty: any
	}
	inFront := func(name, addr, host, path, login, want, server string) way {
		url, args := front(addr, host, path)
		return way{name, url, args, login, want, server}
	}
	ways := []way{
		// All is well.
		inFront("Prosody", prosody.addr, "p.test", "/xmpp-websocket", "", "", ""),
		inFront("Prosody, login", prosody.addr, "p.test", "/xmpp-websocket", "p.test", "", ""),
		{"Prosody behind the gate", "wss://p.test/", slices.Clone(behind), "p.test", "", ""},
		inFront("ejabberd", ejabberd, "e.test", "/ws", "", "", ""),
		inFront("ejabberd, login", ejabberd, "e.test", "/ws", "e.test", "", ""),
		{"ejabberd behind the gate", "wss://e.test/", slices.Clone(behind), "e.test", "", ""},
		inFront("Tigase", addrOf(tigase), "t.test", "/", "", "", ""),
		{"Tigase behind the gate", "wss://t.test/", slices.Clone(behind), "", "", ""},

		// Prosody
		inFront("1 Prosody waits for TLS and does not believe the gate", secret.addr, "p.test", "/chat", "", "insecure-stream", ""),
		inFront("2 Prosody has its WebSocket at another path", secret.addr, "p.test", "/xmpp-websocket", "", "wrong-path", ""),
		inFront("3 Prosody believes another proxy", strange.addr, "p.test", "/xmpp-websocket", "p.test", "forwarded-not-believed", "prosody"),
		inFront("4 Prosody without SCRAM", prosody.addr, "p-noscram.test", "/xmpp-websocket", "", "scram-missing", ""),
		inFront("5 Prosody without XEP-0198", prosody.addr, "p-nosm.test", "/xmpp-websocket", "p-nosm.test", "sm-missing", "prosody"),
		inFront("6 Prosody with SASL 2 and without Bind 2", prosody.addr, "p-sasl2.test", "/xmpp-websocket", "p-sasl2.test", "bind2-missing", "prosody"),
		inFront("7 the gate's name is no web host of Prosody", strange.addr, "chat.p.test", "/xmpp-websocket", "", "http-host-unknown", ""),
		inFront("8 Prosody does not have the domain", prosody.addr, "p.test", "/xmpp-websocket", "", "host-unknown", ""),

		// ejabberd
		inFront("9 ejabberd without SCRAM", ejabberd, "e-noscram.test", "/ws", "", "scram-missing", "ejabberd"),
		inFront("10 ejabberd without XEP-0198", ejabberd, "e-nosm.test", "/ws", "e-nosm.test", "sm-missing", "ejabberd"),
		inFront("11 ejabberd does not have the domain", ejabberd, "e.test", "/ws", "", "host-unknown", "ejabberd"),
		inFront("12 ejabberd has BOSH at the path", net.JoinHostPort("127.0.0.1", fmt.Sprint(listeners["bosh"])), "e.test", "/ws", "", "wrong-path", ""),
		inFront("13 ejabberd has TLS at the port", net.JoinHostPort("127.0.0.1", fmt.Sprint(listeners["tls"])), "e.test", "/ws", "", "wrong-scheme", ""),
		inFront("14 ejabberd believes no proxy", doubtful, "e.test", "/ws", "e.test", "forwarded-not-believed", "ejabberd"),
		inFront("15 ejabberd takes other origins", doubtful, "chat.e.test", "/ws", "", "origin-refused", ""),

		// Tigase's habits
		inFront("16 no subprotocol", addrOf(startTigase(t, func(c *chat.Config) { c.NoSubprotocol = true }, "t.test")), "t.test", "/", "", "wrong-subprotocol", ""),
		inFront("17 a redirect to 5290 of a node", addrOf(startTigase(t, func(c *chat.Config) {
			c.Redirect = func(chat.Open) string { return "ws://t2.t.test:5290/" }
		}, "t.test")), "t.test", "/", "", "inner-redirect", ""),
		inFront("18 a limit above the gate's", addrOf(startTigase(t, offers(tigaseOffer+"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>2097152</max-bytes></limits>"), "t.test")), "t.test", "/", "", "limits-mismatch", ""),
		inFront("19 channel binding", addrOf(startTigase(t, offers(withPLUS), "t.test")), "t.test", "/", "", "channel-binding", ""),
		inFront("20 STARTTLS is required", addrOf(startTigase(t, offers(tigaseOffer+"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"), "t.test")), "t.test", "/", "", "insecure-stream", ""),
		inFront("21 SASL 2 without FAST", addrOf(startTigase(t, offers(tigaseOffer+sasl2Alone), "t.test")), "t.test", "/", "", "fast-missing", ""),
		// This server has no SCRAM to log in with.
		inFront("Tigase without SCRAM", addrOf(startTigase(t, offers(withoutSCRAM), "t.test")), "t.test", "/", "t.test", "scram-missing", ""),
		inFront("22 Tigase without XEP-0198 and SCRAM", addrOf(startTigase(t, func(c *chat.Config) {
			c.Offer, c.NoResumption = withoutSCRAM, true
		}, "t.test")), "t.test", "/", "t.test", "sm-missing scram-missing", ""),
		{"23 the vhost leaves the domain out", "wss://t-domains.test/", append(slices.Clone(behind), "-domain", "t.test"), "", "domain-not-allowed", ""},
		{"24 a document that names another URL", "wss://t-url.test/", append(slices.Clone(behind), "-domain", "t-url.test"), "", "discovery-other-url", ""},
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			if w.login != "" {
				w.args = append(w.args, "-login", loginFile(t, w.login))
			}
			switch host := strings.Split(w.url, "/")[2]; {
			case strings.Contains(w.name, "does not have the domain"):
				w.args = append(w.args, "-domain", "absent.test")
			case strings.HasPrefix(host, "chat."):
				w.args = append(w.args, "-domain", "p.test")
			}
			p := diagnose(t, w.url, w.args...)
			if p.codes() != w.want {
				t.Errorf("probe %s %q: %q; want %q\n%+v\n%+v", w.url, w.args, p.codes(), w.want, p.Steps, p.Diagnoses)
			}
			for _, d := range p.Diagnoses {
				if len(d.Fixes) == 0 {
					t.Errorf("%s: no setting to change", d.Code)
				}
				for _, f := range d.Fixes {
					if w.server != "" && f.Server != w.server && f.Server != "wssgate" {
						t.Errorf("%s: a setting of %s; want %s's alone", d.Code, f.Server, w.server)
					}
				}
			}
		})
	}
}

// offers has a server with Tigase's habits offer something else before a login.
func offers(features string) func(*chat.Config) {
	return func(c *chat.Config) { c.Offer = features }
}

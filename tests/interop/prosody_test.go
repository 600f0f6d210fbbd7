package interop

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// startProsody runs Debian's Prosody with the domains and an account alice,
// whose password is passwordOf the domain, on each of them. It returns the URL
// of its plain WebSocket.
func startProsody(t *testing.T, domains ...string) (url string) {
	t.Helper()
	return runProsody(t, "", domains...).url
}

// A prosody is a running Prosody.
type prosody struct {
	addr   string // of its web server
	url    string // of its plain WebSocket
	user   account
	config string
}

// runProsody is startProsody with more at the end of the configuration, which
// belongs to the last of the domains.
//
// Prosody refuses to be root. Where the test is, Prosody runs as the user that
// the package made for it, and its files belong to that user.
func runProsody(t *testing.T, more string, domains ...string) *prosody {
	t.Helper()
	return startedProsody(t, func(dir string, port int) string { return prosodyConfig(dir, port, domains) + more }, domains...)
}

// startedProsody is runProsody with a configuration of its own.
func startedProsody(t *testing.T, config func(dir string, port int) string, domains ...string) *prosody {
	t.Helper()
	gate.Program(t, "prosody", "prosody")
	gate.Program(t, "prosodyctl", "prosody")

	p := &prosody{user: unprivileged(t, "prosody")}
	dir := p.user.tempDir(t)
	port := gate.FreePort(t)
	p.config = filepath.Join(dir, "prosody.cfg.lua")
	p.user.write(t, p.config, config(dir, port))
	for _, domain := range domains {
		p.ctl(t, "register", "alice", domain, passwordOf(domain))
	}
	addr := net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	gate.StartServer(t, p.user.command("prosody", "-F", "--config", p.config), new(gate.Output), addr)
	p.addr = addr
	p.url = "ws://" + addr + "/xmpp-websocket"
	return p
}

// ctl returns what prosodyctl says.
func (p *prosody) ctl(t *testing.T, args ...string) string {
	t.Helper()
	ctl := p.user.command("prosodyctl", append([]string{"--config", p.config}, args...)...)
	out, err := ctl.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", ctl, err, out)
	}
	return string(out)
}

func prosodyConfig(dir string, port int, domains []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
data_path = %q
pidfile = %q
certificates = %q
log = { info = "*console" }
modules_enabled = { "roster", "saslauth", "disco", "ping", "smacks", "websocket", "bosh", "admin_shell" }
modules_disabled = { "s2s", "tls" }
authentication = "internal_hashed"
storage = "internal"

http_interfaces = { "127.0.0.1" }
http_ports = { %d }
https_ports = {}
c2s_ports = {}
s2s_ports = {}

-- TLS ends at the gate, which stands on the same machine.
consider_websocket_secure = true
consider_bosh_secure = true
trusted_proxies = { "127.0.0.1" }
c2s_require_encryption = true
`, dir, filepath.Join(dir, "prosody.pid"), dir, port)
	for _, domain := range domains {
		fmt.Fprintf(&b, "VirtualHost %q\n", domain)
	}
	return b.String()
}

func passwordOf(domain string) string { return "secret of " + domain }

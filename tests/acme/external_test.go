package acme

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// The commands for certbot and lego in docs/acme.md do what it says: they put
// certificates, a wildcard among them, where the gate finds them, and it serves
// what they renew without being told.
func TestExternalClients(t *testing.T) {
	for _, c := range []struct {
		client       string
		home         string // its folder in the commands
		certificates string // what certificates.directory is, in that folder
		atOnce       string // renewals wait for some minutes otherwise
		flags        func(p *pebble, home string) string
	}{
		{"certbot", "/etc/letsencrypt", "live", " --no-random-sleep-on-renew", func(p *pebble, home string) string {
			return fmt.Sprintf("--config-dir %[1]s --work-dir %[1]s/work --logs-dir %[1]s/logs --server %[2]s --http-01-port %[3]d"+
				" --non-interactive --agree-tos --register-unsafely-without-email", home, p.Directory, p.HTTPPort)
		}},
		{"lego", "/var/lib/lego", "certificates", " --no-random-sleep", func(p *pebble, home string) string {
			return fmt.Sprintf("--server %s --http.port :%d --dns.disable-cp", p.Directory, p.HTTPPort)
		}},
	} {
		t.Run(c.client, func(t *testing.T) {
			t.Parallel()
			gate.Program(t, c.client, c.client)
			// Both renew a month before the end, so these are due at once.
			p, at := newPebble(t, pebbleConfig{Validity: 20 * 24 * 3600})
			at[0].http.Close() // there the client answers
			root := filepath.Join(p.dir, "root.pem")
			write(t, root, p.https.RootPEM())
			hook := filepath.Join(p.dir, "set-txt")
			write(t, hook, fmt.Appendf(nil, setTXT, p.txt))
			if err := os.Chmod(hook, 0o700); err != nil {
				t.Fatal(err)
			}
			home := t.TempDir()
			run := func(command string) {
				t.Helper()
				flagged := strings.Replace(command, c.client+" ", c.client+" "+c.flags(p, home)+" ", 1)
				flagged = strings.NewReplacer(c.home, home, "/etc/wssgate/set-txt", hook).Replace(flagged)
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, "bash", "-c", flagged)
				cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+root, "LEGO_CA_CERTIFICATES="+root)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", flagged, err, out)
				}
			}
			commands := documented(t, c.client)
			if len(commands) < 3 {
				t.Fatalf("docs/acme.md has the commands %q; want one for a name, one for a wildcard, and renewals", commands)
			}
			const name, anyName = "chat.example.org", "any.example.org"
			p.Resolve(name, at[0].IP)

			run(commands[0])
			site := gate.NewSite(t)
			site.Write(t, "config.toml", fmt.Appendf(nil, "[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n"+
				"[certificates]\ndirectory = %q\n[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:9/\"]\n", filepath.Join(home, c.certificates)))
			g := &testGate{t: t, addr: gate.Start(t, site.Dir).Addr("wss")}
			roots := p.Root()
			first := map[string]*x509.Certificate{name: g.serves(name, roots)}
			run(commands[1])
			first[anyName] = g.serves(anyName, roots)
			for _, renew := range commands[2:] {
				run(renew + c.atOnce)
			}
			for name, before := range first {
				g.serves(name, roots, before)
			}
		})
	}
}

// documented returns the indented commands for a program in docs/acme.md.
func documented(t *testing.T, program string) (commands []string) {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "acme.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if strings.HasPrefix(line, "    ") && strings.Contains(line, " "+program+" ") {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// setTXT is the script that the commands name, for certbot and for lego. It
// tells pebble.serveDNS.
const setTXT = `#!/bin/sh
if [ -n "$CERTBOT_VALIDATION" ]; then
  echo "$CERTBOT_VALIDATION" >"%[1]s/_acme-challenge.$CERTBOT_DOMAIN"
elif [ "$1" = present ]; then
  echo "$3" >"%[1]s/${2%%.}"
fi
`

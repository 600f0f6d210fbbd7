package interop

import (
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
)

// Two real servers side by side behind one gate, each a vhost's: each with its
// own setting for X-Forwarded-For believes the gate, and shows the address of
// the client, not the gate's, and not the one that the client has made up.
func TestForwardedForSideBySide(t *testing.T) {
	prosody := runProsody(t, "", "example1.test")
	ejabberd, ejabberdLog := runEjabberd(t, "", "example2.test")
	site := gate.NewSite(t, "example1.test", "example2.test")
	g := site.Start(t, sideBySide(prosody.url, ejabberd))

	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	const address = "127.0.0.2" // the gate reaches its upstreams from 127.0.0.1
	comes := map[string]any{"from": address, "headers": map[string]string{
		"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9",
	}}
	jids := map[string]string{}
	for _, domain := range []string{"example1.test", "example2.test"} {
		for _, kind := range []string{"strophe", "xmpp.js"} {
			_, jids[kind+domain] = login(t, site, kind, "wss://"+net.JoinHostPort(domain, port)+"/", "alice@"+domain, comes)
		}
	}

	// Prosody's shell shows the sessions, a line for each.
	sessions := prosody.ctl(t, "shell", `c2s:show(nil, { "jid", "ip" })`)
	// ejabberd's log has a line for each login, after a while.
	logins := readUntil(t, ejabberdLog, regexp.MustCompile(`Opened c2s session for `), 2)
	for _, kind := range []string{"strophe", "xmpp.js"} {
		if line := lineWith(sessions, jids[kind+"example1.test"]); !strings.Contains(line, address) {
			t.Errorf("Prosody shows %q; want a session of %s from %s\n%s", line, jids[kind+"example1.test"], address, sessions)
		}
	}
	if n := strings.Count(logins, "authentication for alice@example2.test by mnesia backend from "+address); n != 2 {
		t.Errorf("ejabberd's log has %d logins from %s, want 2:\n%s", n, address, logins)
	}
}

// lineWith returns the first line of the text that contains part.
func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// readUntil returns the file once it has n matches.
func readUntil(t *testing.T, file string, match *regexp.Regexp, n int) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if len(match.FindAll(text, n)) >= n {
			return string(text)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not %d times %q within %v:\n%s", file, n, match, patience, text)
		}
	}
}

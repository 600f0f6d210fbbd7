package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const accessNode = "[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:5290/\"]\n"

// Entries in the configuration and in the files that it names form one list.
// Every mistake is reported.
func TestAccessConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("deny.txt", "# a comment\n203.0.113.0/24\n")
	write("bad.txt", "203.0.113.0/24\nnonsense\n")
	write("empty.txt", "# nobody\n")
	file := filepath.Join(dir, "config.toml")
	cfg, err := Parse(file, []byte(accessNode+`
[access]
deny = ["192.0.2.7", "file:deny.txt", "file:empty.txt"]
[[vhost]]
names = ["example1.com"]
access = { allow = "10.0.0.0/8", deny = "file:deny.txt" }
`))
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string][2]bool{
		"192.0.2.7": {false, false}, "192.0.2.8": {true, false}, "203.0.113.9": {false, false}, "10.1.2.3": {true, true},
	} {
		ip := netip.MustParseAddr(client)
		if got := [2]bool{cfg.Access.Rules.Allows(ip), cfg.Vhost[0].Access.Rules.Allows(ip)}; got != want {
			t.Errorf("%s: gate and vhost say %v; want %v", client, got, want)
		}
	}
	if len(cfg.AccessFiles) != 2 {
		t.Errorf("%d files; want 2, one of which two lists name", len(cfg.AccessFiles))
	}
	_, err = Parse(file, []byte(accessNode+`
[access]
allow = ["10.0.0.1/8", "file:empty.txt"]
deny = ["example.com", "file:", "file:bad.txt", "file:missing.txt"]
[[vhost]]
names = ["example1.com"]
access.deny = "file:."
`))
	if err == nil {
		t.Fatal("no mistake was found")
	}
	for _, want := range []string{
		`access.allow: "10.0.0.1/8" has bits set beyond its prefix length; write "10.0.0.0/8"`,
		`access.allow: "` + filepath.Join(dir, "empty.txt") + `": has no networks, so every client would be refused`,
		`access.deny: "example.com" is not a network`,
		`access.deny: "file:" has no file name`,
		`bad.txt": line 2: "nonsense" is not a network`,
		`missing.txt": no such file or directory`,
		`vhost "example1.com".access.deny: "` + dir + `": is a directory`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the mistakes lack %q:\n%v", want, err)
		}
	}
}

package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const accessNode = "[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:5290/\"]\n"

// What stands in the file and what stands in files that it names are one list; of
// several mistakes each is told.
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
	cfg, err := parseConfig(file, []byte(accessNode+`
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
		if got := [2]bool{cfg.Access.rules.Allows(ip), cfg.Vhost[0].Access.rules.Allows(ip)}; got != want {
			t.Errorf("%s: gate and vhost say %v; want %v", client, got, want)
		}
	}
	if len(cfg.accessFiles) != 2 {
		t.Errorf("%d files; want 2, one of which two lists name", len(cfg.accessFiles))
	}
	_, err = parseConfig(file, []byte(accessNode+`
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
		`access.allow: "` + filepath.Join(dir, "empty.txt") + `": has no network, so that nobody would be allowed`,
		`access.deny: "example.com" is not a network`,
		`access.deny: "file:" has no name of a file`,
		`bad.txt": line 2: "nonsense" is not a network`,
		`missing.txt": no such file or directory`,
		`vhost "example1.com".access.deny: "` + dir + `": is a directory`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the mistakes lack %q:\n%v", want, err)
		}
	}
}

// A list is read again when its file changes; a bad one leaves the one before in
// force, and is a problem until it is good again. Another configuration's files take
// the place of these.
func TestAccessWatch(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "deny.txt")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(name+".tmp", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".tmp", name); err != nil {
			t.Fatal(err)
		}
	}
	write("192.0.2.7")
	load := func() *Config {
		t.Helper()
		cfg, err := parseConfig(filepath.Join(dir, "config.toml"), []byte(accessNode+"[access]\ndeny = \"file:deny.txt\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	cfg := load()
	w := &accessWatch{log: slog.New(slog.DiscardHandler)}
	w.set(cfg.accessFiles)
	defer w.set(nil)
	client := netip.MustParseAddr("198.51.100.1")
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	bad := func(c *Config) func() bool {
		return func() bool { _, bad := c.accessFiles[0].problem(); return bad }
	}
	write("198.51.100.1")
	eventually("the new list is not in force", func() bool { return !cfg.Access.rules.Allows(client) })
	write("198.51.100.")
	eventually("a bad list is no problem", bad(cfg))
	if cfg.Access.rules.Allows(client) {
		t.Error("a bad list took the place of the one before")
	}
	os.Remove(name)
	eventually("a list that is gone is no problem", bad(cfg))
	if cfg.Access.rules.Allows(client) {
		t.Error("a list that is gone took the place of the one before")
	}
	write("# nobody")
	eventually("the empty list is not in force", func() bool { return cfg.Access.rules.Allows(client) && !bad(cfg)() })

	next := load()
	w.set(next.accessFiles)
	write("198.51.100.1")
	eventually("after a reload the list is not read again", func() bool { return !next.Access.rules.Allows(client) })
	if !cfg.Access.rules.Allows(client) {
		t.Error("the list of the configuration before was read again")
	}
}

package gate

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"wssgate/config"
)

// A list is read again when its file changes. A bad one leaves the previous one
// in force, and is a problem until it is good again. Another configuration
// replaces all files.
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
	load := func() *config.Config {
		t.Helper()
		cfg, err := config.Parse(filepath.Join(dir, "config.toml"), []byte("[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:5290/\"]\n"+"[access]\ndeny = \"file:deny.txt\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	cfg := load()
	w := &accessWatch{log: slog.New(slog.DiscardHandler)}
	w.set(cfg.AccessFiles)
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
	bad := func(c *config.Config) func() bool {
		return func() bool { _, err := c.AccessFiles[0].Problem(); return err != nil }
	}
	write("198.51.100.1")
	eventually("the new list is not in force", func() bool { return !cfg.Access.Rules.Allows(client) })
	write("198.51.100.")
	eventually("a bad list is no problem", bad(cfg))
	if cfg.Access.Rules.Allows(client) {
		t.Error("a bad list took the place of the one before")
	}
	os.Remove(name)
	eventually("a list that is gone is no problem", bad(cfg))
	if cfg.Access.Rules.Allows(client) {
		t.Error("a list that is gone took the place of the one before")
	}
	write("# nobody")
	eventually("the empty list is not in force", func() bool { return cfg.Access.Rules.Allows(client) && !bad(cfg)() })

	next := load()
	w.set(next.AccessFiles)
	write("198.51.100.1")
	eventually("after a reload the list is not read again", func() bool { return !next.Access.Rules.Allows(client) })
	if !cfg.Access.Rules.Allows(client) {
		t.Error("the list of the configuration before was read again")
	}
}

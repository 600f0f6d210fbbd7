package acme

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// The program says which record a wildcard needs, orders when it is there, and serves
// every name below. A damaged record is said to be.
func TestBinaryWildcard(t *testing.T) {
	t.Parallel()
	const domain, name = "example.org", "*.example.org"
	p, all := newPebble(t, pebbleConfig{})
	g := newBinaryGate(t, p, all[0], "chat.example.org")
	g.admin = gate.FreeAddr(t)
	g.ca = "resolver = \"" + p.dns + "\"\n" + g.ca
	g.config(g.addr, "", `"`+name+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	var line string
	for !strings.Contains(line, "IN TXT") { // the account is registered by then
		line = g.says("acme dns-records", 0)
	}
	g.says("acme dns-records", 0, "; for "+name+" from "+p.Directory+": TXT record _validation-persist.example.org. is not there")
	g.says("acme status", 0, "waiting", "is not there; set _validation-persist.example.org. IN TXT")
	if n := p.Orders(); n != 0 {
		t.Errorf("%d orders without the record; want none", n)
	}
	owner, value, ok := strings.Cut(strings.TrimSpace(line[strings.LastIndex(line, "\n_")+1:]), " IN TXT ")
	if !ok || owner != "_validation-persist."+domain+"." {
		t.Fatalf("acme dns-records prints\n%s", line)
	}
	file := filepath.Join(p.txt, strings.TrimSuffix(owner, "."))
	value = strings.Trim(value, `"`)
	set := func(value string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set(strings.Replace(value, "policy=wildcard", "policy=", 1))
	g.says("acme dns-records", 0, "lacks policy=wildcard")
	set(value)
	g.says("acme dns-records", 0, ": is there")
	g.says("acme retry "+name, 0, name+": is tried again")

	root := p.Root()
	g.serves("chat.example.org", root)
	config := g.site.Client("other.example.org")
	config.RootCAs = root
	c := wire.Dial(t, g.Addr("wss"), config)
	c.SendText("hello")
	c.WantText("hello")
	if _, err := g.leaf("deep.other.example.org", root); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("deep.other.example.org: %v; want unrecognized_name", err)
	}
}

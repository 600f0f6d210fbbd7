package config

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

type fakeResolver map[string][]netip.Addr

func (r fakeResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("asked without a deadline")
	}
	if addrs, ok := r[host]; ok {
		return addrs, nil
	}
	return nil, errors.New("no such host")
}

// A server that speaks WebSocket without TLS must not be reachable from
// outside.
func TestWarnsAboutPublicNodes(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"ws://127.0.0.1:5290/", ""},
		{"ws://[::1]:5290/", ""},
		{"ws://[fd00::1]:5290/", ""},
		{"ws://[fe80::1%25eth0]:5290/", ""},
		{"ws://10.1.2.3:5290/", ""},
		{"ws://192.168.1.2:5290/", ""},
		{"ws://100.64.0.1:5290/", ""},
		{"ws://inside.example:5290/", ""},
		{"ws://8.8.8.8:5290/", `upstream "a": node "8.8.8.8:5290": address 8.8.8.8 is public, and ws:// has no TLS`},
		{"ws://[2a00::1]:5290/", `upstream "a": node "[2a00::1]:5290": address 2a00::1 is public, and ws:// has no TLS`},
		{"ws://[::ffff:8.8.8.8]:5290/", `upstream "a": node "[::ffff:8.8.8.8]:5290": address ::ffff:8.8.8.8 is public, and ws:// has no TLS`},
		{"ws://outside.example:5290/", `upstream "a": node "outside.example:5290": address 9.9.9.9 is public, and ws:// has no TLS`},
		{"wss://outside.example:5290/", ""},
		{"ws+unix:///run/xmpp.sock", ""},
		{"ws://unknown.example/", ""}, // tryNodes reports it
	} {
		cfg, err := parseString("[upstream.a]\nnodes = \"" + test.url + "\"\n")
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		var got string
		for _, w := range cfg.Warnings(t.Context(), fakeResolver{
			"inside.example":  {netip.MustParseAddr("10.0.0.1")},
			"outside.example": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("9.9.9.9")},
		}) {
			got += w.Text
		}
		if got != test.want {
			t.Errorf("%s: warning %q, want %q", test.url, got, test.want)
		}
	}
}

func TestWarnsAboutTheRest(t *testing.T) {
	cfg, err := parseString(small + `
[upstream.unused]
nodes = "ws://127.0.0.1/"
[upstream.by_domain]
nodes = "ws://127.0.0.1/"
[[vhost]]
names = "example1.com"
upstream = "tigase"
route = "to"
by_domain = { "example2.com" = "by_domain" }
[limits]
client_backlog = "64KiB"
`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range cfg.Warnings(t.Context(), fakeResolver{}) {
		got = append(got, w.Text)
	}
	want := []string{`upstream "unused": no vhost uses it`, `limits.client_backlog: 64KiB is less than limits.message, 1MiB`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("warnings = %q, want %q", got, want)
	}
}

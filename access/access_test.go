package access

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func networks(t *testing.T, list ...string) *Networks {
	t.Helper()
	var out []netip.Prefix
	for _, s := range list {
		p, err := ParseNetwork(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return NewNetworks(out)
}

// What is denied stays out, allowed or not; where a list of those allowed is
// there, all others stay out too.
func TestRules(t *testing.T) {
	deny := &Rules{Deny: []*Networks{networks(t, "192.0.2.0/24", "2001:db8::/32"), networks(t, "::ffff:198.51.100.0/120")}}
	allow := &Rules{Allow: []*Networks{networks(t, "10.0.0.0/8")}, Deny: []*Networks{networks(t, "10.1.0.0/16")}}
	for _, test := range []struct {
		rules  *Rules
		client string
		want   bool
	}{
		{nil, "192.0.2.1", true}, {&Rules{}, "192.0.2.1", true},
		{deny, "192.0.2.0", false}, {deny, "192.0.2.255", false}, {deny, "192.0.1.255", true}, {deny, "192.0.3.0", true},
		{deny, "::ffff:192.0.2.1", false}, {deny, "2001:db8:ffff::1", false}, {deny, "2001:db9::", true}, {deny, "::", true},
		{deny, "198.51.100.7", false}, {deny, "::ffff:198.51.100.7", false},
		{allow, "10.0.0.1", true}, {allow, "10.1.0.1", false}, {allow, "10.2.0.0", true}, {allow, "11.0.0.0", false}, {allow, "::1", false},
	} {
		if got := test.rules.Allows(netip.MustParseAddr(test.client)); got != test.want {
			t.Errorf("%+v allows %s: %v; want %v", test.rules, test.client, got, test.want)
		}
	}
	if !allow.Allows(netip.Addr{}) {
		t.Error("what has no address is kept out")
	}
	allow.Allow[0].Replace(nil)
	if allow.Allows(netip.MustParseAddr("10.0.0.1")) {
		t.Error("a list that was replaced is still in force")
	}
}

// A set of networks that overlap answers as each of them alone does.
func TestNetworksOverlap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(4)), byte(r.IntN(256))})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(256))})
	}
	for range 200 {
		var list []netip.Prefix
		for range r.IntN(8) {
			a := addr()
			list = append(list, netip.PrefixFrom(a, a.BitLen()-r.IntN(14)).Masked())
		}
		n := NewNetworks(list)
		for range 200 {
			a := addr()
			want := slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
			if got := n.has(a); got != want {
				t.Fatalf("%v has %s: %v; want %v", list, a, got, want)
			}
		}
	}
}

func TestParseFile(t *testing.T) {
	got, err := ParseFile([]byte("\ufeff# ours\r\n192.0.2.7\n\n 10.0.0.0/8 ; SBL1\n2001:db8::/32 # lab"))
	want := []string{"192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32"}
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	for i := range want {
		if got[i].String() != want[i] {
			t.Errorf("line %d: %v; want %s", i, got[i], want[i])
		}
	}
	for _, test := range []struct{ file, want string }{
		{"10.0.0.0/8\nfoo", `line 2: "foo" is not a network`},
		{"10.0.0.1/8", `line 1: "10.0.0.1/8" has bits set beyond its prefix length; write "10.0.0.0/8"`},
		{"10.0.0.0/8 192.0.2.0/24", `is not a network`},
		{"fe80::1%eth0", "is not a network"},
		{"deny 10.0.0.0/8", "is not a network"},
		{strings.Repeat("x", 1000), `…" is not a network`},
	} {
		if _, err := ParseFile([]byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40q: %v; want %q", test.file, err, test.want)
		}
	}
}

// Half a million networks are asked by a binary search.
func BenchmarkHas(b *testing.B) {
	var list []netip.Prefix
	for i := range 500_000 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 7}), 32))
	}
	n := NewNetworks(list)
	addr := netip.MustParseAddr("3.4.5.7")
	for b.Loop() {
		n.has(addr)
	}
}

package xmpp

import (
	"strings"
	"testing"
)

func TestNormalDomain(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ in, want string }{
		{"example.com", "example.com"},
		{"EXAMPLE.com.", "example.com"},
		{"localhost", "localhost"},
		{"xmpp_server", "xmpp_server"},
		{"r3---sn-apo3qvuoxuxbt-j5pe.example", "r3---sn-apo3qvuoxuxbt-j5pe.example"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"xn--bcher-kva.EXAMPLE", "xn--bcher-kva.example"},
		{"XN--bcher-KVA.example", "xn--bcher-kva.example"},
		{"straße.example", "xn--strae-oqa.example"},
		{"例え。テスト。", "xn--r8jz45g.xn--zckzah"},
		{"ｅｘａｍｐｌｅ.com", "example.com"},
		{"192.0.2.1", "192.0.2.1"},
		{"１９２.0.2.1", "192.0.2.1"},
		{"192.0.2.1.", "192.0.2.1"},
		{"[2001:DB8:0::1]", "[2001:db8::1]"},
		{"[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"},
		{long + "." + long + "." + long + "." + long[:61], long + "." + long + "." + long + "." + long[:61]},

		{"", ""},
		{".", ""},
		{"example.com..", ""},
		{"a..b", ""},
		{".example.com", ""},
		{"0000..", ""},
		{"-a.example", ""},
		{"a-.example", ""},
		{"juliet@example.com", ""},
		{"example.com/x", ""},
		{"example.com:5290", ""},
		{"exa mple.com", ""},
		{"*.example.com", ""},
		{"a\x00b", ""},
		{"\xff", ""},
		{"xn--a.example", ""},
		{"xn--", ""},
		{"192.0.2", ""},
		{"192.0.2.01", ""},
		{"256.0.0.1", ""},
		{"example.123", ""},
		{"2001:db8::1", ""},
		{"[192.0.2.1]", ""},
		{"[fe80::1%eth0]", ""},
		{"[::1", ""},
		{"[::1].", ""},
		{long + "a.example", ""},
		{long + "." + long + "." + long + "." + long[:62], ""},
		{strings.Repeat("a.", 600), ""},
	} {
		got, err := NormalDomain(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("NormalDomain(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

// The normal form is a fixed point for any input.
func FuzzNormalDomain(f *testing.F) {
	for _, s := range []string{"Example.com.", "bücher.example", "xn--bcher-kva", "0000..", "[::1]", "例え。テスト", "א.example", "a\u200db", "１.２.３.４", "xn--0-a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := NormalDomain(s)
		if err != nil {
			return
		}
		if once == "" || len(once) > maxDomain || strings.ToLower(once) != once || !isASCII(once) {
			t.Fatalf("NormalDomain(%q) = %q", s, once)
		}
		if twice, err := NormalDomain(once); twice != once || err != nil {
			t.Fatalf("NormalDomain(%q) = %q; of that = %q, %v", s, once, twice, err)
		}
	})
}

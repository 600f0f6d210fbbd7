package upstream

import (
	"net/netip"
	"strings"
	"testing"
)

func TestProxyHeader(t *testing.T) {
	const sig = proxyV2Signature
	for _, c := range []struct{ version, src, dst, want string }{
		{"", "192.0.2.7:51812", "198.51.100.1:5291", ""},
		{"v1", "192.0.2.7:51812", "198.51.100.1:5291", "PROXY TCP4 192.0.2.7 198.51.100.1 51812 5291\r\n"},
		{"v1", "[2001:db8::7]:1", "[2001:db8::1]:2", "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n"},
		{"v1", "[::ffff:192.0.2.7]:1", "198.51.100.1:2", "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n"},
		{"v1", "192.0.2.7:1", "[2001:db8::1]:2", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n"},
		{"v1", "[fe80::1%eth0]:1", "[fe80::2%eth0]:2", "PROXY TCP6 fe80::1 fe80::2 1 2\r\n"},
		{"v1", "", "198.51.100.1:2", "PROXY UNKNOWN\r\n"},
		{"v2", "192.0.2.7:51812", "198.51.100.1:5291", sig + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\xca\x64\x14\xab"},
		{"v2", "[2001:db8::7]:1", "192.0.2.7:2", sig + "\x21\x21\x00\x24" +
			"\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" +
			strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x07" + "\x00\x01\x00\x02"},
		{"v2", "192.0.2.7:1", "", sig + "\x20\x00\x00\x00"},
	} {
		var src, dst netip.AddrPort
		if c.src != "" {
			src = netip.MustParseAddrPort(c.src)
		}
		if c.dst != "" {
			dst = netip.MustParseAddrPort(c.dst)
		}
		if got := appendProxyHeader(nil, c.version, src, dst); string(got) != c.want {
			t.Errorf("%s %s → %s = %q;\nwant %q", c.version, c.src, c.dst, got, c.want)
		}
	}
	worst := netip.MustParseAddrPort("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
	if got := appendProxyHeader(nil, "v1", worst, worst); len(got) > 107 {
		t.Errorf("v1 header of %d bytes, want 107 at most", len(got))
	}
}

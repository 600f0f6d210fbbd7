package certstore

import (
	"net/netip"
	"strings"
	"testing"
)

func TestServerName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"example1.com":            "example1.com",
		"EXAMPLE1.Com":            "example1.com",
		"example1.com.":           "example1.com",
		"localhost":               "localhost",
		"_xmpp.example1.com":      "_xmpp.example1.com",
		"r3---sn.example":         "r3---sn.example",
		"bücher.example":          "xn--bcher-kva.example",
		"Bücher.Example.":         "xn--bcher-kva.example",
		"bücher。example。":         "xn--bcher-kva.example",
		"faß.example":             "xn--fa-hia.example",
		"ｅｘａｍｐｌｅ.com":             "example.com",
		"XN--BCHER-KVA.example":   "xn--bcher-kva.example",
		"1.2.3.example":           "1.2.3.example",
		"1.2.3.4.5":               "1.2.3.4.5",
		long + ".example":         long + ".example",
		strings.Repeat("a.", 127): strings.Repeat("a.", 126) + "a",
	} {
		if got, err := ServerName(in); got != want || err != nil {
			t.Errorf("ServerName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ".", "..", "a..", "0000..", ".a", "a..b", "。", "a b", "a\x00b", "a/b", "a:1", "*", "*.a", "a.*", "é\xff.example",
		"1.2.3.4", "1.2.3.4.", "１.２.３.４", "::1", "[::1]", "fe80::1%eth0",
		long + "a.example", strings.Repeat("a.", 127) + "b", strings.Repeat("é", 600), strings.Repeat("ü", 60) + ".example",
	} {
		if got, err := ServerName(in); err == nil {
			t.Errorf("ServerName(%q) = %q; want an error", in, got)
		}
	}
}

// A star must be the whole leftmost label (RFC 9525, section 6.3).
func TestPattern(t *testing.T) {
	for in, want := range map[string]string{
		"*.Example1.com":   "*.example1.com",
		"*.bücher.example": "*.xn--bcher-kva.example",
		"example1.com":     "example1.com",
	} {
		if got, err := Pattern(in); got != want || err != nil {
			t.Errorf("Pattern(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"*", "*.", "*.*.com", "f*.example1.com", "*a.example1.com", "a.*.com", "**.example1.com", "*.1.2.3.4"} {
		if got, err := Pattern(in); err == nil {
			t.Errorf("Pattern(%q) = %q; want an error", in, got)
		}
	}
}

// A handshake for a name in normal form does not allocate for it.
func TestServerNameAllocatesNothing(t *testing.T) {
	for _, in := range []string{"example1.com", "example1.com.", "not a name", ""} {
		if n := testing.AllocsPerRun(100, func() { normalName(in) }); n != 0 {
			t.Errorf("normalName(%q): %v allocations, want 0", in, n)
		}
	}
}

// The normal form is a valid DNS name, not an address, and its own normal form.
// The name in upper case and with a trailing dot has the same one.
func FuzzServerName(f *testing.F) {
	for _, s := range []string{"example1.com", "*.EXAMPLE1.com.", "0000..", "bücher.example", "xn--bcher-kva.example", "１.２.３.４", "a。b", "xn--", "ⅷ.ß", "1.2.3.4", "İ.example", "K.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ServerName(s)
		if err != nil {
			return
		}
		for _, again := range []string{name, name + ".", strings.ToUpper(name)} {
			if got, err := ServerName(again); got != name || err != nil {
				t.Errorf("ServerName(%q) = %q, but of %q it is %q, %v", s, name, again, got, err)
			}
		}
		if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			t.Errorf("ServerName(%q) = %q: no DNS name", s, name)
		}
		for label := range strings.SplitSeq(name, ".") {
			if label == "" || len(label) > 63 {
				t.Errorf("ServerName(%q) = %q: label %q", s, name, label)
			}
		}
		if _, err := netip.ParseAddr(name); err == nil {
			t.Errorf("ServerName(%q) = %q: an address", s, name)
		}
		if got, err := Pattern("*." + s); got != "*."+name || err != nil {
			t.Errorf("Pattern(%q) = %q, %v; want %q", "*."+s, got, err, "*."+name)
		}
	})
}

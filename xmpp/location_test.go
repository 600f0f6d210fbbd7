package xmpp

import (
	"strings"
	"testing"
)

// Only the location of an <enabled/> is removed, and nothing moves.
func TestHideLocation(t *testing.T) {
	for in, want := range map[string]string{
		"<enabled xmlns='urn:xmpp:sm:3' id='a' location='t2.inner:5290' resume='true'/>":                                                   "<enabled xmlns='urn:xmpp:sm:3' id='a'@ resume='true'/>",
		"<sm:enabled location = \"[2001:db8::1]:5290\" xmlns:sm=\"urn:xmpp:sm:3\"/>":                                                       "<sm:enabled@ xmlns:sm=\"urn:xmpp:sm:3\"/>",
		"<success xmlns='urn:xmpp:sasl:2'><bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' location='t2'/></bound></success>": "<success xmlns='urn:xmpp:sasl:2'><bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3'@/></bound></success>",
		"<enabled xmlns='urn:xmpp:sm:3' id=\"location='x'\" resume='true'/>":                                                               "<enabled xmlns='urn:xmpp:sm:3' id=\"location='x'\" resume='true'/>",
		"<enabled xmlns='urn:other' location='x'/>":                                                                                        "<enabled xmlns='urn:other' location='x'/>",
		"<resumed xmlns='urn:xmpp:sm:3' previd='a'/>":                                                                                      "<resumed xmlns='urn:xmpp:sm:3' previd='a'/>",
		"<enabled": "<enabled", "<": "<", "": "",
	} {
		b := []byte(in)
		HideLocation(b)
		if at := strings.IndexByte(want, '@'); at >= 0 {
			want = want[:at] + strings.Repeat(" ", len(in)-len(want)+1) + want[at+1:]
		}
		if string(b) != want {
			t.Errorf("%q became %q; want %q", in, b, want)
		}
	}
}

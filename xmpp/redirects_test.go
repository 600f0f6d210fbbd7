package xmpp

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// An end of a stream with an address is found, with its destination. Anything else is
// not, and is not held once it is complete.
func TestRedirects(t *testing.T) {
	const to = "ws://10.1.2.3:5290/x?a=1&b=2"
	const wrote = "ws://10.1.2.3:5290/x?a=1&amp;b=2"
	long := strings.Repeat("x", 3000)
	for in, want := range map[string]string{
		"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='" + wrote + "'/>":                         to,
		"<close see-other-uri = \"" + wrote + "\" />":                                                                to,
		"<x:close a='>' x:see-other-uri='" + wrote + "'></x:close>":                                                  to,
		"\xef\xbb\xbf<!-- <a> --><?xml version='1.0'?><?x > ?><close see-other-uri='" + wrote + "'/>":                to,
		"<message><body>hello</body></message><close see-other-uri='" + wrote + "'/>":                                to,
		"<iq/><presence a='/'/><stream:features><a/></stream:features><close see-other-uri='" + wrote + "'/>":        to,
		"<close b='" + long + "' see-other-uri='" + wrote + "'/>":                                                    to,
		"<?xml version='1.0'?><stream:stream xmlns:stream='x' id='1'><a/><close see-other-uri='" + wrote + "'/>":     to,
		"<stream:error><see-other-host xmlns='y'> " + wrote + " </see-other-host></stream:error>":                    to,
		"<stream:error><reset/><text>t</text><see-other-host>" + wrote + "</see-other-host></stream:error></stream>": to,
		"<message><body><![CDATA[ <a> ]]></body></message><close see-other-uri='" + wrote + "'/>":                    to,

		"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>":                                          "",
		"<message><close see-other-uri='" + wrote + "'/></message>":                                     "",
		"<message><body>see-other-uri='" + wrote + "'</body></message>":                                 "",
		"<message type='error'><error><see-other-host>" + wrote + "</see-other-host></error></message>": "",
		"<message a='<close see-other-uri=\"" + wrote + "\"/>'/>":                                       "",
		"<stream:error><conflict/><text>" + wrote + "</text></stream:error><close/>":                    "",
		"<open id='1'/><stream:features/>" + strings.Repeat("<message><a><b/></a></message>", 50):       "",
	} {
		for seed := range uint64(20) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			var r Redirects
			got, found := "", false
			for rest := in; rest != "" && !found; {
				n := 1 + rnd.IntN(len(rest))
				if seed == 0 {
					n = len(rest)
				}
				var err error
				if got, found, err = r.Feed([]byte(rest[:n])); err != nil {
					t.Fatalf("%.100q: %v", in, err)
				}
				rest = rest[n:]
			}
			if found != (want != "") || got != want {
				t.Errorf("%.100q, seed %d: %q, %t; want %q", in, seed, got, found, want)
			}
			if !found && r.Held() > 0 {
				t.Errorf("%.100q, seed %d: %d bytes are held", in, seed, r.Held())
			}
		}
	}
}

// An end that is too long is an error, and is never passed on.
func TestRedirectsTooLong(t *testing.T) {
	for _, in := range []string{"<close ", "<stream:error>", "<stream:error><see-other-host>", "<close a='"} {
		var r Redirects
		if _, _, err := r.Feed([]byte(in + strings.Repeat("x", maxEnd))); !errors.Is(err, ErrEndTooLong) {
			t.Errorf("%q: %v; want %v", in, err, ErrEndTooLong)
		}
	}
}

func BenchmarkRedirects(b *testing.B) {
	stanza := []byte("<message to='romeo@example.net' from='juliet@example.com/balcony' type='chat' id='ktx72v49'><body>" + strings.Repeat("x", 880) + "</body></message>")
	b.SetBytes(int64(len(stanza)))
	b.ReportAllocs()
	var r Redirects
	for b.Loop() {
		r.Message()
		if _, found, _ := r.Feed(stanza); found {
			b.Fatal("found")
		}
	}
}

package xmpp

import (
	"strings"
	"testing"
)

var words = []struct {
	in   string
	want Word
}{
	// What the client sends.
	{`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example.com" version="1.0"/>`, OpenWord},
	{`<stream:stream to='example.com' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>`, OpenWord},
	{`<?xml version='1.0'?> <stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`, OpenWord},
	{`<stream xmlns='http://etherx.jabber.org/streams'>`, OpenWord},
	{`<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`, CloseWord},
	{`<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' />`, CloseWord},
	{`</stream:stream>`, CloseWord},
	{"\n</stream:stream >", CloseWord},
	{`</stream>`, CloseWord},

	// What the upstream sends.
	{`<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://t2.example1.com:5290/' />`, CloseWord},
	{`<stream:error xmlns:stream="http://etherx.jabber.org/streams"><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error><close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`, ErrorWord},
	{`<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>`, ErrorWord},
	{`<error xmlns='http://etherx.jabber.org/streams'>`, ErrorWord},
	{`<enabled xmlns='urn:xmpp:sm:3' id='some-long-sm-id' location='t2.example1.com' resume='true' max='600'/>`, ResumeWord}, // Tigase
	{`<enabled id="g2gCbQAAABk5NDIyMTUxMzkx" resume="true" max="300" xmlns="urn:xmpp:sm:3"/>`, ResumeWord},                   // ejabberd
	{`<enabled resume='1' max='600' xmlns='urn:xmpp:sm:3' id='x'/>`, ResumeWord},                                             // Prosody
	{`<sm:enabled xmlns:sm='urn:xmpp:sm:3' resume='true'/>`, ResumeWord},
	{`<enabled xmlns='urn:xmpp:sm:2' resume = "true" ></enabled>`, ResumeWord},
	{`<resumed xmlns='urn:xmpp:sm:3' previd='some-long-sm-id' h='2'/>`, ResumeWord},
	{`<enabled xmlns='urn:xmpp:sm:3'/>`, EnabledWord},
	{`<enabled xmlns='urn:xmpp:sm:3' resume='false' id='x'/>`, EnabledWord},
	{`<enabled xmlns='urn:xmpp:sm:3' id=' resume=&apos;true&apos;'/>`, EnabledWord},
	{`<enabled xmlns='urn:xmpp:sm:3' id=" resume='true'"/>`, EnabledWord},
	{`<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b/c</authorization-identifier><bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' resume='true' id='x'/></bound></success>`, ResumeWord},
	{`<success xmlns='urn:xmpp:sasl:2'><resumed xmlns='urn:xmpp:sm:3' h='1' previd='x'/></success>`, ResumeWord},
	{`<success xmlns='urn:xmpp:sasl:2'><additional-data>&lt;enabled xmlns='urn:xmpp:sm:3' resume='true'/></additional-data></success>`, OtherWord},

	// Neither of them.
	{``, OtherWord},
	{` `, OtherWord},
	{`<`, OtherWord},
	{`</`, OtherWord},
	{`<open`, OtherWord},
	{`text <open/>`, OtherWord},
	{`<?xml version='1.0'`, OtherWord},
	{`<open to='example.com'/>`, OtherWord},
	{`<open xmlns='jabber:client'/>`, OtherWord},
	{`</open>`, OtherWord},
	{`<openx xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`, OtherWord},
	{`<close xmlns='http://jabber.org/protocol/ibb' sid='a'/>`, OtherWord},
	{`<error xmlns='jabber:client' type='cancel'/>`, OtherWord},
	{`<enabled xmlns='urn:xmpp:carbons:2' resume='true'/>`, OtherWord},
	{`<enable xmlns='urn:xmpp:sm:3' resume='true'/>`, OtherWord},
	{`<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>`, OtherWord},
	{`<stream:features xmlns:stream='http://etherx.jabber.org/streams'><sm xmlns='urn:xmpp:sm:3'/></stream:features>`, OtherWord},
	{`<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>dj0=</success>`, OtherWord},
	{`<r xmlns='urn:xmpp:sm:3'/>`, OtherWord},
	{`<message to='a@example.com'><body>&lt;close xmlns=&apos;urn:ietf:params:xml:ns:xmpp-framing&apos;/></body></message>`, OtherWord},
	{`<message><enabled xmlns='urn:xmpp:sm:3' resume='true'/></message>`, OtherWord},
	{`<!-- <close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/> -->`, OtherWord},
	{`<open =/>`, OtherWord},
	{`<open a=b/>`, OtherWord},
}

func TestFirstWord(t *testing.T) {
	for _, c := range words {
		if got := FirstWord([]byte(c.in)); got != c.want {
			t.Errorf("FirstWord(%q) = %d; want %d", c.in, got, c.want)
		}
	}
}

// FirstWord assumes the usual for the missing part of a short head.
func TestFirstWordCut(t *testing.T) {
	long := strings.Repeat("x", HeadSize)
	for _, c := range []struct {
		in   string
		want Word
	}{
		{`<enabled xmlns='urn:xmpp:sm:3' id='` + long + `' resume='false'/>`, ResumeWord},
		{`<enabled id='` + long + `' resume='false' xmlns='urn:xmpp:sm:3'/>`, ResumeWord},
		{`<open id='` + long + `' xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`, OpenWord},
		{`<close see-other-uri='` + long + `' xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`, CloseWord},
		{`<message id='` + long + `' xmlns='jabber:client'>`, OtherWord},
		{`<enabled xmlns='urn:xmpp:carbons:2' id='` + long + `'/>`, OtherWord},
	} {
		if got := FirstWord([]byte(c.in)[:HeadSize]); got != c.want {
			t.Errorf("FirstWord(%.40q…) = %d; want %d", c.in, got, c.want)
		}
	}
}

func TestFirstWordAllocatesNothing(t *testing.T) {
	for _, c := range words {
		in := []byte(c.in)
		if n := testing.AllocsPerRun(100, func() { FirstWord(in) }); n != 0 {
			t.Errorf("FirstWord(%q) allocates %v times; want 0", c.in, n)
		}
	}
}

// FirstWord accepts any bytes and reads only those; leading white space and text after
// a complete tag change nothing.
func FuzzFirstWord(f *testing.F) {
	for _, c := range words {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got := FirstWord(in[:len(in):len(in)])
		if again := FirstWord(append([]byte(" \n"), in...)); again != got {
			t.Errorf("FirstWord(%q) = %d; with white space in front = %d", in, got, again)
		}
		// FirstWord also recognizes each opening that the full reader accepts.
		var r OpenReader
		if o, ok, _ := r.Feed(in); ok && len(in) <= MaxOpen && in[0] == '<' && plainNamespaces(in[:o.Len]) && got != OpenWord {
			t.Errorf("FirstWord(%q) = %d; OpenReader read an opening", in, got)
		}
	})
}

// plainNamespaces leaves out openings whose namespace is written with entities:
// FirstWord does not decode.
func plainNamespaces(tag []byte) bool { return !strings.Contains(string(tag), "&") }

func BenchmarkFirstWord(b *testing.B) {
	for _, c := range []struct{ name, in string }{
		{"message", `<message xmlns="jabber:client" from='romeo@example.net/orchard' to='juliet@example.com/balcony' type='chat'><body>Wherefore art thou?</body></message>`},
		{"enabled", `<enabled xmlns='urn:xmpp:sm:3' id='some-long-sm-id' location='t2.example1.com' resume='true' max='600'/>`},
	} {
		b.Run(c.name, func(b *testing.B) {
			in := []byte(c.in)
			b.ReportAllocs()
			for b.Loop() {
				FirstWord(in)
			}
		})
	}
}

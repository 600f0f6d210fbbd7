package xmpp

import (
	"encoding/xml"
	"strings"
	"testing"
)

// Start tags as clients send them.
var clientOpenings = []struct {
	client, tag string
	want        Open
}{
	{"Strophe.js 5, as in Converse", `<open to="example.com" version="1.0" xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`,
		Open{Framing: RFC7395, To: "example.com", Version: "1.0"}},
	{"Strophe.js 1.2", `<open to='example.com' version='1.0' xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`,
		Open{Framing: RFC7395, To: "example.com", Version: "1.0"}},
	{"xmpp.js", `<open version="1.0" xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example.com" from="a@example.com"/>`,
		Open{Framing: RFC7395, To: "example.com", From: "a@example.com", Version: "1.0"}},
	{"Stanza", `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" xml:lang="en" to="example.com" version="1.0"/>`,
		Open{Framing: RFC7395, To: "example.com", Version: "1.0", Lang: "en"}},
	{"Babbler", `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example.com" xml:lang="en" version="1.0"></open>`,
		Open{Framing: RFC7395, To: "example.com", Version: "1.0", Lang: "en"}},
	{"Halcyon", `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' from='juliet@example.com' to='example.com' >`,
		Open{Framing: OlderDraft, To: "example.com", From: "juliet@example.com", Version: "1.0"}},
	{"Strophe.js 1.1", `<stream:stream to='example.com' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>`,
		Open{Framing: OlderDraft, To: "example.com", Version: "1.0"}},
	{"with a declaration", "<?xml version='1.0' encoding='UTF-8'?>\n<stream:stream to='example.com' xml:lang=\"de\" xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
		Open{Framing: OlderDraft, To: "example.com", Version: "1.0", Lang: "de"}},
	{"another prefix", `<s:stream xmlns:s="http://etherx.jabber.org/streams" xmlns="jabber:client" to="example.com">`,
		Open{Framing: OlderDraft, To: "example.com"}},
	{"no prefix", `<stream xmlns="http://etherx.jabber.org/streams" to="example.com">`,
		Open{Framing: OlderDraft, To: "example.com"}},
	{"a prefix in RFC 7395", "\n <f:open xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'\n\tto = 'a&amp;b&#x2e;example' x:to='other' xmlns:x='urn:x'/>",
		Open{Framing: RFC7395, To: "a&b.example"}},
}

func TestOpenReaderClients(t *testing.T) {
	for _, c := range clientOpenings {
		c.want.Len = strings.LastIndex(strings.TrimSuffix(c.tag, "</open>"), ">") + 1
		var r OpenReader
		got, ok, err := r.Feed([]byte(c.tag + "<iq/>"))
		if !ok || err != nil || got != c.want {
			t.Errorf("%s: Feed(%q) = %+v, %v, %v; want %+v", c.client, c.tag, got, ok, err, c.want)
		}
		if f := r.Framing(); f != c.want.Framing {
			t.Errorf("%s: Framing() = %v, want %v", c.client, f, c.want.Framing)
		}
		again, ok, err := r.Feed([]byte("more"))
		if !ok || err != nil || again != got {
			t.Errorf("%s: a second Feed = %+v, %v, %v; want the same answer", c.client, again, ok, err)
		}
	}
}

func TestOpenReaderSplits(t *testing.T) {
	for _, c := range clientOpenings {
		end := strings.LastIndex(strings.TrimSuffix(c.tag, "</open>"), ">") + 1
		c.want.Len = end
		for i := range c.tag {
			var r OpenReader
			_, ok, err := r.Feed([]byte(c.tag[:i]))
			if err != nil {
				t.Fatalf("%s: Feed(%q): %v", c.client, c.tag[:i], err)
			}
			if ok != (i >= end) {
				t.Fatalf("%s: Feed(%q) complete = %v", c.client, c.tag[:i], ok)
			}
			got, ok, err := r.Feed([]byte(c.tag[i:]))
			if !ok || err != nil || got != c.want {
				t.Errorf("%s: cut at %d = %+v, %v, %v; want %+v", c.client, i, got, ok, err, c.want)
			}
		}
	}
}

func TestOpenReaderRefuses(t *testing.T) {
	const ns = " xmlns='urn:ietf:params:xml:ns:xmpp-framing'"
	const streams = " xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client'"
	for _, c := range []struct {
		in      string
		want    Condition
		framing Framing
	}{
		{"GET / HTTP/1.1\r\n\r\n", NotWellFormed, RFC7395},
		{"{\"open\": true}", NotWellFormed, RFC7395},
		{"\ufeff<open" + ns + "/>", NotWellFormed, RFC7395}, // RFC 6120, section 11.6: not a mark
		{"< open" + ns + "/>", NotWellFormed, RFC7395},
		{"</open>", NotWellFormed, RFC7395},
		{"</stream:stream>", NotWellFormed, RFC7395},
		{"<>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='a'from='b'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='a' to='b'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to=a/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='<'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='a&b'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='&#0;'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='\x01'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " to='\xff'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " / >", NotWellFormed, RFC7395},
		{"<open" + ns + " <iq/>", NotWellFormed, RFC7395},
		{"<open" + ns + " a:b:c='d'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " :a='d'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " x:y='z'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " xmlns:a='u' xmlns:b='u' a:c='1' b:c='2'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " xmlns:a=''/>", NotWellFormed, RFC7395},
		{"<open" + ns + " xmlns:xml='u'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " xmlns:xmlns='u'/>", NotWellFormed, RFC7395},
		{"<open" + ns + " xmlns:a='http://www.w3.org/XML/1998/namespace'/>", NotWellFormed, RFC7395},
		{"<stream:stream to='example.com'>", NotWellFormed, OlderDraft},
		{"<open" + ns + " to='&custom;'/>", RestrictedXML, RFC7395},
		{"<!DOCTYPE open [<!ENTITY a 'b'>]><open" + ns + "/>", RestrictedXML, RFC7395},
		{"<!-- hello --><open" + ns + "/>", RestrictedXML, RFC7395},
		{"<![CDATA[a]]>", RestrictedXML, RFC7395},
		{"<?php echo 1 ?><stream:stream" + streams + ">", RestrictedXML, RFC7395},
		{"<?xml-stylesheet href='a'?><stream:stream" + streams + ">", RestrictedXML, OlderDraft},
		{"<?xml version='1.0'?><?xml version='1.0'?><stream:stream" + streams + ">", NotWellFormed, OlderDraft},
		{" <?xml version='1.0'?><stream:stream" + streams + ">", NotWellFormed, RFC7395},
		{"<?xml version='1.1'?><stream:stream" + streams + ">", NotWellFormed, OlderDraft},
		{"<?xml ?><stream:stream" + streams + ">", NotWellFormed, OlderDraft},
		{"<?xml encoding='UTF-8' version='1.0'?>", NotWellFormed, OlderDraft},
		{"<?xml version='1.0' standalone='maybe'?>", NotWellFormed, OlderDraft},
		{"<?xml version='1.0'><open" + ns + " ?>", NotWellFormed, OlderDraft},
		{"<?xml version='1.0' encoding='ISO-8859-1'?>", UnsupportedEncoding, OlderDraft},
		{"<?xml version='1.0' encoding='UTF-16'?>", UnsupportedEncoding, OlderDraft},
		{"\xff\xfe<\x00o\x00", UnsupportedEncoding, RFC7395},
		{"<\x00o\x00p\x00", UnsupportedEncoding, RFC7395},
		{"\x00<\x00o", UnsupportedEncoding, RFC7395},
		{"<open to='example.com'/>", InvalidNamespace, RFC7395},
		{"<open xmlns='jabber:client' to='example.com'/>", InvalidNamespace, RFC7395},
		{"<stream:stream xmlns:stream='http://example.com/' to='example.com'>", InvalidNamespace, OlderDraft},
		{"<x:open" + ns + " xmlns:x='urn:x'/>", InvalidNamespace, RFC7395},
		{"<close" + ns + "/>", BadFormat, RFC7395},
		{"<iq xmlns='jabber:client' type='get'/>", BadFormat, RFC7395},
		{"<body xmlns='http://jabber.org/protocol/httpbind'/>", BadFormat, RFC7395},
		{strings.Repeat(" ", MaxOpen+1), PolicyViolation, RFC7395},
		{"<open" + ns + " to='" + strings.Repeat("a", MaxOpen), PolicyViolation, RFC7395},
		{"<stream:stream to='" + strings.Repeat("a", MaxOpen), PolicyViolation, OlderDraft},
		{"<?xml " + strings.Repeat(" ", MaxOpen), PolicyViolation, OlderDraft},
	} {
		var whole OpenReader
		_, ok, err := whole.Feed([]byte(c.in + " and more"))
		se, _ := err.(*StreamError)
		if ok || se == nil || se.Condition != c.want {
			t.Errorf("Feed(%.60q) = %v, %v; want %s", c.in, ok, err, c.want)
		}
		if f := whole.Framing(); f != c.framing {
			t.Errorf("Feed(%.60q): Framing() = %v, want %v", c.in, f, c.framing)
		}
	}
}

// The limit is exact: a tag of MaxOpen bytes passes, one more does not.
func TestOpenReaderLimit(t *testing.T) {
	const start, end = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='", "'/>"
	fill := strings.Repeat("a", MaxOpen-len(start)-len(end))
	var r OpenReader
	if o, ok, err := r.Feed([]byte(start + fill + end + "tail")); !ok || err != nil || o.Len != MaxOpen {
		t.Errorf("a tag of %d bytes: %d, %v, %v; want it accepted", MaxOpen, o.Len, ok, err)
	}
	r = OpenReader{}
	if _, ok, err := r.Feed([]byte(start + fill + "a" + end)); ok || err == nil {
		t.Errorf("a tag of %d bytes: %v, %v; want policy-violation", MaxOpen+1, ok, err)
	}
	if cap(r.buf) > 2*MaxOpen {
		t.Errorf("holds %d bytes, want no more than twice %d", cap(r.buf), MaxOpen)
	}
}

// encoding/xml reads accepted input in the same way. Refused input is not held beyond
// the limit. The boundaries between pieces make no difference.
func FuzzOpenReader(f *testing.F) {
	for _, c := range clientOpenings {
		f.Add([]byte(c.tag), uint8(7))
	}
	f.Add([]byte("<?xml version='1.0' encoding='utf-16'?>"), uint8(3))
	f.Add([]byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='&lt;&x;'/>"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		var whole, parts OpenReader
		got, ok, err := whole.Feed(in)
		partGot, partOK, partErr := got, false, error(nil)
		if len(in) == 0 {
			return
		}
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(cut%32)+1)
			partGot, partOK, partErr = parts.Feed(rest[:n])
			rest = rest[n:]
		}
		if partGot != got || partOK != ok || !sameError(err, partErr) || whole.Framing() != parts.Framing() {
			t.Fatalf("%q in one: %+v %v %v %v; cut: %+v %v %v %v", in, got, ok, err, whole.Framing(), partGot, partOK, partErr, parts.Framing())
		}
		if len(whole.buf) > MaxOpen || cap(parts.buf) > 2*MaxOpen {
			t.Fatalf("holds %d and %d bytes", len(whole.buf), cap(parts.buf))
		}
		if !ok {
			return
		}
		start := firstElement(t, in[:got.Len])
		want := Open{Len: got.Len}
		switch start.Name {
		case xml.Name{Space: nsFraming, Local: "open"}:
		case xml.Name{Space: nsStreams, Local: "stream"}:
			want.Framing = OlderDraft
		default:
			t.Fatalf("accepted %q, which is %v", in, start.Name)
		}
		for _, a := range start.Attr {
			switch a.Name {
			case xml.Name{Local: "to"}:
				want.To = a.Value
			case xml.Name{Local: "from"}:
				want.From = a.Value
			case xml.Name{Local: "version"}:
				want.Version = a.Value
			case xml.Name{Local: "id"}:
				want.ID = a.Value
			case xml.Name{Space: nsXML, Local: "lang"}:
				want.Lang = a.Value
			}
		}
		if got != want {
			t.Fatalf("%q = %+v; encoding/xml reads %+v", in, got, want)
		}
	})
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a.(*StreamError) == *b.(*StreamError)
}

// firstElement reads input with encoding/xml alone: white space and a declaration, then
// the tag, which must end where in does.
func firstElement(t *testing.T, in []byte) xml.StartElement {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(in)))
	for {
		tok, err := d.Token()
		if err != nil {
			t.Fatalf("accepted %q; encoding/xml says %v", in, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if int(d.InputOffset()) != len(in) {
				t.Fatalf("%q: the tag took %d bytes; encoding/xml says %d", in, len(in), d.InputOffset())
			}
			return tok
		case xml.ProcInst:
			if tok.Target != "xml" {
				t.Fatalf("accepted %q with a processing instruction", in)
			}
		case xml.CharData:
			if strings.TrimSpace(string(tok)) != "" {
				t.Fatalf("accepted %q with text in front", in)
			}
		default:
			t.Fatalf("accepted %q with a %T in front", in, tok)
		}
	}
}

func TestOpenDomain(t *testing.T) {
	for _, c := range []struct{ to, want string }{
		{"Example.COM.", "example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"", ""},
		{"juliet@example.com", ""},
		{"example.com/balcony", ""},
	} {
		got, err := Open{To: c.to}.Domain()
		se, _ := err.(*StreamError)
		if got != c.want || (c.want == "") != (se != nil && se.Condition == ImproperAddressing) {
			t.Errorf("Domain() of %q = %q, %v; want %q", c.to, got, err, c.want)
		}
	}
}

package chat

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in         string
		name       string // of the root; empty: an error is wanted
		space      string
		unfinished bool
	}{
		{"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example1.com'/>", "open", nsFraming, false},
		{`<?xml version="1.0"?><stream:stream xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams">`, "stream", nsStreams, true},
		{"\n<presence xmlns='jabber:client'/>\n", "presence", nsClient, false},
		{"<a:b xmlns:a='urn:a'><c/></a:b>", "b", "urn:a", false},
		{"<a><b></a></b>", "", "", false},
		{"<a/><b/>", "", "", false},
		{"<a/>text", "", "", false},
		{"text<a/>", "", "", false},
		{"</a>", "", "", false},
		{"", "", "", false},
		{"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "", "", false},
		{"<a>&unknown;</a>", "", "", false},
		{"<a b='1' b2=c/>", "", "", false},
	} {
		e, err := Parse(tt.in)
		switch {
		case tt.name == "":
			if err == nil {
				t.Errorf("Parse(%q) = %+v; want an error", tt.in, e)
			}
		case e == nil || errors.Is(err, errUnfinished) != tt.unfinished || !tt.unfinished && err != nil:
			t.Errorf("Parse(%q): err = %v", tt.in, err)
		case e.Name != tt.name || e.Space != tt.space:
			t.Errorf("Parse(%q) = <%s xmlns=%q>; want <%s xmlns=%q>", tt.in, e.Name, e.Space, tt.name, tt.space)
		}
	}
}

// A routed stanza says who sent it, whatever its sender claimed, and is the
// same otherwise.
func TestFrom(t *testing.T) {
	for in, want := range map[string]string{
		"<message to='b@y' from='forged@x'><body>1</body></message>":   "<message xmlns='jabber:client' from='a@x/r' to='b@y'><body>1</body></message>",
		"<message xmlns=\"jabber:client\" to=\"b@y\"/>":                "<message xmlns='jabber:client' from='a@x/r' to='b@y'/>",
		"<message to='&lt;&apos;' xml:lang='en'> <!-- c --></message>": "<message xmlns='jabber:client' from='a@x/r' to='&lt;&#39;' xml:lang='en'> <!-- c --></message>",
		"\n <presence></presence>":                                     "<presence xmlns='jabber:client' from='a@x/r'></presence>",
	} {
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.from("a@x/r"); got != want {
			t.Errorf("%q from a@x/r = %q; want %q", in, got, want)
		}
	}
}

// What is routed parses again to the same stanza, with the right sender.
func FuzzFrom(f *testing.F) {
	for _, seed := range []string{
		"<message to='b@y'><body>1</body></message>", "<c:message xmlns:c='jabber:client' c:to='x'/>",
		"<?xml version='1.0'?><iq id='&#10;'/> ", "<a xmlns=''> <b/>]]&gt;</a>", "<a b='\t'><![CDATA[<]]></a>", "<a xmlns:xmlns='b'/>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			return
		}
		out := e.from("a@x/r")
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("%q became %q: %v", s, out, err)
		}
		if again.Name != e.Name || again.Attr("from") != "a@x/r" || again.Attr("to") != e.Attr("to") ||
			again.Text != e.Text || len(again.Children) != len(e.Children) {
			t.Fatalf("%q became %q", s, out)
		}
	})
}

package xmpp

import (
	"strings"
	"testing"
)

const (
	tigaseOpen   = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example2.com' id='tigase-error-tigase' version='1.0' xml:lang='en' />`
	tigaseSeeURI = `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://t2.example1.com:5290/' />`
	tigaseStream = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='tigase-error-tigase' from='example2.com' version='1.0' xml:lang='en'>`
	prosodyOpen  = `<open id='e49d1901-dbef-43ad-ae67-b84bfec7951f' xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='localhost' version='1.0' to='a@localhost' xml:lang='en'/>`
	seeHost      = `<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>t2.example1.com</see-other-host></stream:error></stream:stream>`
	hostUnknown  = `<stream:error xmlns:stream="http://etherx.jabber.org/streams"><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`
	features     = `<stream:features xmlns:stream="http://etherx.jabber.org/streams"><mechanisms xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>`
)

// Answers of upstreams, one string per message.
var upstreamAnswers = []struct {
	name      string
	messages  []string
	after     int // messages up to the verdict
	verdict   Verdict
	condition Condition
	seeOther  string
	from      string
}{
	{"Tigase 8 redirects", []string{tigaseOpen, tigaseSeeURI}, 2, Redirected, SeeOtherHost, "ws://t2.example1.com:5290/", "example2.com"},
	{"Tigase 7 redirects in one message", []string{tigaseOpen + tigaseSeeURI}, 1, Redirected, SeeOtherHost, "ws://t2.example1.com:5290/", "example2.com"},
	{"without an opening", []string{tigaseSeeURI}, 1, Redirected, SeeOtherHost, "ws://t2.example1.com:5290/", ""},
	{"a bare ampersand", []string{tigaseOpen, `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://t2:5290/?a&b'/>`}, 2, Redirected, SeeOtherHost, "ws://t2:5290/?a&b", "example2.com"},
	{"'>' in the address", []string{tigaseOpen, `<close see-other-uri='ws://t2:5290/?a>b' xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`}, 2, Redirected, SeeOtherHost, "ws://t2:5290/?a>b", "example2.com"},
	{"RFC 7395, see-other-host", []string{tigaseOpen, strings.TrimSuffix(seeHost, "</stream:stream>") + closeA}, 2, Redirected, SeeOtherHost, "t2.example1.com", "example2.com"},
	{"Tigase redirects, older draft", []string{tigaseStream + seeHost}, 1, Redirected, SeeOtherHost, "t2.example1.com", "example2.com"},
	{"older draft in slices", []string{"<?xml version='1.0'?>", tigaseStream, "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[2001:db8", "::1]:52", "90</see-other-host><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>go</text></stream:er", "ror>"}, 6, Redirected, SeeOtherHost, "[2001:db8::1]:5290", "example2.com"},
	{"Tigase does not know the host", []string{tigaseOpen, hostUnknown, closeA}, 2, Refused, HostUnknown, "", "example2.com"},
	{"error with text first", []string{tigaseStream, `<stream:error><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>why</text><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`}, 2, Refused, "conflict", "", "example2.com"},
	{"error with the prefix undeclared", []string{tigaseOpen, `<stream:error><host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`}, 2, Refused, "host-gone", "", "example2.com"},
	{"Tigase goes on", []string{tigaseOpen, features}, 2, Accepted, "", "", "example2.com"},
	{"goes on in one message", []string{tigaseStream + features}, 1, Accepted, "", "", "example2.com"},
	{"Prosody goes on", []string{prosodyOpen, strings.Replace(features, ">", " xmlns='jabber:client'>", 1)}, 2, Accepted, "", "", "localhost"},
	{"Prosody misses a domain", []string{prosodyOpen, `<stream:error xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client'><improper-addressing xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>A &apos;to&apos; attribute is required on stream headers</text></stream:error>`, closeA}, 2, Refused, ImproperAddressing, "", "localhost"},
	{"with white space", []string{" ", tigaseOpen + "\n", features}, 3, Accepted, "", "", "example2.com"},
	{"closes at once", []string{tigaseOpen, closeA}, 2, Closed, "", "", "example2.com"},
	{"an empty see-other-uri", []string{tigaseOpen, strings.Replace(tigaseSeeURI, "ws://t2.example1.com:5290/", "", 1)}, 2, Closed, "", "", "example2.com"},
	{"ends at once, older draft", []string{tigaseStream, "</stream:stream>"}, 2, Closed, "", "", "example2.com"},
	{"opens twice", []string{tigaseOpen, tigaseOpen}, 2, Accepted, "", "", "example2.com"},
	{"a stanza", []string{`<iq xmlns='jabber:client'/>`}, 1, Accepted, "", "", ""},
	{"no XML", []string{"<p>1 < 2</p>"}, 1, Accepted, "", "", ""},
	{"another encoding", []string{"<?xml version='1.0' encoding='utf-16'?>"}, 1, Accepted, "", "", ""},
}

func TestAnswerReader(t *testing.T) {
	for _, c := range upstreamAnswers {
		var r AnswerReader
		for i, m := range c.messages[:c.after] {
			a := r.Feed([]byte(m))
			if want := i == c.after-1; (a.Verdict != Undecided) != want {
				t.Errorf("%s: message %d gives verdict %d", c.name, i, a.Verdict)
			}
		}
		a := r.Feed([]byte("<late/>"))
		if a.Verdict != c.verdict || a.Condition != c.condition || a.SeeOther != c.seeOther || a.Open.From != c.from {
			t.Errorf("%s: %+v; want %d %q %q from %q", c.name, a, c.verdict, c.condition, c.seeOther, c.from)
		}
		if r.buf != nil {
			t.Errorf("%s: holds %d bytes after the verdict", c.name, len(r.buf))
		}
	}
}

// Input that can't be a redirect any more is passed on without waiting.
func TestAnswerReaderBounded(t *testing.T) {
	var r AnswerReader
	piece := []byte(strings.Repeat("x", 1000))
	for i := range 100 {
		if a := r.Feed(piece); a.Verdict == Accepted {
			if i != maxAnswer/len(piece) {
				t.Errorf("let through after %d bytes; want %d", i*len(piece), maxAnswer)
			}
			return
		}
		if len(r.buf) > maxAnswer {
			t.Fatalf("holds %d bytes; want at most %d", len(r.buf), maxAnswer)
		}
	}
	t.Errorf("still undecided after %d bytes", 100*len(piece))
}

// No part of the upstream's redirect reaches the client, whether followed or not.
func TestAnswerStreamLeaksNothing(t *testing.T) {
	var r AnswerReader
	a := r.Feed([]byte(tigaseStream + `<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>inner.example1.com:5290</see-other-host><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>inner.example1.com</text></stream:error>`))
	if a.Verdict != Redirected {
		t.Fatalf("verdict %d; want Redirected", a.Verdict)
	}
	for _, f := range []Framing{RFC7395, OlderDraft} {
		out, err := a.Stream(f).Redirect("wss://t2.example1.com:5291/")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range append(out, a.Stream(f).Close()...) {
			if strings.Contains(string(m), "inner") {
				t.Errorf("%v: %q names the inner address", f, m)
			}
		}
		var client AnswerReader
		for _, m := range out {
			a = client.Feed(m)
		}
		want, _ := ParseTarget("wss://t2.example1.com:5291/")
		got, err := ParseTarget(a.SeeOther)
		if a.Verdict != Redirected || err != nil || got.Address("") != want.Address("") {
			t.Errorf("%v: a client reads %+v, %v; want a redirect to %v", f, a, err, want)
		}
		if a.Open.Framing != f || a.Open.From != "example2.com" || a.Open.ID != "tigase-error-tigase" {
			t.Errorf("%v: opening %+v; want the upstream's attributes", f, a.Open)
		}
	}
}

// The boundaries between pieces do not affect the answer.
func FuzzAnswerReader(f *testing.F) {
	for _, c := range upstreamAnswers {
		f.Add([]byte(strings.Join(c.messages, "")), uint8(5))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		var whole, parts AnswerReader
		want := whole.Feed(in)
		var got Answer
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(cut%64)+1)
			got = parts.Feed(rest[:n])
			rest = rest[n:]
		}
		if got != want {
			t.Fatalf("%q in one: %+v; cut: %+v", in, want, got)
		}
	})
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    Target
		address string // with 5222 as the default port
	}{
		{"ws://t2.example1.com:5290/", Target{"ws", "t2.example1.com", "5290"}, "t2.example1.com:5290"},
		{"wss://T2.Example1.com./xmpp-websocket?x=y", Target{"wss", "t2.example1.com", ""}, "t2.example1.com:443"},
		{"ws://t2", Target{"ws", "t2", ""}, "t2:80"},
		{"WS://t2:05290", Target{"ws", "t2", "5290"}, "t2:5290"},
		{"ws://[2001:DB8::1]:5290/", Target{"ws", "[2001:db8::1]", "5290"}, "[2001:db8::1]:5290"},
		{"ws://[::1]/", Target{"ws", "[::1]", ""}, "[::1]:80"},
		{"t2.example1.com", Target{"", "t2.example1.com", ""}, "t2.example1.com:5222"},
		{"t2.example1.com:5290", Target{"", "t2.example1.com", "5290"}, "t2.example1.com:5290"},
		{"192.0.2.1:9222", Target{"", "192.0.2.1", "9222"}, "192.0.2.1:9222"},
		{"[2001:41D0:1:A49b::1]:9222", Target{"", "[2001:41d0:1:a49b::1]", "9222"}, "[2001:41d0:1:a49b::1]:9222"},
		{"[::1]", Target{"", "[::1]", ""}, "[::1]:5222"},
		{"2001:db8::1", Target{"", "[2001:db8::1]", ""}, "[2001:db8::1]:5222"},

		{"", Target{}, ""},
		{"ws:///", Target{}, ""},
		{"ws://:5290/", Target{}, ""},
		{"http://t2/", Target{}, ""},
		{"ws://u@t2/", Target{}, ""},
		{"ws://t2/#f", Target{}, ""},
		{"ws://t2:0/", Target{}, ""},
		{"ws://t2:65536/", Target{}, ""},
		{"t2:http", Target{}, ""},
		{"t2:", Target{}, ""},
		{"t2/x", Target{}, ""},
		{"a b", Target{}, ""},
		{"ws://[fe80::1%25eth0]/", Target{}, ""},
	} {
		got, err := ParseTarget(c.in)
		if got != c.want || (err == nil) != (c.address != "") {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if err == nil && got.Address("5222") != c.address {
			t.Errorf("Address of %q = %q; want %q", c.in, got.Address("5222"), c.address)
		}
	}
	if a := (Target{Host: "t2"}).Address(""); a != "t2" {
		t.Errorf(`Address("") = %q; want "t2"`, a)
	}
}

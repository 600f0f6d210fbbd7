package xmpp

import (
	"encoding/xml"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const (
	openA   = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example.com' to='a@example.com' id='i1' version='1.0' xml:lang='en'/>`
	streamA = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.com' to='a@example.com' id='i1' version='1.0' xml:lang='en'>`
	closeA  = `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`
	errorA  = `<stream:error xmlns:stream='http://etherx.jabber.org/streams'><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`
)

func TestStream(t *testing.T) {
	rfc := Stream{Framing: RFC7395, From: "example.com", To: "a@example.com", ID: "i1"}
	draft := rfc
	draft.Framing = OlderDraft
	opened := func(s Stream) Stream { s.Opened = true; return s }
	redirect := func(s Stream, url string) [][]byte {
		out, err := s.Redirect(url)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const url = "wss://t2.example1.com:5291/ws?a=1&b='"
	const seeHost = `<stream:error xmlns:stream='http://etherx.jabber.org/streams'><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>t2.example1.com:5291</see-other-host></stream:error>`
	const seeURI = `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='wss://t2.example1.com:5291/ws?a=1&amp;b=&#39;'/>`
	for _, c := range []struct {
		name string
		got  [][]byte
		want []string
	}{
		{"RFC 7395: close", rfc.Close(), []string{openA, closeA}},
		{"RFC 7395: close, opened", opened(rfc).Close(), []string{closeA}},
		{"RFC 7395: error", rfc.Error(HostUnknown, ""), []string{openA, errorA, closeA}},
		{"RFC 7395: error, opened", opened(rfc).Error(HostUnknown, ""), []string{errorA, closeA}},
		{"RFC 7395: redirect", redirect(rfc, url), []string{openA, seeURI}},
		{"RFC 7395: redirect, opened", redirect(opened(rfc), url), []string{seeURI}},
		{"older draft: close", draft.Close(), []string{streamA, "</stream:stream>"}},
		{"older draft: close, opened", opened(draft).Close(), []string{"</stream:stream>"}},
		{"older draft: error", draft.Error(HostUnknown, ""), []string{streamA, errorA, "</stream:stream>"}},
		{"older draft: error, opened", opened(draft).Error(HostUnknown, ""), []string{errorA, "</stream:stream>"}},
		{"older draft: redirect", redirect(draft, url), []string{streamA, seeHost, "</stream:stream>"}},
		{"older draft: redirect, default port", redirect(opened(draft), "wss://[2001:DB8::1]/x"),
			[]string{strings.Replace(seeHost, "t2.example1.com:5291", "[2001:db8::1]:443", 1), "</stream:stream>"}},
	} {
		var got []string
		for _, m := range c.got {
			got = append(got, string(m))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}

func TestStreamRedirectRefuses(t *testing.T) {
	for _, url := range []string{"", "t2.example1.com:5290", "http://example.com/", "wss://u:p@example.com/", "wss://exa mple.com/"} {
		for _, f := range []Framing{RFC7395, OlderDraft} {
			if out, err := (Stream{Framing: f}).Redirect(url); err == nil {
				t.Errorf("Redirect(%q) in %v = %q; want an error", url, f, out)
			}
		}
	}
}

// Texts stay texts for any input: our readers and encoding/xml read back what we write.
func TestStreamEscapes(t *testing.T) {
	const nasty = `'/><close a="b">&amp;]]>` + "\n\t\x00é"
	const held = `'/><close a="b">&amp;]]>` + "\n\t\ufffdé"
	for _, f := range []Framing{RFC7395, OlderDraft} {
		s := Stream{Framing: f, From: nasty, To: nasty, ID: nasty, Lang: nasty}
		var r OpenReader
		got, ok, err := r.Feed(s.Opening())
		want := Open{Framing: f, From: held, To: held, ID: held, Lang: held, Version: "1.0", Len: len(s.Opening())}
		if !ok || err != nil || got != want {
			t.Errorf("%v: Opening() reads as %+v, %v, %v; want %+v", f, got, ok, err, want)
		}
		var el struct {
			XMLName xml.Name `xml:"http://etherx.jabber.org/streams error"`
			Unknown struct{} `xml:"urn:ietf:params:xml:ns:xmpp-streams policy-violation"`
			Text    string   `xml:"urn:ietf:params:xml:ns:xmpp-streams text"`
		}
		if err := xml.Unmarshal(s.Error(PolicyViolation, nasty)[1], &el); err != nil || el.Text != held {
			t.Errorf("%v: Error(…, %q) reads as %q, %v", f, nasty, el.Text, err)
		}
	}
}

func TestStreamErrorCondition(t *testing.T) {
	for _, c := range []struct{ condition, want Condition }{
		{SystemShutdown, SystemShutdown},
		{"", UndefinedCondition},
		{"a b", UndefinedCondition},
		{"-a", UndefinedCondition},
		{"x/><y", UndefinedCondition},
	} {
		var r AnswerReader
		var a Answer
		for _, m := range (Stream{}).Error(c.condition, "why") {
			a = r.Feed(m)
		}
		if a.Verdict != Refused || a.Condition != c.want {
			t.Errorf("Error(%q) reads as %v %q; want %q", c.condition, a.Verdict, a.Condition, c.want)
		}
	}
}

// The id of a stream is a secret of its own (RFC 6120, section 4.7.3).
func TestStreamRandomID(t *testing.T) {
	id := func() string {
		var r OpenReader
		o, _, _ := r.Feed(Stream{}.Opening())
		return o.ID
	}
	if a, b := id(), id(); len(a) < 20 || a == b {
		t.Errorf("ids %q and %q; want long and different ones", a, b)
	}
}

func TestReply(t *testing.T) {
	o := Open{Framing: OlderDraft, To: "Example.com", From: "a@example.com", ID: "theirs", Lang: "de"}
	if got, want := o.Reply(), (Stream{Framing: OlderDraft, From: "Example.com", To: "a@example.com"}); got != want {
		t.Errorf("Reply() = %+v; want %+v", got, want)
	}
}

func TestStreamErrorMessage(t *testing.T) {
	err := error(&StreamError{HostUnknown, "no such domain here"})
	if got, want := fmt.Sprint(err), "stream error host-unknown: no such domain here"; got != want {
		t.Errorf("Error() = %q; want %q", got, want)
	}
}

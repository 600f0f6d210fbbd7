package tests

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A node that redirects, and begins another frame behind that, is not heard any
// more: the client gets whole frames only, and the Close frame at once.
func TestRedirectInFrontOfHalfAFrame(t *testing.T) {
	const framing = " xmlns='urn:ietf:params:xml:ns:xmpp-framing' "
	for _, vhost := range []string{"", "[[vhost]]\nnames = [\"" + name + "\"]\ndomains = [\"" + name + "\"]\n"} {
		u, conns := wire.Chan(t)
		site := gate.NewSite(t, name)
		g := site.Start(t, toUpstream(u.URL)+vhost)
		client := wire.Dial(t, g.Addr("wss"), site.Client(name))
		upstream := wire.Take(t, conns)
		client.SendText("<open" + framing + "to='" + name + "' version='1.0'/>")
		upstream.WantText("<open" + framing + "to='" + name + "' version='1.0'/>")
		text := func(s string) []byte { return upstream.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(s)}) }
		half := upstream.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: payload(20_000)})[:10_000]
		words := append(text("<open"+framing+"from='"+name+"' id='1' version='1.0'/>"), text("<close"+framing+"see-other-uri='ws://10.9.8.7:5290/'/>")...)
		upstream.Write(append(words, half...))
		for range 3 {
			if f, err := client.Frame(); err != nil || f.Op != wire.Text || !f.FIN {
				t.Fatalf("got %v, %v; want <open/>, a stream error and <close/>", f, err)
			}
		}
		client.WantClose(1014)
		client.Send(wire.CloseFrame(true, 1000, ""))
		client.WantEnd()
		wire.WantEOF(t, upstream.R, upstream.Conn)
		wantReason(t, g, "redirect_lost")
	}
}

// A redirect in the place of SASL's success, as Tigase has it after login, whose
// node nobody knows: the client gets a stream error, in its framing and in the
// stream that it has, and never the inner address.
func TestRedirectInPlaceOfSuccess(t *testing.T) {
	for _, tt := range []struct{ open, answer, redirect, end string }{
		{"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='" + name + "' version='1.0'/>",
			"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='" + name + "' id='1' version='1.0'/>",
			"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://10.9.8.7:5290/'/>",
			"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"},
		{"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='" + name + "' version='1.0'>",
			"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='" + name + "' id='1' version='1.0'>",
			"<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>10.9.8.7:5290</see-other-host></stream:error>",
			"</stream:stream>"},
	} {
		g, client, upstream := open(t, "")
		client.SendText(tt.open)
		upstream.WantText(tt.open)
		const features = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>"
		upstream.SendText(tt.answer)
		upstream.SendText(features)
		client.WantText(tt.answer)
		client.WantText(features)
		client.SendText("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>")
		upstream.SendText(tt.redirect)
		f, err := client.Frame()
		if err != nil || !strings.HasPrefix(string(f.Payload), "<stream:error ") || !strings.Contains(string(f.Payload), "<remote-connection-failed ") || strings.Contains(string(f.Payload), "10.9.8.7") {
			t.Fatalf("got %v, %v; want a stream error", f, err)
		}
		client.WantText(tt.end)
		client.WantClose(1014)
		wantReason(t, g, "redirect_lost")
	}
}

// A client whose opening nobody has answered yet is told in XMPP why its stream
// ends, whether or not the gate waits for a redirect in the answer.
func TestLastWordsUnanswered(t *testing.T) {
	const older = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='" + name + "' version='1.0'>"
	for _, tt := range []struct{ open, opening, end string }{
		{"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='" + name + "' version='1.0'/>", "<open ", "<close "},
		{older, "<stream:stream ", "</stream:stream>"},
		{"<?xml version='1.0'?>" + older, "<stream:stream ", "</stream:stream>"},
	} {
		for _, redirects := range []string{"follow", "off"} {
			for _, why := range []struct {
				condition string
				code      uint16
			}{{"remote-connection-failed", 1012}, {"system-shutdown", 1001}} {
				t.Run(fmt.Sprintf("%.15s %s %s", tt.open, redirects, why.condition), func(t *testing.T) {
					g, client, upstream := open(t, fmt.Sprintf("redirects = %q\n", redirects))
					client.SendText(tt.open)
					upstream.WantText(tt.open)
					if why.code == 1001 {
						g.Signal(syscall.SIGTERM)
					} else {
						upstream.Conn.Close()
					}
					for _, want := range []string{tt.opening, why.condition, tt.end} {
						f, err := client.Frame()
						if err != nil || !strings.HasPrefix(string(f.Payload), want) && !strings.Contains(string(f.Payload), "<"+want+" ") {
							t.Fatalf("got %v, %v; want %s", f, err, want)
						}
						if want == tt.opening && !strings.Contains(string(f.Payload), " from='"+name+"'") {
							t.Errorf("got %v; want it from %s", f, name)
						}
					}
					client.WantClose(why.code)
				})
			}
		}
	}
}

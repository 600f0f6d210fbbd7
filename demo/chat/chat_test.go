package chat

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/internal/leaktest"

	"github.com/gobwas/ws"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func listen(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func login(t *testing.T, target Target) *Client {
	t.Helper()
	c, err := Login(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Abort() })
	return c
}

func dial(t *testing.T, target Target) *Client {
	t.Helper()
	c, err := Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Abort() })
	return c
}

// wantMessage reads the next message stanza.
func wantMessage(t *testing.T, c *Client, from, body string) {
	t.Helper()
	e, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	if e.Attr("from") != from || e.ChildText("body") != body {
		t.Errorf("got %s; want from %q, body %q", e.Raw, from, body)
	}
}

// recv reads the next n messages.
func recv(t *testing.T, c *Client, n int) []string {
	t.Helper()
	var all []string
	for range n {
		text, err := c.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, text)
	}
	return all
}

// Messages go between both framings, both mechanisms and two domains, to full
// and to bare JIDs.
func TestMessages(t *testing.T) {
	for name, habits := range map[string]Habits{"polite": {}, "tigase": Tigase()} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, Config{Domains: []string{"example1.com", "example2.com"}, Habits: habits})
			a := login(t, Target{URL: s.URL(), Domain: "example1.com", User: "romeo", Password: "x", Resource: "orchard"})
			if a.JID != "romeo@example1.com/orchard" {
				t.Errorf("JID = %q", a.JID)
			}
			b := login(t, Target{URL: s.URL(), Domain: "example2.com", Legacy: true})
			if !strings.HasSuffix(bare(b.JID), "@example2.com") {
				t.Errorf("JID = %q, want one at example2.com", b.JID)
			}
			a.Message(b.JID, "<&> to a full JID")
			wantMessage(t, b, a.JID, "<&> to a full JID")
			b.Message(bare(a.JID), "to a bare JID")
			wantMessage(t, a, b.JID, "to a bare JID")

			a2 := login(t, Target{URL: s.URL(), Domain: "example1.com", User: "romeo"})
			b.Message(bare(a.JID), "to both")
			wantMessage(t, a, b.JID, "to both")
			wantMessage(t, a2, b.JID, "to both")

			big := strings.Repeat("0123456789abcdef", 64<<10)
			a.Message(b.JID, big)
			wantMessage(t, b, a.JID, big)
		})
	}
}

func TestSASL(t *testing.T) {
	s := listen(t, Config{Password: "secret"})
	login(t, Target{URL: s.URL(), Domain: "example1.com", User: "romeo", Password: "secret"})
	_, err := Login(t.Context(), Target{URL: s.URL(), Domain: "example1.com", User: "romeo", Password: "guess"})
	if err == nil || err.Error() != "SASL: not-authorized" {
		t.Errorf("wrong password: err = %v", err)
	}
	c := dial(t, Target{URL: s.URL(), Domain: "example1.com"})
	if err := c.OpenStream(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(c.Features, "<mechanism>ANONYMOUS</mechanism><mechanism>PLAIN</mechanism>") {
		t.Errorf("features = %s", c.Features)
	}
	c.Send("<auth xmlns='" + nsSASL + "' mechanism='SCRAM-SHA-1'/>")
	if got := recv(t, c, 1)[0]; !strings.Contains(got, "invalid-mechanism") {
		t.Errorf("got %s, want invalid-mechanism", got)
	}
	c.Message("x@example1.com", "not yet")
	if got := recv(t, c, 1)[0]; !strings.Contains(got, "not-authorized") {
		t.Errorf("got %s, want not-authorized", got)
	}
}

func TestRequests(t *testing.T) {
	s := listen(t, Config{Domains: []string{"example1.com"}})
	a := login(t, Target{URL: s.URL(), Domain: "example1.com"})
	for _, tt := range []struct{ typ, to, payload, want string }{
		{"get", "", "<query xmlns='jabber:iq:roster'/>", "<query xmlns='jabber:iq:roster'/>"},
		{"get", "example1.com", "<ping xmlns='urn:xmpp:ping'/>", "type='result'"},
		{"set", "", "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>", "type='result'"},
		{"get", "example1.com", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "iq: service-unavailable"},
		{"get", "nobody@example1.com/x", "<query xmlns='jabber:iq:version'/>", "iq: service-unavailable"},
		{"get", "nobody@example9.com", "<query xmlns='jabber:iq:version'/>", "iq: remote-server-not-found"},
	} {
		e, err := a.Request(tt.typ, tt.to, tt.payload)
		if got := e.Raw; !strings.Contains(got, tt.want) && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s to %q = %s, %v; want %s", tt.payload, tt.to, got, err, tt.want)
		}
	}
	a.Send("<presence/>")
	if got := recv(t, a, 1)[0]; got != "<presence xmlns='jabber:client' from='"+a.JID+"'/>" {
		t.Errorf("own presence = %s", got)
	}
	b := login(t, Target{URL: s.URL(), Domain: "example1.com"})
	b.Send("<presence to='" + a.JID + "'><show>away</show></presence>")
	if got := recv(t, a, 1)[0]; !strings.Contains(got, "<show>away</show>") || !strings.Contains(got, b.JID) {
		t.Errorf("directed presence = %s", got)
	}
}

// The second to bind a resource gets it, the first a conflict.
func TestConflict(t *testing.T) {
	s := listen(t, Config{})
	target := Target{URL: s.URL(), Domain: "example1.com", User: "romeo", Resource: "orchard"}
	a := login(t, target)
	login(t, target)
	if got := recv(t, a, 2); !strings.Contains(got[0], "<conflict") || !strings.Contains(got[1], "<close") {
		t.Errorf("got %q, want a conflict and the end", got)
	}
}

func TestClosing(t *testing.T) {
	s := listen(t, Config{})
	c := login(t, Target{URL: s.URL(), Domain: "example1.com"})
	c.Send("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")
	if got := recv(t, c, 1)[0]; got != "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>" {
		t.Errorf("got %s, want <close/>", got)
	}
	wantClose(t, c, 1000)
	wantEOF(t, c)
	c.Abort()

	c = login(t, Target{URL: s.URL(), Domain: "example1.com", Legacy: true})
	c.Send("</stream:stream>")
	if got := recv(t, c, 1)[0]; got != "</stream:stream>" {
		t.Errorf("got %s, want </stream:stream>", got)
	}
	wantClose(t, c, 1000)
	c.Abort()
	waitOpen(t, s, 0)
}

func wantClose(t *testing.T, c *Client, code ws.StatusCode) {
	t.Helper()
	text, err := c.Recv()
	if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != code {
		t.Errorf("got %q, %v; want Close %d", text, err, code)
	}
}

func wantEOF(t *testing.T, c *Client) {
	t.Helper()
	if f, err := c.ReadFrame(); err != io.EOF {
		t.Errorf("got %v, %v; want EOF", f, err)
	}
}

func waitOpen(t *testing.T, s *Server, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitOpen(ctx, n); err != nil {
		t.Fatalf("%d open, want %d: %v", s.Open(), n, err)
	}
}

// A stream that was cut goes on where it was: what came meanwhile is
// delivered, what was acknowledged is not repeated.
func TestResume(t *testing.T) {
	s := listen(t, Config{})
	target := Target{URL: s.URL(), Domain: "example1.com", User: "juliet", Resource: "balcony"}
	a := login(t, target)
	b := login(t, Target{URL: s.URL(), Domain: "example1.com", User: "romeo"})
	if err := a.EnableResume(); err != nil {
		t.Fatal(err)
	}
	b.Message(a.JID, "one")
	wantMessage(t, a, b.JID, "one")
	a.Send("<message to='" + bare(b.JID) + "'/>")
	a.Send("<r xmlns='urn:xmpp:sm:3'/>")
	if got := recv(t, a, 1)[0]; got != "<a xmlns='urn:xmpp:sm:3' h='1'/>" {
		t.Errorf("got %s, want h='1'", got)
	}
	a.Abort()
	waitOpen(t, s, 1)
	b.Message(a.JID, "two")

	again := dial(t, target)
	for _, step := range []func() error{again.OpenStream, again.Authenticate, again.OpenStream} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.Resume("nonsense", 0); err == nil || !strings.Contains(err.Error(), "item-not-found") {
		t.Errorf("resuming nonsense: err = %v", err)
	}
	if err := again.Resume(a.ResumeID, 1); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, again, b.JID, "two")
	b.Message(a.JID, "three")
	wantMessage(t, again, b.JID, "three")
}

// Everything also works over net.Pipe in a bubble, where a session that nobody
// resumes is forgotten after a minute.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Habits: Tigase()})
		target := Target{URL: "ws://example1.com/", User: "juliet", NetDial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go s.ServeConn(server)
			return client, nil
		}}
		a, err := Login(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.EnableResume(); err != nil {
			t.Fatal(err)
		}
		a.Abort()
		time.Sleep(resumeFor - time.Nanosecond)
		synctest.Wait()
		if n := len(s.router.find("juliet@example1.com")); n != 1 {
			t.Errorf("%d sessions just before resumption ends, want 1", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := len(s.router.find("juliet@example1.com")); n != 0 {
			t.Errorf("%d sessions after it, want 0", n)
		}
		s.Close()
	})
}

func TestStop(t *testing.T) {
	s := listen(t, Config{})
	c := login(t, Target{URL: s.URL(), Domain: "example1.com"})
	go s.Stop()
	if got := recv(t, c, 2); !strings.Contains(got[0], "<system-shutdown") || !strings.Contains(got[1], "<close") {
		t.Errorf("got %q, want system-shutdown and <close/>", got)
	}
	wantClose(t, c, 1001)
	wantEOF(t, c)

	s = listen(t, Config{Habits: Tigase()})
	c = login(t, Target{URL: s.URL(), Domain: "example1.com"})
	go s.Stop()
	wantEOF(t, c)
}

package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/internal/xmpptest"
)

// dialOne dials the only node of a cluster, and keeps the tunnel.
func dialOne(t *testing.T, v *Vhost) *Conn {
	t.Helper()
	c, err := v.Dial(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	c.Conn.Close()
	t.Cleanup(c.Release)
	return c
}

// asked asks and waits for the answer, but not for the goodbye.
func asked(t *testing.T, c *Conn) Nature {
	t.Helper()
	told := make(chan struct{})
	go c.Ask(t.Context(), request, func() { close(told) })
	<-told
	return c.Nature()
}

// after101 says raw frames behind its 101 and then listens.
func after101(raw string) peer {
	return func(c net.Conn, br *bufio.Reader, head string) {
		gone := make(chan struct{})
		go func() { io.Copy(io.Discard, br); close(gone) }()
		io.WriteString(c, good(head)+raw)
		<-gone
	}
}

// What the answer to the gate's question says of a node.
func TestAsk(t *testing.T) {
	frames := func(f ...string) peer { return (&xmppNode{answer: f}).peer }
	text := func(s string) string { return "\x81" + string(rune(len(s))) + s }
	for _, c := range []struct {
		name string
		p    peer
		want Nature
	}{
		{"open", frames(openAnswer), XMPP},
		{"open, unknown domain", frames(openAnswer, `<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`), XMPP},
		{"error alone", frames(`<stream:error xmlns:stream='http://etherx.jabber.org/streams'><host-unknown/></stream:error>`), XMPP},
		{"error with another prefix", frames(`<s:error xmlns:s='http://etherx.jabber.org/streams'/>`), XMPP},
		{"close alone", frames(`<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`), XMPP},
		{"older draft", frames(`<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1'>`), XMPP},
		{"older draft, declared", frames(`<?xml version='1.0'?>`, `<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'>`), XMPP},
		{"empty id", frames(`<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id=''/>`), XMPP},
		{"in fragments", after101("\x01\x05<open\x00\x2d xmlns='urn:ietf:params:xml:ns:xmpp-framing' \x80\x07id='1'>"), XMPP},
		{"a ping before", after101("\x89\x00" + text("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")), XMPP},

		{"echo", echoFrames, Other},
		{"a greeting", after101(text("welcome to chat")), Other},
		{"JSON", after101(text(`{"error":"what?"}`)), Other},
		{"HTML", after101(text(`<!DOCTYPE html>`)), Other},
		{"a close of its own", frames(`<close/>`), Other},
		{"a stanza", frames(`<message xmlns='jabber:client'/>`), Other},

		{"silence", frames(), Unknown},
		{"white space", after101(text(" ")), Unknown},
		{"Close frame", after101("\x88\x02\x03\xf0"), Unknown},
		{"FIN", brief, Unknown},
		{"masked frames", polite, Unknown},
		{"too much", after101("\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff" + strings.Repeat(" ", 1<<17)), Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, v := newCluster(c.p, at1).vhost(t, GroupOptions{}, three[0])
				conn := dialOne(t, v)
				began := time.Now()
				if got := asked(t, conn); got != c.want {
					t.Errorf("nature %d; want %d", got, c.want)
				}
				if took := time.Since(began); took > DefaultHealthTimeout {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// served has a server of xmpptest for a peer.
func served(s *xmpptest.Server) peer {
	return func(c net.Conn, br *bufio.Reader, head string) {
		s.ServeConn(&replayed{Conn: c, r: io.MultiReader(strings.NewReader(head), br)})
	}
}

func echoFrames(c net.Conn, br *bufio.Reader, head string) {
	served(xmpptest.New(xmpptest.Config{Echo: true}))(c, br, head)
}

// A replayed conn reads again what was read.
type replayed struct {
	net.Conn
	r io.Reader
}

func (r *replayed) Read(b []byte) (int, error) { return r.r.Read(b) }

// A question is a stream to health.domain, else to the client's server name, and
// ends in good order.
func TestAskWords(t *testing.T) {
	for _, c := range []struct{ domain, to string }{{"", "example1.com"}, {"example2.com", "example2.com"}} {
		synctest.Test(t, func(t *testing.T) {
			x := &xmppNode{answer: []string{openAnswer}}
			_, v := newCluster(x.peer, at1).vhost(t, GroupOptions{Health: HealthOptions{Domain: c.domain}}, NodeOptions{URL: "ws://10.0.0.1:5290"})
			conn := dialOne(t, v)
			conn.Ask(t.Context(), request, func() {})
			x.mu.Lock()
			defer x.mu.Unlock()
			last := x.heads[len(x.heads)-1]
			if !strings.HasPrefix(last, "GET /ws ") || headerOf(last, "Host") != "example1.com" || headerOf(last, "User-Agent") != probeAgent {
				t.Errorf("request %q", last)
			}
			want := []string{
				`1 <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="` + c.to + `" version="1.0"/>`,
				`1 <close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`,
				"8 \x03\xe8",
			}
			if !slices.Equal(x.got, want) {
				t.Errorf("frames %q; want %q", x.got, want)
			}
		})
	}
}

// However many want to know, one asks; a node that does not answer is asked once
// a minute, and one that can't be reached as well.
func TestAskOnce(t *testing.T) {
	for name, c := range map[string]struct {
		p     peer
		after int // dials in another 59 s, and
		then  int // in the minute after those
	}{
		"XMPP":   {(&xmppNode{answer: []string{openAnswer}}).peer, 0, 0},
		"echo":   {echoFrames, 0, 0},
		"silent": {after101(""), 0, 1},
		"dead":   {nil, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := newCluster(echoFrames, at1)
				_, v := cluster.vhost(t, GroupOptions{}, three[0])
				conn := dialOne(t, v)
				cluster.set(at1, c.p)
				cluster.count()
				all := func() (dials int) {
					told := make(chan struct{}, 100)
					for range 100 {
						go conn.Ask(t.Context(), request, func() { told <- struct{}{} })
					}
					for range 100 {
						<-told
					}
					return cluster.count()[at1]
				}
				if n := all(); n != 1 {
					t.Errorf("%d questions of 100 at once; want 1", n)
				}
				time.Sleep(59 * time.Second)
				if n := all(); n != c.after {
					t.Errorf("%d questions within a minute; want %d", n, c.after)
				}
				time.Sleep(2 * time.Second)
				if n := all(); n != c.then {
					t.Errorf("%d questions after a minute; want %d", n, c.then)
				}
			})
		})
	}
}

// A question ends with whoever put it, and then nothing is known.
func TestAskCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := newCluster(after101(""), at1).vhost(t, GroupOptions{}, three[0])
		conn := dialOne(t, v)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		conn.Ask(ctx, request, func() {})
		if took := time.Since(began); took != time.Second || conn.Nature() != Unknown {
			t.Errorf("nature %d after %v; want it unknown after a second", conn.Nature(), took)
		}
	})
}

// That a node is no XMPP server is forgotten after ten minutes, that it is one
// only when it was out; XMPP once heard outweighs what a question found.
func TestNatureLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAddress("tcp", at1, "", false)
		want := func(want Nature) {
			t.Helper()
			if got := a.natureNow(time.Now()); got != want {
				t.Errorf("nature %d; want %d", got, want)
			}
		}
		want(Unknown)
		a.learn(Other)
		time.Sleep(otherFor - time.Second)
		want(Other)
		time.Sleep(time.Second)
		want(Unknown)
		a.learn(Other)
		a.learn(XMPP)
		a.learn(Other)
		a.learn(Unknown)
		time.Sleep(24 * time.Hour)
		want(XMPP)
		a.reserve(time.Now(), limits{}, 0)
		a.worked(time.Now(), 0)
		want(XMPP)
		a.reserve(time.Now(), limits{}, 0)
		a.broke(time.Now(), io.EOF, 0.5)
		want(XMPP)
		a.probed(time.Now(), nil)
		want(Unknown)
	})
}

// A probe that got features knows; one that has no domain does not. A reload
// forgets nothing.
func TestProbeTellsNature(t *testing.T) {
	for domain, want := range map[string]Nature{"example1.com": XMPP, "": Unknown} {
		synctest.Test(t, func(t *testing.T) {
			x := &xmppNode{answer: []string{openAnswer, `<stream:features/>`}}
			c := newCluster(x.peer, at1)
			tab, _ := c.vhost(t, probing(domain), three[0])
			time.Sleep(2 * time.Second)
			update(t, tab, c.options(probing(domain), three[0]))
			v, err := tab.Routes().Lookup("x")
			if err != nil {
				t.Fatal(err)
			}
			if got := dialOne(t, v).Nature(); got != want {
				t.Errorf("domain %q: nature %d; want %d", domain, got, want)
			}
		})
	}
}

// Tigase has a stream error for a domain that it does not know, and then keeps
// silent. It is told goodbye, and is left nothing that it would keep.
func TestAskTigase(t *testing.T) {
	for _, domain := range []string{"example1.com", "example9.com"} {
		synctest.Test(t, func(t *testing.T) {
			s := xmpptest.New(xmpptest.Config{Domains: []string{"example1.com"}, Habits: xmpptest.Tigase()})
			_, v := newCluster(served(s), at1).vhost(t, GroupOptions{Health: HealthOptions{Domain: domain}}, three[0])
			c := dialOne(t, v)
			began := time.Now()
			c.Ask(t.Context(), request, func() {
				if got := c.Nature(); got != XMPP || time.Since(began) != 0 {
					t.Errorf("%s: nature %d when told after %v; want XMPP at once", domain, got, time.Since(began))
				}
			})
			synctest.Wait()
			if n := s.Open(); n != 0 {
				t.Errorf("%s: %d connections stay", domain, n)
			}
			if n := s.Last().Count.FramesIn.Load(); n != 3 {
				t.Errorf("%s: %d frames; want <open/>, <close/> and Close", domain, n)
			}
		})
	}
}

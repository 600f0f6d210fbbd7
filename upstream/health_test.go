package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

// An xmppNode answers a stream's open with its own frames, and records its input. Its
// frames are like Tigase's: unmasked text, one for each first-level element.
type xmppNode struct {
	answer []string
	mu     sync.Mutex
	heads  []string
	got    []string
}

func (x *xmppNode) peer(c net.Conn, br *bufio.Reader, head string) {
	x.mu.Lock()
	x.heads = append(x.heads, head)
	x.mu.Unlock()
	io.WriteString(c, good(head))
	for {
		h, err := ws.ReadHeader(br)
		if err != nil {
			return
		}
		f := ws.Frame{Header: h, Payload: make([]byte, h.Length)}
		if _, err := io.ReadFull(br, f.Payload); err != nil {
			return
		}
		f = ws.UnmaskFrameInPlace(f)
		x.mu.Lock()
		x.got = append(x.got, fmt.Sprintf("%x %s", f.Header.OpCode, f.Payload))
		x.mu.Unlock()
		switch {
		case f.Header.OpCode == ws.OpClose:
			ws.WriteFrame(c, ws.NewCloseFrame(nil)) // TCP stays open
		case strings.HasPrefix(string(f.Payload), "<open"):
			for _, a := range x.answer {
				ws.WriteFrame(c, ws.NewTextFrame([]byte(a)))
			}
		}
	}
}

const openAnswer = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example1.com' id='1' version='1.0'/>`

func probing(domain string) GroupOptions {
	return GroupOptions{Health: HealthOptions{Interval: 10 * time.Second, Timeout: 5 * time.Second, Domain: domain}}
}

// A probe is a complete opening and closing handshake; with a domain, also a stream up
// to its features.
func TestProbeWords(t *testing.T) {
	for _, c := range []struct {
		domain, host string
		want         []string
	}{
		{"", "10.0.0.1:5290", []string{"8 \x03\xe8"}},
		{"bücher.example", "xn--bcher-kva.example", []string{
			`1 <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="bücher.example" version="1.0"/>`,
			`1 <close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`,
			"8 \x03\xe8",
		}},
		{"example1.com", "example1.com", []string{
			`1 <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example1.com" version="1.0"/>`,
			`1 <close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`,
			"8 \x03\xe8",
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := &xmppNode{answer: []string{openAnswer, `<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>`}}
			tab, _ := newCluster(x.peer, at1).vhost(t, probing(c.domain), three[0])
			time.Sleep(2 * time.Second)
			x.mu.Lock()
			defer x.mu.Unlock()
			if len(x.heads) != 1 || !strings.Contains(x.heads[0], "\r\nSec-WebSocket-Protocol: xmpp\r\n") || !strings.Contains(x.heads[0], "\r\nUser-Agent: "+probeAgent+"\r\n") {
				t.Errorf("requests %q; want one of the probe's", x.heads)
			}
			if got := headerOf(x.heads[0], "Host"); got != c.host {
				t.Errorf("domain %q: Host %q; want %q", c.domain, got, c.host)
			}
			if !slices.Equal(x.got, c.want) {
				t.Errorf("domain %q: frames %q; want %q", c.domain, x.got, c.want)
			}
			if s := tab.Status()[0].Nodes[0]; s.State != StateUp || s.Failures != 0 {
				t.Errorf("%+v; want up", s)
			}
		})
	}
}

// The result of a probe for each answer of a node.
func TestProbeVerdict(t *testing.T) {
	const dom = "example1.com"
	frames := func(f ...string) peer { return (&xmppNode{answer: f}).peer }
	for _, c := range []struct {
		name, domain, url string
		p                 peer
		want              string // "": healthy
	}{
		{"features", dom, "", frames(openAnswer, `<stream:features/>`), ""},
		{"features with another prefix", dom, "", frames(openAnswer, `<features xmlns='http://etherx.jabber.org/streams'>`), ""},
		{"all in one frame", dom, "", frames(openAnswer + `<stream:features/>`), ""},
		{"in two fragments", dom, "", after101("\x01\x08<stream:\x80\x09features>"), ""},
		{"a ping between", dom, "", after101("\x89\x00\x81\x0a<features/>"), ""},
		{"host-unknown", dom, "", frames(openAnswer, `<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`), `probe: stream to "example1.com": host-unknown, want features`},
		{"closed", dom, "", frames(openAnswer, `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>`), `closed, want features`},
		{"redirect", dom, "", frames(openAnswer, `<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://t2.example1.com:5290/'/>`), ""},
		{"Close frame", dom, "", after101("\x88\x02\x03\xf4"), `Close 1012 ""`},
		{"silence after 101", dom, "", frames(), `no features of a stream to "example1.com": i/o timeout`},
		{"too much", dom, "", after101("\x81\x7f\x00\x00\x00\x00\x7f\xff\xff\xff" + strings.Repeat("x", 1<<17)), "unexpected EOF"},
		{"masked", dom, "", after101("\x81\x85abcdhello"), "masked frame"},
		{"only 101 is asked for", "", "", after101(""), ""},
		{"404", "", "", says("HTTP/1.1 404 Not Found\r\n\r\n"), "answered 404 Not Found"},
		{"404 where the path is the client's", "", "ws://10.0.0.1:5290", says("HTTP/1.1 404 Not Found\r\n\r\n"), ""},
		{"503 where the path is the client's", "", "ws://10.0.0.1:5290", says("HTTP/1.1 503 No\r\n\r\n"), "answered 503 No"},
		{"TCP only", "", "", func(c net.Conn, br *bufio.Reader, _ string) { io.Copy(io.Discard, br) }, "no answer to the opening handshake"},
		{"refused", "", "", nil, "dial 10.0.0.1:5290: connection refused"},
		{"hangs", "", "", hole, "dial 10.0.0.1:5290: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := three[0]
				if c.url != "" {
					n.URL = c.url
				}
				tab, _ := newCluster(c.p, at1).vhost(t, probing(c.domain), n)
				time.Sleep(30 * time.Second)
				s := tab.Status()[0].Nodes[0]
				lastErr := s.Addresses[0].LastError
				if c.want == "" && (s.State != StateUp || lastErr != "") || c.want != "" && (s.State != StateOut || !strings.Contains(lastErr, c.want)) {
					t.Errorf("state %q, error %q; want %q", s.State, lastErr, c.want)
				}
			})
		})
	}
}

// A probe finds a dead node before a client does, and returns it to service.
func TestProbeTakesOutAndBringsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &xmppNode{}
		c := newCluster(x.peer, at1, at2)
		_, v := c.vhost(t, probing(""), three[:2]...)
		time.Sleep(5 * time.Second)
		c.kill(at2)
		time.Sleep(15 * time.Second)
		c.count()
		got, conns := tunnels(t, v, 100)
		release(conns)
		if n := c.count(); got["t1"] != 100 || n[at2] != 0 {
			t.Errorf("tunnels %v, dials %v; want all on t1", got, n)
		}
		c.set(at2, x.peer)
		time.Sleep(11 * time.Second)
		if s := v.group.nodes[1].status(time.Now(), &room{}).State; s != StateWarming {
			t.Errorf("state %q after a good probe; want warming", s)
		}
		time.Sleep(30 * time.Second)
		got, conns = tunnels(t, v, 100)
		release(conns)
		within(t, "t2's of 100 tunnels", got["t2"], 30, 70)
	})
}

// One failed probe is not enough; a second one follows within about a second.
func TestOneLostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &xmppNode{}
		c := newCluster(x.peer, at1)
		tab, _ := c.vhost(t, probing(""), three[0])
		lost := false
		c.set(at1, func(conn net.Conn, br *bufio.Reader, head string) {
			if !lost {
				lost = true
				return
			}
			x.peer(conn, br, head)
		})
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			if s := tab.Status()[0].Nodes[0].State; s != StateUp {
				t.Fatalf("state %q after one lost probe", s)
			}
		}
		when := c.times(at1)
		if gap := when[1].Sub(when[0]); gap > 1200*time.Millisecond {
			t.Errorf("the second probe came %v after the first that failed, want a second", gap)
		}
		within(t, "probes in 30 s", len(when), 4, 5)
	})
}

// Probes spread: no two intervals are equal, and none is off by more than a tenth.
func TestProbesAreJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &xmppNode{}
		c := newCluster(x.peer, at1)
		c.vhost(t, probing(""), three[0])
		time.Sleep(10 * time.Minute)
		gaps := map[time.Duration]bool{}
		when := c.times(at1)
		for i := range when[1:] {
			gap := when[i+1].Sub(when[i])
			gaps[gap] = true
			if gap < 9*time.Second || gap > 11*time.Second {
				t.Errorf("%v between two probes, want 9 to 11 s", gap)
			}
		}
		within(t, "different gaps of about 60", len(gaps), 50, 70)
	})
}

// A successful probe ends the time out after a client's failed dial; the count of
// failures by clients continues.
func TestProbeEndsATimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAddress("tcp", at1, "", false)
		now := time.Now()
		for range 3 {
			a.reserve(now, limits{}, 0)
			a.broke(now, io.EOF, 0.5)
			if !a.balanceState(now).out {
				t.Fatal("not out after a failure")
			}
			now = a.outUntil
		}
		if got, want := time.Until(a.outUntil), 7*time.Second; got != want {
			t.Errorf("out for %v after three failures, want %v", got, want)
		}
		if change, _ := a.probed(now, nil); !change || a.balanceState(now).out {
			t.Error("still out after a good probe")
		}
		a.reserve(now, limits{}, 0)
		a.broke(now, io.EOF, 0.5)
		if got, want := a.outUntil.Sub(now), 8*time.Second; got != want {
			t.Errorf("out for %v after the fourth failure, want %v", got, want)
		}
	})
}

// Concurrent failed dials count once, and times out differ.
func TestFailuresTogetherCountOnce(t *testing.T) {
	for jitter, want := range map[float64]time.Duration{0: 800 * time.Millisecond, 0.5: time.Second} {
		a := newAddress("tcp", at1, "", false)
		now := time.Now()
		for range 10 {
			a.reserve(now, limits{}, 0)
		}
		for range 10 {
			a.broke(now, io.EOF, jitter)
		}
		if got := a.outUntil.Sub(now); got != want || a.failed != 10 {
			t.Errorf("out for %v after %d failures in an instant, want %v", got, a.failed, want)
		}
	}
}

// A probe waits a second for the node's Close frame, not its whole timeout, and not at
// all once the gate shuts down.
func TestProbeGoodbye(t *testing.T) {
	for _, c := range []struct {
		cancelled bool
		want      time.Duration
	}{{false, farewell}, {true, 0}} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			defer server.Close()
			go io.Copy(io.Discard, server)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancelled {
				cancel()
			}
			start := time.Now()
			(&prober{ctx: ctx, conn: client, frames: bufio.NewReader(client)}).sayGoodbye(farewell)
			if took := time.Since(start); took != c.want {
				t.Errorf("cancelled %t: goodbye took %v, want %v", c.cancelled, took, c.want)
			}
		})
	}
}

// A reload may turn probes on and off; an address that only probes kept out returns.
func TestUpdateProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(nil)
		tab, _ := c.vhost(t, probing(""), three[0])
		time.Sleep(30 * time.Second)
		if s := tab.Status()[0].Nodes[0].State; s != StateOut {
			t.Fatalf("state %q; want out", s)
		}
		update(t, tab, c.options(GroupOptions{}, three[0]))
		if s := tab.Status()[0].Nodes[0].State; s != StateUp {
			t.Errorf("state %q after probes were turned off; want up", s)
		}
		synctest.Wait()
		c.count()
		time.Sleep(time.Minute)
		if n := c.count()[at1]; n != 0 {
			t.Errorf("%d probes after they were turned off", n)
		}
		update(t, tab, c.options(probing(""), three[0]))
		time.Sleep(time.Minute)
		within(t, "probes in a minute", c.count()[at1], 5, 9)
	})
}

// A probe by the PROXY protocol sends a header with the gate's own address.
func TestProbeSendsProxyHeader(t *testing.T) {
	node := startNode(t, "tcp", polite)
	tab := table(t, Options{Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: wsURL(node)}}, ProxyProtocol: "v1"}}})
	n := tab.routes.Load().groups[0].nodes[0]
	n.group.health.Timeout = 5 * time.Second
	if err := n.probe(context.Background(), n.endpoints()[0].address); err != nil {
		t.Fatal(err)
	}
	if got := node.head(t); !strings.HasPrefix(got, "PROXY TCP4 127.0.0.1 127.0.0.1 ") {
		t.Errorf("the node read %q; want a PROXY header first", got)
	}
}

// after101 sends raw frames after its 101 and then reads.
func after101(raw string) peer {
	return func(c net.Conn, br *bufio.Reader, head string) {
		gone := make(chan struct{})
		go func() { io.Copy(io.Discard, br); close(gone) }()
		io.WriteString(c, good(head)+raw)
		<-gone
	}
}

// A panic in a probe is a failure of that probe.
func TestProbePanics(t *testing.T) {
	failed, err := TryNodes(t.Context(), Options{
		Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:1/"}}}},
		Dial:      func(context.Context, string, string) (net.Conn, error) { panic("test") },
		Log:       slog.New(slog.DiscardHandler),
	}, time.Minute)
	if err != nil || len(failed) != 1 || !strings.Contains(failed[0].Err.Error(), "probe: test") {
		t.Errorf("TryNodes = %v, %v; want one failure with the panic", failed, err)
	}
}

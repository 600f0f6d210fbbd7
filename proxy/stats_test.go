package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

// eventually waits until holds returns true.
func (g *gate) eventually(what string, holds func(Counts) bool) Counts {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if c := g.Counts(); holds(c) {
			return c
		} else if time.Now().After(deadline) {
			g.t.Fatalf("%s: never; the counts are %+v", what, c)
		}
	}
}

func handshakesOf(c Counts, result, version string) int64 {
	i := slices.IndexFunc(c.Handshakes, func(h HandshakeCount) bool { return h.Result == result && h.Version == version })
	if i < 0 {
		return -1
	}
	return c.Handshakes[i].N
}

// A tunnel's traffic is counted while it is open, not only at its end.
func TestCountsOfATunnel(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	c := g.dial()
	const frames, size = 5, 1000
	for range frames {
		if err := c.WriteFrame(ws.NewTextFrame(make([]byte, size))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(); err != nil {
			t.Fatal(err)
		}
	}
	const header, mask = 4, 4
	counts := g.eventually("5 frames each way", func(c Counts) bool { return c.FramesIn == frames && c.FramesOut == frames })
	if counts.BytesIn != frames*(header+mask+size) || counts.BytesOut != frames*(header+size) {
		t.Errorf("bytes in, out = %d, %d; want %d, %d", counts.BytesIn, counts.BytesOut, frames*(header+mask+size), frames*(header+size))
	}
	counts = g.eventually("a tunnel", func(c Counts) bool { return len(c.Vhosts) == 1 && c.Vhosts[0].Opened == 1 })
	if v := counts.Vhosts[0]; v.Name != "*" || v.Open != 1 {
		t.Errorf("vhost = %+v; want * with one open tunnel", v)
	}
	if len(counts.Dials) != 1 || counts.Dials[0].Upstream != "test" || total(counts.Dials[0].Took) != 1 || counts.Dials[0].Took.Sum <= 0 {
		t.Errorf("dials = %+v; want one", counts.Dials)
	}
	if n := handshakesOf(counts, "full", "1.3"); n != 1 || counts.Connections != 1 || counts.Accepted != 1 {
		t.Errorf("full handshakes, connections, accepted = %d, %d, %d; want 1 each", n, counts.Connections, counts.Accepted)
	}
	if total(counts.Lag) == 0 || counts.Lag.Sum <= 0 {
		t.Errorf("lag of the event loop = %+v; want some", counts.Lag)
	}
	c.Abort()
	counts = g.eventually("the tunnel's end", func(c Counts) bool { return c.Vhosts[0].Open == 0 && c.Connections == 0 })
	if counts.Closed["client_gone"] != 1 || counts.FramesIn != frames {
		t.Errorf("closed %v, %d frames in; want one client_gone, %d", counts.Closed, counts.FramesIn, frames)
	}
}

func total(d Durations) (n uint64) {
	for _, c := range d.Counts {
		n += c
	}
	return n
}

// Each result of a handshake is counted.
func TestCountsOfHandshakes(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	var conf Configuration
	g := newGate(t, up.URL(), func(o *Options) { conf = o.Configuration })
	dial := func(send []byte) {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(send)
		conn.SetReadDeadline(time.Now().Add(patience))
		for b := make([]byte, 512); err == nil; {
			_, err = conn.Read(b)
		}
	}
	shake := func(cfg *tls.Config) {
		cfg.RootCAs = g.ca.Pool()
		conn, err := tls.Dial("tcp", g.addr, cfg)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Write([]byte("GET / HTTP/1.1\r\nHost: " + testName + "\r\n\r\n"))
		conn.Read(make([]byte, 1)) // also reads the session ticket
	}
	cache := tls.NewLRUClientSessionCache(1)
	for _, test := range []struct {
		result, version string
		do              func()
	}{
		{"silent", "", func() { dial(nil) }},
		{"silent", "", func() { // like a balancer's TCP check
			conn, err := net.Dial("tcp", g.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}},
		{"timeout", "", func() { dial([]byte{22, 3, 1}) }},
		{"failed", "", func() { dial([]byte("GET / HTTP/1.1\r\n\r\n")) }},
		{"unknown_name", "", func() { shake(&tls.Config{ServerName: "other.test"}) }},
		{"full", "1.2", func() { shake(&tls.Config{ServerName: testName, MaxVersion: tls.VersionTLS12}) }},
		{"full", "1.3", func() { shake(&tls.Config{ServerName: testName, ClientSessionCache: cache}) }},
		{"resumed", "1.3", func() { shake(&tls.Config{ServerName: testName, ClientSessionCache: cache}) }},
	} {
		for timeout := 50 * time.Millisecond; ; timeout *= 2 {
			before := g.Counts()
			if conf.Settings.HandshakeTimeout = time.Minute; test.result == "silent" || test.result == "timeout" {
				conf.Settings.HandshakeTimeout = timeout
			}
			g.Configure(conf)
			test.do()
			after := g.eventually(test.result, func(c Counts) bool { return !slices.Equal(c.Handshakes, before.Handshakes) })
			grew := func(result, version string) bool {
				return handshakesOf(after, result, version) != handshakesOf(before, result, version)
			}
			if test.result == "timeout" && grew("silent", "") {
				continue // the timeout was over before the first byte came
			}
			for _, h := range after.Handshakes {
				if grew(h.Result, h.Version) != (h.Result == test.result && h.Version == test.version) {
					t.Errorf("%s %s: %s %s counted: %t", test.result, test.version, h.Result, h.Version, grew(h.Result, h.Version))
				}
			}
			break
		}
	}
}

// A connection over a limit is counted under that limit, a refused request
// under its status.
func TestCountsOfRefusals(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL(), func(o *Options) { o.Settings.PerClient = 1 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	target := g.target()
	target.Subprotocols = []string{"mqtt"}
	if _, err := chat.Dial(ctx, target); err == nil {
		t.Fatal("a client without the subprotocol xmpp got in")
	}
	counts := g.eventually("no connection", func(c Counts) bool { return c.Connections == 0 })
	if counts.Refusals[400] != 1 || len(counts.Refusals) != 1 {
		t.Errorf("refusals = %v; want one 400", counts.Refusals)
	}
	g.dial()
	if _, err := chat.Dial(ctx, g.target()); err == nil {
		t.Fatal("a second connection of one client got in")
	}
	if counts = g.Counts(); counts.Refused["per_client"] != 1 || counts.Refused["connections"] != 0 {
		t.Errorf("refused = %v; want one for per_client", counts.Refused)
	}
}

// A duration falls into the first bucket whose bound it does not exceed.
func TestHistogram(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, 10 * time.Second, time.Hour} {
		h.add(d)
	}
	got := h.durations()
	last := len(got.Counts) - 1
	if got.Counts[0] != 2 || got.Counts[1] != 1 || got.Counts[last-1] != 1 || got.Counts[last] != 1 || total(got) != 5 {
		t.Errorf("counts = %v", got.Counts)
	}
	if want := time.Hour + 10*time.Second + 201*time.Microsecond; got.Sum != want {
		t.Errorf("sum = %v; want %v", got.Sum, want)
	}
}

// docs/reference.md explains every word in metrics and the log for the end of a tunnel,
// a handshake or a connection.
func TestWordsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for why := reasonNone + 1; why < reasonCount; why++ {
		words = append(words, "`"+why.String()+"`")
	}
	for _, k := range handshakeKinds {
		words = append(words, "`"+k.result+"`")
	}
	words = append(words, limitNames[:]...)
	for _, word := range words {
		if !strings.Contains(string(doc), word) {
			t.Errorf("docs/reference.md does not explain %s", word)
		}
	}
}

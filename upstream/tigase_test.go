package upstream

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

func tigase(t *testing.T, edit func(*chat.Config)) *chat.Server {
	t.Helper()
	cfg := chat.Config{Domains: []string{"example1.com"}, Habits: chat.Tigase()}
	if edit != nil {
		edit(&cfg)
	}
	s, err := chat.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Tigase accepts our request, with each PROXY header, and uses its address; the
// stream's open is answered on the conn that Dial returns.
func TestDialTigase(t *testing.T) {
	for version, proxy := range map[string]string{
		"": "", "v1": "PROXY TCP4 192.0.2.7 198.51.100.1 51812 5291", "v2": "v2 192.0.2.7:51812 198.51.100.1:5291",
	} {
		s := tigase(t, nil)
		c := dialOK(t, one(t, GroupOptions{ProxyProtocol: version}, s.URL()))
		if got := s.Last(); got.Proxy != proxy || got.Host != "example1.com" || got.Subprotocol != "xmpp" || got.ForwardedFor != "192.0.2.7" {
			t.Errorf("%q: the node saw PROXY %q, Host %q, subprotocol %q, X-Forwarded-For %q", version, got.Proxy, got.Host, got.Subprotocol, got.ForwardedFor)
		}
		p := &prober{ctx: t.Context(), conn: c.Conn, frames: framesOf(c)}
		c.Conn.SetDeadline(time.Now().Add(time.Minute))
		if err := p.wantFeatures("example1.com"); err != nil {
			t.Errorf("%q: %v", version, err)
		}
	}
}

// Each failure has its status and a text that identifies it.
func TestDialRudeTigase(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*chat.Config)
		sub    string
		status int
		want   string
	}{
		"framing subprotocol": {nil, "xmpp-framing", 0, ""},
		"400":                 {nil, "mqtt", 502, "answered 400 Bad request to the opening handshake, want 101"},
		"no subprotocol":      {func(c *chat.Config) { c.NoSubprotocol = true }, "xmpp", 502, `answered 101 without a subprotocol, want "xmpp"`},
		"garbage":             {rude(chat.Garbage, chat.FIN), "xmpp", 502, "want HTTP/1.1"},
		"half a 101":          {rude(chat.HalfUpgrade, chat.FIN), "xmpp", 502, "unexpected EOF"},
		"reset":               {rude(nil, chat.RST), "xmpp", 502, "connection reset by peer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := tigase(t, c.edit)
			r := *request
			r.Subprotocol = c.sub
			conn, err := one(t, GroupOptions{}, s.URL()).Dial(t.Context(), &r)
			switch d, _ := err.(*DialError); {
			case err == nil:
				conn.Conn.Close()
				conn.Release()
				if c.want != "" {
					t.Errorf("dialled; want %d %q", c.status, c.want)
				}
			case d == nil || d.Status != c.status || c.want == "" || !strings.Contains(d.Error(), c.want):
				t.Errorf("%v; want %d %q", err, c.status, c.want)
			}
		})
	}
}

func rude(b []byte, then chat.Ending) func(*chat.Config) {
	return func(c *chat.Config) { c.Rude = chat.Outburst{When: chat.AtRequest, Bytes: b, Then: then} }
}

// A frame in the same write as the 101 belongs to the tunnel.
func TestDialTigaseInAHurry(t *testing.T) {
	hello := ws.MustCompileFrame(ws.NewTextFrame([]byte("hello")))
	s := tigase(t, func(c *chat.Config) {
		c.Rude = chat.Outburst{When: chat.WithUpgrade, Bytes: hello, Then: chat.GoOn}
	})
	c := dialOK(t, one(t, GroupOptions{}, s.URL()))
	if string(c.Rest) != string(hello) {
		t.Errorf("rest %q; want %q", c.Rest, hello)
	}
}

// Probes of Tigase leave no connections behind, although it never closes them by
// itself; an unknown domain makes them fail with a clear error.
func TestProbeTigase(t *testing.T) {
	for domain, want := range map[string]string{"example1.com": "", "example9.com": `stream to "example9.com": host-unknown`} {
		s := tigase(t, nil)
		tab := table(t, Options{Upstreams: []GroupOptions{{
			Name: "a", Nodes: []NodeOptions{{URL: s.URL()}},
			Health: HealthOptions{Interval: 20 * time.Millisecond, Timeout: 5 * time.Second, Domain: domain},
		}}})
		if err := s.WaitSeen(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		tab.Close()
		if err := s.WaitOpen(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		n := tab.Status()[0].Nodes[0]
		if (n.State == StateUp) != (want == "") || !strings.Contains(n.Addresses[0].LastError, want) {
			t.Errorf("%s: %q, %q; want %q", domain, n.State, n.Addresses[0].LastError, want)
		}
	}
}

func framesOf(c *Conn) *bufio.Reader {
	return bufio.NewReader(io.MultiReader(bytes.NewReader(c.Rest), c.Conn))
}

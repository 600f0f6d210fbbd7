package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

// opened logs clients in and returns their gate, whose tunnels the test may list.
func opened(t *testing.T, n int) *gate {
	t.Helper()
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	for range n {
		c, err := chat.Login(t.Context(), g.target())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Abort() })
	}
	return g
}

func idsOf(list []Tunnel) (ids []string) {
	for _, t := range list {
		ids = append(ids, t.ID)
	}
	return ids
}

// The pages of a listing together have all tunnels, each once, in the order in which
// they opened.
func TestTunnelsInParts(t *testing.T) {
	g := opened(t, 5)
	all := g.Tunnels(TunnelQuery{Limit: 10})
	if all.Open != 5 || all.Matched != 5 || len(all.Tunnels) != 5 || all.Next != "" {
		t.Fatalf("%d open, %d matched, %d listed, next %q; want 5, 5, 5 and none", all.Open, all.Matched, len(all.Tunnels), all.Next)
	}
	want := idsOf(all.Tunnels)
	if !slices.IsSorted(want) || len(want[0]) != 8 {
		t.Errorf("IDs %q; want eight characters each, in order", want)
	}
	var got []string
	for q := (TunnelQuery{Limit: 2}); ; {
		list := g.Tunnels(q)
		if len(list.Tunnels) > 2 || list.Matched != 5 {
			t.Fatalf("a part has %d tunnels of %d; want at most 2 of 5", len(list.Tunnels), list.Matched)
		}
		got = append(got, idsOf(list.Tunnels)...)
		if q.After = list.Next; q.After == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("in parts: %q; want %q", got, want)
	}
	if one := all.Tunnels[0]; one.Vhost != testName && one.Vhost != "*" || one.Domain != testName || one.Upstream != "test" || one.Node != "n1" ||
		one.Client.Addr() != netip.MustParseAddr("127.0.0.1") || one.BytesIn == 0 || one.BytesOut == 0 || one.FramesIn == 0 || one.Closing != "" {
		t.Errorf("a tunnel is %+v", one)
	}
}

// Each filter selects as documented, and several together select fewer.
func TestTunnelFilters(t *testing.T) {
	g := opened(t, 3)
	all := g.Tunnels(TunnelQuery{Limit: 10}).Tunnels
	for _, test := range []struct {
		name string
		f    TunnelFilter
		want int
	}{
		{"ID", TunnelFilter{ID: all[1].ID}, 1},
		{"another ID", TunnelFilter{ID: "zzzzzzzz"}, 0},
		{"network", TunnelFilter{Client: netip.MustParsePrefix("127.0.0.0/8")}, 3},
		{"another network", TunnelFilter{Client: netip.MustParsePrefix("192.0.2.0/24")}, 0},
		{"vhost", TunnelFilter{Vhost: all[0].Vhost}, 3},
		{"another vhost", TunnelFilter{Vhost: "other.test"}, 0},
		{"upstream", TunnelFilter{Upstream: "test"}, 3},
		{"node", TunnelFilter{Upstream: "test", Node: "n1"}, 3},
		{"another node", TunnelFilter{Upstream: "test", Node: "n2"}, 0},
		{"domain", TunnelFilter{Domain: testName}, 3},
		{"another domain", TunnelFilter{Domain: "other.test"}, 0},
		{"older", TunnelFilter{Older: time.Hour}, 0},
		{"younger", TunnelFilter{Younger: time.Hour}, 3},
		{"bytes", TunnelFilter{Bytes: 1}, 3},
		{"many bytes", TunnelFilter{Bytes: 1 << 40}, 0},
		{"two", TunnelFilter{ID: all[1].ID, Domain: "other.test"}, 0},
	} {
		if list := g.Tunnels(TunnelQuery{TunnelFilter: test.f, Limit: 10}); list.Matched != test.want || len(list.Tunnels) != test.want || list.Open != 3 {
			t.Errorf("%s: %d matched, %d listed, %d open; want %d, %[5]d, 3", test.name, list.Matched, len(list.Tunnels), list.Open, test.want)
		}
	}
}

// Tunnels and clients with the most bytes come first.
func TestBusiest(t *testing.T) {
	g := opened(t, 4)
	list := g.Tunnels(TunnelQuery{Limit: 2, Busiest: true})
	if len(list.Tunnels) != 2 || list.Next != "" || list.Tunnels[0].Bytes() < list.Tunnels[1].Bytes() {
		t.Errorf("the busiest are %+v", list)
	}
	total, clients := g.Clients(10)
	if total != 1 || len(clients) != 1 || clients[0].Client != "127.0.0.1" || clients[0].Tunnels != 4 || clients[0].Bytes() == 0 {
		t.Errorf("%d clients: %+v; want one with 4 tunnels", total, clients)
	}
}

// The operator closes one tunnel and no other; its client learns the reason.
func TestCloseTunnels(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	var clients []*chat.Client
	for range 2 {
		c := g.dial()
		clients = append(clients, c)
		// A 101 may arrive before its tunnel exists, and the second one before the
		// first.
		if err := c.WriteFrame(ws.NewTextFrame([]byte("hello"))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(); err != nil {
			t.Fatal(err)
		}
	}
	first, second := clients[0], clients[1]
	all := g.Tunnels(TunnelQuery{Limit: 10}).Tunnels
	if len(all) != 2 {
		t.Fatalf("%d tunnels; want 2", len(all))
	}
	if n := g.CloseTunnels(TunnelFilter{ID: all[0].ID}); n != 1 {
		t.Errorf("closed %d; want 1", n)
	}
	if n := g.CloseTunnels(TunnelFilter{ID: all[0].ID}); n != 1 {
		t.Errorf("closed %d once more; want 1: it is closing, and not over", n)
	}
	if code := closeCodeOf(t, first); code != codePolicy {
		t.Errorf("the client got %d; want 1008", code)
	}
	if n := g.CloseTunnels(TunnelFilter{Client: netip.MustParsePrefix("127.0.0.1/32")}); n != 2 {
		t.Errorf("closed %d of the client; want the one that is left, and the one whose client does not answer", n)
	}
	if code := closeCodeOf(t, second); code != codePolicy {
		t.Errorf("the client got %d; want 1008", code)
	}
}

// A tunnel that is closing counts too, and loses additional time that a drain gave it;
// but a close does not give it more time either.
func TestCloseOfClosing(t *testing.T) {
	for name, test := range map[string]struct{ patience, want time.Duration }{
		"a drain with patience": {time.Hour, closeTimeout},
		"one that ends sooner":  {time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTunnelRig(t, nil)
			d.end(d.w, reasonDrain, d.w.now+test.patience)
			d.end(d.w, reasonOperator, d.w.now+closeTimeout)
			if d.why != reasonDrain || d.closeBy != d.w.now+test.want || d.due != d.closeBy {
				t.Errorf("%v, closed by %v and due %v; want drain and %v", d.why, d.closeBy-d.w.now, d.due-d.w.now, test.want)
			}
		})
	}
}

// closeCodeOf reads until the Close frame.
func closeCodeOf(t *testing.T, c *chat.Client) uint16 {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header.OpCode == ws.OpClose {
			code, _ := ws.ParseCloseFrameData(f.Payload)
			return uint16(code)
		}
	}
}

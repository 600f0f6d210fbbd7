package gate

import (
	"log/slog"
	"net"
	"slices"
	"testing"

	"wssgate/config"
	"wssgate/upstream"
)

// addrListener is a listener that has only an address.
type addrListener struct {
	net.Listener
	addr net.Addr
}

func (l addrListener) Addr() net.Addr { return l.addr }

// URLs contain port 443 if a listener has it, and otherwise the port of the
// first listener.
func TestPublicPort(t *testing.T) {
	open := map[string]net.Listener{
		"unix:/s": addrListener{addr: &net.UnixAddr{Name: "/s"}},
		":0":      addrListener{addr: &net.TCPAddr{Port: 40000}},
		":5291":   addrListener{addr: &net.TCPAddr{Port: 5291}},
	}
	opened := map[string]net.Listener{":443": addrListener{addr: &net.TCPAddr{Port: 443}}}
	for _, tt := range []struct {
		addrs []string
		want  int
	}{
		{[]string{":5291"}, 5291},
		{[]string{":0", ":5291"}, 40000},
		{[]string{"unix:/s", ":5291", ":0"}, 5291},
		{[]string{":5291", ":443"}, 443},
		{[]string{":443", ":5291"}, 443},
		{[]string{"unix:/s"}, 0},
		{[]string{":9999"}, 9999}, // not open yet
	} {
		if got := publicPort(tt.addrs, open, opened); got != tt.want {
			t.Errorf("publicPort(%q) = %d; want %d", tt.addrs, got, tt.want)
		}
	}
}

// Discovery announces the URL in the file, then the nodes that accept new
// streams. Without URLs, clients use the gate. Nodes that an operator drains
// are left out, too.
func TestPublicURLs(t *testing.T) {
	cfg := &config.Config{Vhost: []*config.Vhost{
		{Names: []string{"nodes.test"}, Upstream: "cluster"},
		{Names: []string{"*.pinned.test"}, Upstream: "cluster", Node: "t2"},
		{Names: []string{"no-url.test"}, Upstream: "cluster", Node: "t4"},
		{Names: []string{"own.test"}, Upstream: "cluster", PublicURL: "wss://example.com/"},
		{Names: []string{"to.test"}, Upstream: "cluster", Route: "to"},
		{Names: []string{"alone.test"}, Upstream: "alone"},
		{Names: []string{"t2.test"}, Upstream: "cluster", Node: "t2", Fallback: true},
	}, Upstream: map[string]*config.Upstream{
		"cluster": {Nodes: []*config.Node{
			{Name: "t1", URL: "ws://127.0.0.1:1/", PublicURL: "wss://t1.example.com/"},
			{Name: "t2", URL: "ws://127.0.0.1:2/", PublicURL: "wss://t2.example.com/"},
			{Name: "t3", URL: "ws://127.0.0.1:3/", PublicURL: "wss://t3.example.com/", Drain: true},
			{Name: "t4", URL: "ws://127.0.0.1:4/"},
		}},
		"alone": {Nodes: []*config.Node{{Name: "a", URL: "ws://127.0.0.1:5/"}}},
	}}
	options, err := cfg.UpstreamOptions(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	table, err := upstream.New(options)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	g := &gate{upstreams: table}
	o, err := g.webOptions(cfg, table.Routes(), 0)
	if err != nil {
		t.Fatal(err)
	}
	wants := func(when string, want ...[]string) {
		t.Helper()
		for i, v := range o.Vhosts {
			var got []string
			if v.WebSocket != nil {
				var all bool
				if got, all = v.WebSocket(); all && len(got) == 0 {
					got = []string{"503"}
				}
			}
			if !slices.Equal(got, want[i]) {
				t.Errorf("%s, %s: %q; want %q", when, v.Names, got, want[i])
			}
		}
	}
	t1, t2, own := "wss://t1.example.com/", "wss://t2.example.com/", []string{"wss://example.com/"}
	wants("by the file", []string{t1, t2}, []string{t2}, nil, own, nil, nil, []string{t2})
	table.Drain("cluster", "t2", true)
	wants("t2 drained", []string{t1}, []string{"503"}, nil, own, nil, nil, nil)
	table.Drain("cluster", "t2", false)
	wants("t2 back", []string{t1, t2}, []string{t2}, nil, own, nil, nil, []string{t2})
	table.Drain("alone", "a", true)
	wants("a drained", []string{t1, t2}, []string{t2}, nil, own, nil, []string{"503"}, []string{t2})
}

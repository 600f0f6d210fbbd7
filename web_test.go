package main

import (
	"net"
	"slices"
	"testing"
)

// addrListener is a listener of which only the address is known.
type addrListener struct {
	net.Listener
	addr net.Addr
}

func (l addrListener) Addr() net.Addr { return l.addr }

// URLs name the listener at 443 where there is one, and else the first.
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
		{[]string{":9999"}, 0}, // not open
	} {
		if got := publicPort(tt.addrs, open, opened); got != tt.want {
			t.Errorf("publicPort(%q) = %d; want %d", tt.addrs, got, tt.want)
		}
	}
}

// Discovery names what the file says, then the nodes that take new streams;
// nothing means the gate itself.
func TestPublicURLs(t *testing.T) {
	cfg := &Config{Upstream: map[string]*Upstream{
		"cluster": {Nodes: []*Node{
			{Name: "t1", PublicURL: "wss://t1.example.com/"},
			{Name: "t2", PublicURL: "wss://t2.example.com/"},
			{Name: "t3", PublicURL: "wss://t3.example.com/", Drain: true},
			{Name: "t4"},
		}},
		"alone": {Nodes: []*Node{{Name: "a"}}},
	}}
	for _, tt := range []struct {
		what  string
		vhost Vhost
		want  []string
	}{
		{"nodes", Vhost{Upstream: "cluster"}, []string{"wss://t1.example.com/", "wss://t2.example.com/"}},
		{"a pinned node", Vhost{Upstream: "cluster", Node: "t2"}, []string{"wss://t2.example.com/"}},
		{"a pinned node without a URL", Vhost{Upstream: "cluster", Node: "t4"}, nil},
		{"the vhost's own", Vhost{Upstream: "cluster", PublicURL: "wss://example.com/"}, []string{"wss://example.com/"}},
		{"several upstreams", Vhost{Upstream: "cluster", Route: "to"}, nil},
		{"no public URLs", Vhost{Upstream: "alone"}, nil},
	} {
		if got := cfg.publicURLs(&tt.vhost); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q; want %q", tt.what, got, tt.want)
		}
	}
}

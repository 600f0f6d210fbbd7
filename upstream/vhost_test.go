package upstream

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLookup(t *testing.T) {
	tab := table(t, Options{
		Upstreams: []GroupOptions{
			{Name: "a", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:1/"}}},
			{Name: "b", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:2/"}}},
		},
		Vhosts: []VhostOptions{
			{Names: []string{"example1.com", "*.example1.com"}, Upstream: "a"},
			{Names: []string{"t2.example1.com"}, Upstream: "b"},
			{Names: []string{"xn--bcher-kva.example", "my_host.local", "-a.ab--c.example"}, Upstream: "b"},
		},
	})
	for _, c := range []struct{ name, vhost, upstream string }{
		{"example1.com", "example1.com", "a"},
		{"EXAMPLE1.com.", "example1.com", "a"},
		{"www.example1.com", "*.example1.com", "a"},
		{"t2.example1.com", "t2.example1.com", "b"}, // exact before wildcard
		{"a.b.example1.com", "", ""},                // one label only
		{".example1.com", "", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", "b"},
		{"my_host.local", "my_host.local", "b"},
		{"-a.ab--c.example", "-a.ab--c.example", "b"}, // invalid in DNS, but a certificate may have it
		{"example2.com", "", ""},
		{"", "", ""},
		{"com", "", ""},
	} {
		v, err := tab.Routes().Lookup(c.name)
		switch {
		case c.vhost == "":
			if !errors.Is(err, ErrNoRoute) || v != nil {
				t.Errorf("Lookup(%q) = %v, %v; want ErrNoRoute", c.name, v, err)
			}
		case err != nil:
			t.Errorf("Lookup(%q): %v", c.name, err)
		case v.Name() != c.vhost || v.Upstream() != c.upstream:
			t.Errorf("Lookup(%q) = %q of %q; want %q of %q", c.name, v.Name(), v.Upstream(), c.vhost, c.upstream)
		}
	}
}

// Without a vhost every name, and a missing one, leads to the only upstream.
func TestLookupWithoutVhosts(t *testing.T) {
	tab := table(t, Options{Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:1/"}}}}})
	for _, name := range []string{"example1.com", "", "what.ever"} {
		if v, err := tab.Routes().Lookup(name); err != nil || v.Name() != "*" || v.Upstream() != "a" {
			t.Errorf("Lookup(%q) = %v, %v; want * of a", name, v, err)
		}
	}
}

func TestVhostAllows(t *testing.T) {
	v, err := table(t, Options{
		Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:1/"}}}},
		Vhosts: []VhostOptions{{
			Names: []string{"example1.com"}, Path: "/ws",
			Origins: []string{"https://chat.example1.com", "https://*.example2.com:8443", "http://localhost:80", "null"},
			Domains: []string{"example1.com", "*.example2.com", "[::1]"},
		}},
	}).Routes().Lookup("example1.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, value string
		err, want   error
	}{
		{"path", "/ws", v.AllowsPath("/ws"), nil},
		{"path", "/ws/", v.AllowsPath("/ws/"), ErrPath},
		{"path", "/", v.AllowsPath("/"), ErrPath},
		{"origin", "", v.AllowsOrigin(""), nil},
		{"origin", "https://chat.example1.com", v.AllowsOrigin("https://chat.example1.com"), nil},
		{"origin", "https://chat.example1.com:443", v.AllowsOrigin("https://chat.example1.com:443"), nil},
		{"origin", "HTTPS://CHAT.example1.com", v.AllowsOrigin("HTTPS://CHAT.example1.com"), nil},
		{"origin", "http://chat.example1.com", v.AllowsOrigin("http://chat.example1.com"), ErrOrigin},
		{"origin", "https://chat.example1.com.evil.example", v.AllowsOrigin("https://chat.example1.com.evil.example"), ErrOrigin},
		{"origin", "https://evil.example/#https://chat.example1.com", v.AllowsOrigin("https://evil.example/#https://chat.example1.com"), ErrOrigin},
		{"origin", "https://chat.example1.com@evil.example", v.AllowsOrigin("https://chat.example1.com@evil.example"), ErrOrigin},
		{"origin", "https://user@chat.example1.com", v.AllowsOrigin("https://user@chat.example1.com"), ErrOrigin},
		{"origin", "https://a.example2.com:8443", v.AllowsOrigin("https://a.example2.com:8443"), nil},
		{"origin", "https://example2.com:8443", v.AllowsOrigin("https://example2.com:8443"), ErrOrigin},
		{"origin", "https://a.b.example2.com:8443", v.AllowsOrigin("https://a.b.example2.com:8443"), ErrOrigin},
		{"origin", "https://a.example2.com", v.AllowsOrigin("https://a.example2.com"), ErrOrigin},
		{"origin", "http://localhost", v.AllowsOrigin("http://localhost"), nil},
		{"origin", "null", v.AllowsOrigin("null"), nil},
		{"origin", "garbage", v.AllowsOrigin("garbage"), ErrOrigin},
		{"domain", "example1.com", v.AllowsDomain("example1.com"), nil},
		{"domain", "[::1]", v.AllowsDomain("[::1]"), nil},
		{"domain", "example2.com", v.AllowsDomain("example2.com"), ErrDomain},
		{"domain", "muc.example2.com", v.AllowsDomain("muc.example2.com"), nil},
		{"domain", "a.b.example2.com", v.AllowsDomain("a.b.example2.com"), ErrDomain},
		{"domain", "", v.AllowsDomain(""), ErrDomain},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s %q: %v; want %v", c.what, c.value, c.err, c.want)
		}
	}
	if !v.ReadsTo() || v.RoutesTo() || v.Redirects() != "follow" {
		t.Errorf("ReadsTo %t, RoutesTo %t, Redirects %q; want true, false, follow", v.ReadsTo(), v.RoutesTo(), v.Redirects())
	}
	open := one(t, GroupOptions{}, "ws://127.0.0.1:1/")
	if open.ReadsTo() {
		t.Error("a vhost without rules reads `to`")
	}
	if err := errors.Join(open.AllowsPath("/x"), open.AllowsOrigin("https://x.example"), open.AllowsDomain("x")); err != nil {
		t.Errorf("a vhost without rules: %v", err)
	}
}

// The domain in `to` may choose the upstream; a pinned node belongs to the vhost's own
// upstream.
func TestVhostForDomain(t *testing.T) {
	v, err := table(t, Options{
		Upstreams: []GroupOptions{
			{Name: "a", Nodes: []NodeOptions{{Name: "t1", URL: "ws://127.0.0.1:1/"}}},
			{Name: "b", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:2/"}}, Redirects: "off"},
		},
		Vhosts: []VhostOptions{{
			Names: []string{"gate.example"}, Upstream: "a", Node: "t1", RouteTo: true,
			ByDomain: map[string]string{"example2.com": "b"},
		}},
	}).Routes().Lookup("gate.example")
	if err != nil {
		t.Fatal(err)
	}
	if !v.ReadsTo() || !v.RoutesTo() {
		t.Error("a vhost that routes by `to` does not read it")
	}
	for _, c := range []struct{ domain, upstream, node, redirects string }{
		{"example2.com", "b", "", "off"},
		{"example1.com", "a", "t1", "follow"},
		{"a b", "a", "t1", "follow"},
		{"", "a", "t1", "follow"},
	} {
		if got := v.ForDomain(c.domain); got.Upstream() != c.upstream || got.node != c.node || got.Redirects() != c.redirects || got.Name() != "gate.example" {
			t.Errorf("ForDomain(%q): upstream %q, node %q, redirects %q; want %q, %q, %q", c.domain, got.Upstream(), got.node, got.Redirects(), c.upstream, c.node, c.redirects)
		}
	}
}

// All mistakes are reported at once, in the terms of the configuration.
func TestOptionsMistakes(t *testing.T) {
	node := []NodeOptions{{URL: "ws://127.0.0.1:5290/"}}
	group := func(edit func(*GroupOptions)) Options {
		g := GroupOptions{Name: "tigase", Nodes: slices.Clone(node)}
		edit(&g)
		return Options{Upstreams: []GroupOptions{g}}
	}
	url := func(s string) Options {
		return group(func(g *GroupOptions) { g.Nodes = []NodeOptions{{Name: "t1", URL: s}} })
	}
	vhost := func(v VhostOptions) Options {
		return Options{Upstreams: []GroupOptions{{Name: "tigase", Nodes: node}, {Name: "other", Nodes: node}}, Vhosts: []VhostOptions{v}}
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "upstream: at least one is required"},
		{Options{Upstreams: []GroupOptions{{Name: "a", Nodes: node}, {Name: "a", Nodes: node}}, Vhosts: []VhostOptions{{Names: []string{"x"}, Upstream: "a"}}}, `upstream "a": configured twice`},
		{Options{Upstreams: []GroupOptions{{Name: "a", Nodes: node}, {Name: "b", Nodes: node}}}, "vhost: required if there are several upstreams (2)"},
		{group(func(g *GroupOptions) { g.Name = "" }), "upstream: one has no name"},
		{group(func(g *GroupOptions) { g.Nodes = nil }), `upstream "tigase": no nodes`},
		{group(func(g *GroupOptions) { g.Balance = "roundrobin" }), `upstream "tigase": balance: "roundrobin" is not known`},
		{group(func(g *GroupOptions) { g.ProxyProtocol = "v3" }), `upstream "tigase": proxy_protocol: "v3" is not known`},
		{group(func(g *GroupOptions) { g.Host = "x" }), `upstream "tigase": host: "x" is not known`},
		{group(func(g *GroupOptions) { g.Redirects = "x" }), `upstream "tigase": redirects: "x" is not known`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", ByDomain: map[string]string{"b": "tigase"}}), `vhost "a": by_domain without route = "to"`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", RouteTo: true, ByDomain: map[string]string{"b": "x"}}), `vhost "a": by_domain: upstream "x" is not configured`},
		{group(func(g *GroupOptions) { g.DialTimeout = -1 }), `upstream "tigase": dial_timeout: -1ns is too short`},
		{group(func(g *GroupOptions) { g.Health.Interval = time.Millisecond }), `upstream "tigase": health.interval: 1ms is too short`},
		{group(func(g *GroupOptions) { g.Health.Path = "ws" }), `upstream "tigase": health.path: "ws" does not begin with a slash`},
		{group(func(g *GroupOptions) { g.Nodes = append(g.Nodes, g.Nodes...) }), `upstream "tigase": node "127.0.0.1:5290": configured twice`},
		{group(func(g *GroupOptions) { g.Nodes[0].Weight = -1 }), `upstream "tigase": node "127.0.0.1:5290": weight: -1 is not between 1 and 1000`},
		{group(func(g *GroupOptions) { g.Nodes[0].ConnectRate = -1 }), `a limit is negative`},
		{group(func(g *GroupOptions) { g.Nodes[0].PublicURL = "https://x/" }), `public_url: "https://x/": scheme "https" is not wss`},
		{group(func(g *GroupOptions) { g.Nodes[0].PublicURL = "wss://x/'><" }), `public_url: "wss://x/'><": has a quote`},
		{group(func(g *GroupOptions) { g.Nodes[0].PublicURL = "wss:///" }), `public_url: "wss:///": has no host`},
		{url("http://127.0.0.1:5290/"), `upstream "tigase": node "t1": url: scheme "http" is not ws`},
		{url("127.0.0.1:5290"), `upstream "tigase": node "t1": url: `},
		{url(""), `upstream "tigase": node "t1": url: a URL is required`},
		{url("ws:127.0.0.1"), `no "//" after`},
		{url("ws://"), "has no host"},
		{url("ws://a:0/"), `port "0" is not 1 to 65535`},
		{url("ws://a:65536/"), `port "65536" is not 1 to 65535`},
		{url("ws://user:secret@a/"), "has a user or password"},
		{group(func(g *GroupOptions) { g.Nodes[0].URL = "ws://user:secret@a/" }), `upstream "tigase": node 1: url: has a user or password`},
		{group(func(g *GroupOptions) { g.Nodes[0].URL = "ws://user:secret@a:b/" }), `upstream "tigase": node 1: url: invalid port`},
		{url("ws://a/#x"), "has a fragment"},
		{url("ws+unix://run/x"), `host "run" before the path`},
		{url("ws+unix:///"), "has no socket path"},
		{url("ws+unix:///run/x:ws"), `path "ws" does not begin with a slash`},
		{url("srv+ws+unix:///x"), "is not ws"},
		{url("srv+ws://example.com/"), "host is not of the form _xmpp-websocket._tcp.example1.com"},
		{url("srv+ws://_xmpp-websocket._tcp.example.com:5290/"), `has port "5290", but SRV records contain the port`},
		{vhost(VhostOptions{Upstream: "tigase"}), "vhost 1: no names"},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigsae"}), `vhost "a": upstream "tigsae" is not configured`},
		{vhost(VhostOptions{Names: []string{"a"}}), `vhost "a": upstream: required, because 2 are configured`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", Node: "t2"}), `vhost "a": node "t2" is not in upstream "tigase"`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", Fallback: true}), `vhost "a": fallback without a node`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", Path: "ws"}), `vhost "a": path: "ws" is not a path`},
		{vhost(VhostOptions{Names: []string{"a"}, Upstream: "tigase", Origins: []string{"chat.example"}}), `vhost "a": origins: "chat.example": has no scheme`},
		{vhost(VhostOptions{Names: []string{"a", "a"}, Upstream: "tigase"}), `vhost "a": name "a": another vhost has it`},
	} {
		tab, err := New(c.o)
		if err == nil {
			tab.Close()
			t.Errorf("no mistake found; want %q", c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("mistake %q; want %q", err, c.want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q has the password", err)
		}
		if _, ok := errors.AsType[*ConfigError](err); !ok {
			t.Errorf("%q is no ConfigError", err)
		}
	}

	two := group(func(g *GroupOptions) { g.Balance, g.Host = "x", "y" })
	if _, err := New(two); !strings.Contains(err.Error(), "balance") || !strings.Contains(err.Error(), "host") {
		t.Errorf("two mistakes: %v; want both", err)
	}
}

func TestLocation(t *testing.T) {
	for _, c := range []struct {
		url  string
		want NodeURL
	}{
		{"ws://T1.example", NodeURL{Host: "t1.example", port: 80, authority: "t1.example"}},
		{"wss://t1.example/ws?a=b", NodeURL{TLS: true, Host: "t1.example", port: 443, authority: "t1.example", uri: "/ws?a=b"}},
		{"ws://T1.Bücher.example.:5290", NodeURL{Host: "t1.xn--bcher-kva.example.", port: 5290, authority: "t1.xn--bcher-kva.example.:5290"}},
		{"srv+ws://_x._tcp.Bücher.example", NodeURL{SRV: true, Host: "_x._tcp.xn--bcher-kva.example", authority: "xn--bcher-kva.example"}},
		{"ws://[::1]:5290/", NodeURL{Host: "::1", port: 5290, authority: "[::1]:5290", uri: "/"}},
		{"ws+unix:///run/p.sock", NodeURL{Unix: "/run/p.sock", authority: "localhost"}},
		{"wss+unix:///run/p.sock:/ws?x", NodeURL{TLS: true, Unix: "/run/p.sock", authority: "localhost", uri: "/ws?x"}},
		{"srv+wss://_x._tcp.example.com/ws", NodeURL{TLS: true, SRV: true, Host: "_x._tcp.example.com", authority: "example.com", uri: "/ws"}},
	} {
		c.want.url = c.url
		if got, err := ParseNodeURL(c.url); err != nil || got != c.want {
			t.Errorf("ParseNodeURL(%q) = %+v, %v; want %+v", c.url, got, err, c.want)
		}
	}
}

// The certificate's name comes from the configuration, never from DNS.
func TestNodeTLS(t *testing.T) {
	base := &tls.Config{MinVersion: tls.VersionTLS13}
	for _, c := range []struct{ url, own, want string }{
		{"wss://t1.example/", "", "t1.example"},
		{"wss://t1.example/", "xmpp.example", "xmpp.example"},
		{"wss://[2001:db8::1]/", "", "2001:db8::1"},
		{"srv+wss://_x._tcp.example.com/", "", "example.com"},
		{"wss+unix:///run/x", "", "localhost"},
	} {
		base.ServerName = c.own
		got := nodeTLS(base, *mustLocation(t, c.url))
		if got.ServerName != c.want || got.MinVersion != tls.VersionTLS13 || base.ServerName != c.own {
			t.Errorf("%s: server name %q, minimum %x; want %q, TLS 1.3", c.url, got.ServerName, got.MinVersion, c.want)
		}
	}
	if got := nodeTLS(nil, *mustLocation(t, "wss://a/")); got.MinVersion != tls.VersionTLS12 || got.InsecureSkipVerify {
		t.Errorf("without TLS options: minimum %x, insecure %t", got.MinVersion, got.InsecureSkipVerify)
	}
}

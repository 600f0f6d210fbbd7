package admin

import (
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"wssgate/access"
	"wssgate/proxy"
)

// The query of GET /tunnels is converted to the gate's, and its mistakes are reported.
func TestTunnelsQuery(t *testing.T) {
	var got proxy.TunnelQuery
	s := newServer(t, func(o *Options) {
		o.Tunnels = func(q proxy.TunnelQuery) proxy.TunnelList {
			got = q
			return proxy.TunnelList{Tunnels: []proxy.Tunnel{}}
		}
	})
	for query, want := range map[string]proxy.TunnelQuery{
		"":                     {Limit: someRows},
		"?limit=1000&after=zz": {Limit: mostRows, After: "zz"},
		"?sort=bytes":          {Limit: someRows, Busiest: true},
		"?id=a&client=192.0.2.7&vhost=v&node=u/n/1&domain=Example1.COM&older=1h&younger=90s&bytes=7": {Limit: someRows, TunnelFilter: proxy.TunnelFilter{
			ID: "a", Client: netip.MustParsePrefix("192.0.2.7/32"), Vhost: "v", Upstream: "u", Node: "n/1", Domain: "example1.com",
			Older: time.Hour, Younger: 90 * time.Second, Bytes: 7}},
		"?node=u&client=2001:db8::/32": {Limit: someRows, TunnelFilter: proxy.TunnelFilter{Upstream: "u", Client: netip.MustParsePrefix("2001:db8::/32")}},
	} {
		if w := ask(s, loopback, "GET", "http://127.0.0.1/tunnels"+query); w.Code != http.StatusOK || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %d %s, and asks for %+v; want %+v", query, w.Code, w.Body, got, want)
		}
	}
	for query, want := range map[string]string{
		"?limit=0":             "limit",
		"?limit=1001":          "limit",
		"?limit=x":             "limit",
		"?limt=1":              `unknown parameter \"limt\"`,
		"?client=x":            "client",
		"?client=192.0.2.7/24": "192.0.2.0/24",
		"?older=1":             "older",
		"?older=-1s":           "older",
		"?bytes=-1":            "bytes",
		"?sort=age":            "sort",
		"?sort=bytes&after=a":  "after",
		"?domain=a..b":         "domain",
		"?node=/n":             "is not UPSTREAM",
		"?node=/":              "is not UPSTREAM",
		"?node=u/":             "is not UPSTREAM",
		"?vhost=a&vhost=b":     "appears 2 times",
		"?vhost=":              "vhost is empty",
		"?%zz":                 "invalid",
	} {
		if w := ask(s, loopback, "GET", "http://127.0.0.1/tunnels"+query); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s = %d %s; want 400 and %q", query, w.Code, w.Body, want)
		}
	}
}

// A close selects one tunnel or a few clients, and returns the number of tunnels.
func TestClose(t *testing.T) {
	var got proxy.TunnelFilter
	closed := 2
	s := newServer(t, func(o *Options) {
		o.CloseTunnels = func(f proxy.TunnelFilter) int {
			got = f
			return closed
		}
	})
	for query, want := range map[string]struct {
		f    proxy.TunnelFilter
		said string
	}{
		"?id=abc":               {proxy.TunnelFilter{ID: "abc"}, "tunnel abc: closing 2 tunnels"},
		"?client=192.0.2.7":     {proxy.TunnelFilter{Client: netip.MustParsePrefix("192.0.2.7/32")}, "client 192.0.2.7: closing 2 tunnels"},
		"?client=192.0.0.0/16":  {proxy.TunnelFilter{Client: netip.MustParsePrefix("192.0.0.0/16")}, "client 192.0.0.0/16: closing"},
		"?client=2001:db8::/32": {proxy.TunnelFilter{Client: netip.MustParsePrefix("2001:db8::/32")}, "client 2001:db8::/32: closing"},
	} {
		if w := ask(s, loopback, "POST", "http://127.0.0.1/close"+query); w.Code != http.StatusOK || got != want.f || !strings.Contains(w.Body.String(), want.said) {
			t.Errorf("%s = %d %s, and closes %+v; want %+v", query, w.Code, w.Body, got, want)
		}
	}
	for _, query := range []string{"", "?id=a&client=192.0.2.7", "?client=0.0.0.0/0", "?client=192.0.0.0/15", "?client=2000::/31", "?all", "?vhost=a"} {
		got = proxy.TunnelFilter{ID: "nothing"}
		if w := ask(s, loopback, "POST", "http://127.0.0.1/close"+query); w.Code != http.StatusBadRequest || got.ID != "nothing" {
			t.Errorf("%s = %d %s, and closes %+v; want 400 and nothing", query, w.Code, w.Body, got)
		}
	}
	closed = 0
	if w := ask(s, loopback, "POST", "http://127.0.0.1/close?id=abc"); w.Code != http.StatusNotFound {
		t.Errorf("nothing to close = %d; want 404", w.Code)
	}
	if w := ask(newServer(t, nil), loopback, "POST", "http://127.0.0.1/close?id=abc"); w.Code != http.StatusNotImplemented {
		t.Errorf("without support = %d; want 501", w.Code)
	}
}

// A ban has a few clients and a duration; zero lifts it.
func TestDeny(t *testing.T) {
	var network netip.Prefix
	var duration time.Duration
	var answer error
	var rest []access.Ban
	s := newServer(t, func(o *Options) {
		o.Ban = func(n netip.Prefix, d time.Duration) ([]access.Ban, error) {
			network, duration = n, d
			return rest, answer
		}
	})
	for _, test := range []struct {
		query  string
		answer error
		code   int
		said   string
	}{
		{"?client=192.0.2.7&for=1h", nil, 200, "192.0.2.7: denied until"},
		{"?client=192.0.2.0/24&for=0s", nil, 200, "192.0.2.0/24: no longer denied"},
		{"?client=192.0.2.7&for=0s", proxy.ErrNotBanned, 404, "not banned"},
		{"?client=192.0.2.7&for=1h", access.ErrTooManyBans, 409, "1000 bans"},
		{"?client=192.0.2.7", nil, 400, "required"},
		{"?for=1h", nil, 400, "required"},
		{"?client=192.0.2.7&for=721h", nil, 400, "longer than"},
		{"?client=192.0.2.7&for=-1h", nil, 400, "not a duration"},
		{"?client=0.0.0.0/0&for=1h", nil, 400, "wider than a /16"},
	} {
		network, duration, answer = netip.Prefix{}, -1, test.answer
		w := ask(s, loopback, "POST", "http://127.0.0.1/deny"+test.query)
		if w.Code != test.code || !strings.Contains(w.Body.String(), test.said) {
			t.Errorf("%s = %d %s; want %d and %q", test.query, w.Code, w.Body, test.code, test.said)
		}
		if asked := network.IsValid() && duration >= 0; asked == (test.code == 400) {
			t.Errorf("%s asks the gate: %v", test.query, asked)
		}
	}
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	wide, narrow := access.Ban{Network: netip.MustParsePrefix("192.0.0.0/16"), Until: until}, access.Ban{Network: netip.MustParsePrefix("192.0.2.7/32"), Until: until}
	for _, test := range []struct {
		rest   []access.Ban
		answer error
		code   int
		said   string
	}{
		{[]access.Ban{wide, narrow}, nil, 200, "192.0.2.0/24: lifted; still denied by 192.0.0.0/16 until 2030-01-02 03:04:05"},
		{[]access.Ban{narrow, wide}, proxy.ErrNotBanned, 404, "192.0.2.0/24: it is not banned; still denied by 192.0.0.0/16 until 2030-01-02 03:04:05"},
		{[]access.Ban{narrow}, nil, 200, "192.0.2.0/24: lifted; part of it is still denied by 192.0.2.7 until 2030-01-02 03:04:05"},
	} {
		rest, answer = test.rest, test.answer
		if w := ask(s, loopback, "POST", "http://127.0.0.1/deny?client=192.0.2.0/24&for=0s"); w.Code != test.code || !strings.Contains(w.Body.String(), test.said) {
			t.Errorf("lifted with %v = %d %s; want %d and %q", rest, w.Code, w.Body, test.code, test.said)
		}
	}
}

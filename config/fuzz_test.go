package config

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"wssgate/listen"
	"wssgate/upstream"
	"wssgate/xmpp"
)

// A valid configuration starts: each package accepts the options made from it.
// An invalid one has at least one mistake, each on one line.
func FuzzConfig(f *testing.F) {
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(fuzzGood))
	if _, err := Parse("testdata/config.toml", []byte(fuzzGood)); err != nil {
		f.Fatal("a seed that ought to validate: ", err)
	}

	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("testdata/config.toml", data)
		if err != nil {
			ce, ok := errors.AsType[*Error](err)
			if !ok || len(ce.Mistakes) == 0 {
				t.Fatalf("err = %#v, want a ConfigError with mistakes", err)
			}
			for _, m := range ce.Mistakes {
				if m.Text == "" || strings.Contains(m.String(), "\n") {
					t.Errorf("mistake %q is not one line", m)
				}
			}
			return
		}
		starts(t, cfg)
		again, err := Parse("testdata/config.toml", data)
		if err != nil || !reflect.DeepEqual(again.Vhost, cfg.Vhost) {
			t.Errorf("the second time it is something else: %v", err)
		}
	})
}

// FuzzConfigValues is FuzzConfig with the fuzzer's strings as values, which it
// would rarely reach through TOML.
func FuzzConfigValues(f *testing.F) {
	f.Add(":5291", "ws://127.0.0.1:5290/", "example1.com", "https://example1.com", "/ws", "10s", "1MiB")
	f.Add("[::1]:0", "wss://[2001:db8::1%25eth0]:443/a?b", "*.Bücher.example.", "null", "/", "1d", "10000")
	f.Add("unix:a", "srv+ws://_x._tcp.example1.com/", "xn--bcher-kva.example", "http://*.example1.com:80", "/a/", "1000000us", "16KiB")
	f.Add("localhost:1", "ws+unix:///a:/b", "localhost", "app://x", "", "1m", "1GB")
	f.Add(":0", "ws://ab--c.example/", "xn--a.1.2.3", "https://ab--c.example", "/", "10s", "16KiB")
	f.Fuzz(func(t *testing.T, address, node, name, origin, path, duration, size string) {
		data, err := toml.Marshal(map[string]any{
			"listen":   map[string]any{"wss": address},
			"upstream": map[string]any{"a": map[string]any{"nodes": node, "dial_timeout": duration}},
			"vhost":    []map[string]any{{"names": name, "origins": origin, "path": path}},
			"limits":   map[string]any{"message": size, "client_backlog": size},
			"timeouts": map[string]any{"handshake": duration, "request": duration, "ping": duration, "pong": duration},
		})
		if err != nil {
			return // not UTF-8
		}
		if cfg, err := Parse("testdata/config.toml", data); err == nil {
			starts(t, cfg)
		}
	})
}

// starts does with cfg what serve does, except for listening.
func starts(t *testing.T, cfg *Config) {
	t.Helper()
	for _, address := range append(cfg.Listen.WSS, cfg.Listen.HTTP...) {
		network, address, err := listen.ParseAddress(address)
		if err != nil {
			t.Errorf("listener: %v", err)
		}
		if network == "tcp" && isLoopback(address) {
			// No DNS query: only loopback addresses and "localhost".
			if _, err := net.ResolveTCPAddr("tcp", address); err != nil {
				t.Errorf("listener: %v", err)
			}
		}
	}
	for _, u := range cfg.Upstream {
		u.Health.Interval, u.Resolve = 0, time.Hour // none of the fuzzer's nodes is dialled
		for _, n := range u.Nodes {
			if loc, err := upstream.ParseNodeURL(n.URL); err != nil || n.Name == "" || loc.HostPort() == "" {
				t.Errorf("node %+v: %+v, %v", n, loc, err)
			}
		}
	}
	log := slog.New(slog.DiscardHandler)
	options, err := cfg.UpstreamOptions(log)
	if err != nil {
		t.Fatalf("upstream options: %v", err)
	}
	options.Resolver, options.Dial = nobody{}, nobody{}.dial
	table, err := upstream.New(options)
	if err != nil {
		t.Fatalf("upstream refuses what validates: %v", err)
	}
	defer table.Close()
	for _, v := range cfg.Vhost {
		for _, name := range v.Names {
			vhost, err := table.Routes().Lookup(strings.Replace(name, "*", "x", 1))
			if err != nil || vhost.Upstream() != v.Upstream && vhost.Name() == name {
				t.Errorf("route of %q: %v, want upstream %q", name, err, v.Upstream)
				continue
			}
			for _, origin := range v.Origins {
				if err := vhost.AllowsOrigin(strings.Replace(origin, "*", "x", 1)); err != nil {
					t.Errorf("origin %q: %v", origin, err)
				}
			}
			for _, domain := range v.Domains {
				to, err := xmpp.Open{To: strings.Replace(domain, "*", "x", 1)}.Domain()
				if err := errors.Join(err, vhost.AllowsDomain(to)); err != nil {
					t.Errorf("domain %q: %v", domain, err)
				}
			}
		}
	}
}

const fuzzGood = `[upstream.a]
nodes = [{ name = "t1", url = "wss://[2001:db8::1%25eth0]:443/a?b" }, "srv+ws://_x._tcp.example1.com/", "ws+unix:///a:/b"]
server_name = "a.example1.com"
[[vhost]]
names = ["*.bücher.example", "EXAMPLE.org.", "-a.ab--c.example"]
node = "t1"
domains = ["*.ab--c.example", "Bücher.example。", "192.0.2.1", "[2001:DB8::1]"]
route = "to"
by_domain = { "Straße.example" = "a" }
origins = ["https://*.example.org:8443", "null"]
path = "/ws"
`

// nobody is a network without servers.
type nobody struct{}

func (nobody) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, errors.New("nobody knows")
}

func (nobody) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.New("nobody knows")
}

func (nobody) dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nobody is there")
}

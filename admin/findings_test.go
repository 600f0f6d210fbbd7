package admin

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"wssgate/proxy"
)

// Each problem is one finding of the right level, with a text that identifies it;
// normal states have none.
func TestFindings(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2027, 3, 14, 3, 0, 0, 0, time.UTC)
	cert := func(life, left time.Duration) []Certificate {
		return []Certificate{{Name: "a.example", NotBefore: now.Add(left - life), NotAfter: now.Add(left)}}
	}
	nodes := func(states ...string) []Upstream {
		u := Upstream{Name: "tigase"}
		for i, state := range states {
			u.Nodes = append(u.Nodes, Node{Name: fmt.Sprint("t", i+1), State: state, LastError: "connection refused"})
		}
		return []Upstream{u}
	}
	lost := func(last time.Time) []Upstream {
		return []Upstream{{Name: "tigase", Lost: LostRedirect{Address: "ws://t2:5290/", Why: "which is not a node of this upstream", Do: "name it", Count: 3, Last: last}}}
	}
	ports := func(used float64, usedUp time.Time) []Upstream {
		u := nodes("up")
		u[0].Nodes[0].Ports, u[0].Nodes[0].PortsUsedUp = used, usedUp
		return u
	}
	for _, test := range []struct {
		name        string
		st          Status
		then        *sample // five minutes ago
		level, what string  // "": none
	}{
		{"nothing", Status{}, nil, "", ""},
		{"no reload yet", Status{Gate: Gate{Reload: Reload{}}}, nil, "", ""},
		{"a good reload", Status{Gate: Gate{Reload: Reload{At: now, OK: true}}}, nil, "", ""},
		{"a bad reload", Status{Gate: Gate{Reload: Reload{At: now, Errors: []string{"config.toml: x", "  hint: y", "config.toml: z"}}}}, nil, "error", "changed nothing: 2 errors"},
		{"a vhost without a certificate", Status{Gate: Gate{Vhosts: []Vhost{{Name: "b.example"}}}}, nil, "error", `vhost "b.example" has no certificate`},
		{"half of the ports", Status{Gate: Gate{Upstreams: ports(0.5, time.Time{})}}, nil, "", ""},
		{"most of the ports", Status{Gate: Gate{Upstreams: ports(0.8, now.Add(-time.Hour))}}, nil, "warn", `node "t1" of upstream "tigase": 80 % of the source ports`},
		{"no ports", Status{Gate: Gate{Upstreams: ports(0.3, now.Add(-time.Minute))}}, nil, "error", `node "t1" of upstream "tigase": no source port was left at 2027-03-14 02:59:00`},
		{"ECH", Status{Gate: Gate{ECH: &ECH{PublicName: "g.example", Certificate: true, Keys: 1}}}, nil, "", ""},
		{"ECH without a certificate", Status{Gate: Gate{ECH: &ECH{PublicName: "g.example", Keys: 1}}}, nil, "error", `ech.public_name "g.example" has no certificate`},
		{"ECH without keys", Status{Gate: Gate{ECH: &ECH{Certificate: true, Err: "read-only"}}}, nil, "warn", "there is no key for ECH"},
		{"no vhosts", Status{Gate: Gate{Vhosts: []Vhost{{Name: "*"}}}}, nil, "", ""},
		{"a vhost that is gone", Status{Gate: Gate{Vhosts: []Vhost{{Name: "b.example", Gone: true}}}}, nil, "", ""},
		{"30 days left", Status{Gate: Gate{Certificates: cert(90*day, 30*day)}}, nil, "", ""},
		{"13 days left", Status{Gate: Gate{Certificates: cert(90*day, 13*day)}}, nil, "warn", "expires in 13 days"},
		{"2 days left", Status{Gate: Gate{Certificates: cert(90*day, 2*day+time.Minute)}}, nil, "error", "expires in 2 days"},
		{"2 of 6 days left", Status{Gate: Gate{Certificates: cert(6*day, 2*day)}}, nil, "", ""},
		{"20 hours of 6 days left", Status{Gate: Gate{Certificates: cert(6*day, 20*time.Hour)}}, nil, "warn", "expires in 20 hours"},
		{"expired", Status{Gate: Gate{Certificates: cert(90*day, -time.Hour)}}, nil, "error", "expired 60 minutes ago"},
		{"not yet valid", Status{Gate: Gate{Certificates: cert(day, 2*day)}}, nil, "error", "is not valid before 2027-03-15 03:00:00"},
		{"a watch", Status{Gate: Gate{Watch: &Watch{Err: "cannot watch \"/x\": no space left on device", Hint: "raise"}}}, nil, "warn", "noticed only by looking"},
		{"a bad file", Status{Gate: Gate{Files: []FileProblem{{Err: "certificate \"x\": no key"}}}}, nil, "warn", "no key"},
		{"an expired file", Status{Gate: Gate{Files: []FileProblem{{Err: "expired; still served", Kept: true}}}}, nil, "warn", "expired; still served"},
		{"a certificate that clients reject", Status{Gate: Gate{Rejected: []Rejected{{Rule: "sha1"}, {Rule: "p521", Count: 3, First: "its key is P-521", Hint: "use P-256"}}}}, nil, "warn", "the same is true of 2 more"},
		{"a bad file whose old certificate is kept", Status{Gate: Gate{Files: []FileProblem{{Err: "no key", Kept: true}}}}, nil, "warn", "its previous contents are still served"},
		{"ACME works", Status{Gate: Gate{ACME: []ACMEName{{State: "valid", NotAfter: now.Add(day)}}}}, nil, "", ""},
		{"ACME never worked", Status{Gate: Gate{ACME: []ACMEName{{Name: "a", State: "waiting", Failures: 1, Since: now, Err: "no such host"}}}}, nil, "error", "after 1 attempt since " + now.UTC().Format(time.DateTime) + ": no such host"},
		{"ACME can't renew", Status{Gate: Gate{ACME: []ACMEName{{Name: "a", State: "valid", Failures: 1, NotAfter: now.Add(day)}}}}, nil, "warn", "could not renew"},
		{"ACME replaces what is revoked", Status{Gate: Gate{ACME: []ACMEName{{Name: "a", State: "ordering", Revoked: true, NotAfter: now.Add(day)}}}}, nil, "", ""},
		{"ACME can't replace what is revoked", Status{Gate: Gate{ACME: []ACMEName{{Name: "a", State: "valid", Revoked: true, Failures: 1, NotAfter: now.Add(day)}}}}, nil, "error", `"a" has been revoked and is still served`},
		{"ACME could not renew", Status{Gate: Gate{ACME: []ACMEName{{Name: "a", State: "expired", NotAfter: now}}}}, nil, "error", "could not renew"},
		{"nodes work", Status{Gate: Gate{Upstreams: nodes("up", "warming", "draining")}}, nil, "", ""},
		{"one node is out", Status{Gate: Gate{Upstreams: nodes("up", "out")}}, nil, "warn", `node "t2" of upstream "tigase": connection refused`},
		{"all nodes are out", Status{Gate: Gate{Upstreams: nodes("no address", "out")}}, nil, "error", "has no working node: connection refused"},
		{"the server redirects", Status{Gate: Gate{Upstreams: []Upstream{{Name: "tigase", Nodes: []Node{{State: "out", LastError: "answered 301", LastHint: "is it https://b?"}}}}}}, nil, "error", "has no working node: answered 301"},
		{"a stranger sends a PROXY header", Status{Gate: Gate{ProxyUnexpected: proxy.BalancerTrouble{Count: 2}}}, nil, "", ""},
		{"a balancer sends a PROXY header", Status{Gate: Gate{ProxyUnexpected: proxy.BalancerTrouble{Count: 3, Peer: netip.MustParseAddr("10.1.2.3")}}}, nil, "warn", "3 connections from outside listen.proxy_protocol began with a PROXY header since 0001-01-01 00:00:00 and were closed, most recently one from 10.1.2.3"},
		{"a balancer sends no PROXY header", Status{Gate: Gate{ProxyHeader: proxy.BalancerTrouble{Count: 3, Err: "missing"}}}, nil, "error", "had no valid PROXY header"},
		{"scanners ask for names", Status{Gate: Gate{Unserved: []proxy.UnservedName{{Name: "b.example", Count: 19}}}}, nil, "", ""},
		{"clients ask for a name", Status{Gate: Gate{Unserved: []proxy.UnservedName{{Name: "b.example", Count: 20}}}}, nil, "warn", `clients ask for "b.example", which has no certificate: 20 handshakes`},
		{"all nodes drain", Status{Gate: Gate{Upstreams: nodes("draining")}}, nil, "error", "all nodes are draining"},
		{"a redirect that led nowhere", Status{Gate: Gate{Upstreams: lost(now.Add(-59 * time.Minute))}}, nil, "error", `redirected 3 clients to addresses that the gate can't reach, most recently to "ws://t2:5290/", which is not a node`},
		{"a redirect of long ago", Status{Gate: Gate{Upstreams: lost(now.Add(-time.Hour))}}, nil, "", ""},
		{"room for more", Status{Counts: proxy.Counts{Connections: 89, Limit: 100}}, nil, "", ""},
		{"nearly full", Status{Counts: proxy.Counts{Connections: 90, Limit: 100}}, nil, "warn", "90 of at most 100 connections"},
		{"full", Status{Counts: proxy.Counts{Connections: 100, Limit: 100}}, nil, "error", "100 of at most 100 connections"},
		{"Go's memory is nearly full", Status{Memory: Memory{Bytes: 95 << 20, Limit: 100 << 20}}, nil, "warn", "Go uses 95 MiB of the 100 MiB of memory"},
		{"room for memory", Status{Memory: Memory{Used: 89 << 20, Max: 100 << 20}}, nil, "", ""},
		{"memory is nearly full", Status{Memory: Memory{Used: 95 << 20, Max: 100 << 20}}, nil, "warn", "95 MiB of memory are in use, and limits.memory is 100 MiB"},
		{"memory is short", Status{Memory: Memory{Used: 101 << 20, Max: 100 << 20, Short: true, Since: &now, ShedTunnels: 1}}, nil, "error",
			"memory has been short since 2027-03-14 03:00:00: 101 MiB are in use and limits.memory is 100 MiB; new clients are refused, and the largest consumers are closed (1 tunnel and no BOSH requests since the start)"},
		{"memory was short", Status{Memory: Memory{Max: 100 << 20, Since: new(now.Add(-time.Hour)), Until: new(now.Add(-time.Minute))}}, nil, "warn", "memory was short from 2027-03-14 02:00:00 to 2027-03-14 02:59:00"},
		{"memory was short long ago", Status{Memory: Memory{Max: 100 << 20, Since: &now, Until: new(now.Add(-time.Hour))}}, nil, "", ""},
		{"a busy loop", Status{}, &sample{busy: 255 * time.Second}, "warn", "busy 85 %"},
		{"a loop with time", Status{}, &sample{busy: 200 * time.Second}, "", ""},
		{"a vhost's drain", Status{Gate: Gate{Drains: []Drain{{Scope: "vhost a.example", Since: now}}}}, nil, "warn", "vhost a.example has been draining since 2027-03-14 03:00:00"},
		{"a storm", Status{}, &sample{noPlace: 1}, "warn", "1 TLS handshake waited too long for a handshake slot in the last 5 minutes"},
	} {
		h := newHistory()
		if test.then != nil {
			test.then.at = now
			h.add(sample{at: now.Add(-5 * time.Minute)}, nil)
			h.add(*test.then, nil)
		}
		test.st.Now = now
		got := judge(&test.st, h)
		if test.level == "" {
			if len(got) != 0 {
				t.Errorf("%s: %+v; want nothing", test.name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Level != test.level || !strings.Contains(got[0].What, test.what) || got[0].Do == "" {
			t.Errorf("%s: %+v; want %s with %q", test.name, got, test.level, test.what)
		}
	}
}

// Errors come before warnings, and the list stays readable for a gate with ten thousand
// problems.
func TestFindingsBounded(t *testing.T) {
	var st Status
	for range 10000 {
		st.Files = append(st.Files, FileProblem{Err: "bad"})
	}
	st.Vhosts = []Vhost{{Name: "b.example"}}
	found := judge(&st, newHistory())
	if n := tally(found); n[LevelError] != 1 || n[LevelWarn] != 10000 {
		t.Errorf("%v of the levels; want 1 error and 10000 warnings", n)
	}
	got := bound(found)
	if len(got) != maxFindings+1 || got[0].Level != LevelError || got[maxFindings].What != fmt.Sprintf("and %d more", 10001-maxFindings) {
		t.Errorf("%d findings, first %+v, last %+v", len(got), got[0], got[len(got)-1])
	}
}

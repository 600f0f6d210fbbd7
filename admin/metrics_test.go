package admin

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/proxy"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// busyGate has a value for everything.
func busyGate(o *Options) {
	now := time.Unix(1800000000, 0).UTC()
	o.Gate = func() Gate {
		cert := Certificate{Name: "example1.com", Source: "directory", KeyType: "ECDSA P-256", NotBefore: now, NotAfter: now.Add(time.Hour)}
		later := cert
		long := Certificate{Name: "example2.com", Source: "directory", KeyType: "RSA 2048", NotBefore: now, NotAfter: now.AddDate(0, 0, 90)}
		later.NotBefore, later.NotAfter = now.Add(time.Minute), now.Add(2*time.Hour)
		return Gate{
			Version: "v1", Revision: "abc", Go: "go1.26",
			Vhosts:       []Vhost{{Name: "example1.com", Tunnels: 3, Opened: 30, Certificate: &cert}, {Name: "example2.com"}, {Name: "*"}, {Name: "old.example", Gone: true}},
			Certificates: []Certificate{later, cert, long},
			Files:        []FileProblem{{File: "x.pem", Err: "bad"}},
			Watch:        &Watch{Err: "no space left on device"},
			Rejected:     []Rejected{{Rule: "ed25519", Count: 2}},
			ACME:         []ACMEName{{Name: "example1.com", State: "waiting", Failures: 2, NextTry: now}},
			Upstreams:    []Upstream{{Name: "tigase", Nodes: []Node{{Name: "t1", State: "up", Tunnels: 3, Dials: 10, Failures: 1}, {Name: "t2", State: "out"}}}},
			Reload:       Reload{At: now, LastGood: now.Add(-time.Hour), Good: 2, Bad: 1},
			Drain:        &Drain{Total: 9, Left: 4},
		}
	}
	o.Counts = func() proxy.Counts {
		return proxy.Counts{
			Connections: 5, Limit: 100, Accepted: 50, Refused: map[string]int64{"per_client": 2},
			Handshakes: []proxy.HandshakeCount{{Result: "full", Version: "1.3", N: 40}, {Result: "unknown_name", Version: "", N: 6}},
			Refusals:   map[int]int64{404: 3}, GaveUp: 1,
			ECH:    map[string]int64{"accepted": 2, "rejected": 1, "none": 9},
			Logins: proxy.LoginCounts{Failures: 60, Refused: map[string]int64{"tunnel": 2}, Known: 7, RefusedNow: 3},
			Vhosts: []proxy.VhostCount{{Name: "example1.com", Open: 3, Opened: 30}}, Closed: map[string]int64{"drain": 27}, Panics: map[string]int64{"pages": 1},
			Dials:   []proxy.DialCount{{Upstream: "tigase", Node: "t1", Took: proxy.Durations{Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{4, 2, 1}, Sum: 5 * time.Second}}},
			BytesIn: 1, BytesOut: 2, FramesIn: 3, FramesOut: 4,
			Lag: proxy.Durations{Bounds: []time.Duration{time.Millisecond}, Counts: []uint64{9, 0}, Sum: time.Millisecond},
		}
	}
	o.Memory = func() Memory {
		return Memory{Bytes: 6000, Limit: 7000, Used: 8000, Max: 9000, Short: true, ShedTunnels: 11, ShedRequests: 12}
	}
	o.NotReady = func() []string { return []string{"the gate is draining"} }
}

// Each count is exported under its name, with its labels and in base units.
func TestMetrics(t *testing.T) {
	s := newServer(t, busyGate)
	w := ask(s, loopback, "GET", "http://127.0.0.1/metrics")
	if w.Code != 200 {
		t.Fatalf("GET /metrics = %d %s", w.Code, w.Body)
	}
	lines := strings.Split(w.Body.String(), "\n")
	for _, want := range []string{
		`wssgate_build_info{goversion="go1.26",revision="abc",version="v1"} 1`,
		`wssgate_ready 0`,
		`wssgate_connections 5`,
		`wssgate_connections_limit 100`,
		`wssgate_connections_accepted_total 50`,
		`wssgate_connections_refused_total{limit="per_client"} 2`,
		`wssgate_panics_total{where="pages"} 1`,
		`wssgate_handshakes_total{result="full",version="1.3"} 40`,
		`wssgate_handshakes_total{result="unknown_name",version=""} 6`,
		`wssgate_upgrades_refused_total{status="404"} 3`,
		`wssgate_upgrades_abandoned_total 1`,
		`wssgate_login_failures_total 60`,
		`wssgate_login_refused_total{what="tunnel"} 2`,
		`wssgate_login_failure_clients{state="counted"} 4`,
		`wssgate_login_failure_clients{state="refused"} 3`,
		`wssgate_tunnels{vhost="example1.com"} 3`,
		`wssgate_tunnels_opened_total{vhost="example1.com"} 30`,
		`wssgate_tunnels{vhost="example2.com"} 0`,
		`wssgate_tunnels_opened_total{vhost="example2.com"} 0`,
		`wssgate_tunnels_closed_total{reason="drain"} 27`,
		`wssgate_bytes_total{direction="in"} 1`,
		`wssgate_bytes_total{direction="out"} 2`,
		`wssgate_frames_total{direction="in"} 3`,
		`wssgate_frames_total{direction="out"} 4`,
		`wssgate_upstream_dial_duration_seconds_bucket{node="t1",upstream="tigase",le="0.001"} 4`,
		`wssgate_upstream_dial_duration_seconds_bucket{node="t1",upstream="tigase",le="1"} 6`,
		`wssgate_upstream_dial_duration_seconds_bucket{node="t1",upstream="tigase",le="+Inf"} 7`,
		`wssgate_upstream_dial_duration_seconds_sum{node="t1",upstream="tigase"} 5`,
		`wssgate_upstream_dials_total{node="t1",upstream="tigase"} 10`,
		`wssgate_upstream_failures_total{node="t1",upstream="tigase"} 1`,
		`wssgate_upstream_tunnels{node="t1",upstream="tigase"} 3`,
		`wssgate_upstream_node_state{node="t1",state="up",upstream="tigase"} 1`,
		`wssgate_upstream_node_state{node="t1",state="out",upstream="tigase"} 0`,
		`wssgate_upstream_node_state{node="t2",state="out",upstream="tigase"} 1`,
		`wssgate_certificate_expiry_timestamp_seconds{key_type="ECDSA P-256",name="example1.com",source="directory"} 1.8000036e+09`,
		`wssgate_certificate_not_before_timestamp_seconds{key_type="ECDSA P-256",name="example1.com",source="directory"} 1.8e+09`,
		`wssgate_certificate_expiry_timestamp_seconds{key_type="RSA 2048",name="example2.com",source="directory"} 1.807776e+09`,
		`wssgate_certificate_missing 1`,
		`wssgate_certificate_file_problems 1`,
		`wssgate_certificate_watch 0`,
		`wssgate_certificate_warnings{rule="ed25519"} 2`,
		`wssgate_acme_state{name="example1.com",state="waiting"} 1`,
		`wssgate_acme_state{name="example1.com",state="valid"} 0`,
		`wssgate_acme_failures{name="example1.com"} 2`,
		`wssgate_acme_next_try_timestamp_seconds{name="example1.com"} 1.8e+09`,
		`wssgate_config_last_reload_successful 0`,
		`wssgate_config_last_reload_success_timestamp_seconds 1.7999964e+09`,
		`wssgate_config_reloads_total{result="good"} 2`,
		`wssgate_config_reloads_total{result="bad"} 1`,
		`wssgate_draining 1`,
		`wssgate_drain_connections 4`,
		`wssgate_loop_lag_seconds_count 9`,
		`wssgate_loops_limit 1`,
		`wssgate_loop_lag_seconds_sum 0.001`,
		`wssgate_memory_bytes 6000`,
		`wssgate_memory_per_tunnel_bytes 2000`,
		`wssgate_memory_limit_bytes 7000`,
		`wssgate_memory_used_bytes 8000`,
		`wssgate_memory_max_bytes 9000`,
		`wssgate_memory_short 1`,
		`wssgate_memory_shed_total{what="tunnel"} 11`,
		`wssgate_memory_shed_total{what="bosh"} 12`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("missing: %s", want)
		}
	}
	for _, prefix := range []string{`wssgate_findings{level="error"} `, "go_goroutines ", "process_open_fds "} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, prefix) && !strings.HasSuffix(l, " 0") }) {
			t.Errorf("missing: %s…", prefix)
		}
	}
	if n := strings.Count(w.Body.String(), "\nwssgate_certificate_not_before_timestamp_seconds{"); n != 1 {
		t.Errorf("%d starts of a validity; want that of the short one", n)
	}
	// promlint is what promtool check metrics uses.
	problems, err := promlint.New(strings.NewReader(w.Body.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "wssgate_") {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
}

// Collected metrics match their descriptions, and none occurs twice.
func TestMetricsPedantic(t *testing.T) {
	s := newServer(t, busyGate)
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(&collector{s})
	families, err := r.Gather()
	if err != nil {
		t.Error(err)
	}
	if len(families) < len(allDescriptors) {
		t.Errorf("%d families for %d descriptors: busyGate lacks something", len(families), len(allDescriptors))
	}
}

var descriptorName = regexp.MustCompile(`fqName: "(wssgate_[a-z_]+)"`)

// docs/reference.md, the alerts and the dashboard use only existing metrics, and the
// documentation has all of them.
func TestMetricsDocumented(t *testing.T) {
	known := map[string]bool{}
	for _, d := range allDescriptors {
		known[descriptorName.FindStringSubmatch(d.String())[1]] = true
	}
	for _, file := range []string{"../docs/reference.md", "../docs/operations.md", "../docs/logins.md", "../docs/load.md", "../docs/troubleshooting.md", "../deploy/alerts.yml", "../deploy/grafana-dashboard.json"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{}
		for _, name := range regexp.MustCompile(`\bwssgate_[a-z_]+`).FindAllString(string(data), -1) {
			named[name] = true
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if b, ok := strings.CutSuffix(name, suffix); ok && known[b] {
					base = b
				}
			}
			if !known[base] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
		if strings.HasSuffix(file, "reference.md") {
			for name := range known {
				if !named[name] {
					t.Errorf("%s: %s is not listed", file, name)
				}
			}
		}
	}
}

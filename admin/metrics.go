package admin

import (
	"net/http"
	"strconv"
	"time"

	"wssgate/proxy"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is the handler of /metrics, on a registry of its own.
func (s *Server) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&collector{s},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// A collector makes metrics from one state of the gate. No value exists only for
// Prometheus: the page and the metrics share all of them.
type collector struct{ server *Server }

// All exported metrics; docs/reference.md lists them, and a test compares both. Labels
// are configured names and constants, never input from clients.
var (
	mPanics   = desc("panics_total", "Panics, each of which ended one connection, request or job.", "where")
	mBuild    = desc("build_info", "Always 1; the labels identify the build.", "version", "revision", "goversion")
	mReady    = desc("ready", "1 if the gate can accept clients, as on /readyz.")
	mFindings = desc("findings", "Findings on the status page, by level.", "level")

	mConnections = desc("connections", "Open client connections, from accept to close.")
	mLimit       = desc("connections_limit", "Maximum number of open client connections.")
	mAccepted    = desc("connections_accepted_total", "Client connections that were admitted.")
	mConnRefused = desc("connections_refused_total", "Client connections that were refused, by the limit that was reached.", "limit")
	mHandshakes  = desc("handshakes_total", "TLS handshakes: full, resumed, or the cause of the failure.", "result", "version")
	mECH         = desc("ech_handshakes_total", "TLS handshakes by what became of Encrypted Client Hello.", "result")
	mRefusals    = desc("upgrades_refused_total", "Opening handshakes without a 101, by HTTP status.", "status")
	mGaveUp      = desc("upgrades_abandoned_total", "Clients that disconnected before their 101.")

	mLoginFailures = desc("login_failures_total", "Failed logins, as limits.login_failures counts them.")
	mLoginRefused  = desc("login_refused_total", "Tunnels, opening handshakes and BOSH requests refused after too many failed logins from their address.", "what")
	mLoginClients  = desc("login_failure_clients", "Client addresses with failed logins that have not expired, by state.", "state")

	mTunnels = desc("tunnels", "Open tunnels.", "vhost")
	mOpened  = desc("tunnels_opened_total", "Tunnels that were opened.", "vhost")
	mClosed  = desc("tunnels_closed_total", "Tunnels that ended, by the reason in the log.", "reason")
	mFrames  = desc("frames_total", "WebSocket frames, in: from clients, out: to them.", "direction")
	mBytes   = desc("bytes_total", "Bytes of WebSocket without TLS, in: from clients, out: to them.", "direction")

	mDialTime     = desc("upstream_dial_duration_seconds", "Time until a node answered 101, including nodes that were tried before it.", "upstream", "node")
	mDials        = desc("upstream_dials_total", "Dials of a node, including failed ones.", "upstream", "node")
	mDialFailures = desc("upstream_failures_total", "Dials and probes of a node that failed.", "upstream", "node")
	mNodeState    = desc("upstream_node_state", "1 for the state that a node is in.", "upstream", "node", "state")
	mNodePorts    = desc("upstream_source_ports_used_ratio", "Share of the source ports that the gate's connections to a node use; the largest of its addresses.", "upstream", "node")
	mPortsUsedUp  = desc("upstream_source_ports_used_up_timestamp_seconds", "When a dial of a node last found no source port; 0: never.", "upstream", "node")
	mNodeTunnels  = desc("upstream_tunnels", "Open tunnels to a node.", "upstream", "node")

	mCertExpiry    = desc("certificate_expiry_timestamp_seconds", "When the certificate that clients get for a name expires.", "name", "key_type", "source")
	mCertStart     = desc("certificate_not_before_timestamp_seconds", "Start of that certificate's validity, if its lifetime is short.", "name", "key_type", "source")
	mCertMissing   = desc("certificate_missing", "Configured names without a certificate.")
	mCertWarnings  = desc("certificate_warnings", "Certificates that some clients reject, by rule.", "rule")
	mCertWatch     = desc("certificate_watch", "1 if changed certificates are noticed at once, 0 if only by polling.")
	mCertProblems  = desc("certificate_file_problems", "Unusable certificate files, including those of the ACME cache and of the keys of ECH.")
	mACMEState     = desc("acme_state", "1 for the state that a name is in.", "name", "state")
	mACMEFailures  = desc("acme_failures", "Failed orders since the last success.", "name")
	mACMENext      = desc("acme_next_try_timestamp_seconds", "Time of the next order for a name.", "name")
	mHanging       = desc("files_hanging", "File systems that do not answer; the gate does not wait for them.")
	mLogLost       = desc("log_lines_lost_total", "Log lines that were dropped because the log was not read.")
	mReloadOK      = desc("config_last_reload_successful", "1 if the last reload succeeded or there was none.")
	mReloadTime    = desc("config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded.")
	mReloads       = desc("config_reloads_total", "Reloads by result.", "result")
	mDraining      = desc("draining", "1 during a drain.")
	mDrainLeft     = desc("drain_connections", "Open connections that a drain waits for.")
	mLag           = desc("loop_lag_seconds", "How long an event loop was busy with one batch of events, an upper bound for how long new events waited.")
	mLoops         = desc("loops_limit", "Maximum number of event loops.")
	mMemory        = desc("memory_bytes", "Memory that Go's runtime has obtained from the system and not returned.")
	mMemoryTunnel  = desc("memory_per_tunnel_bytes", "That memory divided by the number of tunnels.")
	mMemoryLimit   = desc("memory_limit_bytes", "The memory limit of Go's runtime.")
	mMemoryUsed    = desc("memory_used_bytes", "Memory that counts against limits.memory.")
	mMemoryMax     = desc("memory_max_bytes", "limits.memory; new clients are refused above it.")
	mMemoryShort   = desc("memory_short", "1 while new clients are refused because memory is short.")
	mMemoryShed    = desc("memory_shed_total", "Tunnels and BOSH requests ended because memory was short.", "what")
	allDescriptors []*prometheus.Desc
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("wssgate_"+name, help, labels, nil)
	allDescriptors = append(allDescriptors, d)
	return d
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range allDescriptors {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	defer c.server.survive() // it runs in a goroutine of its own
	e := emitter{ch}
	st := c.server.status(time.Now())
	n := st.Counts

	for where, count := range n.Panics {
		e.counter(mPanics, count, where)
	}
	e.gauge(mBuild, 1, st.Version, st.Revision, st.Go)
	e.gauge(mReady, bit(st.Ready))
	for _, level := range []string{LevelError, LevelWarn} {
		e.gauge(mFindings, float64(st.FindingsTotal[level]), level)
	}
	e.gauge(mConnections, float64(n.Connections))
	e.gauge(mLimit, float64(n.Limit))
	e.counter(mAccepted, n.Accepted)
	for limit, count := range n.Refused {
		e.counter(mConnRefused, count, limit)
	}
	for _, h := range n.Handshakes {
		e.counter(mHandshakes, h.N, h.Result, h.Version)
	}
	for result, count := range n.ECH {
		e.counter(mECH, count, result)
	}
	for status, count := range n.Refusals {
		e.counter(mRefusals, count, strconv.Itoa(status))
	}
	e.counter(mGaveUp, n.GaveUp)
	e.counter(mLoginFailures, n.Logins.Failures)
	for what, count := range n.Logins.Refused {
		e.counter(mLoginRefused, count, what)
	}
	e.gauge(mLoginClients, float64(n.Logins.Known-n.Logins.RefusedNow), "counted")
	e.gauge(mLoginClients, float64(n.Logins.RefusedNow), "refused")

	// Configured names have zeros from the start: in a query, a sum with a missing
	// metric has no result at all.
	for _, v := range st.Vhosts {
		e.gauge(mTunnels, float64(v.Tunnels), v.Name)
		e.counter(mOpened, v.Opened, v.Name)
	}
	for reason, count := range n.Closed {
		e.counter(mClosed, count, reason)
	}
	e.counter(mFrames, n.FramesIn, "in")
	e.counter(mFrames, n.FramesOut, "out")
	e.counter(mBytes, n.BytesIn, "in")
	e.counter(mBytes, n.BytesOut, "out")

	for _, d := range n.Dials {
		e.histogram(mDialTime, d.Took, d.Upstream, d.Node)
	}
	for _, u := range st.Upstreams {
		for _, node := range u.Nodes {
			e.counter(mDials, int64(node.Dials), u.Name, node.Name)
			e.counter(mDialFailures, int64(node.Failures), u.Name, node.Name)
			e.gauge(mNodeTunnels, float64(node.Tunnels), u.Name, node.Name)
			e.gauge(mNodePorts, node.Ports, u.Name, node.Name)
			e.gauge(mPortsUsedUp, seconds(node.PortsUsedUp), u.Name, node.Name)
			for _, state := range NodeStates {
				e.gauge(mNodeState, bit(node.State == state), u.Name, node.Name, state)
			}
		}
	}
	c.certificates(e, &st)
	e.gauge(mHanging, float64(len(st.Hanging)))
	e.counter(mLogLost, st.Log.Lost)
	e.gauge(mReloadOK, bit(st.Reload.OK))
	e.gauge(mReloadTime, seconds(st.Reload.LastGood))
	e.counter(mReloads, st.Reload.Good, "good")
	e.counter(mReloads, st.Reload.Bad, "bad")
	left := 0
	if st.Drain != nil {
		left = st.Drain.Left
	}
	e.gauge(mDraining, bit(st.Drain != nil))
	e.gauge(mDrainLeft, float64(left))
	e.histogram(mLag, n.Lag)
	e.gauge(mLoops, float64(max(n.Loops, 1)))
	e.gauge(mMemory, float64(st.Memory.Bytes))
	if st.Memory.PerTunnel > 0 {
		e.gauge(mMemoryTunnel, float64(st.Memory.PerTunnel))
	}
	if st.Memory.Limit > 0 {
		e.gauge(mMemoryLimit, float64(st.Memory.Limit))
	}
	e.gauge(mMemoryUsed, float64(st.Memory.Used))
	if st.Memory.Max > 0 {
		e.gauge(mMemoryMax, float64(st.Memory.Max))
	}
	e.gauge(mMemoryShort, bit(st.Memory.Short))
	e.counter(mMemoryShed, int64(st.Memory.ShedTunnels), "tunnel")
	e.counter(mMemoryShed, int64(st.Memory.ShedRequests), "bosh")
}

func (c *collector) certificates(e emitter, st *Status) {
	// Two files may have certificates for one name and key type, and both may be in
	// use: the metric is for the one that expires first.
	type key struct{ name, keyType, source string }
	of := func(c Certificate) key { return key{c.Name, c.KeyType, c.Source} }
	for i, rest := 0, st.Certificates; len(rest) > 0; rest = rest[i:] {
		first := &rest[0]
		for i = 1; i < len(rest) && of(rest[i]) == of(rest[0]); i++ {
			if rest[i].NotAfter.Before(first.NotAfter) {
				first = &rest[i]
			}
		}
		e.gauge(mCertExpiry, seconds(first.NotAfter), first.Name, first.KeyType, first.Source)
		if first.isShortLived() {
			e.gauge(mCertStart, seconds(first.NotBefore), first.Name, first.KeyType, first.Source)
		}
	}
	missing := 0
	for _, v := range st.Vhosts {
		if v.lacksCertificate() {
			missing++
		}
	}
	e.gauge(mCertMissing, float64(missing))
	for _, r := range st.Rejected {
		e.gauge(mCertWarnings, float64(r.Count), r.Rule)
	}
	if st.Watch != nil {
		e.gauge(mCertWatch, bit(st.Watch.Err == ""))
	}
	e.gauge(mCertProblems, float64(len(st.Files)+len(st.ACMEFiles)+echProblems(st.ECH)))
	for _, a := range st.ACME {
		for _, state := range ACMEStates {
			e.gauge(mACMEState, bit(a.State == state), a.Name, state)
		}
		e.gauge(mACMEFailures, float64(a.Failures), a.Name)
		if !a.NextTry.IsZero() {
			e.gauge(mACMENext, seconds(a.NextTry), a.Name)
		}
	}
}

// echProblems is 1 if the folder with the keys can't be used as it should be.
func echProblems(e *ECH) int {
	if e == nil || e.Err == "" {
		return 0
	}
	return 1
}

// An emitter sends metrics to the registry.
type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, v int64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (e emitter) histogram(d *prometheus.Desc, h proxy.Durations, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	total := uint64(0)
	for i, n := range h.Counts {
		total += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i].Seconds()] = total
		}
	}
	e.ch <- prometheus.MustNewConstHistogram(d, total, h.Sum.Seconds(), buckets, labels...)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

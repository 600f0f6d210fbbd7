package interop

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/admin"
	"wssgate/proxy"
)

// A scene is a gate's life as an operator might meet it, told to package admin
// minute by minute on a fake clock: what its page then shows is real, only the
// gate is not there.
type scene struct {
	start  time.Time
	broken bool // something is wrong with nearly everything
	log    *slog.Logger

	at     time.Duration // how far the sums below have come
	counts proxy.Counts
	sums   map[string]float64
}

const sceneToken = "a token of the scene"

// play lets the scene live for an hour and returns the answers to the page's
// request, as its last one and as it is while it drains.
func play(t *testing.T, broken bool) (status, draining []byte) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2027, 3, 14, 2, 11, 55, 0, time.UTC)))
		warnings := admin.NewWarnings(slog.NewTextHandler(io.Discard, nil))
		s := &scene{start: time.Now(), broken: broken, log: slog.New(warnings), sums: map[string]float64{}}
		s.counts.Closed = map[string]int64{}
		var drain *admin.Drain
		server := admin.New(admin.Options{
			Gate:   func() admin.Gate { g := s.gate(time.Now()); g.Drain = drain; return g },
			Counts: func() proxy.Counts { return s.count(time.Now()) },
			NotReady: func() []string {
				if drain != nil {
					return []string{"the gate is draining"}
				}
				return nil
			},
			Memory: func() admin.Memory {
				return admin.Memory{Bytes: 9 << 20, Used: 13 << 20, Max: 512 << 20}
			},
			Warnings: warnings,
			Access:   admin.Access{Token: sceneToken},
			Log:      slog.New(slog.DiscardHandler),
		})
		defer server.Close()
		time.Sleep(time.Hour + time.Second)
		s.warn()
		time.Sleep(4 * time.Second)
		status = statusOf(t, server)
		drain = &admin.Drain{Scope: "all", Since: time.Now().Add(-11 * time.Second), Deadline: time.Now().Add(19 * time.Second), Total: 2417, Left: int(s.counts.Tunnels()) + 3}
		draining = statusOf(t, server)
	})
	return status, draining
}

func statusOf(t *testing.T, server *admin.Server) []byte {
	r := httptest.NewRequest("GET", "/status?history", nil)
	r.Header.Set("Authorization", "Bearer "+sceneToken)
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	if w.Code != http.StatusOK || !json.Valid(w.Body.Bytes()) {
		t.Fatalf("GET /status = %d: %.200s", w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func (s *scene) certificate(name, issuer string, left time.Duration) *admin.Certificate {
	end := s.start.Add(time.Hour + left)
	return &admin.Certificate{Name: name, Source: "directory", File: "certs/" + name + ".pem", Issuer: issuer, KeyType: "ECDSA P-256",
		NotBefore: end.Add(-90 * 24 * time.Hour), NotAfter: end}
}

func (s *scene) gate(now time.Time) admin.Gate {
	const day = 24 * time.Hour
	vhosts := []admin.Vhost{
		{Name: "example1.com", Upstream: "tigase", Tunnels: s.open(0), Opened: 48211, Certificate: s.certificate("example1.com", "Let's Encrypt E7", 61*day+5*time.Hour)},
		{Name: "example2.com", Upstream: "tigase", Tunnels: s.open(1), Opened: 20954, Certificate: s.certificate("example2.com", "Let's Encrypt E8", 43*day+5*time.Hour)},
		{Name: "t2.example1.com", Upstream: "tigase", Node: "t2", Tunnels: s.open(2), Opened: 1630, Certificate: s.certificate("*.example1.com", "Let's Encrypt R12", 44*day)},
	}
	nodes := []admin.Node{
		{Name: "t1", URL: "ws://127.0.0.1:5290/", State: "up", Tunnels: 640, Dials: 35120, LastDial: 780 * time.Microsecond},
		{Name: "t2", URL: "ws://10.0.0.12:5290/", State: "up", Tunnels: 607, Dials: 35675, Failures: 2, LastDial: 1900 * time.Microsecond,
			LastError: "dial tcp 10.0.0.12:5290: connect: connection refused", LastFail: now.Add(-26 * time.Hour)},
	}
	g := admin.Gate{
		Host: "gate1", Version: "v1.0.0", Go: "go1.26.8", Revision: "c0ffee123456", Started: s.start.Add(-9*day - 4*time.Hour), Config: "/etc/wssgate/config.toml",
		Listeners: []string{"[::]:5291"}, Reload: admin.Reload{OK: true, At: now.Add(-3 * time.Hour), LastGood: now.Add(-3 * time.Hour), Good: 4},
	}
	if s.broken {
		vhosts[1].Certificate = s.certificate("example2.com", "Let's Encrypt E8", 9*day+5*time.Hour)
		vhosts = append(vhosts, admin.Vhost{Name: "new.example3.com", Upstream: "tigase"})
		nodes[1].State, nodes[1].Tunnels, nodes[1].LastFail, nodes[1].Failures = "out", 0, now.Add(-4*time.Minute), 41
		g.Files = []admin.FileProblem{{File: "certs/new.example3.com.pem", Err: `certificate "certs/new.example3.com.pem": key "certs/new.key" belongs to another certificate`, Since: now.Add(-20 * time.Minute)}}
		g.ACME = []admin.ACMEName{
			{Name: "chat.example2.com", State: "valid", NotAfter: now.Add(70 * day), NextTry: now.Add(40 * day)},
			{Name: "example2.com", State: "waiting", Failures: 3, NotAfter: now.Add(9 * day), NextTry: now.Add(50 * time.Minute), Err: "tls-alpn-01: 10.0.0.1: Connection refused; http-01: 404 at /.well-known/acme-challenge/"},
		}
		g.Reload.OK, g.Reload.At, g.Reload.Bad = false, now.Add(-2*time.Minute), 1
		g.Reload.Errors = []string{`/etc/wssgate/config.toml: limits: unknown key "conections"`, `  hint: did you mean "connections"?`}
	}
	g.Vhosts = vhosts
	for _, v := range vhosts {
		if v.Certificate != nil {
			g.Certificates = append(g.Certificates, *v.Certificate)
		}
	}
	g.Upstreams = []admin.Upstream{{Name: "tigase", Balance: "least", Nodes: nodes}}
	return g
}

func (s *scene) open(i int) int64 {
	if i < len(s.counts.Vhosts) {
		return s.counts.Vhosts[i].Open
	}
	return 0
}

// count lets everything go on until now, in steps of a second.
func (s *scene) count(now time.Time) proxy.Counts {
	for until := now.Sub(s.start); s.at < until; s.at += time.Second {
		s.second(s.at.Seconds())
	}
	c := s.counts
	sum := func(key string) int64 { return int64(s.sums[key]) }
	c.Connections, c.Limit, c.Accepted = int(c.Tunnels())+3, 10000, 71004
	c.Handshakes = []proxy.HandshakeCount{
		{Result: "full", Version: "1.3", N: 21000 + sum("full")}, {Result: "resumed", Version: "1.3", N: 48000 + sum("resumed")},
		{Result: "failed", N: 310 + sum("failed")},
	}
	c.FramesIn, c.FramesOut = sum("in"), sum("out")
	c.BytesIn, c.BytesOut = sum("in")*182, sum("out")*416
	c.Lag.Sum = time.Duration(s.sums["busy"] * float64(time.Second))
	c.Closed = map[string]int64{}
	for _, reason := range []string{"client_close", "client_gone", "pong_timeout", "upstream_gone"} {
		c.Closed[reason] = sum(reason)
	}
	return c
}

// second is what happens in one: a slow swell, some noise that is the same in
// every run, and, where something is broken, a node that dies after 56 minutes.
func (s *scene) second(at float64) {
	noise := func(period float64) float64 { return math.Sin(at/period) + 0.6*math.Sin(at/period*2.7+1) }
	tunnels := 1180 + 60*math.Sin(at/1100) + 14*noise(70)
	back := 0.0 // clients that come back
	if died := at - 56*60; s.broken && died >= 0 {
		back = 28 * math.Exp(-died/25)
		tunnels -= 540 * math.Exp(-died/40)
		s.sums["upstream_gone"] += 30 * math.Exp(-died/18)
	}
	for i, share := range []float64{0.66, 0.3, 0.04} {
		if len(s.counts.Vhosts) <= i {
			s.counts.Vhosts = append(s.counts.Vhosts, proxy.VhostCount{Name: []string{"example1.com", "example2.com", "t2.example1.com"}[i]})
		}
		s.counts.Vhosts[i].Open = int64(share * tunnels)
	}
	s.sums["full"] += 0.5 + 0.15*noise(40) + back/4
	s.sums["resumed"] += 1.3 + 0.4*noise(55) + back
	s.sums["failed"] += 0.05
	s.sums["in"] += 310 + 40*noise(90) + 20*noise(33)
	s.sums["out"] += 540 + 60*noise(80) + 25*noise(31)
	s.sums["busy"] += 0.06 + 0.008*noise(60) + back/160
	s.sums["client_close"] += 0.7 + 0.25*noise(65)
	s.sums["client_gone"] += 0.6 + 0.2*noise(45)
	s.sums["pong_timeout"] += 0.25 + 0.1*noise(38)
}

// warn writes what such a gate has in its log.
func (s *scene) warn() {
	if !s.broken {
		s.log.Warn("tunnel", "client", "192.0.2.7:51812", "server_name", "example1.com", "vhost", "example1.com", "upstream", "t1", "code", 1008, "reason", "slow_client")
		return
	}
	for range 38 {
		s.log.Warn("upstream", "upstream", "tigase", "node", "t2", "err", errors.New("dial tcp 10.0.0.12:5290: connect: connection refused"))
	}
	s.log.Error("certificate file cannot be used", "file", "certs/new.example3.com.pem", "err", errors.New(`key "certs/new.key" belongs to another certificate`))
	s.log.Error("reload", "err", errors.New(`/etc/wssgate/config.toml: limits: unknown key "conections"`))
}

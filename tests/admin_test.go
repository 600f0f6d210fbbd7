package tests

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wssgate/admin"
	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// An operator is a client of one gate's admin listener.
type operator struct {
	t      *testing.T
	base   string
	token  string
	client *http.Client
}

func operate(t *testing.T, g *gate.Gate) *operator {
	transport := &http.Transport{DisableKeepAlives: true}
	return &operator{t: t, base: "http://" + g.Addr("admin"), client: &http.Client{Transport: transport, Timeout: gate.Patience}}
}

// ask returns the status and the body of the answer; a gate that has ended
// gives 0.
func (o *operator) ask(method, path string) (int, string) {
	o.t.Helper()
	req, err := http.NewRequest(method, o.base+path, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (o *operator) want(method, path string, status int, words ...string) {
	o.t.Helper()
	got, body := o.ask(method, path)
	if got != status {
		o.t.Errorf("%s %s = %d %q; want %d", method, path, got, body, status)
	}
	for _, w := range words {
		if !strings.Contains(body, w) {
			o.t.Errorf("%s %s: %q; want %q in it", method, path, body, w)
		}
	}
}

func (o *operator) status() (st admin.Status) {
	o.t.Helper()
	code, body := o.ask("GET", "/status?history")
	if code != http.StatusOK {
		o.t.Fatalf("GET /status = %d %s", code, body)
	}
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		o.t.Fatal(err)
	}
	return st
}

// metric returns a metric's value by its name and labels as they are written,
// -1 where it is not there.
func (o *operator) metric(name string) float64 {
	o.t.Helper()
	_, body := o.ask("GET", "/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				o.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

func vhosts(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "[[vhost]]\nnames = %q\nupstream = \"xmpp\"\n", n)
	}
	return b.String()
}

// The gate is ready while each configured name has a certificate; its XMPP
// server is not asked.
func TestReady(t *testing.T) {
	site := gate.NewSite(t, "one.test", "two.test")
	dead := "ws://127.0.0.1:1/"
	g := site.Start(t, toUpstream(dead)+vhosts("one.test", "two.test", "*.three.test"))
	o := operate(t, g)
	o.want("GET", "/healthz", 200)
	o.want("GET", "/readyz", 200, "ready")

	if err := os.Remove(filepath.Join(site.Dir, site.CertFile("two.test"))); err != nil {
		t.Fatal(err)
	}
	g.Signal(syscall.SIGHUP)
	eventually(t, "two.test has no certificate", func() bool { code, _ := o.ask("GET", "/readyz"); return code == 503 })
	o.want("GET", "/readyz", 503, `no certificate for "two.test"`)
	o.want("GET", "/healthz", 200)
	site.Certify(t, "two.test", site.CA.Issue("two.test"))
	eventually(t, "two.test has one again", func() bool { code, _ := o.ask("GET", "/readyz"); return code == 200 })
}

// Without vhosts one certificate is enough, and none is not.
func TestReadyWithoutVhosts(t *testing.T) {
	site := gate.NewSite(t)
	g := site.Start(t, toUpstream("ws://127.0.0.1:1/"))
	o := operate(t, g)
	o.want("GET", "/readyz", 503, "no certificate in")
	site.Certify(t, name, site.CA.Issue(name))
	eventually(t, "ready", func() bool { code, _ := o.ask("GET", "/readyz"); return code == 200 })
}

// In a drain readiness fails first, and the page shows how far it has come
// until the last client has gone.
func TestDrainSeen(t *testing.T) {
	for _, how := range []string{"SIGTERM", "POST /drain"} {
		t.Run(how, func(t *testing.T) {
			g, client, _ := open(t, "[drain]\npace = 1000\ntimeout = \"5m\"\n")
			o := operate(t, g)
			o.want("GET", "/readyz", 200)
			if how == "SIGTERM" {
				g.Signal(syscall.SIGTERM)
			} else {
				o.want("POST", "/drain", 202, "all: drain begun")
			}
			client.WantClose(1001)
			o.want("GET", "/readyz", 503, "the gate is draining")
			o.want("GET", "/healthz", 200)
			if d := o.status().Drain; d == nil || d.Total != 1 || d.Left != 1 || d.Scope != "all" {
				t.Errorf("drain = %+v; want 1 of 1 left", d)
			}
			if got := o.metric("wssgate_draining"); got != 1 {
				t.Errorf("wssgate_draining = %v", got)
			}
			o.want("POST", "/reload", 422, "the gate is draining")
			o.want("POST", "/drain?stop", 409)
			o.want("POST", "/drain?vhost=*", 409)
			client.Send(wire.CloseFrame(true, 1001, ""))
			if status := g.Wait(); status != 0 {
				t.Errorf("exit status %d; want 0", status)
			}
		})
	}
}

// What a tunnel does is counted while it is open, under its vhost and node,
// and what ends it under its reason.
func TestMetricsOfAGate(t *testing.T) {
	u := wire.Echo(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, fmt.Sprintf("[upstream.xmpp]\nnodes = [{ name = \"n1\", url = %q }]\nxmpp = false\n", u.URL)+vhosts(name))
	o := operate(t, g)
	// A vhost that nobody has come to is there, for the alert on a gate that
	// has refused everybody since its start.
	if got := o.metric(`wssgate_tunnels_opened_total{vhost="example1.test"}`); got != 0 {
		t.Errorf("before any tunnel wssgate_tunnels_opened_total is %v; want 0", got)
	}
	if got := o.metric("wssgate_loops_limit"); got != float64(runtime.GOMAXPROCS(0)) {
		t.Errorf("wssgate_loops_limit is %v; want one for each processor", got)
	}
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")
	for metric, want := range map[string]float64{
		`wssgate_tunnels{vhost="example1.test"}`:                                  1,
		`wssgate_frames_total{direction="in"}`:                                    1,
		`wssgate_frames_total{direction="out"}`:                                   1,
		`wssgate_bytes_total{direction="in"}`:                                     2 + 4 + 5,
		`wssgate_bytes_total{direction="out"}`:                                    2 + 5,
		`wssgate_handshakes_total{result="full",version="1.3"}`:                   1,
		`wssgate_upstream_tunnels{node="n1",upstream="xmpp"}`:                     1,
		`wssgate_upstream_node_state{node="n1",state="up",upstream="xmpp"}`:       1,
		`wssgate_upstream_dial_duration_seconds_count{node="n1",upstream="xmpp"}`: 1,
		`wssgate_connections`:                                                     1,
	} {
		eventually(t, metric, func() bool { return o.metric(metric) == want })
	}
	c.Send(wire.CloseFrame(true, 1000, ""))
	c.WantGone()
	eventually(t, "the tunnel has ended", func() bool {
		return o.metric(`wssgate_tunnels{vhost="example1.test"}`) == 0 && o.metric(`wssgate_tunnels_closed_total{reason="client_close"}`) == 1
	})
	// A name that a client made up is no label, and in the status only where the names
	// without a certificate are.
	stranger := site.Client("made-up-by-a-client.test")
	if conn, err := (&net.Dialer{}).Dial("tcp", g.Addr("wss")); err == nil {
		tlsFails(conn, stranger)
	}
	eventually(t, "an unknown name", func() bool { return o.metric(`wssgate_handshakes_total{result="unknown_name",version=""}`) == 1 })
	for path, want := range map[string]int{"/metrics": 0, "/status?history": 1} {
		if _, body := o.ask("GET", path); strings.Count(body, "made-up") != want {
			t.Errorf("%s has a name that a client sent %d times; want %d", path, strings.Count(body, "made-up"), want)
		}
	}
	if names := o.status().Unserved; len(names) != 1 || names[0].Name != "made-up-by-a-client.test" || names[0].Count != 1 {
		t.Errorf("the names without a certificate are %+v; want one", names)
	}
}

// POST /reload does what SIGHUP does; a mistake comes back in words, stands in
// the status until it is mended, and changes nothing.
func TestReloadByRequest(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	o := operate(t, g)
	site.Config(t, toUpstream("http://not.a.websocket/")+"[limits]\nconections = 1\n")
	o.want("POST", "/reload", 422, `unknown key \"conections\"`, `did you mean`, "nothing was changed", "not.a.websocket")
	st := o.status()
	if st.Reload.OK || st.Reload.Bad != 1 || len(st.Findings) != 1 || !strings.Contains(st.Findings[0].What, "2 errors") {
		t.Errorf("reload %+v, findings %+v; want a bad one with 2 errors", st.Reload, st.Findings)
	}
	if len(st.Warnings) == 0 || st.Warnings[0].Level != "error" {
		t.Errorf("warnings %+v; want the log's errors", st.Warnings)
	}
	site.Config(t, toUpstream(wire.Echo(t).URL))
	o.want("POST", "/reload", 200, "reloaded")
	if st := o.status(); !st.Reload.OK || st.Reload.Good != 1 || len(st.Findings) != 0 {
		t.Errorf("reload %+v, findings %+v; want a good one", st.Reload, st.Findings)
	}
	if got := o.metric(`wssgate_config_reloads_total{result="bad"}`); got != 1 {
		t.Errorf("bad reloads = %v; want 1", got)
	}
}

// A vhost's drain closes its tunnels and lets none in, the other vhost goes on;
// stopping it lets clients in again.
func TestDrainVhost(t *testing.T) {
	site := gate.NewSite(t, "one.test", "two.test")
	u := wire.Echo(t)
	g := site.Start(t, toUpstream(u.URL)+vhosts("one.test", "two.test")+"[drain]\npace = 1000\ntimeout = \"5m\"\n")
	o := operate(t, g)
	one := wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
	two := wire.Dial(t, g.Addr("wss"), site.Client("two.test"))
	o.want("POST", "/drain?vhost=no.test", 404)
	o.want("POST", "/drain?vhost=one.test&stop", 409)
	o.want("POST", "/drain?vhost=One.test", 202)
	one.WantClose(1001)
	o.want("GET", "/readyz", 200)
	if d := o.status().Drains; len(d) != 1 || d[0].Scope != "vhost one.test" || d[0].Total != 1 {
		t.Errorf("drains = %+v", d)
	}
	one.Send(wire.CloseFrame(true, 1001, ""))
	one.WantEnd()
	if got := upgradeStatus(t, g, site, "one.test"); got != 503 {
		t.Errorf("a client of the drained vhost gets %d; want 503", got)
	}
	two.SendText("still here")
	two.WantText("still here")
	// A reload does not forget it, unless the vhost is gone.
	o.want("POST", "/reload", 200)
	if got := upgradeStatus(t, g, site, "one.test"); got != 503 {
		t.Errorf("after a reload a client of the drained vhost gets %d; want 503", got)
	}
	o.want("POST", "/drain?vhost=one.test&stop", 200)
	wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
	if d := o.status().Drains; len(d) != 0 {
		t.Errorf("drains = %+v; want none", d)
	}
}

// A drain of all vhosts ends no gate: it is not ready, says 503 and when to come
// again, and takes clients when that is stopped.
func TestDrainAll(t *testing.T) {
	site := gate.NewSite(t, "one.test", "two.test")
	u := wire.Echo(t)
	g := site.Start(t, toUpstream(u.URL)+vhosts("one.test", "two.test")+"[drain]\npace = 1000\ntimeout = \"5m\"\n")
	o := operate(t, g)
	one := wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
	two := wire.Dial(t, g.Addr("wss"), site.Client("two.test"))
	o.want("POST", "/drain?all&vhost=one.test", 400)
	o.want("POST", "/drain?all&stop", 409)
	o.want("POST", "/drain?all", 202)
	for _, c := range []*wire.Conn{one, two} {
		c.WantClose(1001)
		c.Send(wire.CloseFrame(true, 1001, ""))
		c.WantEnd()
	}
	o.want("GET", "/readyz", 503, "all vhosts are draining")
	o.want("POST", "/reload", 200)
	for _, n := range []string{"one.test", "two.test"} {
		resp, _ := wire.DialTLS(t, g.Addr("wss"), site.Client(n)).Answer(wire.Request(n))
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s gets %d, Retry-After %q; want 503 and a time", n, resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	if d := o.status().Drains; len(d) != 1 || d[0].Scope != "all vhosts" || d[0].Total != 2 || d[0].Query != "all" {
		t.Errorf("drains = %+v", d)
	}
	o.want("POST", "/drain?all&stop", 200)
	o.want("GET", "/readyz", 200)
	wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
}

// A node's drain moves its clients to the other node, and its own keep out
// until it is stopped.
func TestDrainNode(t *testing.T) {
	site := gate.NewSite(t, name)
	a, b := wire.Echo(t), wire.Echo(t)
	config := fmt.Sprintf("[upstream.xmpp]\nnodes = [{ name = \"a\", url = %q }, { name = \"b\", url = %q }]\nxmpp = false\n[drain]\npace = 1000\ntimeout = \"5m\"\n", a.URL, b.URL)
	g := site.Start(t, config)
	o := operate(t, g)
	var clients []*wire.Conn
	for a.Open() == 0 || b.Open() == 0 {
		clients = append(clients, wire.Dial(t, g.Addr("wss"), site.Client(name)))
	}
	before := b.Open()
	o.want("POST", "/drain?node=xmpp/c", 404)
	o.want("POST", "/drain?node=xmpp/a", 202)
	for _, c := range clients {
		go func() {
			if f, err := c.Frame(); err == nil && f.Op == wire.Close {
				c.Conn.Write(c.Bytes(wire.CloseFrame(true, 1001, "")))
			}
		}()
	}
	eventually(t, "a is empty", func() bool { return a.Open() == 0 })
	if got := b.Open(); got != before {
		t.Errorf("%d tunnels on b; want %d as before", got, before)
	}
	o.want("POST", "/reload", 200)
	for range 8 {
		wire.Dial(t, g.Addr("wss"), site.Client(name))
	}
	if got := b.Open(); a.Open() != 0 || got != before+8 {
		t.Errorf("%d tunnels on a, %d on b; want all 8 new ones on b", a.Open(), got-before)
	}
	if st := o.status(); st.Upstreams[0].Nodes[0].State != "draining" || len(st.Drains) != 1 || st.Drains[0].Scope != "node xmpp/a" {
		t.Errorf("node %+v, drains %+v", st.Upstreams[0].Nodes[0], st.Drains)
	}
	o.want("POST", "/drain?node=xmpp/a&stop", 200)
	eventually(t, "a is chosen again", func() bool {
		wire.Dial(t, g.Addr("wss"), site.Client(name))
		return a.Open() > 0
	})
}

// Off the machine a token is demanded; a reload takes another token, another
// address, and debug on or off.
func TestAdminAccess(t *testing.T) {
	site := gate.NewSite(t, name)
	rest := "[certificates]\ndirectory = \"certs\"\n" + toUpstream(wire.Echo(t).URL)
	config := func(listen string) {
		site.Write(t, "config.toml", []byte("[listen]\nwss = \"127.0.0.1:0\"\n"+listen+rest))
	}
	site.Write(t, "token", []byte("0123456789abcdef\n"))
	config("admin = \"0.0.0.0:0\"\nadmin_token_file = \"token\"\n")
	g := gate.Start(t, site.Dir)
	o := operate(t, g)
	_, port, err := net.SplitHostPort(g.Addr("admin"))
	if err != nil {
		t.Fatal(err)
	}
	o.base = "http://127.0.0.1:" + port
	o.want("GET", "/healthz", 200)
	o.want("GET", "/status", 401)
	o.want("POST", "/reload", 401)
	o.token = "0123456789abcdef"
	o.want("GET", "/status", 200)
	o.want("GET", "/debug/pprof/", 404)

	site.Write(t, "token", []byte("another token!!!!"[:16]+"\n"))
	config("admin = \"0.0.0.0:0\"\nadmin_token_file = \"token\"\nadmin_debug = true\n")
	o.want("POST", "/reload", 422, "admin_token_file") // two words
	site.Write(t, "token", []byte("fedcba9876543210\n"))
	o.want("POST", "/reload", 200)
	o.want("GET", "/status", 401)
	o.token = "fedcba9876543210"
	o.want("GET", "/debug/pprof/", 200)

	// To a socket, which only the operator and the operator's group may open.
	config("admin = \"unix:admin.sock\"\n")
	wait := g.Mark()
	o.want("POST", "/reload", 200)
	wait("the socket", func(l gate.Line) bool { return l.Msg() == "listening" && l.Str("listener") == "admin" })
	path := filepath.Join(site.Dir, "admin.sock")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v; want mode 0660", info, err)
	}
	if code, _ := o.ask("GET", "/healthz"); code != 0 {
		t.Errorf("the old address still answers %d", code)
	}
	o.base, o.token = "http://localhost", ""
	o.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	o.want("GET", "/status", 200)
	o.want("GET", "/debug/pprof/", 404)

	// And off.
	config("admin = \"\"\n")
	o.want("POST", "/reload", 200)
	if code, _ := o.ask("GET", "/healthz"); code != 0 {
		t.Errorf("turned off it still answers %d", code)
	}
	wire.Dial(t, g.Addr("wss"), site.Client(name))
}

// The page lists what needs somebody: a certificate that ends soon, a vhost
// without one, a file that is bad, a node that is out.
func TestFindings(t *testing.T) {
	site := gate.NewSite(t, "good.test")
	site.Certify(t, "soon.test", site.CA.IssueSpec(minica.Spec{Names: []string{"soon.test"}, NotBefore: time.Now().Add(-80 * 24 * time.Hour), NotAfter: time.Now().Add(50 * time.Hour)}))
	site.Write(t, "certs/bad.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	g := site.Start(t, toUpstream("ws://127.0.0.1:1/")+vhosts("good.test", "soon.test", "missing.test"))
	o := operate(t, g)
	if got := upgradeStatus(t, g, site, "good.test"); got < 500 {
		t.Errorf("a client gets %d; want 5xx, for the upstream is dead", got)
	}
	for _, want := range []admin.Finding{
		{Level: "error", What: `vhost "missing.test" has no certificate`},
		{Level: "error", What: `the certificate of "soon.test" expires in 2 days`},
		{Level: "error", What: `upstream "xmpp" has no working node`},
		{Level: "warn", What: "bad.pem"},
	} {
		eventually(t, want.What, func() bool {
			return slices.ContainsFunc(o.status().Findings, func(f admin.Finding) bool { return f.Level == want.Level && strings.Contains(f.What, want.What) })
		})
	}
	st := o.status()
	if v := st.Vhosts[1]; v.Name != "soon.test" || v.Certificate == nil || !strings.Contains(v.Certificate.Issuer, "wssgate test root") || v.Upstream != "xmpp" {
		t.Errorf("vhost = %+v, certificate %+v", v, v.Certificate)
	}
	if got := o.metric("wssgate_certificate_missing"); got != 1 {
		t.Errorf("wssgate_certificate_missing = %v; want 1", got)
	}
}

// upgradeStatus is what a client of a vhost gets for its opening handshake.
func upgradeStatus(t *testing.T, g *gate.Gate, site *gate.Site, serverName string) int {
	t.Helper()
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(serverName))
	resp, _ := c.Answer(wire.Request(serverName))
	return resp.StatusCode
}

// tlsFails does a handshake that the gate refuses.
func tlsFails(conn net.Conn, config *tls.Config) {
	defer conn.Close()
	tls.Client(conn, config).Handshake()
}

// A node that the file drains and the operator too is not taken in again, and its
// tunnels are closed, when one of the two stops: first the operator, then the file.
func TestDrainNodeTwice(t *testing.T) {
	for _, first := range []string{"the operator", "the file"} {
		site := gate.NewSite(t, name)
		a, b := wire.Echo(t), wire.Echo(t)
		config := func(drain bool) string {
			const text = "[upstream.xmpp]\nnodes = [{ name = \"a\", url = %q, drain = %t }, { name = \"b\", url = %q }]\nxmpp = false\n[drain]\npace = 1\n"
			return fmt.Sprintf(text, a.URL, drain, b.URL)
		}
		g := site.Start(t, config(false))
		o := operate(t, g)
		var clients []*wire.Conn
		for a.Open() < 3 {
			before := a.Open()
			c := wire.Dial(t, g.Addr("wss"), site.Client(name))
			if a.Open() > before {
				clients = append(clients, c)
			}
		}
		file := func(drain bool) {
			site.Config(t, config(drain))
			o.want("POST", "/reload", 200)
		}
		file(true)
		o.want("POST", "/drain?node=xmpp/a", 202)
		if first == "the operator" {
			o.want("POST", "/drain?node=xmpp/a&stop", 200)
		} else {
			file(false)
		}
		if st := o.status(); st.Upstreams[0].Nodes[0].State != "draining" {
			t.Errorf("%s has stopped, and the node is %q; want draining", first, st.Upstreams[0].Nodes[0].State)
		}
		for _, c := range clients {
			c.WantClose(1001)
		}
	}
}

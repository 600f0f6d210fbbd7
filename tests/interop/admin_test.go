package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"wssgate/admin"
	"wssgate/demo/chat"
	"wssgate/proxy"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// A lookStep is a step of admin.mjs.
type lookStep map[string]any

// A looked is the result of one.
type looked struct {
	Text    string   `json:"text"`
	Verdict string   `json:"verdict"`
	Title   string   `json:"title"`
	Wide    bool     `json:"wide"` // it has to be scrolled sideways
	Errors  []string `json:"errors"`
	Value   any      `json:"value"`
}

// look lets Chromium do the steps. The names resolve to 127.0.0.1.
func look(t *testing.T, names []string, steps ...lookStep) []looked {
	t.Helper()
	gate.Program(t, "chromium", "chromium")
	gate.Program(t, "node", "nodejs")
	if _, err := os.Stat("../node_modules/playwright-core"); err != nil {
		gate.Missing(t, "playwright-core is not installed; to run this test: npm ci --prefix tests")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	task, err := json.Marshal(map[string]any{"chromium": chromium, "home": t.TempDir(), "map": names, "steps": steps})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	node := exec.CommandContext(t.Context(), "node", "admin.mjs")
	node.Stdin, node.Stdout, node.Stderr = bytes.NewReader(task), &stdout, &stderr
	if err := node.Run(); err != nil {
		t.Fatalf("node admin.mjs: %v\n%s", err, stderr.Bytes())
	}
	var results []looked
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil || len(results) != len(steps) {
		t.Fatalf("node admin.mjs: %v; %d results for %d steps", err, len(results), len(steps))
	}
	return results
}

// The page lists tunnels while somebody looks, finds them by a filter, closes one, and
// lets in who is denied.
func TestAdminTunnels(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, "one.test")
	g := site.Start(t, "[upstream.xmpp]\nxmpp = false\nnodes = [{ name = \"n1\", url = \""+upstream.URL+"\" }]\n")
	c := wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
	c.SendText("hello")
	c.WantText("hello")
	admin := "http://" + g.Addr("admin")
	resp, err := http.Post(admin+"/deny?client=192.0.2.7&for=1h", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	const filter = "(document.querySelector('#tunnels select').value = 'client', document.querySelector('#tunnels input').value = '%s', document.querySelector('#tunnels form').requestSubmit())"
	client := c.LocalAddr().String()
	got := look(t, nil, []lookStep{
		{"page": "a", "open": admin + "/"},
		{"page": "a", "until": "All is well"},
		{"page": "a", "until": "192.0.2.7"},
		{"page": "a", "run": "document.querySelector('#tunnels').open = true"},
		{"page": "a", "until": client},
		{"page": "a", "see": true}, // 5
		{"page": "a", "run": fmt.Sprintf(filter, "192.0.2.0/24")},
		{"page": "a", "until": "1, of which 0 match"},
		{"page": "a", "run": fmt.Sprintf(filter, "nonsense")},
		{"page": "a", "until": "is not a network"},
		{"page": "a", "run": fmt.Sprintf(filter, "127.0.0.1")},
		{"page": "a", "until": client},
		{"page": "a", "press": "Close"},
		{"page": "a", "until": "closing 1 tunnel"},
		{"page": "a", "press": "Let in"},
		{"page": "a", "until": "All is well"},
		{"page": "a", "see": true}, // 16
	}...)
	if page := got[5]; page.Wide || !strings.Contains(page.Text, "xmpp / n1") {
		t.Errorf("the list, sideways %v:\n%s", page.Wide, page.Text)
	}
	for _, problem := range got[16].Errors {
		if !strings.Contains(problem, "400 (Bad Request)") {
			t.Errorf("the browser says %q", problem)
		}
	}
	c.WantClose(1008)
}

// Somebody opens the page of a gate, by a name and by an address, logs in, reloads a configuration with a
// mistake, drains a vhost and takes that back, and at last drains the gate.
func TestAdminPage(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, "one.test", "two.test")
	config := func(more string) {
		site.Write(t, "config.toml", []byte(`[listen]
wss = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token_file = "token"
[timeouts]
ping = "10m" # which the test's client would not answer
[upstream.xmpp]
xmpp = false # for the client says nothing
nodes = [{ name = "n1", url = "`+upstream.URL+`" }]
[[vhost]]
names = ["one.test", "two.test"]
upstream = "xmpp"
`+more))
	}
	token := "the-token-of-the-operator"
	site.Write(t, "token", []byte(token+"\n"))
	config("")
	g := gate.Start(t, site.Dir)
	wire.Dial(t, g.Addr("wss"), site.Client("one.test"))
	config("[limits]\nconections = 1\n")

	steps := []lookStep{
		{"page": "a", "open": "http://" + g.Addr("admin") + "/"},
		{"page": "a", "until": "Token required"},
		{"page": "a", "login": "a token that is not it"},
		{"page": "a", "until": "Wrong token."},
		{"page": "a", "login": token},
		{"page": "a", "until": "All is well"},
		{"page": "a", "see": true}, // 6
		{"page": "a", "press": "Reload"},
		{"page": "a", "until": "hint: did you mean"},
		{"page": "a", "until": "1 problem needs attention now"},
		{"page": "a", "see": true}, // 10
		{"page": "a", "choose": "vhost two.test"},
		{"page": "a", "press": "Drain…", "confirm": true},
		{"page": "a", "until": "vhost two.test: 0 of 0 tunnels left"},
		{"page": "a", "until": "vhost two.test has been draining since"},
		{"page": "a", "press": "Stop"},
		{"page": "a", "until": "vhost two.test: accepts clients again"},
		{"page": "a", "choose": "the whole gate"},
		{"page": "a", "press": "Drain…", "confirm": true},
		{"page": "a", "until": "Draining: 1 of 1 connections left"},
	}
	_, port, err := net.SplitHostPort(g.Addr("admin"))
	if err != nil {
		t.Fatal(err)
	}
	byName := []lookStep{
		{"page": "b", "open": "http://gate.internal:" + port + "/"},
		{"page": "b", "until": "Token required"},
		{"page": "b", "login": token},
		{"page": "b", "until": "1 tunnel · 2 vhosts"},
	}
	got := look(t, []string{"gate.internal"}, slices.Concat(byName, steps)...)[len(byName):]
	if page := got[6]; page.Verdict != "card good" || !strings.Contains(page.Title, "All is well") || page.Wide {
		t.Errorf("after the login: verdict %q, title %q, sideways %v", page.Verdict, page.Title, page.Wide)
	}
	for _, want := range []string{"1 tunnel · 2 vhosts · 1 upstream node", "one.test", "two.test", "wssgate test root", "89 days", "xmpp / n1", upstream.URL} {
		if !strings.Contains(got[6].Text, want) {
			t.Errorf("after the login there is no %q:\n%s", want, got[6].Text)
		}
	}
	if page := got[10]; page.Verdict != "card bad" || !strings.Contains(page.Text, `unknown key "conections"`) || !strings.Contains(page.Text, "changed nothing: 1 error") {
		t.Errorf("after the reload: verdict %q\n%s", page.Verdict, page.Text)
	}
	// The browser itself says that it got a 401 and a 422; nothing else may be
	// wrong, and no policy broken.
	for _, problem := range got[10].Errors {
		if !strings.Contains(problem, "401 (Unauthorized)") && !strings.Contains(problem, "422 (Unprocessable Entity)") {
			t.Errorf("the browser says %q", problem)
		}
	}
	if text := g.Text(); strings.Contains(text, token) {
		t.Error("the token is in the log")
	}
}

// The page lists the addresses that are refused for failed logins, and pardons one,
// then all. Behind admin_token_file that wants the token as everything does.
func TestAdminPardon(t *testing.T) {
	upstream, err := chat.Listen(chat.Config{Password: "right"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	const token = "the-token-of-the-operator"
	site := gate.NewSite(t, "one.test")
	site.Write(t, "token", []byte(token+"\n"))
	site.Write(t, "config.toml", []byte(`[listen]
wss = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token_file = "token"
[upstream.xmpp]
nodes = [{ name = "n1", url = "`+upstream.URL()+`" }]
[limits]
login_failures = "1/10m"
`))
	g := gate.Start(t, site.Dir)
	guess := func(from string) error {
		c, err := chat.Dial(t.Context(), chat.Target{
			URL: "wss://one.test/", Addr: g.Addr("wss"), TLS: site.Client("one.test"), User: "alice", Password: "wrong",
			NetDial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext,
		})
		if err != nil {
			return err
		}
		defer c.Abort()
		return errors.Join(c.OpenStream(), c.Authenticate())
	}
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		if err := guess(from); err == nil || !strings.Contains(err.Error(), "policy-violation") {
			t.Fatalf("a guess from %s: %v; want policy-violation", from, err)
		}
	}
	resp, err := http.Post("http://"+g.Addr("admin")+"/pardon?all", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a pardon without the token: %s; want 401", resp.Status)
	}
	got := look(t, nil,
		lookStep{"page": "a", "open": "http://" + g.Addr("admin") + "/"},
		lookStep{"page": "a", "login": token},
		lookStep{"page": "a", "until": "127.0.0.3"},
		lookStep{"page": "a", "see": true},       // 3
		lookStep{"page": "a", "press": "Pardon"}, // the one that was refused last
		lookStep{"page": "a", "until": "127.0.0.3: 1 pardoned"},
		lookStep{"page": "a", "until": "1 address; 1 refused"},
		lookStep{"page": "a", "press": "Pardon all"},
		lookStep{"page": "a", "run": "new Promise((done) => { const timer = setInterval(() => { if (document.querySelector('#logins').hidden) { clearInterval(timer); done(true); } }, 20); })"},
		lookStep{"page": "a", "see": true}, // 9
	)
	for _, want := range []string{"FAILED LOGINS", "2 addresses; 2 refused. After 1 failed login an address is refused for 10m.", "127.0.0.2", "refused for 10 minutes"} {
		if !strings.Contains(got[3].Text, want) {
			t.Errorf("there is no %q on the page:\n%s", want, got[3].Text)
		}
	}
	if strings.Contains(got[9].Text, "FAILED LOGINS") {
		t.Errorf("after all pardons:\n%s", got[9].Text)
	}
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		if err := guess(from); err == nil || !strings.Contains(err.Error(), "policy-violation") {
			t.Errorf("a guess from %s after the pardon: %v; want it heard", from, err)
		}
	}
}

// A page of another site, open in the browser of somebody who can reach the
// gate, gets nothing and does nothing, whatever it tries.
func TestAdminForeignPage(t *testing.T) {
	site := gate.NewSite(t, "one.test")
	g := site.Start(t, "[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:1/\"]\n[log]\nlevel = \"debug\"\n")
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<!doctype html><title>evil</title><p>as of"))
	}))
	t.Cleanup(evil.Close)
	_, evilPort, _ := net.SplitHostPort(evil.Listener.Addr().String())
	_, port, _ := net.SplitHostPort(g.Addr("admin"))
	const attack = `(async () => {
		const to = 'http://127.0.0.1:PORT';
		const tries = [];
		for (const path of ['/status', '/metrics', '/healthz', '/'])
			for (const mode of ['cors', 'no-cors']) tries.push(fetch(to + path, { mode, credentials: 'include' }));
		for (const path of ['/reload', '/drain', '/drain?vhost=*'])
			for (const mode of ['cors', 'no-cors']) tries.push(fetch(to + path, { mode, method: 'POST', body: 'x', headers: { 'Content-Type': 'text/plain' } }));
		tries.push(fetch(to + '/status', { headers: { Authorization: 'Bearer x' } }));
		const read = [];
		for (const result of await Promise.allSettled(tries)) {
			if (result.status === 'fulfilled' && result.value.type !== 'opaque') read.push(result.value.url);
		}
		const loads = (element) => new Promise((done) => { element.onload = () => done(true); element.onerror = () => done(false); });
		const image = new Image(); image.src = to + '/'; await loads(image);
		const script = document.createElement('script'); script.src = to + '/status'; document.head.append(script);
		if (await loads(script)) read.push('script');
		const frame = document.createElement('iframe'); frame.name = 'frame'; document.body.append(frame);
		const form = document.createElement('form'); form.method = 'POST'; form.action = to + '/drain'; form.target = 'frame'; document.body.append(form);
		const sent = loads(frame); form.submit(); await sent;
		return read;
	})()`
	got := look(t, []string{"evil.test", "rebound.test"},
		lookStep{"page": "evil", "open": "http://evil.test:" + evilPort + "/"},
		lookStep{"page": "evil", "run": strings.ReplaceAll(attack, "PORT", port)},
		lookStep{"page": "rebound", "open": "http://rebound.test:" + port + "/"},
		lookStep{"page": "rebound", "run": "fetch('/status').then((r) => r.status, () => 421)"},
		lookStep{"page": "rebound", "run": "fetch('/drain', { method: 'POST' }).then((r) => r.status, () => 421)"},
		lookStep{"page": "own", "open": "http://127.0.0.1:" + port + "/"},
		lookStep{"page": "own", "until": "as of "},
		lookStep{"page": "own", "run": "fetch('/status').then((r) => r.json())"},
	)
	if read, ok := got[1].Value.([]any); !ok || len(read) != 0 {
		t.Errorf("a foreign page could read %v", got[1].Value)
	}
	// The refusal's own policy keeps even its scripts from asking more.
	for i := 2; i <= 4; i++ {
		if got[i].Value != 421.0 {
			t.Errorf("under a name of its own a page gets %v; want 421", got[i].Value)
		}
	}
	st, ok := got[7].Value.(map[string]any)
	if !ok || st["drain"] != nil || len(st["drains"].([]any)) != 0 {
		t.Fatalf("the gate drains, or its own page gets no status: %v", got[7].Value)
	}
	if reload := st["reload"].(map[string]any); reload["good"] != 0.0 || reload["bad"] != 0.0 {
		t.Errorf("a foreign page made it reload: %v", reload)
	}
	if n := strings.Count(g.Text(), `"msg":"admin request refused"`); n < 10 {
		t.Errorf("%d requests were refused; did the page try at all?\n%s", n, g.Text())
	}
}

// The page shows a good hour, a bad one and a drain, in light and dark, on a
// desk and on a phone. The pictures of it in docs/ are made here:
//
//	WSSGATE_SCREENSHOTS=docs go test ./interop -run TestAdminPictures
func TestAdminPictures(t *testing.T) {
	dir := t.TempDir()
	if to := os.Getenv("WSSGATE_SCREENSHOTS"); to != "" {
		dir = filepath.Join("..", "..", to)
	}
	well, draining := play(t, false)
	broken, _ := play(t, true)
	desk, phone := []int{1240, 900}, []int{390, 844}
	tests := []struct {
		name    string
		answer  []byte
		scheme  string
		size    []int
		scale   int
		verdict string
		want    []string
	}{
		{"status-well", well, "light", desk, 1, "card good", []string{
			"All is well", "tunnels · 3 vhosts · 2 upstream nodes", "61 days", "43 days", "tigase / t2", "0.78 ms", "reason=slow_client",
			"client close", "pong timeout", "from clients", "% resumed since start", "accepted",
			"per tunnel", "13 MiB of 512 MiB in total",
		}},
		{"status-broken", broken, "dark", desk, 1, "card bad", []string{
			"2 problems need attention now", `vhost "new.example3.com" has no certificate`, "put its certificate and key into the certificate directory",
			`the certificate of "example2.com" expires in 9 days`, "connection refused", "warn ×38", "upstream gone", "rejected",
			`hint: did you mean "connections"?`, "in 50 minutes",
		}},
		{"status-phone", broken, "light", phone, 2, "card bad", []string{"2 problems need attention now", "new.example3.com"}},
		{"status-drain", draining, "dark", phone, 2, "card work", []string{" of 2,417 connections left", "since 11 seconds; the rest will be closed in 19 seconds"}},
	}
	var steps []lookStep
	for _, test := range tests {
		onPhone := test.size[0] == phone[0]
		steps = append(steps,
			lookStep{"page": test.name, "open": serveAnswer(t, test.answer), "scheme": test.scheme, "size": test.size, "scale": test.scale},
			lookStep{"page": test.name, "until": "as of "},
			lookStep{"page": test.name, "see": true},
			lookStep{"page": test.name, "shot": filepath.Join(dir, test.name+".png"), "whole": !onPhone},
			lookStep{"page": test.name, "run": "document.querySelectorAll('#charts path').length"},
		)
	}
	got := look(t, nil, steps...)
	for i, test := range tests {
		page, paths := got[5*i+2], got[5*i+4].Value.(float64)
		if page.Verdict != test.verdict || len(page.Errors) > 0 || page.Wide {
			t.Errorf("%s: verdict %q, want %q; errors %q; has to be scrolled sideways: %v", test.name, page.Verdict, test.verdict, page.Errors, page.Wide)
		}
		for _, want := range test.want {
			if !strings.Contains(page.Text, want) {
				t.Errorf("%s does not show %q:\n%s", test.name, want, page.Text)
			}
		}
		if paths < 15 {
			t.Errorf("%s: %v lines and areas in six charts", test.name, paths)
		}
	}
}

// Whatever stands in names and errors is text on the page, and makes it no wider
// than the window.
func TestAdminPageHostile(t *testing.T) {
	const markup = `<img src=x onerror="hit=1"><script>hit=1</script>'"&amp;` + "\u202e\x00"
	broken, _ := play(t, true)
	var status map[string]any
	if err := json.Unmarshal(broken, &status); err != nil {
		t.Fatal(err)
	}
	// The page's own words stay, and so do times.
	own := []string{"level", "state", "source", "result", "version", "balance"}
	var poison func(key string, v any) any
	poison = func(key string, v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k := range v {
				v[k] = poison(k, v[k])
			}
		case []any:
			for i := range v {
				v[i] = poison(key, v[i])
			}
		case string:
			if _, err := time.Parse(time.RFC3339, v); err != nil && !slices.Contains(own, key) {
				return v + markup + strings.Repeat("m", 300)
			}
		}
		return v
	}
	answer, err := json.Marshal(poison("", status))
	if err != nil {
		t.Fatal(err)
	}
	url := serveAnswer(t, answer)
	var steps []lookStep
	for _, size := range [][]int{{1240, 900}, {390, 844}} {
		page := strconv.Itoa(size[0])
		steps = append(steps,
			lookStep{"page": page, "open": url, "size": size},
			lookStep{"page": page, "until": "as of "},
			lookStep{"page": page, "run": "[typeof hit, document.querySelectorAll('body img, body script').length].join()"},
			lookStep{"page": page, "see": true},
		)
	}
	got := look(t, nil, steps...)
	for i := 0; i < len(got); i += 4 {
		if got[i+2].Value != "undefined,1" { // the page's own script
			t.Errorf("markup of a name became part of the page: %v", got[i+2].Value)
		}
		page := got[i+3]
		if !strings.Contains(page.Text, `<script>hit=1</script>`) || len(page.Errors) > 0 || page.Wide {
			t.Errorf("%v: errors %q; has to be scrolled sideways: %v\n%s", steps[i]["size"], page.Errors, page.Wide, page.Text)
		}
	}
}

// serveAnswer serves the page, with that answer to its questions.
func serveAnswer(t *testing.T, answer []byte) string {
	s := admin.New(admin.Options{Gate: func() admin.Gate { return admin.Gate{} }, Counts: func() proxy.Counts { return proxy.Counts{} }})
	t.Cleanup(s.Close)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/status" {
			w.Write(answer)
			return
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	return web.URL + "/"
}

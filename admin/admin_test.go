package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// /readyz reports whether the gate can accept clients, with reasons; /healthz is
// independent of that.
func TestHealthAndReady(t *testing.T) {
	var why []string
	s := newServer(t, func(o *Options) { o.NotReady = func() []string { return why } })
	url, _ := serve(t, s)
	client := newClient(t)
	for _, test := range []struct {
		why    []string
		status int
		body   string
	}{
		{nil, 200, "ready\n"},
		{[]string{"a", "b"}, 503, "not ready\na\nb\n"},
		{slices.Repeat([]string{"a"}, maxReasons+3), 503, "not ready\n" + strings.Repeat("a\n", maxReasons) + "and 3 more\n"},
	} {
		why = test.why
		if status, body := get(t, client, url+"/readyz"); status != test.status || body != test.body {
			t.Errorf("not ready for %q: %d %q; want %d %q", test.why, status, body, test.status, test.body)
		}
		if status, body := get(t, client, url+"/healthz"); status != 200 || body != "ok\n" {
			t.Errorf("/healthz = %d %q", status, body)
		}
	}
}

// POST /reload returns the mistakes, line by line.
func TestReload(t *testing.T) {
	var fail error
	s := newServer(t, func(o *Options) { o.Reload = func(context.Context) error { return fail } })
	for _, test := range []struct {
		fail error
		code int
		want outcome
	}{
		{nil, 200, outcome{OK: true, Result: "reloaded"}},
		{errors.New("config.toml: a\n  hint: b\nconfig.toml: c"), 422, outcome{Result: "nothing was changed", Errors: []string{"config.toml: a", "  hint: b", "config.toml: c"}}},
	} {
		fail = test.fail
		w := ask(s, loopback, "POST", "http://127.0.0.1/reload")
		var got outcome
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != test.code || fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("reload with %v: %d %+v, %v; want %d %+v", test.fail, w.Code, got, err, test.code, test.want)
		}
	}
	if w := ask(newServer(t, nil), loopback, "POST", "http://127.0.0.1/reload"); w.Code != 501 {
		t.Errorf("without Reload: %d; want 501", w.Code)
	}
}

// POST /drain needs an exact target; a mistake drains nothing.
func TestDrain(t *testing.T) {
	for _, test := range []struct {
		query string
		want  DrainRequest
		code  int
	}{
		{"", DrainRequest{}, 202},
		{"?vhost=example1.com", DrainRequest{Vhost: "example1.com"}, 202},
		{"?vhost=*.example1.com&stop=1", DrainRequest{Vhost: "*.example1.com", Stop: true}, 200},
		{"?all", DrainRequest{All: true}, 202},
		{"?all&stop", DrainRequest{All: true, Stop: true}, 200},
		{"?node=tigase/t1", DrainRequest{Upstream: "tigase", Node: "t1"}, 202},
		{"?node=tigase//run/xmpp.sock&stop", DrainRequest{Upstream: "tigase", Node: "/run/xmpp.sock", Stop: true}, 200},
	} {
		var got []DrainRequest
		s := newServer(t, func(o *Options) { o.Drain = func(r DrainRequest) error { got = append(got, r); return nil } })
		w := ask(s, loopback, "POST", "http://127.0.0.1/drain"+test.query)
		if w.Code != test.code || len(got) != 1 || got[0] != test.want {
			t.Errorf("POST /drain%s = %d, asked %+v; want %d, %+v", test.query, w.Code, got, test.code, test.want)
		}
	}
	for _, slip := range []string{"?vhots=example1.com", "?vhost=", "?vhost=a&vhost=b", "?node=t1", "?node=/t1", "?node=tigase/", "?vhost=a&node=b/c", "?stop=no", "?all=one", "?everything", "?all&vhost=a", "?a;b", "?%zz"} {
		s := newServer(t, func(o *Options) {
			o.Drain = func(r DrainRequest) error { t.Errorf("POST /drain%s drains %+v", slip, r); return nil }
		})
		if w := ask(s, loopback, "POST", "http://127.0.0.1/drain"+slip); w.Code != 400 {
			t.Errorf("POST /drain%s = %d; want 400", slip, w.Code)
		}
	}
	for _, test := range []struct {
		err  error
		code int
	}{
		{fmt.Errorf("of one vhost: %w", ErrNotSupported), 501},
		{fmt.Errorf("vhost \"x\": %w", ErrUnknown), 404},
		{fmt.Errorf("stopping that is %w", ErrConflict), 409},
		{errors.New("other"), 500},
	} {
		s := newServer(t, func(o *Options) { o.Drain = func(DrainRequest) error { return test.err } })
		if w := ask(s, loopback, "POST", "http://127.0.0.1/drain"); w.Code != test.code || !strings.Contains(w.Body.String(), `"ok": false`) {
			t.Errorf("drain with %v = %d %s; want %d", test.err, w.Code, w.Body, test.code)
		}
	}
	if w := ask(newServer(t, nil), loopback, "POST", "http://127.0.0.1/drain"); w.Code != 501 {
		t.Errorf("without Drain: %d; want 501", w.Code)
	}
}

// POST /pardon needs an address, as it is or as on the page; a mistake pardons nothing.
func TestPardon(t *testing.T) {
	for query, want := range map[string]string{
		"?client=192.0.2.7": "192.0.2.7", "?client=192.0.2.7/32": "192.0.2.7", "?client=2001:db8::5": "2001:db8::5",
		"?client=2001%3Adb8%3A%3A%2F64": "2001:db8::", "?all": "invalid IP", "?all=1": "invalid IP",
	} {
		var got []string
		s := newServer(t, func(o *Options) { o.Pardon = func(c netip.Addr) int { got = append(got, c.String()); return 2 } })
		w := ask(s, loopback, "POST", "http://127.0.0.1/pardon"+query)
		if w.Code != 200 || len(got) != 1 || got[0] != want || !strings.Contains(w.Body.String(), ": 2 pardoned") {
			t.Errorf("POST /pardon%s = %d %s, asked %q; want %q", query, w.Code, w.Body, got, want)
		}
	}
	for _, slip := range []string{"", "?client=", "?client=alice", "?client=192.0.2.7&all", "?client=192.0.2.7&client=192.0.2.8", "?all=no", "?everybody",
		"?client=fe80::1%25eth0", "?client=192.0.2.7:5291", "?%zz", "?a;b"} {
		s := newServer(t, func(o *Options) {
			o.Pardon = func(c netip.Addr) int { t.Errorf("POST /pardon%s pardons %v", slip, c); return 1 }
		})
		if w := ask(s, loopback, "POST", "http://127.0.0.1/pardon"+slip); w.Code != 400 {
			t.Errorf("POST /pardon%s = %d; want 400", slip, w.Code)
		}
	}
	s := newServer(t, func(o *Options) { o.Pardon = func(netip.Addr) int { return 0 } })
	if w := ask(s, loopback, "POST", "http://127.0.0.1/pardon?client=192.0.2.7"); w.Code != 404 {
		t.Errorf("for an address that nobody knows: %d; want 404", w.Code)
	}
	if w := ask(s, loopback, "POST", "http://127.0.0.1/pardon?all"); w.Code != 200 {
		t.Errorf("for all, where there is none: %d; want 200", w.Code)
	}
	if w := ask(newServer(t, nil), loopback, "POST", "http://127.0.0.1/pardon?all"); w.Code != 501 {
		t.Errorf("without Pardon: %d; want 501", w.Code)
	}
}

// The status of a gate with ten thousand vhosts fits on a page: vhosts with problems
// come first; ?all has the rest.
func TestStatusRows(t *testing.T) {
	now := time.Now()
	s := newServer(t, func(o *Options) {
		o.Gate = func() Gate {
			var g Gate
			for i := range 10000 {
				c := Certificate{Name: fmt.Sprint("n", i), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Duration(20000-i) * time.Hour)}
				g.Certificates = append(g.Certificates, c)
				g.Vhosts = append(g.Vhosts, Vhost{Name: c.Name, Certificate: &c})
			}
			g.Vhosts[4711].Certificate = nil
			return g
		}
	})
	var st Status
	for query, want := range map[string]int{"": maxRows, "?all": 10000} {
		w := ask(s, loopback, "GET", "http://127.0.0.1/status"+query)
		if err := json.Unmarshal(w.Body.Bytes(), &st); err != nil {
			t.Fatal(err)
		}
		if len(st.Vhosts) != want || len(st.Certificates) != want || st.VhostsTotal != 10000 || st.CertificatesTotal != 10000 {
			t.Errorf("/status%s: %d vhosts, %d certificates, of %d and %d", query, len(st.Vhosts), len(st.Certificates), st.VhostsTotal, st.CertificatesTotal)
		}
		if st.Vhosts[0].Name != "n4711" || st.Vhosts[1].Name != "n9999" || st.Certificates[0].Name != "n9999" {
			t.Errorf("/status%s begins with %s, %s, %s", query, st.Vhosts[0].Name, st.Vhosts[1].Name, st.Certificates[0].Name)
		}
	}
	if len(st.Findings) != 1 || st.Ready != true {
		t.Errorf("findings %+v, ready %v; want one, for a vhost without a certificate", st.Findings, st.Ready)
	}
}

// Empty lists are encoded as lists, not as null.
func TestStatusHasNoNull(t *testing.T) {
	s := newServer(t, func(o *Options) {
		o.Gate = func() Gate { return Gate{Upstreams: []Upstream{{Name: "a"}}} }
		o.Warnings = NewWarnings(nil)
	})
	w := ask(s, loopback, "GET", "http://127.0.0.1/status?history")
	for _, key := range []string{"times", "busy", "full", "tunnels", "drains", "not_ready", "findings", "listeners", "vhosts", "certificates", "file_problems", "first", "acme", "clients", "nodes", "errors", "warnings"} {
		if !strings.Contains(w.Body.String(), fmt.Sprintf("%q: []", key)) {
			t.Errorf("%s is not []:\n%s", key, w.Body)
		}
	}
}

// The page may run its own script and style, and nothing else.
func TestPagePolicy(t *testing.T) {
	w := ask(newServer(t, nil), loopback, "GET", "http://127.0.0.1/")
	policy := w.Header().Get("Content-Security-Policy")
	for _, banned := range []string{"unsafe-inline", "unsafe-eval", "http:", "https:", "*", "strict-dynamic"} {
		if strings.Contains(policy, banned) {
			t.Errorf("policy %q has %s", policy, banned)
		}
	}
	body := w.Body.String()
	if strings.Count(body, "<script") != 1 || strings.Count(body, "<style") != 1 || strings.Count(policy, "'sha256-") != 2 {
		t.Errorf("%d scripts and %d styles for the policy %q", strings.Count(body, "<script"), strings.Count(body, "<style"), policy)
	}
	for _, banned := range []string{"innerHTML", "eval(", " style=", " onclick=", "src=", "//cdn"} {
		if strings.Contains(body, banned) {
			t.Errorf("the page has %q", banned)
		}
	}
}

// /healthz returns the gate's own report, with the reason, and depends on nothing else.
func TestHealth(t *testing.T) {
	var stuck error
	s := newServer(t, func(o *Options) { o.Alive = func() error { return stuck } })
	for _, test := range []struct {
		err  error
		code int
		body string
	}{{nil, 200, "ok\n"}, {errors.New("the main loop has been stuck"), 503, "the main loop has been stuck\n"}} {
		stuck = test.err
		if w := ask(s, loopback, "GET", "http://127.0.0.1/healthz"); w.Code != test.code || w.Body.String() != test.body {
			t.Errorf("%d %q; want %d %q", w.Code, w.Body, test.code, test.body)
		}
	}
}

// A file that hangs is a finding, with its path and start. A log that is read slowly is
// not a finding; one that is not read is.
func TestFindingsOfHangs(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	st := &Status{Now: now}
	st.Hanging = []Hang{{"certificates", "/certs/a.pem", now.Add(-time.Minute), false}}
	st.Log = Log{Lost: 3, Since: now.Add(-time.Second)}
	found := judge(st, newHistory())
	if len(found) != 1 || found[0].What != `certificates: "/certs/a.pem" has not answered since 2030-01-02 03:03:05` {
		t.Errorf("found %+v", found)
	}
	st.Log.Since = now.Add(-logHangs)
	found = judge(st, newHistory())
	if len(found) != 2 || found[1].What != "the log has not been read since 2030-01-02 03:03:55; 3 lines lost since the start" {
		t.Errorf("found %+v", found)
	}
	st.Hanging[0].Slow = true
	st.Log = Log{Lost: 3, Err: "no space left on device", Failing: now.Add(-time.Minute)}
	found = judge(st, newHistory())
	if len(found) != 2 || found[0].What != `certificates: "/certs/a.pem" has been slow and is partly unread since 2030-01-02 03:03:05` ||
		found[1].What != "the log has not been writable since 2030-01-02 03:03:05: no space left on device; 3 lines lost since the start" {
		t.Errorf("found %+v", found)
	}
}

// POST /acme passes on the command and the name, and returns the result; a mistake does
// nothing.
func TestACME(t *testing.T) {
	var got ACMERequest
	var fails error
	s := newServer(t, func(o *Options) {
		o.ACME = func(_ context.Context, r ACMERequest) (string, error) { got = r; return r.Name + ": done", fails }
	})
	for query, want := range map[string]ACMERequest{
		"?renew=a.example.org":                       {"renew", "a.example.org", ""},
		"?retry=a.example.org":                       {"retry", "a.example.org", ""},
		"?revoke=a.example.org&reason=keyCompromise": {"revoke", "a.example.org", "keyCompromise"},
		"?reason=superseded&revoke=b%C3%BC.example":  {"revoke", "b\u00fc.example", "superseded"},
		"?rollover=account":                          {"rollover", "account", ""},
		"?dns-records=all":                           {"dns-records", "all", ""},
	} {
		if w := ask(s, loopback, "POST", "http://127.0.0.1/acme"+query); w.Code != 202 || got != want || !strings.Contains(w.Body.String(), want.Name+": done") {
			t.Errorf("POST /acme%s = %d %s, asked %q; want %q", query, w.Code, w.Body, got, want)
		}
	}
	got = ACMERequest{}
	for _, slip := range []string{"", "?renew", "?renew=", "?renew=a&renew=b", "?renew=a&retry=a", "?renew=a&reason=superseded", "?revoke=a", "?revoke=a&reason=", "?reason=superseded", "?renw=a", "?renew=%zz", "?rollover=", "?rollover=a.example.org", "?rollover=account&renew=a", "?rollover=account&reason=superseded", "?dns-records=a.example.org", "?dns-records=all&renew=a"} {
		if w := ask(s, loopback, "POST", "http://127.0.0.1/acme"+slip); w.Code != 400 || got != (ACMERequest{}) {
			t.Errorf("POST /acme%s = %d, asked %q; want 400", slip, w.Code, got)
		}
	}
	for err, want := range map[error]int{ErrUnknown: 404, ErrConflict: 409, errors.New("the CA refuses"): 422} {
		fails = fmt.Errorf("a: %w", err)
		if w := ask(s, loopback, "POST", "http://127.0.0.1/acme?retry=a"); w.Code != want {
			t.Errorf("%v: %d; want %d", err, w.Code, want)
		}
	}
	if w := ask(newServer(t, nil), loopback, "POST", "http://127.0.0.1/acme?renew=a"); w.Code != 501 {
		t.Errorf("without ACME: %d; want 501", w.Code)
	}
}

// Who asks for the drain of a gate without clients is answered, though the gate ends at
// once.
func TestAnswerBeforeTheEnd(t *testing.T) {
	var s *Server
	ended := make(chan struct{})
	var addr string
	s = newServer(t, func(o *Options) {
		o.Drain = func(DrainRequest) error {
			go func() {
				defer close(ended)
				s.Close()
			}()
			for {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					return nil // it does not listen any more
				}
				conn.Close()
			}
		}
	})
	url, ln := serve(t, s)
	addr = ln.Addr().String()
	resp, err := newClient(t).Post(url+"/drain", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("POST /drain = %d; want 202", resp.StatusCode)
	}
	<-ended
}

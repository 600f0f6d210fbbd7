package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var everyPath = []string{"/", "/healthz", "/readyz", "/status", "/metrics", "/debug/pprof/", "/debug/pprof/cmdline", "/nothing"}

// A page of another site can make no request to any path: neither one that its browser
// marks as cross-origin, nor one under its own name that resolves to our address.
func TestForeignPages(t *testing.T) {
	called := 0
	s := newServer(t, func(o *Options) {
		o.Access.Debug = true
		o.Reload = func(context.Context) error { called++; return nil }
		o.Drain = func(DrainRequest) error { called++; return nil }
		o.Pardon = func(netip.Addr) int { called++; return 1 }
	})
	for _, test := range []struct {
		name, host string
		header     []string
		want       int
	}{
		{"fetch", "127.0.0.1:9291", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"}, 403},
		{"fetch from a name below the same one", "127.0.0.1:9291", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"link or image, which have no Origin", "127.0.0.1:9291", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"an old browser", "127.0.0.1:9291", []string{"Origin", "http://evil.test"}, 403},
		{"sandboxed frame", "127.0.0.1:9291", []string{"Origin", "null"}, 403},
		{"another port of this machine", "127.0.0.1:9291", []string{"Origin", "http://127.0.0.1:8080"}, 403},
		{"two Origins", "127.0.0.1:9291", []string{"Origin", "http://127.0.0.1:9291", "Origin", "http://evil.test"}, 403},
		{"an Origin that is none", "127.0.0.1:9291", []string{"Origin", "127.0.0.1:9291"}, 403},
		{"a scheme that we do not speak", "127.0.0.1:9291", []string{"Origin", "ftp://127.0.0.1:9291"}, 403},
		{"DNS rebinding", "evil.test:9291", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://evil.test:9291"}, 421},
		{"DNS rebinding in an old browser", "evil.test:9291", nil, 421},
		{"a name that begins like an address", "127.0.0.1.evil.test", nil, 421},
		{"a name that ends like localhost", "evil-localhost", nil, 421},
	} {
		requests := map[string]string{"/reload": "POST", "/drain": "POST", "/pardon?all": "POST"}
		for _, path := range everyPath {
			requests[path] = "GET"
		}
		for path, method := range requests {
			w := ask(s, loopback, method, "http://"+test.host+path, test.header...)
			if w.Code != test.want {
				t.Errorf("%s: %s %s = %d; want %d", test.name, method, path, w.Code, test.want)
			}
			for name := range w.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: %s %s: the answer has %s", test.name, method, path, name)
				}
			}
		}
	}
	if called != 0 {
		t.Errorf("a foreign page was obeyed %d times", called)
	}
}

// The operator's browser, curl and Prometheus are allowed.
func TestOwnRequests(t *testing.T) {
	s := newServer(t, func(o *Options) { o.Reload = func(context.Context) error { return nil } })
	for _, test := range []struct {
		name, method, host string
		header             []string
	}{
		{"curl", "GET", "127.0.0.1:9291", nil},
		{"curl, by name", "GET", "localhost:9291", nil},
		{"curl, IPv6", "GET", "[::1]:9291", nil},
		{"curl, IPv6 and port 80", "GET", "[::1]", nil},
		{"curl, a trailing dot", "GET", "LOCALHOST.:9291", nil},
		{"typed into a browser", "GET", "127.0.0.1:9291", []string{"Sec-Fetch-Site", "none"}},
		{"the page's own script", "POST", "127.0.0.1:9291", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:9291"}},
		{"the same behind something that does TLS", "POST", "127.0.0.1:9291", []string{"Origin", "https://127.0.0.1:9291"}},
	} {
		path := "/status"
		if test.method == "POST" {
			path = "/reload"
		}
		if w := ask(s, loopback, test.method, "http://"+test.host+path, test.header...); w.Code != 200 {
			t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
		}
	}
	old := httptest.NewRequest("GET", "/readyz", nil)
	old.Host = ""
	old = old.WithContext(context.WithValue(old.Context(), http.LocalAddrContextKey, net.Addr(loopback)))
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, old); w.Code != 200 {
		t.Errorf("a check in HTTP/1.0, without Host: %d %s", w.Code, w.Body)
	}
	if w := ask(s, socket, "GET", "http://localhost/status"); w.Code != 200 {
		t.Errorf("over a unix socket: %d", w.Code)
	}
}

// Without a token only requests from the machine itself are answered, even after a
// mistake in the configuration.
func TestNoTokenFromOutside(t *testing.T) {
	s := newServer(t, nil)
	for _, path := range everyPath {
		if w := ask(s, outside, "GET", "http://192.0.2.1:9291"+path); w.Code != 403 {
			t.Errorf("GET %s from outside = %d; want 403", path, w.Code)
		}
	}
}

// With a token every request must have it, except those of probes and for the page,
// which then reveal nothing about the gate.
func TestToken(t *testing.T) {
	s := newServer(t, func(o *Options) {
		o.Access = Access{Token: goodToken, Debug: true}
		o.NotReady = func() []string { return []string{"a secret reason"} }
	})
	bearer := func(token string) []string { return []string{"Authorization", token} }
	for path, without := range map[string]int{
		"/": 200, "/healthz": 200, "/readyz": 503,
		"/status": 401, "/metrics": 401, "/debug/pprof/": 401, "/nothing": 401, "/readyz/": 401, "//": 401,
	} {
		w := ask(s, outside, "GET", "http://192.0.2.1"+path)
		if w.Code != without {
			t.Errorf("GET %s without the token = %d; want %d", path, w.Code, without)
		}
		if (w.Code == 401) != strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("GET %s: WWW-Authenticate %q with %d", path, w.Header().Get("WWW-Authenticate"), w.Code)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("GET %s without the token tells why the gate is not ready", path)
		}
	}
	for _, wrong := range []string{goodToken, "Basic " + goodToken, "Bearer", "Bearer ", "Bearer " + goodToken + "x", "Bearer " + goodToken[1:], "Bearer " + strings.ToUpper(goodToken)} {
		if w := ask(s, outside, "GET", "http://192.0.2.1/status", bearer(wrong)...); w.Code != 401 {
			t.Errorf("Authorization %q = %d; want 401", wrong, w.Code)
		}
	}
	for _, right := range []string{"Bearer " + goodToken, "bearer " + goodToken, "Bearer  " + goodToken} {
		if w := ask(s, outside, "GET", "http://192.0.2.1/status", bearer(right)...); w.Code != 200 {
			t.Errorf("Authorization %q = %d; want 200", right, w.Code)
		}
	}
	if w := ask(s, outside, "GET", "http://192.0.2.1/readyz", bearer("Bearer "+goodToken)...); !strings.Contains(w.Body.String(), "a secret reason") {
		t.Errorf("GET /readyz with the token = %q; want the reason", w.Body)
	}

	// Another name may belong to an attacker, but only the operator has the token.
	if w := ask(s, outside, "GET", "http://gate.internal/status", bearer("Bearer "+goodToken)...); w.Code != 200 {
		t.Errorf("by name, with the token = %d; want 200", w.Code)
	}
	if w := ask(s, outside, "GET", "http://gate.internal/"); w.Code != 200 {
		t.Errorf("the empty page by name = %d; want 200", w.Code)
	}
	if w := ask(s, outside, "GET", "http://gate.internal/status"); w.Code != 401 {
		t.Errorf("by name, without the token = %d; want 401, at which the page asks for it", w.Code)
	}
	if w := ask(s, outside, "GET", "http://gate.internal/healthz"); w.Code != 421 {
		t.Errorf("/healthz by name, without the token = %d; want 421", w.Code)
	}
	// The token does not help a request of a foreign page.
	if w := ask(s, outside, "GET", "http://192.0.2.1/status", "Authorization", "Bearer "+goodToken, "Origin", "https://evil.test"); w.Code != 403 {
		t.Errorf("with the token from a foreign page = %d; want 403", w.Code)
	}
}

// SetAccess applies to the next request.
func TestSetAccess(t *testing.T) {
	s := newServer(t, nil)
	if w := ask(s, loopback, "GET", "http://127.0.0.1/debug/pprof/"); w.Code != 404 {
		t.Errorf("pprof without Debug = %d; want 404", w.Code)
	}
	s.SetAccess(Access{Debug: true})
	if w := ask(s, loopback, "GET", "http://127.0.0.1/debug/pprof/goroutine?debug=1"); w.Code != 200 || !strings.Contains(w.Body.String(), "goroutine profile") {
		t.Errorf("pprof with Debug = %d, %.60q", w.Code, w.Body)
	}
	s.SetAccess(Access{Token: goodToken})
	if w := ask(s, loopback, "GET", "http://127.0.0.1/status"); w.Code != 401 {
		t.Errorf("without the token = %d; want 401", w.Code)
	}
}

// Methods that a path does not have are refused, including preflights.
func TestMethods(t *testing.T) {
	s := newServer(t, nil)
	for _, test := range []struct{ method, path string }{
		{"OPTIONS", "/reload"}, {"GET", "/reload"}, {"GET", "/drain"}, {"DELETE", "/drain"}, {"GET", "/pardon?all"}, {"POST", "/status"}, {"PUT", "/"},
	} {
		if w := ask(s, loopback, test.method, "http://127.0.0.1"+test.path); w.Code != 405 {
			t.Errorf("%s %s = %d; want 405", test.method, test.path, w.Code)
		}
	}
}

// All answers have the headers that protect them.
func TestHeaders(t *testing.T) {
	s := newServer(t, nil)
	for _, path := range everyPath {
		h := ask(s, loopback, "GET", "http://127.0.0.1"+path).Header()
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("GET %s: %s: %q; want %q", path, name, got, want)
			}
		}
		if !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("GET %s: Content-Security-Policy: %q", path, h.Get("Content-Security-Policy"))
		}
	}
}

// Clients that open connections without requests take at most as many descriptors as
// one listener may have, and do not delay probes.
func TestConnectionsBounded(t *testing.T) {
	s := newServer(t, nil)
	url, ln := serve(t, s)
	var idle []net.Conn
	for range 2 * maxConns {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	resp, err := newClient(t).Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET /healthz = %d while others keep all places; want 200", resp.StatusCode)
	}
	closed := 0
	for deadline := time.Now().Add(30 * time.Second); closed < maxConns && time.Now().Before(deadline); {
		idle = slices.DeleteFunc(idle, func(conn net.Conn) bool {
			conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := conn.Read(make([]byte, 1))
			ended := err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
			if ended {
				closed++
			}
			return ended
		})
	}
	if closed < maxConns {
		t.Errorf("%d of %d connections were closed; want %d at the most left", closed, 2*maxConns, maxConns)
	}
}

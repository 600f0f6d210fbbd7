package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A boshGate is a Site on loopback in front of a server that does BOSH.
type boshGate struct {
	t    *testing.T
	site *Site
	web  *httptest.Server
	bosh *httptest.Server
}

const boshPath = "/http-bind"

func newBOSHGate(t *testing.T, answer http.HandlerFunc, edit ...func(*Options)) *boshGate {
	t.Helper()
	g := &boshGate{t: t, bosh: httptest.NewServer(answer)}
	t.Cleanup(g.bosh.Close)
	target, err := url.Parse(g.bosh.URL + boshPath)
	if err != nil {
		t.Fatal(err)
	}
	// The name that httptest has a certificate for.
	o := Options{Vhosts: []Vhost{{Names: []string{"example.com"}, BOSH: target}}, MaxBody: 100}
	for _, f := range edit {
		f(&o)
	}
	g.site = New(o)
	t.Cleanup(g.site.Close)
	g.web = httptest.NewTLSServer(g.site)
	t.Cleanup(g.web.Close)
	return g
}

// do sends a request to a path of the gate.
func (g *boshGate) do(method, path string, body io.Reader, header ...string) (*http.Response, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.web.URL+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Host = "example.com"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := g.web.Client()
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	resp, err := client.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Error(err)
	}
	return resp, string(text)
}

// A request and its answer go through as they are, and the server learns who
// asked; what the client says about that itself stays behind.
func TestBOSHPasses(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Access-Control-Allow-Origin", "https://chat.example")
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		io.WriteString(w, strings.Join([]string{r.Method, r.Host, r.RequestURI, string(body),
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"),
			"[" + r.Header.Get("Upgrade") + r.Header.Get("Forwarded") + "]"}, " "))
	})
	resp, body := g.do("POST", boshPath+"?a=b", strings.NewReader("<body rid='1'/>"),
		"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "http", "Forwarded", "for=192.0.2.1", "Upgrade", "h2c", "Connection", "Upgrade")
	if want := "POST example.com " + boshPath + "?a=b <body rid='1'/> 127.0.0.1 https example.com []"; body != want {
		t.Errorf("the server got %q; want %q", body, want)
	}
	for key, want := range map[string]string{"Access-Control-Allow-Origin": "https://chat.example", "Content-Type": "text/xml; charset=utf-8"} {
		if got := resp.Header.Get(key); got != want {
			t.Errorf("%s: %q; want %q", key, got, want)
		}
	}
	if resp.Close {
		t.Error("the connection is not kept")
	}
	for method, want := range map[string]int{"OPTIONS": 200, "GET": 200, "HEAD": 200, "PUT": 405, "DELETE": 405} {
		if resp, _ := g.do(method, boshPath, nil); resp.StatusCode != want {
			t.Errorf("%s = %s; want %d", method, resp.Status, want)
		}
	}
}

// A connection that is to end with the answer, for whoever serves it does not know
// where the request ends, does so.
func TestBOSHConnectionEnds(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	w := httptest.NewRecorder()
	w.Header().Set("Connection", "close")
	g.site.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "https://example.com"+boshPath, nil))
	if w.Code != http.StatusOK || w.Header().Get("Connection") != "close" {
		t.Errorf("%d, %v; want 200 with Connection: close", w.Code, w.Header())
	}
}

// Other paths stay closed, whatever they look like.
func TestBOSHOtherPaths(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server got %s", r.RequestURI) })
	for _, path := range []string{"/x", boshPath + "/", boshPath + "/../admin", boshPath + "x", "/" + boshPath, "/%2e%2e" + boshPath} {
		if resp, _ := g.do("POST", path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s = %s; want 404", path, resp.Status)
		}
	}
}

// What the server says first is the client's at once; and a client that goes
// away ends the request at the server.
func TestBOSHStreams(t *testing.T) {
	ended := make(chan struct{})
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100") // it is not for the lack of that
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", g.web.URL+boshPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "example.com"
	client := g.web.Client()
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("read %q, %v", line, err)
	}
	cancel()
	<-ended
}

// A body over the limit is refused, whether its length is declared or not.
func TestBOSHBodyLimit(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for n, want := range map[int]int{100: 200, 101: 413} {
		if resp, _ := g.do("POST", boshPath, strings.NewReader(strings.Repeat("x", n))); resp.StatusCode != want {
			t.Errorf("%d bytes = %s; want %d", n, resp.Status, want)
		}
		if resp, _ := g.do("POST", boshPath, io.MultiReader(strings.NewReader(strings.Repeat("x", n)))); resp.StatusCode != want {
			t.Errorf("%d bytes in chunks = %s; want %d", n, resp.Status, want)
		}
	}
}

// A client that goes away in the middle of its request, or takes too long over it,
// gets no 502 or 504, and nobody is told that the server did not answer.
func TestBOSHCutRequest(t *testing.T) {
	for _, err := range []error{io.ErrUnexpectedEOF, os.ErrDeadlineExceeded} {
		var log bytes.Buffer
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }, func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		r := httptest.NewRequestWithContext(t.Context(), "POST", "https://example.com"+boshPath, io.MultiReader(strings.NewReader("<bo"), iotest.ErrReader(err)))
		w := httptest.NewRecorder()
		g.site.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || w.Header().Get("Connection") != "close" || log.Len() > 0 {
			t.Errorf("%v: %d, %v, log %q; want 400, the connection's end, and no word", err, w.Code, w.Header(), &log)
		}
	}
}

// An origin that the vhost does not let in is refused, and not told why.
func TestBOSHOrigin(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {}, func(o *Options) {
		o.AllowsOrigin = func(serverName, origin string) error {
			if serverName != "example.com" || origin == "https://evil.example" {
				return errors.New("origin of ill repute")
			}
			return nil
		}
	})
	for origin, want := range map[string]int{"": 200, "https://chat.example": 200, "https://evil.example": 403} {
		var header []string
		if origin != "" {
			header = []string{"Origin", origin}
		}
		resp, body := g.do("POST", boshPath, nil, header...)
		if resp.StatusCode != want || strings.Contains(body, "repute") {
			t.Errorf("Origin %q = %s, %q; want %d", origin, resp.Status, body, want)
		}
	}
}

// So many requests wait at once and no more; the others are told to come back.
func TestBOSHPlaces(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	b := g.site.byName("example.com").bosh
	for range cap(b.places) {
		b.places <- struct{}{}
	}
	resp, _ := g.do("POST", boshPath, nil)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q; want 503 with one", resp.Status, resp.Header.Get("Retry-After"))
	}
	<-b.places
	if resp, _ := g.do("POST", boshPath, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("with a place free: %s", resp.Status)
	}
	if resp, _ := g.do("POST", boshPath, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("the place was not given back: %s", resp.Status)
	}
}

// A server that is down is 502, and its address is nobody's business.
func TestBOSHDown(t *testing.T) {
	g := newBOSHGate(t, nil)
	addr := strings.TrimPrefix(g.bosh.URL, "http://")
	g.bosh.Close()
	resp, body := g.do("POST", boshPath, nil)
	if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, addr) {
		t.Errorf("%s, %q; want 502 without %s", resp.Status, body, addr)
	}
}

// A request that a drain ends is answered, so that its client repeats it.
func TestBOSHDrain(t *testing.T) {
	waits := make(chan struct{})
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		close(waits)
		<-r.Context().Done()
	})
	ctx, drain := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "POST", "https://example.com"+boshPath, nil)
	go func() {
		<-waits
		drain()
	}()
	w := httptest.NewRecorder()
	g.site.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Connection") != "close" {
		t.Errorf("%d, %v; want 503 with Retry-After", w.Code, w.Header())
	}
}

// A request may be held for longer than other answers may take.
func TestBOSHWaits(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	earliest := time.Now().Add(boshWait)
	g.site.ServeHTTP(w, httptest.NewRequest("POST", "https://example.com"+boshPath, nil))
	if w.Code != http.StatusOK || w.deadline.Before(earliest) {
		t.Errorf("%d, to be written by %v; want 200 and a deadline from %v on", w.Code, w.deadline, earliest)
	}
}

// A deadlineRecorder notes what http.ResponseController asks for.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (r *deadlineRecorder) SetWriteDeadline(t time.Time) error {
	r.deadline = t
	return nil
}

// Whoever has a Site that is closed, because there is a newer one, is answered all
// the same: a request that is under way, and one more.
func TestBOSHClosed(t *testing.T) {
	waits, answer := make(chan struct{}, 2), make(chan struct{}, 2)
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		waits <- struct{}{}
		<-answer
		io.WriteString(w, "answered")
	})
	go func() {
		<-waits
		g.site.Close()
		answer <- struct{}{}
		answer <- struct{}{}
	}()
	for range 2 {
		if resp, body := g.do("POST", boshPath, nil); resp.StatusCode != http.StatusOK || body != "answered" {
			t.Errorf("%s, %q; want 200", resp.Status, body)
		}
	}
}

// A drain turns BOSH's clients away too, with 503 and when to come again.
func TestBOSHWhileDraining(t *testing.T) {
	draining := ""
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "here") }, func(o *Options) {
		o.TurnsAway = func(serverName string) bool { return serverName == draining }
	})
	if resp, body := g.do("POST", boshPath, nil); resp.StatusCode != 200 || body != "here" {
		t.Errorf("%s, %q; want the server's answer", resp.Status, body)
	}
	draining = "example.com"
	if resp, _ := g.do("POST", boshPath, nil); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, %v; want 503 with Retry-After", resp.Status, resp.Header)
	}
}

package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// A boshGate is a Site on loopback in front of a BOSH server.
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
	// The name in httptest's certificate.
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

// A request and its answer are passed on unchanged, and the server gets the client's
// address; the client's own claims about it are dropped.
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

// A connection that must end with its answer does so, because its owner does not know
// the end of the request.
func TestBOSHConnectionEnds(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	w := httptest.NewRecorder()
	w.Header().Set("Connection", "close")
	g.site.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "https://example.com"+boshPath, nil))
	if w.Code != http.StatusOK || w.Header().Get("Connection") != "close" {
		t.Errorf("%d, %v; want 200 with Connection: close", w.Code, w.Header())
	}
}

// Other paths are not passed on, even similar ones.
func TestBOSHOtherPaths(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server got %s", r.RequestURI) })
	for _, path := range []string{"/x", boshPath + "/", boshPath + "/../admin", boshPath + "x", "/" + boshPath, "/%2e%2e" + boshPath} {
		if resp, _ := g.do("POST", path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s = %s; want 404", path, resp.Status)
		}
	}
}

// The client gets the server's first bytes at once; a client that disconnects ends the
// request at the server.
func TestBOSHStreams(t *testing.T) {
	ended := make(chan struct{})
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100") // flushing must not depend on an unknown length
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// A server with an endless header counts as one that does not answer.
func TestBOSHHeaderLimit(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 1000 {
			w.Header().Add("X-Padding", strings.Repeat("x", 1000+i%2))
		}
	})
	if resp, _ := g.do("GET", boshPath, nil); resp.StatusCode != http.StatusBadGateway || resp.Header.Get("X-Padding") != "" {
		t.Errorf("%s with %d lines; want 502 with none of them", resp.Status, len(resp.Header))
	}
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

// A client that disconnects in the middle of its request, or takes too long, causes no
// 502 or 504, and no warning about the server.
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

// An origin that the vhost does not allow is refused without a reason.
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

// The number of concurrent requests is limited. The address with most of them loses its
// oldest to one with fewer; if no address has more, a newcomer is told to return later.
func TestBOSHPlaces(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	slots := g.site.slots
	var gone []int
	var taken []*boshSlot
	for i := range boshRequests {
		p := slots.take("192.0.2.1:1", func() { gone = append(gone, i) })
		if p == nil {
			t.Fatalf("no slot for request %d of %d", i, boshRequests)
		}
		p.whole()
		taken = append(taken, p)
	}
	if p := slots.take("192.0.2.1:2", nil); p != nil || len(gone) > 0 {
		t.Errorf("the address that has all got one more, and lost %v", gone)
	}
	for range 2 { // from 127.0.0.1
		if resp, _ := g.do("POST", boshPath, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("while another address has all slots: %s", resp.Status)
		}
	}
	if !slices.Equal(gone, []int{0}) {
		t.Errorf("requests %v were given up; want the oldest, whose slot is enough for both", gone)
	}
	for _, p := range taken {
		p.leave()
	}
	// One of each address: none can be closed.
	for i := range boshRequests {
		slots.take(fmt.Sprintf("[2001:db8:%x::1]:1", i), func() { t.Errorf("a request alone of its address was given up") }).whole()
	}
	resp, _ := g.do("POST", boshPath, nil)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q; want 503 with one", resp.Status, resp.Header.Get("Retry-After"))
	}
}

// A slow body loses its slot to others after its patience, in any of the limits, but
// not before; without other requests it keeps its slot.
func TestBOSHTrickles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &boshSlots{most: 16}
		lost := 0
		address := func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i) }
		var all []*boshSlot
		for i := range p.most {
			all = append(all, p.take(address(i), func() { lost++ }))
		}
		if more := p.take(address(100), nil); more != nil || lost > 0 {
			t.Errorf("a newcomer got a place at once, from %d whose body might come", lost)
		}
		all[0].whole()
		time.Sleep(bodyPatience)
		for i := range p.most - 1 {
			if p.take(address(100+i), func() {}) == nil || lost != i+1 {
				t.Fatalf("newcomer %d: %d bodies made place", i, lost)
			}
		}
		if more := p.take(address(200), nil); more != nil {
			t.Error("a request that waits for its server made place")
		}

		// The same for the memory of bodies.
		p, lost = &boshSlots{most: 16}, 0
		if !p.take(address(1), func() { lost++ }).grow(boshChunks/2*boshChunk) || !p.take(address(2), func() { lost++ }).grow(boshChunks/2*boshChunk) {
			t.Fatal("no memory")
		}
		long := p.take(address(3), func() { t.Error("the newcomer was given up") })
		time.Sleep(bodyPatience)
		quick := p.take(address(4), func() { t.Error("the one that came at last was given up") })
		if !quick.grow(boshChunks/2*boshChunk) || lost != 1 {
			t.Errorf("%d long bodies that trickle made place; want 1", lost)
		}
		long.leave()
	})
}

// A request that loses its slot to another address gets 503, at the server or with half
// of its body.
func TestBOSHGivenUp(t *testing.T) {
	waits := make(chan struct{}, 1)
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		waits <- struct{}{}
		<-r.Context().Done()
	})
	slots := g.site.slots
	for _, body := range []io.Reader{nil, &halfBody{waits: waits}} {
		taken := make(chan []*boshSlot)
		go func() {
			<-waits
			var list []*boshSlot
			for range boshRequests - 1 {
				p := slots.take("127.0.0.1:1", func() {})
				p.whole()
				list = append(list, p)
			}
			taken <- append(list, slots.take("192.0.2.1:1", nil))
		}()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "https://example.com"+boshPath, body)
		r.RemoteAddr = "127.0.0.1:2"
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		if half, ok := body.(*halfBody); ok {
			half.ended = make(chan struct{})
			w.ended = half.ended
		}
		g.site.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Connection") != "close" {
			t.Errorf("body %v: %d, %v; want 503 with Retry-After", body, w.Code, w.Header())
		}
		for _, p := range <-taken {
			if p == nil {
				t.Fatal("another address got no place")
			}
			p.leave()
		}
	}
}

// A halfBody has a beginning, and nothing more until the connection's deadline.
type halfBody struct {
	begun bool
	waits chan<- struct{}
	ended chan struct{}
}

func (b *halfBody) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		return copy(p, "<body"), nil
	}
	b.waits <- struct{}{}
	<-b.ended
	return 0, os.ErrDeadlineExceeded
}

// Long bodies use a limited share, which is divided fairly; a short body, or one that
// the server has, uses none.
func TestBOSHBodyMemory(t *testing.T) {
	p := boshSlots{most: 4}
	lost := false
	big := p.take("192.0.2.1:1", func() { lost = true })
	if !big.grow(boshChunks * boshChunk) {
		t.Fatal("no memory for the first")
	}
	small := p.take("192.0.2.2:1", func() { t.Error("the small one was given up") })
	if !small.grow(boshChunk-1) || lost {
		t.Errorf("a short body took of the share; the long one lost: %v", lost)
	}
	if more := p.take("192.0.2.1:2", func() {}); more.grow(boshChunk) || lost {
		t.Error("the address that has all got more")
	}
	if !small.grow(2*boshChunk) || !lost || p.chunks.Len() != 2 {
		t.Errorf("a second address: lost %v, %d chunks taken; want the long one given up, and 2", lost, p.chunks.Len())
	}
	(&placedBody{slot: small}).Close()
	if p.chunks.Len() != 0 {
		t.Errorf("%d chunks are still taken once the server has the body", p.chunks.Len())
	}
}

// The server gets no request before the body is complete.
func TestBOSHBodyFirst(t *testing.T) {
	var conns atomic.Int64
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", body, r.ContentLength)
	})
	transport := g.site.transports[new(Vhost).way()]
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conns.Add(1)
		return dial(ctx, network, addr)
	}
	half, more := io.Pipe()
	go func() {
		more.Write([]byte("<body"))
		more.Write([]byte("/>")) // the pipe has no buffer: the first part is read
		if n := conns.Load(); n > 0 {
			t.Errorf("%d connections to the server before the body was whole", n)
		}
		more.Close()
	}()
	if resp, body := g.do("POST", boshPath, half); resp.StatusCode != 200 || body != "<body/> 7" {
		t.Errorf("%s, %q; want the body, with its length", resp.Status, body)
	}
}

// A client's header fields are passed on if a browser sends them, but not those by
// which a proxy names an address.
func TestBOSHHeaders(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			fmt.Fprintln(w, name)
		}
	})
	var header []string
	for _, name := range []string{"X-Real-IP", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP",
		"X-Forwarded", "X-Forwarded-Port", "X-Forwarded-Server", "X-Original-Forwarded-For", "X-Original-Host", "X_Forwarded_For", "X-Ssl-Client-Verify", "Forwarded", "Via"} {
		header = append(header, name, "192.0.2.1")
	}
	_, body := g.do("POST", boshPath, nil, append(header, "Content-Type", "text/xml", "Cookie", "a=b", "Authorization", "Basic eDp5", "Accept-Language", "de")...)
	got := strings.Fields(body)
	slices.Sort(got)
	want := []string{"Accept-Encoding", "Accept-Language", "Authorization", "Content-Length", "Content-Type", "Cookie", "User-Agent",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}
	if !slices.Equal(got, want) {
		t.Errorf("the server got %q; want %q", got, want)
	}
}

// A vhost's domains apply to each body, in any notation of its start tag.
func TestBOSHDomains(t *testing.T) {
	var asked int
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) { asked++ }, func(o *Options) {
		o.MaxBody = 20_000
		o.Vhosts[0].AllowsDomain = func(domain string) error {
			if domain != "example1.com" {
				return fmt.Errorf("domain %q", domain)
			}
			return nil
		}
	})
	const bad, unknown, improper = "bad-request", "host-unknown", "improper-addressing"
	for _, test := range []struct{ method, query, body, contentType, want string }{
		{"POST", "", `<body xmlns='http://jabber.org/protocol/httpbind' to='example1.com' rid='1'/>`, "text/xml; charset=utf-8", ""},
		{"POST", "?x=y", `<?xml version='1.0'?> <body to="EXAMPLE1.com." rid='1'>`, "text/xml", ""},
		{"POST", "", `<body rid='2' sid='s'><message to='example2.com'/></body>`, "", ""},
		{"POST", "", "", "", ""}, {"GET", "", "", "", ""}, {"OPTIONS", "", "", "", ""},
		{"POST", "", `<body to='example2.com' rid='1'/>`, "", unknown},
		{"POST", "", `<body to='example2.com' rid='2' sid='s' xmpp:restart='true' xmlns:xmpp='urn:xmpp:xbosh'/>`, "", unknown},
		{"POST", "", `<b:body xmlns:b='x' to='example2.com' rid='1'/>`, "", unknown},
		{"POST", "", `<body to='ex&#97;mple2.com' rid='1'/>`, "", unknown},
		{"PUT", "", `<body to='example2.com' rid='1'/>`, "", "405"},
		{"GET", "", `<body to='example2.com' rid='1'/>`, "", unknown},
		{"GET", "?%3Cbody%20to='example2.com'/%3E", "", "", "403"},
		{"POST", "?%3Cbody%20to='example2.com'/%3E", `<body to='example1.com' rid='1'/>`, "", "403"},
		{"POST", "?body=%3cbody%20to='example2.com'/%3e", "", "", "403"},
		{"POST", "?%253Cbody%2520to='example2.com'/%253E", `<body to='example1.com' rid='1'/>`, "", "403"},
		{"POST", "?%FF%FE%3C", `<body to='example1.com' rid='1'/>`, "", "403"},
		{"POST", "?%", `<body to='example1.com' rid='1'/>`, "", "403"},
		{"OPTIONS", "?room=a%20b", "", "", ""}, {"GET", "?room=a+b", "", "", ""},
		{"POST", "", `<body to='example1.com' rid='1'><body to='example2.com' rid='1'/></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><x><b:body xmlns:b='x' to='example2.com'/></x></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><body xmlns='jabber:client'/></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><message><body sid='t'/></message></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><s:stream xmlns:s='http://etherx.jabber.org/streams' to='example2.com'/></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><stream:stream to='example2.com'/></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><iq><open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example2.com'/></iq></body>`, "", bad},
		{"POST", "", `<body sid='s' rid='2' xmlns='http://jabber.org/protocol/httpbind'><message><body xml:lang='en'>hi</body></message></body>`, "", ""},
		{"POST", "", `<body sid='s' rid='2'><iq><open xmlns='http://jabber.org/protocol/ibb' sid='i' block-size='4096'/></iq></body>`, "", ""},
		{"POST", "", `<body rid='1'/>`, "", improper},
		{"POST", "", `<body to='' rid='1'/>`, "", improper},
		{"POST", "", `<body sid='s' to='' rid='1'/>`, "", improper},
		{"POST", "", `<body to='example1.com' to='example2.com'/>`, "", bad},
		{"POST", "", `<!-- --><body to='example2.com'/>`, "", bad},
		{"POST", "", `<!DOCTYPE body [<!ENTITY x "example2.com">]><body to='&x;'/>`, "", bad},
		{"POST", "", `<body sid='s' to='&x;'/>`, "", bad},
		{"POST", "", `<body to='example2.com'`, "", bad},
		{"POST", "", `<body sid='s' rid='2'/><body to='example2.com' rid='1'/>`, "", bad},
		{"POST", "", `<body sid='s' rid='2'><![CDATA[</body><body to='example2.com'/>]]></body>`, "", bad},
		{"POST", "", "<body sid='s' rid='2'><message to='a@example2.com'><body>hi</body></message></body>\n", "", ""},
		{"POST", "", `hello`, "", bad},
		{"POST", "", "<\x00b\x00o\x00d\x00y\x00", "", bad},
		{"POST", "", `<body sid='s' x='` + strings.Repeat("x", 9000) + `'/>`, "", bad},
		{"POST", "", `<body sid='s'/>`, "text/xml; charset=utf-7", "415"},
	} {
		asked = 0
		resp, body := g.do(test.method, boshPath+test.query, strings.NewReader(test.body), "Content-Type", test.contentType)
		if test.want == "" && (asked != 1 || resp.StatusCode != 200) || test.want != "" && asked > 0 {
			t.Errorf("%s %q %.80q: the server was asked %d times, %s", test.method, test.query, test.body, asked, resp.Status)
			continue
		}
		if want := `condition="` + test.want + `"`; len(test.want) > 3 && (resp.StatusCode != 200 || !strings.Contains(body, want)) {
			t.Errorf("%s %.80q = %s, %q; want %s", test.method, test.body, resp.Status, body, want)
		} else if len(test.want) == 3 && strconv.Itoa(resp.StatusCode) != test.want {
			t.Errorf("%s %q %.80q = %s; want %s", test.method, test.query, test.body, resp.Status, test.want)
		}
	}
	if resp, _ := g.do("POST", boshPath, strings.NewReader("\x1f\x8b"), "Content-Encoding", "gzip"); resp.StatusCode != 415 {
		t.Errorf("a body in gzip = %s; want 415", resp.Status)
	}
}

// A denied client gets nothing of a name: neither BOSH nor a page nor a document, and
// nothing over plain HTTP.
func TestAllowsClient(t *testing.T) {
	var asked string
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {}, func(o *Options) {
		o.AllowsClient = func(name string, client netip.Addr) error {
			asked = name + " " + client.String()
			return errors.New("not this one")
		}
	})
	for _, path := range []string{boshPath, "/", "/.well-known/host-meta", "/nothing"} {
		if resp, _ := g.do("GET", path, nil); resp.StatusCode != 403 || asked != "example.com 127.0.0.1" {
			t.Errorf("%s = %s, asked for %q; want 403", path, resp.Status, asked)
		}
		r := httptest.NewRequest("GET", "http://Example.com:80"+path, nil)
		r.RemoteAddr = "[2001:db8::1]:7"
		w := httptest.NewRecorder()
		if g.site.ServeHTTP(w, r); w.Code != 403 || asked != "example.com 2001:db8::1" {
			t.Errorf("plain %s = %d, asked for %q; want 403", path, w.Code, asked)
		}
	}
}

// Idle connections to BOSH servers are bounded for all vhosts together.
func TestBOSHIdle(t *testing.T) {
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:1", Path: boshPath}
	one, two := new(tls.Config), new(tls.Config)
	var vhosts []Vhost
	for i, config := range []*tls.Config{nil, one, two, nil, one, two} {
		vhosts = append(vhosts, Vhost{Names: []string{fmt.Sprint(i)}, BOSH: target, TLS: config})
	}
	s := New(Options{Vhosts: vhosts, IdleBOSH: 8})
	sum := 0
	for _, transport := range s.transports {
		sum += transport.MaxIdleConns
	}
	if len(s.transports) != 3 || sum > 8 || sum == 0 {
		t.Errorf("%d transports keep %d connections; want 3, at most 8", len(s.transports), sum)
	}
	s = New(Options{Vhosts: vhosts, IdleBOSH: 2})
	for _, transport := range s.transports {
		if !transport.DisableKeepAlives {
			t.Error("a transport keeps connections without a bound where there is none for it") // 0 means no limit in net/http
		}
	}
}

// If the server is down, the client gets 502 without the server's address.
func TestBOSHDown(t *testing.T) {
	const addr = "127.0.0.1:1"
	g := newBOSHGate(t, nil, func(o *Options) { o.Vhosts[0].BOSH.Host = addr })
	resp, body := g.do("POST", boshPath, nil)
	if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, addr) {
		t.Errorf("%s, %q; want 502 without %s", resp.Status, body, addr)
	}
}

// A request that a drain ends gets an answer, so that its client repeats it.
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

// A request may be held longer than other answers may take.
func TestBOSHWaits(t *testing.T) {
	g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {})
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	earliest := time.Now().Add(boshWait)
	g.site.ServeHTTP(w, httptest.NewRequest("POST", "https://example.com"+boshPath, nil))
	if w.Code != http.StatusOK || w.deadline.Before(earliest) {
		t.Errorf("%d, to be written by %v; want 200 and a deadline from %v on", w.Code, w.deadline, earliest)
	}
}

// A deadlineRecorder records the deadlines set by http.ResponseController.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
	ended    chan struct{} // closed when reading must end
}

func (r *deadlineRecorder) SetReadDeadline(t time.Time) error {
	if r.ended != nil && !t.IsZero() && t.Before(time.Now()) {
		close(r.ended)
	}
	return nil
}

func (r *deadlineRecorder) SetWriteDeadline(t time.Time) error {
	r.deadline = t
	return nil
}

// A Site that was closed because there is a newer one still answers requests: one in
// progress, and another one.
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

// A drain also refuses BOSH clients, with 503 and Retry-After.
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

// The internal address in a server's redirect is hidden, in any pieces of the answer;
// other answers are unchanged.
func TestBOSHRedirect(t *testing.T) {
	const inner = "t2.inner:5280"
	body := func(attrs, inside string) string {
		return "<body xmlns='http://jabber.org/protocol/httpbind' " + attrs + ">" + inside + "</body>"
	}
	lost := body("type='terminate' condition='see-other-uri'", "<uri>http://"+inner+"/http-bind</uri>")
	failed := func(condition string) string {
		return body("type='terminate' condition='remote-stream-error' xmlns:stream='http://etherx.jabber.org/streams'",
			"<stream:error><"+condition+" xmlns='urn:ietf:params:xml:ns:xmpp-streams'>"+inner+"</"+condition+"></stream:error>")
	}
	for _, c := range []struct {
		what, answer string
		cut          int
		hidden       bool
	}{
		{"see-other-uri", lost, 0, true},
		{"see-other-uri, declared", "<?xml version='1.0'?>\n" + lost, 0, true},
		{"see-other-uri, escaped", strings.Replace(lost, "'see-other-uri'", "\"see&#45;other-uri\"", 1), 0, true},
		{"see-other-uri, cut in its name", lost, 3, true},
		{"see-other-uri, cut in its condition", lost, 90, true},
		{"see-other-host", failed("see-other-host"), 0, true},
		{"see-other-host, cut", failed("see-other-host"), 190, true},
		{"another stream error", failed("policy-violation"), 0, false},
		{"a message with the words", body("", "<message><body>see-other-uri "+inner+"</body></message>"), 0, false},
		{"another condition", body("type='terminate' condition='item-not-found'", inner), 0, false},
		{"no XML", "see-other-uri " + inner, 5, false},
		{"nothing", "", 0, false},
	} {
		g := newBOSHGate(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/xml; charset=utf-8")
			if c.cut > 0 {
				io.WriteString(w, c.answer[:c.cut])
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, c.answer[c.cut:])
		})
		resp, got := g.do("POST", "/http-bind", strings.NewReader("<body xmlns='http://jabber.org/protocol/httpbind' sid='a' rid='1'/>"), "Accept-Encoding", "gzip")
		switch {
		case resp.StatusCode != 200 || c.hidden && (strings.Contains(got, inner) || !strings.Contains(got, `condition="remote-connection-failed"`)):
			t.Errorf("%s: %s, %q; want the end of the session without an address", c.what, resp.Status, got)
		case !c.hidden && got != c.answer:
			t.Errorf("%s: %q; want %q", c.what, got, c.answer)
		}
	}
}

package web

import (
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"wssgate/internal/leaktest"
	"wssgate/xmpp"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// testSite has certificates for the listed names, and no servers.
func testSite(vhosts []Vhost, certificates ...string) *Site {
	o := Options{Vhosts: vhosts, Port: 5291}
	if certificates != nil {
		o.HasCertificate = func(name string) bool { return slices.Contains(certificates, normal(name)) }
	}
	return New(o)
}

// listed returns a Vhost's WebSocket.
func listed(urls ...string) func() ([]string, bool) {
	return func() ([]string, bool) { return urls, false }
}

// get sends a request to a site, under TLS if target is an https URL. The server name
// is the Host.
func get(s *Site, method, target string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	w := httptest.NewRecorder()
	r.TLS = nil
	if r.URL.Scheme == "https" {
		r.TLS = &tls.ConnectionState{ServerName: r.URL.Hostname()}
	}
	s.ServeHTTP(w, r)
	return w
}

// nodes returns the sorted list in nodes.json, and the status.
func nodes(t *testing.T, s *Site, base string) string {
	t.Helper()
	w := get(s, "GET", base+"/nodes.json")
	if w.Code != http.StatusOK {
		return http.StatusText(w.Code)
	}
	var list []string
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatalf("%s: %q: %v", base, w.Body, err)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// The URLs for a client depend on the requested name, and on nothing else in the
// request.
func TestWhichURLs(t *testing.T) {
	s := testSite([]Vhost{
		{Names: []string{"example1.com", "*.example1.com"}, Path: "/ws"},
		{Names: []string{"t1.example2.com"}, Domains: []string{"example2.com", "*.example2.com"}},
		{Names: []string{"t2.example2.com"}, Domains: []string{"example2.com"}, Path: "/t2"},
		{Names: []string{"example3.com"}, WebSocket: listed("wss://a.example3.com/", "wss://b.example3.com/")},
		{Names: []string{"*.example4.com"}, Domains: []string{"example4.com"}},
		{Names: []string{"*.example5.com"}, Domains: []string{"example5.com"}, WebSocket: listed("wss://www.example5.com/x")},
	}, "example1.com", "example2.com", "chat.example1.com", "t1.example2.com", "t2.example2.com", "www.example4.com", "www.example5.com")
	for _, tt := range []struct{ base, want string }{
		{"https://example1.com", "wss://example1.com/ws"},
		{"https://EXAMPLE1.com", "wss://example1.com/ws"},
		{"https://example1.com:443", "wss://example1.com/ws"},
		{"https://example1.com:", "wss://example1.com/ws"},
		{"https://example1.com:8443", "wss://example1.com:8443/ws"},
		{"https://chat.example1.com:5291", "wss://chat.example1.com:5291/ws"},
		{"https://a.chat.example1.com", "Not Found"},
		{"http://example1.com", "wss://example1.com:5291/ws"},
		{"http://example1.com:8080", "wss://example1.com:5291/ws"},
		{"http://example1.com.", "wss://example1.com:5291/ws"},

		{"http://example2.com", "wss://t1.example2.com:5291/ wss://t2.example2.com:5291/t2"},
		{"https://example2.com", "wss://t1.example2.com:5291/ wss://t2.example2.com:5291/t2"},
		{"https://example2.com:8443", "wss://t1.example2.com:8443/ wss://t2.example2.com:8443/t2"},
		{"https://example2.com:443", "wss://t1.example2.com/ wss://t2.example2.com/t2"},
		{"http://conference.example2.com", "wss://t1.example2.com:5291/"},
		{"http://t2.example2.com", "wss://t2.example2.com:5291/t2"},

		{"https://example3.com", "wss://a.example3.com/ wss://b.example3.com/"},
		{"http://example4.com", "Not Found"}, // its name is unknown
		{"http://www.example4.com", "wss://www.example4.com:5291/"},
		{"http://example5.com", "wss://www.example5.com/x"},

		{"http://example6.com", "Not Found"},
		{"https://example6.com", "Not Found"},
		{"http://[::1]", "Bad Request"},
	} {
		if got := nodes(t, s, tt.base); got != tt.want {
			t.Errorf("%s/nodes.json = %s; want %s", tt.base, got, tt.want)
		}
	}
}

// A client gets none of our addresses if they refuse its domain. In the cluster of the
// manual the nodes' names accept only example2.com; example1.com has the same upstream
// and gets its own address.
func TestURLsThatTakeTheDomain(t *testing.T) {
	both := listed("wss://t1.example1.com:5291/", "wss://t2.example1.com:5291/")
	domains := map[string]string{"t1.example1.com": "example2.com", "t2.example1.com": "*.example2.com"}
	s := New(Options{
		Vhosts: []Vhost{
			{Names: []string{"t1.example1.com"}, Domains: []string{"example2.com"}, WebSocket: listed("wss://t1.example1.com:5291/")},
			{Names: []string{"t2.example1.com"}, Domains: []string{"*.example2.com"}, WebSocket: listed("wss://t2.example1.com:5291/")},
			{Names: []string{"example1.com"}, WebSocket: both},
			{Names: []string{"example3.com"}, WebSocket: listed("wss://elsewhere.example/", "wss://t1.example1.com:5291/")},
			{Names: []string{"chat.example2.com"}, Domains: []string{"example2.com"}, WebSocket: both},
		},
		HasCertificate: func(string) bool { return true },
		TakesStream: func(serverName, _, domain string) error {
			if want, ours := domains[serverName]; ours && want != domain && want != wildcard(domain) {
				return errors.New("refused")
			}
			return nil
		},
		Port: 5291,
	})
	for _, tt := range []struct{ base, want string }{
		{"https://example1.com:5291", "wss://example1.com:5291/"},
		{"https://t1.example1.com:5291", "wss://t1.example1.com:5291/"},
		{"https://t2.example1.com:5291", "wss://t2.example1.com:5291/"},
		{"http://example2.com", "wss://t1.example1.com:5291/"},
		{"http://a.example2.com", "wss://t2.example1.com:5291/"},
		{"https://chat.example2.com:5291", "wss://t1.example1.com:5291/"},
		{"https://example3.com", "wss://elsewhere.example/"},
	} {
		if got := nodes(t, s, tt.base); got != tt.want {
			t.Errorf("%s/nodes.json = %s; want %s", tt.base, got, tt.want)
		}
	}
}

// Without any vhost each name with a certificate has its own URL, or those of the only
// upstream's nodes.
func TestWithoutVhosts(t *testing.T) {
	o := Options{HasCertificate: func(name string) bool { return name == "example1.com" }}
	s := New(o)
	for base, want := range map[string]string{
		"https://example1.com:5291": "wss://example1.com:5291/",
		"http://example1.com":       "wss://example1.com/",
		"http://example2.com":       "Not Found",
	} {
		if got := nodes(t, s, base); got != want {
			t.Errorf("%s/nodes.json = %s; want %s", base, got, want)
		}
	}
	o.Any.WebSocket = listed("wss://t1.example1.com/")
	s = New(o)
	if got, want := nodes(t, s, "http://example1.com"), "wss://t1.example1.com/"; got != want {
		t.Errorf("with URLs of nodes: %s; want %s", got, want)
	}
}

// The documents have the same content in all formats: WebSockets, BOSH, other links.
func TestDocuments(t *testing.T) {
	bosh := &url.URL{Scheme: "http", Host: "127.0.0.1:5280", Path: "/http-bind"}
	more := xmpp.Link{Rel: "urn:example", Href: "https://example1.com/?a=1&b=2"}
	s := testSite([]Vhost{{Names: []string{"example1.com"}, Path: "/ws", BOSH: bosh, Links: []xmpp.Link{more}}})
	want := []xmpp.Link{
		{Rel: xmpp.RelWebSocket, Href: "wss://example1.com:5291/ws"},
		{Rel: xmpp.RelBOSH, Href: "https://example1.com:5291/http-bind"},
		more,
	}
	for _, base := range []string{"http://example1.com", "https://example1.com:5291"} {
		w := get(s, "GET", base+"/.well-known/host-meta")
		var xrd struct {
			XMLName xml.Name `xml:"http://docs.oasis-open.org/ns/xri/xrd-1.0 XRD"`
			Link    []struct {
				Rel  string `xml:"rel,attr"`
				Href string `xml:"href,attr"`
			}
		}
		if err := xml.Unmarshal(w.Body.Bytes(), &xrd); err != nil {
			t.Fatalf("%s: %q: %v", base, w.Body, err)
		}
		var got []xmpp.Link
		for _, l := range xrd.Link {
			got = append(got, xmpp.Link(l))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: XRD = %v; want %v", base, got, want)
		}
		checkDocument(t, w, xmpp.TypeXRD)

		w = get(s, "GET", base+"/.well-known/host-meta.json")
		var jrd struct{ Links []xmpp.Link }
		if err := json.Unmarshal(w.Body.Bytes(), &jrd); err != nil {
			t.Fatalf("%s: %q: %v", base, w.Body, err)
		}
		if !slices.Equal(jrd.Links, want) {
			t.Errorf("%s: JRD = %v; want %v", base, jrd.Links, want)
		}
		checkDocument(t, w, xmpp.TypeJSON)
		checkDocument(t, get(s, "GET", base+"/nodes.json"), xmpp.TypeJSON)
	}
}

func checkDocument(t *testing.T, w *httptest.ResponseRecorder, kind string) {
	t.Helper()
	for key, want := range map[string]string{
		"Content-Type": kind, "Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache",
		"X-Content-Type-Options": "nosniff", "Connection": "close",
	} {
		if got := w.Header().Get(key); got != want {
			t.Errorf("%s: %q; want %q", key, got, want)
		}
	}
}

// Each link is listed once, even if several vhosts have it.
func TestDocumentsAddUp(t *testing.T) {
	link := xmpp.Link{Rel: "urn:example", Href: "https://example.com/"}
	shared := listed("wss://t1.example.com/")
	s := testSite([]Vhost{
		{Names: []string{"a.example.com"}, Domains: []string{"example.com"}, WebSocket: shared, Links: []xmpp.Link{link}},
		{Names: []string{"b.example.com"}, Domains: []string{"example.com"}, WebSocket: shared, Links: []xmpp.Link{link}},
	})
	w := get(s, "GET", "http://example.com/.well-known/host-meta.json")
	var jrd struct{ Links []xmpp.Link }
	if err := json.Unmarshal(w.Body.Bytes(), &jrd); err != nil || len(jrd.Links) != 2 {
		t.Errorf("%s, %v; want two links", w.Body, err)
	}
}

// A preflight is allowed, other methods are not; both answers have CORS headers.
func TestDocumentMethods(t *testing.T) {
	s := testSite([]Vhost{{Names: []string{"example1.com"}}})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "OPTIONS": 204, "POST": 405, "DELETE": 405} {
		w := get(s, method, "https://example1.com/.well-known/host-meta")
		if w.Code != want || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s = %d, %v; want %d with CORS", method, w.Code, w.Header(), want)
		}
	}
}

// Without TLS, names with TLS get redirects.
func TestRedirects(t *testing.T) {
	s := testSite([]Vhost{{Names: []string{"example1.com", "*.example1.com"}, Domains: []string{"example9.com"}}}, "example2.com", "example.com")
	for _, tt := range []struct {
		method, target, want string // Location; empty: 404
	}{
		{"GET", "http://example1.com/", "https://example1.com:5291/"},
		{"GET", "http://EXAMPLE1.com.:8080/a%2Fb/../c?d=e&f", "https://example1.com:5291/a%2Fb/../c?d=e&f"},
		{"GET", "http://example1.com//evil.example/", "https://example1.com:5291//evil.example/"},
		{"POST", "http://a.example1.com/http-bind", "https://a.example1.com:5291/http-bind"},
		{"OPTIONS", "*", "https://example.com:5291/"}, // httptest has example.com for Host
		{"GET", "http://example2.com/x", "https://example2.com:5291/x"},
		{"GET", "http://example3.com/x", ""},
		{"GET", "http://example9.com/x", ""},
		{"GET", "http://a.b.example1.com/x", ""},
	} {
		w := get(s, tt.method, tt.target)
		want := http.StatusPermanentRedirect
		if tt.want == "" {
			want = http.StatusNotFound
		}
		if got := w.Header().Get("Location"); got != tt.want || w.Code != want {
			t.Errorf("%s %s = %d, %q; want %d, %q", tt.method, tt.target, w.Code, got, want, tt.want)
		}
	}
}

// URLs omit the port if it is the default of https, or unknown.
func TestRedirectPort(t *testing.T) {
	for port, want := range map[int]string{443: "https://example1.com/", 0: "https://example1.com/", 8443: "https://example1.com:8443/"} {
		s := New(Options{Vhosts: []Vhost{{Names: []string{"example1.com"}}}, Port: port})
		if got := get(s, "GET", "http://example1.com/").Header().Get("Location"); got != want {
			t.Errorf("port %d: %q; want %q", port, got, want)
		}
	}
}

// A Host that is not a name gets an answer that does not repeat it.
func TestPlainHosts(t *testing.T) {
	s := testSite(nil)
	for _, host := range []string{"", ".", "a/b", "a\\b", "<a>", "a b", "user@a", "[::1]:80", "ä.example", strings.Repeat("a", 254)} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), "<") {
			t.Errorf("Host %q = %d, %q; want 400", host, w.Code, w.Body)
		}
	}
}

// Under TLS people get a page with the address. A request to a path for WebSockets gets
// 426, and other paths 404.
func TestPage(t *testing.T) {
	s := testSite([]Vhost{{Names: []string{"example1.com"}, Path: "/ws"}, {Names: []string{"example3.com"}}, {Names: []string{"example4.com"}, Path: "/a%2fb"}})
	for _, tt := range []struct {
		method, target string
		code           int
		text           string
	}{
		{"GET", "https://example1.com:5291/", 200, "<code>wss://example1.com:5291/ws</code>"},
		{"HEAD", "https://example1.com/", 200, ""},
		{"POST", "https://example1.com/", 405, "GET, HEAD"},
		{"GET", "https://example1.com/ws", 426, "accepts WebSockets"},
		{"HEAD", "https://example1.com/ws", 426, ""},
		{"PUT", "https://example1.com/ws", 405, "GET, HEAD"},
		{"GET", "https://example1.com/ws/", 404, "nothing at this path"},
		{"GET", "https://example3.com/xmpp-websocket?a=b", 426, "accepts WebSockets"}, // any path is upgraded
		{"GET", "https://example4.com/a%2fb", 426, "accepts WebSockets"},
		{"GET", "https://example4.com/a/b", 404, "nothing at this path"},
		{"GET", "https://example2.com/", 404, "no XMPP service"},
	} {
		w := get(s, tt.method, tt.target)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s %s = %d, %q; want %d, %q", tt.method, tt.target, w.Code, w.Body, tt.code, tt.text)
		}
		connection := "close"
		if tt.code == http.StatusUpgradeRequired {
			connection = "Upgrade, close"
		}
		if got := w.Header().Get("Connection"); got != connection || (tt.code == http.StatusUpgradeRequired) != (w.Header().Get("Upgrade") == "websocket") {
			t.Errorf("%s %s: Connection %q, Upgrade %q; want %q", tt.method, tt.target, got, w.Header().Get("Upgrade"), connection)
		}
	}
}

// The caller's own page answers all other requests, but not the documents.
func TestOwnPage(t *testing.T) {
	o := Options{
		Vhosts: []Vhost{{Names: []string{"example1.com"}}},
		Page:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }),
	}
	s := New(o)
	for target, want := range map[string]int{"/": 418, "/x": 418, "/nodes.json": 200} {
		if w := get(s, "GET", "https://example1.com"+target); w.Code != want {
			t.Errorf("%s = %d; want %d", target, w.Code, want)
		}
	}
}

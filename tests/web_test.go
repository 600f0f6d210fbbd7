package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// withHTTP is a configuration with a listener for plain HTTP beside the TLS one.
func withHTTP(rest string) []byte {
	return []byte("[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\nhttp = \"127.0.0.1:0\"\n\n" + gate.Timeouts + rest)
}

// A browser asks a gate over HTTP: names lead to the listeners, redirects are
// not followed, connections are kept if the gate keeps them.
type browser struct {
	t    *testing.T
	http *http.Client
}

func newBrowser(t *testing.T, site *gate.Site, g *gate.Gate) *browser {
	tr := &http.Transport{
		TLSClientConfig: site.Client(""),
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			listener := "wss"
			if strings.HasSuffix(addr, ":80") {
				listener = "http"
			}
			return (&net.Dialer{}).DialContext(ctx, network, g.Addr(listener))
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &browser{t, &http.Client{Transport: tr, Timeout: wire.Patience, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

func (b *browser) get(url string) (*http.Response, string) {
	b.t.Helper()
	resp, err := b.http.Get(url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(body)
}

// nodes returns nodes.json, sorted.
func (b *browser) nodes(base string) []string {
	b.t.Helper()
	resp, body := b.get(base + "/nodes.json")
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	var list []string
	if err := json.Unmarshal([]byte(body), &list); err != nil || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		b.t.Fatalf("%s: %s, %v, %q: %v", base, resp.Status, resp.Header, body, err)
	}
	slices.Sort(list)
	return list
}

// Discovery is served on both listeners, for names and for domains; what plain
// HTTP has nothing for is sent to TLS.
func TestDiscovery(t *testing.T) {
	site := gate.NewSite(t, name, "t1.example2.test", "t2.example2.test", "example3.test")
	site.Write(t, "config.toml", withHTTP(`
[upstream.one]
nodes = ["`+wire.Echo(t).URL+`"]
xmpp = false
[upstream.two]
nodes = [
  { name = "t1", url = "ws://127.0.0.1:1/", public_url = "wss://t1.example2.test:5291/" },
  { name = "t2", url = "ws://127.0.0.1:2/", public_url = "wss://t2.example2.test:5291/" },
  { name = "t3", url = "ws://127.0.0.1:3/", public_url = "wss://t3.example2.test:5291/", drain = true },
]

[[vhost]]
names    = ["`+name+`"]
upstream = "one"
path     = "/ws"
[[vhost.links]]
rel  = "urn:example"
href = "https://example.test/"

[[vhost]]
names    = ["*.example2.test"]
domains  = ["example2.test"]
upstream = "two"

[[vhost]]
names    = ["t2.example2.test"]
upstream = "two"
node     = "t2"

[[vhost]]
names      = ["example3.test"]
upstream   = "one"
public_url = "wss://chat.example3.test/x"
`))
	g := gate.Start(t, site.Dir)
	b := newBrowser(t, site, g)
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	for base, want := range map[string][]string{
		"https://" + name:            {"wss://" + name + "/ws"},
		"https://" + name + ":8443":  {"wss://" + name + ":8443/ws"},
		"http://" + name:             {"wss://" + name + ":" + port + "/ws"},
		"http://example2.test":       {"wss://t1.example2.test:5291/", "wss://t2.example2.test:5291/"},
		"https://t1.example2.test":   {"wss://t1.example2.test:5291/", "wss://t2.example2.test:5291/"},
		"http://t2.example2.test":    {"wss://t2.example2.test:5291/"},
		"https://example3.test:5291": {"wss://chat.example3.test/x"},
		"http://other.test":          nil,
	} {
		if got := b.nodes(base); !slices.Equal(got, want) {
			t.Errorf("%s/nodes.json = %q; want %q", base, got, want)
		}
	}
	for _, base := range []string{"https://" + name, "http://" + name} {
		for path, want := range map[string]string{"/.well-known/host-meta": "<Link rel='urn:example'", "/.well-known/host-meta.json": `{"rel":"urn:example"`} {
			if resp, body := b.get(base + path); resp.StatusCode != 200 || !strings.Contains(body, want) {
				t.Errorf("%s%s = %s, %q; want %q", base, path, resp.Status, body, want)
			}
		}
	}
	for url, want := range map[string]string{
		"http://" + name + "/a?b=c":  "https://" + name + ":" + port + "/a?b=c",
		"http://t9.example2.test/":   "https://t9.example2.test:" + port + "/",
		"http://other.test/":         "",
		"http://example2.test/other": "",
	} {
		resp, _ := b.get(url)
		if got := resp.Header.Get("Location"); got != want || (resp.StatusCode != 308) != (want == "") {
			t.Errorf("%s = %s, %q; want %q", url, resp.Status, got, want)
		}
	}
	if resp, body := b.get("https://" + name + "/"); resp.StatusCode != 200 || !strings.Contains(body, "wss://"+name+"/ws") {
		t.Errorf("the page = %s, %q", resp.Status, body)
	}
}

// A node that the operator drains is listed no more, until that is stopped.
func TestDiscoveryOfDrainedNode(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, `[upstream.xmpp]
nodes = [
  { name = "t1", url = "ws://127.0.0.1:1/", public_url = "wss://t1.example.test/" },
  { name = "t2", url = "ws://127.0.0.1:2/", public_url = "wss://t2.example.test/" },
]
`)
	b, o := newBrowser(t, site, g), operate(t, g)
	wants := func(want ...string) {
		t.Helper()
		if got := b.nodes("https://" + name); !slices.Equal(got, want) {
			t.Errorf("nodes.json = %q; want %q", got, want)
		}
	}
	wants("wss://t1.example.test/", "wss://t2.example.test/")
	o.want("POST", "/drain?node=xmpp/t1", 202)
	wants("wss://t2.example.test/")
	o.want("POST", "/drain?node=xmpp/t1&stop", 200)
	wants("wss://t1.example.test/", "wss://t2.example.test/")
}

// Discovery lists what this client can use now, whatever keeps it from an address.
func TestDiscoveryListsWhatIsOpen(t *testing.T) {
	const t1, t2 = "wss://t1.example2.test:5291/", "wss://t2.example2.test:5291/"
	for _, c := range []struct {
		what, more, drain string
		want              []string
	}{
		{"all", "", "", []string{t1, t2}},
		{"another path", `path = "/ws"`, "", []string{t1, "wss://t2.example2.test:PORT/ws"}},
		{"the path", `path = "/"`, "", []string{t1, t2}},
		{"another domain", `domains = ["example3.test"]`, "", []string{t1}},
		{"a client that is kept out", `access.deny = ["127.0.0.0/8"]`, "", []string{t1}},
		{"another client that is kept out", `access.deny = ["192.0.2.0/24"]`, "", []string{t1, t2}},
		{"a drained node", "", "node=xmpp/t2", []string{t1}},
		{"a drained node that another stands in for", "fallback = true", "node=xmpp/t2", []string{t1, "wss://t2.example2.test:PORT/"}},
		{"a drained vhost", "", "vhost=t2.example2.test", []string{t1}},
		{"all drained", "", "all", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			site := gate.NewSite(t, name, "t1.example2.test", "t2.example2.test")
			more := c.more
			if !strings.Contains(more, "domains") {
				more += "\ndomains = [\"example2.test\"]"
			}
			site.Write(t, "config.toml", bytes.Replace(withHTTP(`
[upstream.xmpp]
nodes = [{ name = "t1", url = "ws://127.0.0.1:1/", public_url = "`+t1+`" }, { name = "t2", url = "ws://127.0.0.1:2/", public_url = "`+t2+`" }]
health.interval = "0s"
[[vhost]]
names   = ["t1.example2.test"]
node    = "t1"
domains = ["example2.test"]
[[vhost]]
names    = ["t2.example2.test"]
node     = "t2"
`+more+"\n[[vhost]]\nnames = [\"chat.example2.test\"]\ndomains = [\"example2.test\"]\n"), []byte(`admin = ""`), []byte(`admin = "127.0.0.1:0"`), 1))
			g := gate.Start(t, site.Dir)
			b := newBrowser(t, site, g)
			if c.drain != "" {
				operate(t, g).want("POST", "/drain?"+c.drain, 202)
			}
			if c.want == nil {
				resp, body := b.get("http://example2.test/nodes.json")
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
					t.Errorf("nodes.json = %s, %q; want 503 for the moment", resp.Status, body)
				}
				return
			}
			_, port, _ := net.SplitHostPort(g.Addr("wss"))
			got := b.nodes("http://example2.test")
			for i, url := range got {
				got[i] = strings.Replace(url, ":"+port+"/", ":PORT/", 1)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("nodes.json = %q; want %q", got, c.want)
			}
			for _, path := range []string{"/.well-known/host-meta", "/.well-known/host-meta.json"} {
				if _, body := b.get("http://example2.test" + path); strings.Contains(body, t2) != slices.Contains(c.want, t2) || !strings.Contains(body, t1) {
					t.Errorf("%s = %s; want %q", path, body, c.want)
				}
			}
		})
	}
}

// The address that discovery names is one where a WebSocket opens.
func TestDiscoveryLeadsToWebSocket(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "config.toml", withHTTP(toUpstream(wire.Echo(t).URL)))
	g := gate.Start(t, site.Dir)
	got := newBrowser(t, site, g).nodes("http://" + name)
	_, port, _ := net.SplitHostPort(g.Addr("wss"))
	if want := "wss://" + name + ":" + port + "/"; len(got) != 1 || got[0] != want {
		t.Fatalf("nodes.json = %q; want %q", got, want)
	}
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")
}

// A reload opens and closes listeners for plain HTTP, and changes what is told.
func TestReloadHTTP(t *testing.T) {
	site := gate.NewSite(t, name)
	upstream := toUpstream(wire.Echo(t).URL)
	g := site.Start(t, upstream)
	reload := func(config string) {
		t.Helper()
		site.Write(t, "config.toml", []byte(config))
		after := g.Mark()
		g.Signal(syscall.SIGHUP)
		after("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	}
	reload(string(withHTTP(upstream)))
	addr := g.Addr("http")
	b := newBrowser(t, site, g)
	if got := b.nodes("http://" + name); len(got) != 1 {
		t.Errorf("nodes.json = %q; want one URL", got)
	}
	reload(string(withHTTP(upstream + "[[vhost]]\nnames = [\"" + name + "\"]\npublic_url = \"wss://chat.test/\"\n")))
	if got := b.nodes("http://" + name); !slices.Equal(got, []string{"wss://chat.test/"}) {
		t.Errorf("nodes.json = %q; want the public URL", got)
	}
	reload("[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n" + upstream)
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the listener is open after it was taken out")
	}
}

// An address that is taken is a failure that names the key.
func TestHTTPAddressTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	site := gate.NewSite(t, name)
	site.Write(t, "config.toml", []byte(fmt.Sprintf("[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\nhttp = %q\n%s", ln.Addr(), toUpstream("ws://127.0.0.1:1/"))))
	g := gate.Run(t, site.Dir, []string{"serve", "-config", "config.toml"})
	if status := g.Wait(); status != 1 || !strings.Contains(g.Text(), "listen.http: ") {
		t.Errorf("exit status %d, %q; want 1 and listen.http", status, g.Text())
	}
}

// A client of plain HTTP that says nothing, or sends a header without end, does
// not hold a drain up.
func TestDrainHTTP(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "config.toml", withHTTP(toUpstream(wire.Echo(t).URL)))
	g := gate.Start(t, site.Dir)
	for _, text := range []string{"", "GET / HTTP/1.1\r\nHost: " + name + "\r\nX: "} {
		conn, err := net.Dial("tcp", g.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// BOSH goes through on its path under the vhost's certificate, request after
// request on one connection, and the same connection still becomes a tunnel.
// A drain answers what waits, and does not wait for it.
func TestBOSH(t *testing.T) {
	waits := make(chan struct{})
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "wait" {
			close(waits)
			<-r.Context().Done()
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprintf(w, "%s %s %s %s", r.Host, r.URL.Path, r.Header.Get("X-Forwarded-For"), body)
	}))
	defer bosh.Close()
	site := gate.NewSite(t, name, "example2.test")
	g := site.Start(t, toUpstream(wire.Echo(t).URL)+`
[limits]
message = "10000"
[[vhost]]
names = ["`+name+`"]
bosh  = "`+bosh.URL+`/http-bind"
[[vhost]]
names = ["example2.test"]
`)
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", path, name, len(body), body)
	}
	for i := range 3 {
		resp, body := c.Answer(post("/http-bind", fmt.Sprint(i)))
		if want := fmt.Sprintf("%s /http-bind 127.0.0.1 %d", name, i); body != want || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("answer %s, %v, %q; want %q with CORS", resp.Status, resp.Header, body, want)
		}
	}
	c.Upgrade(wire.Request(name))
	c.SendText("hello")
	c.WantText("hello")

	for _, tt := range []struct {
		server, request string
		want            int
	}{
		{name, post("/http-bind/x", ""), 404},
		{name, post("/other", ""), 404},
		{name, post("/http-bind", strings.Repeat("x", 10001)), 413},
		{name, strings.Replace(post("/http-bind", ""), name, "example2.test", 1), 421},
		{"example2.test", strings.Replace(post("/http-bind", ""), name, "example2.test", 1), 404},
	} {
		resp, _ := wire.DialTLS(t, g.Addr("wss"), site.Client(tt.server)).Answer(tt.request)
		if resp.StatusCode != tt.want {
			t.Errorf("%s: %.60q = %s; want %d", tt.server, tt.request, resp.Status, tt.want)
		}
	}

	chunked := strings.Replace(post("/http-bind", "2\r\nhi\r\n0\r\n\r\n"), "Content-Length: 12", "Transfer-Encoding: chunked", 1)
	if resp, body := wire.DialTLS(t, g.Addr("wss"), site.Client(name)).Answer(chunked); !strings.HasSuffix(body, " hi") || !resp.Close {
		t.Errorf("a body in chunks: %s, %v, %q; want it passed on, and the connection closed", resp.Status, resp.Header, body)
	}

	held := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	idle := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	idle.Answer(post("/http-bind", ""))
	go func() {
		<-waits
		g.Signal(syscall.SIGTERM)
	}()
	if resp, _ := held.Answer(post("/http-bind", "wait")); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a drain answers %s, %v; want 503 with Retry-After", resp.Status, resp.Header)
	}
	c.WantClose(1001)
	c.Send(wire.CloseFrame(true, 1001, ""))
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// What a CA asks for at port 80 is not redirected, whatever the name; without
// an order there is no answer to give.
func TestHTTP01Path(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "root.pem", site.CA.RootPEM())
	site.Write(t, "config.toml", withHTTP(toUpstream(wire.Echo(t).URL)+`
[acme]
names        = ["acme.example1.test"]
ca           = "https://127.0.0.1:1/dir"
ca_root      = "root.pem"
accept_terms = true
`))
	g := gate.Start(t, site.Dir)
	b := newBrowser(t, site, g)
	for host, want := range map[string]int{"acme.example1.test": 404, name: 403} {
		if resp, _ := b.get("http://" + host + "/.well-known/acme-challenge/token"); resp.StatusCode != want {
			t.Errorf("%s = %s; want %d", host, resp.Status, want)
		}
	}
	g.WaitLine("the order's failure", func(l gate.Line) bool { return strings.Contains(l.Text, "acme.example1.test") })
	if _, err := os.Stat(filepath.Join(site.Dir, "acme")); err != nil {
		t.Errorf("the cache: %v", err)
	}
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// What net/http has to say about a BOSH server that talks unasked is a line of the
// log like any other.
func TestBOSHUnasked(t *testing.T) {
	bosh := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi, and more")
		conn.Read(make([]byte, 1)) // until the gate has had enough
	}))
	defer bosh.Close()
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL)+`
[log]
level = "debug"
[[vhost]]
names = ["`+name+`"]
bosh  = "`+bosh.URL+`/http-bind"
`)
	// net/http says it of a connection that it keeps, which it does not if its own
	// goroutine was too late to tell that the request is written.
	eventually(t, "what was unasked is in the log", func() bool {
		c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
		if resp, body := c.Answer("POST /http-bind HTTP/1.1\r\nHost: " + name + "\r\nContent-Length: 0\r\n\r\n"); body != "hi" {
			t.Errorf("answer %s, %q; want hi", resp.Status, body)
		}
		return strings.Contains(g.Text(), `"msg":"Unsolicited response`)
	})
}

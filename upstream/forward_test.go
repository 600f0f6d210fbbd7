package upstream

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func mustLocation(t *testing.T, url string) *NodeURL {
	t.Helper()
	loc, err := ParseNodeURL(url)
	if err != nil {
		t.Fatal(err)
	}
	return &loc
}

// The complete request that a node gets for a browser's request, byte for byte.
func TestRequestText(t *testing.T) {
	r := &Request{
		Client:     netip.MustParseAddrPort("192.0.2.7:51812"),
		Local:      netip.MustParseAddrPort("198.51.100.1:5291"),
		ID:         "1r0o0les",
		ServerName: "example1.com",
		Host:       "example1.com:5291", RequestURI: "/ws?room=a%20b", Subprotocol: "xmpp",
		Origin: "https://chat.example1.com", UserAgent: "Mozilla/5.0", Cookie: "a=b; c=d",
		Authorization: "Bearer x", AcceptLanguage: "pl,en;q=0.5",
	}
	got, err := r.appendRequest([]byte("PROXY …\r\n"), mustLocation(t, "ws://127.0.0.1:5290"), false, testKey)
	want := strings.ReplaceAll(`PROXY …
GET /ws?room=a%20b HTTP/1.1
Host: example1.com:5291
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Protocol: xmpp
Origin: https://chat.example1.com
User-Agent: Mozilla/5.0
Cookie: a=b; c=d
Authorization: Bearer x
Accept-Language: pl,en;q=0.5
X-Forwarded-For: 192.0.2.7
X-Forwarded-Proto: https
X-Forwarded-Host: example1.com:5291
Forwarded: for=192.0.2.7;host="example1.com:5291";proto=https
X-Request-Id: 1r0o0les

`, "\n", "\r\n")
	if err != nil || string(got) != want {
		t.Errorf("request = %q, %v;\nwant %q", got, err, want)
	}
}

// Tigase ignores a request of 100 bytes or less.
func TestRequestIsNeverShort(t *testing.T) {
	got, err := (&Request{Host: "a", Subprotocol: "xmpp"}).appendRequest(nil, mustLocation(t, "ws://a"), false, testKey)
	if err != nil || len(got) <= 100 {
		t.Errorf("the shortest request has %d bytes, %v; want more than 100", len(got), err)
	}
}

func TestRequestTargetAndHost(t *testing.T) {
	for _, c := range []struct {
		url, uri   string
		hostOfNode bool
		line, host string
	}{
		{"ws://t1.example:5290", "/ws?x=1", false, "GET /ws?x=1 HTTP/1.1", "example1.com"},
		{"ws://t1.example:5290", "", false, "GET / HTTP/1.1", "example1.com"},
		{"ws://t1.example:5290/", "/ws?x=1", false, "GET /?x=1 HTTP/1.1", "example1.com"},
		{"ws://t1.example/xmpp-websocket", "/", true, "GET /xmpp-websocket HTTP/1.1", "t1.example"},
		{"ws://T1.example:5280/ws?a=b", "/?x=1", true, "GET /ws?a=b HTTP/1.1", "t1.example:5280"},
		{"ws://[2001:db8::1]:5280/ws", "/", true, "GET /ws HTTP/1.1", "[2001:db8::1]:5280"},
		{"ws+unix:///run/x.sock:/ws", "/", true, "GET /ws HTTP/1.1", "localhost"},
	} {
		r := &Request{Host: "example1.com", RequestURI: c.uri, Subprotocol: "xmpp"}
		got, err := r.appendRequest(nil, mustLocation(t, c.url), c.hostOfNode, testKey)
		line, _, _ := strings.Cut(string(got), "\r\n")
		if err != nil || line != c.line || headerOf(string(got), "Host") != c.host {
			t.Errorf("%q to %s: %q, Host %q, %v; want %q, %q", c.uri, c.url, line, headerOf(string(got), "Host"), err, c.line, c.host)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	for _, c := range []Request{
		{RequestURI: "x"}, {RequestURI: "*"}, {RequestURI: "http://a/"}, {RequestURI: "/#x"}, {RequestURI: "/a b"},
		{RequestURI: "/\x7f"}, {RequestURI: "/\x00"}, {RequestURI: "/é"}, {RequestURI: "/?\r\nX: y"},
		{Host: "a\r\nX: y"}, {Host: "a\x00"}, {Host: " a"}, {Origin: "a\nb"}, {Cookie: "a "}, {Cookie: "\ta"},
		{UserAgent: "a\x7f"}, {Authorization: "\r"}, {AcceptLanguage: "\v"},
	} {
		c.Subprotocol = "xmpp"
		if b, err := c.appendRequest(nil, mustLocation(t, "ws://a"), false, testKey); err == nil {
			t.Errorf("%+v became %q; want an error", c, b)
		}
	}
}

func TestRequestForwardedAddress(t *testing.T) {
	for _, c := range []struct{ client, xff, forwarded string }{
		{"[2001:db8::7]:1", "2001:db8::7", `for="[2001:db8::7]";host="h";proto=https`},
		{"[::ffff:192.0.2.7]:1", "192.0.2.7", `for=192.0.2.7;host="h";proto=https`},
		{"[fe80::1%eth0]:1", "fe80::1", `for="[fe80::1]";host="h";proto=https`},
		{"", "", `for=unknown;host="h";proto=https`},
	} {
		r := &Request{Host: "h", Subprotocol: "xmpp"}
		if c.client != "" {
			r.Client = netip.MustParseAddrPort(c.client)
		}
		got, err := r.appendRequest(nil, mustLocation(t, "ws://a"), false, testKey)
		if err != nil {
			t.Fatal(err)
		}
		if x, f := headerOf(string(got), "X-Forwarded-For"), headerOf(string(got), "Forwarded"); x != c.xff || f != c.forwarded {
			t.Errorf("client %s: X-Forwarded-For %q, Forwarded %q; want %q, %q", c.client, x, f, c.xff, c.forwarded)
		}
	}
}

// No value from a client may begin a header or another request.
func FuzzRequest(f *testing.F) {
	f.Add("example1.com", "/ws?x", "https://a.example", "a=b")
	f.Add("h\r\nX: y", "/ HTTP/1.1\r\n", "\n", " a")
	f.Add(`h"; for=1.2.3.4`, "/%0d%0a", "", "\x7f")
	f.Fuzz(func(t *testing.T, host, uri, origin, cookie string) {
		r := &Request{Host: host, RequestURI: uri, Origin: origin, Cookie: cookie, Subprotocol: "xmpp"}
		loc := NodeURL{authority: "node"}
		b, err := r.appendRequest(nil, &loc, false, testKey)
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(b))
		req, err := http.ReadRequest(br)
		if err != nil {
			// net/http is stricter about Host and the target than about headers.
			if strings.Contains(err.Error(), "Host") || strings.Contains(err.Error(), "URL") || strings.Contains(err.Error(), "parse") {
				return
			}
			t.Fatalf("%q: net/http says %v", b, err)
		}
		if br.Buffered() > 0 {
			t.Errorf("%q: more than one request", b)
		}
		if uri == "" {
			uri = "/"
		}
		if host == "" {
			host = "node"
		}
		if req.RequestURI != uri || req.Host != host || req.Header.Get("Origin") != origin || req.Header.Get("Cookie") != cookie {
			t.Errorf("%q: net/http reads target %q, host %q, origin %q, cookie %q", b, req.RequestURI, req.Host, req.Header.Get("Origin"), req.Header.Get("Cookie"))
		}
		names := len(req.Header)
		for name, values := range req.Header {
			if len(values) != 1 {
				t.Errorf("%q: %d of %s", b, len(values), name)
			}
		}
		if names > 15 {
			t.Errorf("%q: %d headers", b, names)
		}
	})
}

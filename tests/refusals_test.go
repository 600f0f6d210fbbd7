package tests

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// What the gate does not upgrade it refuses with an HTTP answer that a person
// can read, and the upstream hears nothing of it.
func TestRefusals(t *testing.T) {
	upstream := wire.Echo(t)
	site := gate.NewSite(t, name, "example2.test", "unrouted.test")
	g := site.Start(t, toUpstream(upstream.URL)+`
[[vhost]]
names   = ["example1.test"]
origins = ["https://example1.test"]
path    = "/ws"

[[vhost]]
names = ["example2.test"]
`)
	ws := func(more ...string) string { return wire.RequestLine("GET /ws HTTP/1.1", name, more...) }
	for _, tt := range []struct {
		what       string
		serverName string
		request    string
		want       int
	}{
		{"no HTTP", name, "<stream:stream to='example1.test'>\r\n\r\n", 400},
		{"no Host", name, ws("Host:"), 400},
		{"empty Host", name, ws("Host: "), 400},
		{"two Hosts", name, ws("Host: "+name, "Host: "+name), 400},
		{"a version that does not exist", name, wire.RequestLine("GET /ws HTTP/1.10", name), 400},
		{"a header without colon", name, ws("Upgrade"), 400},
		{"a space before the colon", name, ws("Upgrade : websocket"), 400},
		{"a folded header", name, ws("X-Folded: a\r\n b"), 400},
		{"no key", name, ws("Sec-WebSocket-Key:"), 400},
		{"a key that is not 16 bytes", name, ws("Sec-WebSocket-Key: c2hvcnQ="), 400},
		{"a body", name, ws("Content-Length: 5"), 400},
		{"chunks", name, ws("Transfer-Encoding: chunked"), 400},
		{"no subprotocol", name, ws("Sec-WebSocket-Protocol:"), 400},
		{"another subprotocol", name, ws("Sec-WebSocket-Protocol: mqtt"), 400},
		{"another origin", name, ws("Origin: https://evil.test"), 403},
		{"another path", name, wire.RequestLine("GET /other HTTP/1.1", name), 403},
		{"a server name that no vhost has", "unrouted.test", wire.Request("unrouted.test"), 404},
		{"another method", name, wire.RequestLine("POST /ws HTTP/1.1", name), 405},
		{"the host of another vhost", name, ws("Host: example2.test"), 421},
		{"an older WebSocket", name, ws("Sec-WebSocket-Version: 8"), 426},
		{"a header of 20 KiB", name, ws("X-Long: " + strings.Repeat("x", 20<<10)), 431},
	} {
		t.Run(tt.what, func(t *testing.T) {
			c := wire.DialTLS(t, g.Addr("wss"), site.Client(tt.serverName))
			resp, body := c.Answer(tt.request)
			checkRefusal(t, resp, body, tt.want)
			if tt.want == http.StatusUpgradeRequired && resp.Header.Get("Sec-WebSocket-Version") != "13" {
				t.Errorf("Sec-WebSocket-Version %q; want 13", resp.Header.Get("Sec-WebSocket-Version"))
			}
			if tt.want == http.StatusMethodNotAllowed && resp.Header.Get("Allow") != "GET" {
				t.Errorf("Allow %q; want GET", resp.Header.Get("Allow"))
			}
		})
	}
	if got := upstream.Requests(); len(got) != 0 {
		t.Errorf("the upstream got %d opening handshakes; want none", len(got))
	}
}

// checkRefusal wants the status and a text for people.
func checkRefusal(t *testing.T, resp *http.Response, body string, want int) {
	t.Helper()
	if resp.StatusCode != want {
		t.Errorf("status %s, body %q; want %d", resp.Status, body, want)
	}
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/") {
		t.Errorf("Content-Type %q; want a text", kind)
	}
	if len(strings.Fields(body)) < 3 {
		t.Errorf("body %q; want a sentence", body)
	}
}

// What is right is upgraded beside these refusals: any case, a port in Host,
// several subprotocols, no Origin at all.
func TestUpgrades(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL)+"[[vhost]]\nnames = [\""+name+"\"]\norigins = [\"https://"+name+"\"]\n")
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, request string }{
		{"as a browser does it", wire.Request(name)},
		{"a port in Host", wire.Request(name+":"+port, "Origin: https://"+name)},
		{"upper case", wire.Request("EXAMPLE1.TEST", "Origin: https://"+name, "Upgrade: WebSocket", "Connection: keep-alive, UPGRADE")},
		{"two Connection lines", wire.Request(name, "Connection: keep-alive", "Connection: Upgrade")},
		{"a tab behind the comma", wire.Request(name, "Connection: keep-alive,\tUpgrade")},
		{"two Cookie lines, one empty", wire.Request(name, "Cookie: a=b", "Cookie: ")},
		{"a trailing dot", wire.Request(name+".", "Origin: https://"+name)},
		{"several subprotocols", wire.Request(name, "Sec-WebSocket-Protocol: mqtt, xmpp")},
		{"no Origin", wire.Request(name, "Origin:")},
		{"header names in lower case", strings.ReplaceAll(wire.Request(name), "Sec-WebSocket-", "sec-websocket-")},
		{"another path and a query", wire.RequestLine("GET /xmpp-websocket?a=b HTTP/1.1", name)},
		{"extensions offered", wire.Request(name, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")},
	} {
		t.Run(tt.what, func(t *testing.T) {
			c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
			c.Upgrade(tt.request)
			c.SendText("hello")
			c.WantText("hello")
		})
	}
}

// A request may come in any number of pieces.
func TestRequestByteByByte(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	request := wire.Request(name)
	for _, b := range []byte(request[:len(request)-1]) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	c.Upgrade(request[len(request)-1:])
	c.SendText("whole")
	c.WantText("whole")
}

// Who opens the address in a browser gets a page that says what this is. Who asks
// in this way for the path that clients use is told what it takes.
func TestPlainGet(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/":               {http.StatusOK, "XMPP over WebSocket"},
		"/xmpp-websocket": {http.StatusUpgradeRequired, "accepts WebSockets"},
	} {
		c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
		resp, body := c.Answer("GET " + path + " HTTP/1.1\r\nHost: " + name + "\r\n\r\n")
		if resp.StatusCode != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s: status %s, body %q; want %d and a text that says what this is", path, resp.Status, body, want.code)
		}
		if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/") {
			t.Errorf("%s: Content-Type %q; want a text", path, kind)
		}
		if got := resp.Header.Get("Upgrade"); (got == "websocket") != (want.code == http.StatusUpgradeRequired) {
			t.Errorf("%s: Upgrade %q", path, got)
		}
	}
}

// Who speaks plain HTTP to the port is told what it speaks; who says nothing is
// let go.
func TestNoTLS(t *testing.T) {
	site := gate.NewSite(t, name)
	upstream := toUpstream(wire.Echo(t).URL)
	shakes := site.Start(t, upstream+"[timeouts]\nhandshake = \"300ms\"\n")
	asks := site.Start(t, upstream+"[timeouts]\nrequest = \"300ms\"\n")
	t.Run("plain HTTP", func(t *testing.T) {
		resp, body := dialPlain(t, asks).Answer("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n")
		checkRefusal(t, resp, body, http.StatusBadRequest)
		if !strings.Contains(body, "wss://") {
			t.Errorf("body %q; want it to name wss://", body)
		}
	})
	t.Run("neither HTTP nor TLS", func(t *testing.T) {
		c := dialPlain(t, asks)
		io.WriteString(c.Conn, "<stream:stream to='"+name+"'>")
		c.WantGone()
	})
	t.Run("silence instead of TLS", func(t *testing.T) { dialPlain(t, shakes).WantGone() })
	t.Run("silence instead of a request", func(t *testing.T) {
		wire.DialTLS(t, asks.Addr("wss"), site.Client(name)).WantGone()
	})
	t.Run("half a request", func(t *testing.T) {
		c := wire.DialTLS(t, asks.Addr("wss"), site.Client(name))
		io.WriteString(c.Conn, "GET / HTTP/1.1\r\nHost:")
		c.WantGone()
	})
	for _, g := range []*gate.Gate{shakes, asks} { // they go on
		var c *wire.Conn
		eventually(t, "a client is quick enough", func() bool {
			conn, err := tls.Dial("tcp", g.Addr("wss"), site.Client(name))
			if err != nil {
				return false
			}
			c = wire.NewConn(t, conn, true)
			return c.TryUpgrade(wire.Request(name)) == nil
		})
		time.Sleep(400 * time.Millisecond) // the deadlines of the way in don't outlive it
		c.SendText("hello")
		c.WantText("hello")
	}
}

func dialPlain(t *testing.T, g *gate.Gate) *wire.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	return wire.NewConn(t, conn, true)
}

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
)

// A pageClient is one connection on which a test sends raw requests.
type pageClient struct {
	*tls.Conn
	t *testing.T
	r *bufio.Reader
}

func (g *gate) pageClient(t *testing.T) *pageClient {
	t.Helper()
	conn, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &pageClient{conn, t, bufio.NewReader(conn)}
}

func (c *pageClient) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// want reads one answer.
func (c *pageClient) want(status int, body string) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != status || !strings.Contains(string(got), body) {
		c.t.Errorf("answer %s, %q; want %d and %q", resp.Status, got, status, body)
	}
	return resp
}

// wantEnd expects the connection to be closed properly.
func (c *pageClient) wantEnd() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Errorf("read %q, %v; want the end of the connection", b, err)
	}
}

// echoPages answers with the request.
func echoPages(o *Options) {
	o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s %s %q for %s from %s", r.Method, r.Host, r.URL.Path, body, r.TLS.ServerName, r.RemoteAddr[:strings.LastIndex(r.RemoteAddr, ":")])
	})
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: " + testName + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"

// wantTunnel reads the 101 and sends a message through the tunnel.
func (c *pageClient) wantTunnel() {
	c.t.Helper()
	if resp := c.want(101, ""); resp.Header.Get("Sec-WebSocket-Protocol") != "xmpp" {
		c.t.Errorf("subprotocol %q", resp.Header.Get("Sec-WebSocket-Protocol"))
	}
	c.send(string(ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("hello"))))))
	h, err := ws.ReadHeader(c.r)
	if err != nil || h.Length != int64(len("hello")) {
		c.t.Fatalf("frame %+v, %v; want one of five bytes", h, err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.r, payload); err != nil || string(payload) != "hello" {
		c.t.Errorf("frame %q, %v; want hello", payload, err)
	}
}

// A connection serves one request after the other, with bodies, and then an
// opening handshake.
func TestPagesKeepConnection(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL(), echoPages)
	c := g.pageClient(t)
	c.send("GET /a HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	c.want(200, `GET example1.com /a "" for example1.com from 127.0.0.1`)
	c.send("POST /b HTTP/1.1\r\nHost: EXAMPLE1.com:5291\r\nContent-Length: 5\r\n\r\nab")
	c.send("cde")
	c.want(200, `POST EXAMPLE1.com:5291 /b "abcde" for example1.com`)
	c.send(upgradeRequest)
	c.wantTunnel()
}

// The same if the client does not wait for answers.
func TestPagesPipelined(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL(), echoPages)
	c := g.pageClient(t)
	c.send("POST /a HTTP/1.1\r\nHost: example1.com\r\nContent-Length: 3\r\n\r\nabc" +
		"GET /b HTTP/1.1\r\nHost: example1.com\r\n\r\n" +
		"POST /c HTTP/1.1\r\nHost: example1.com\r\nContent-Length: 2\r\n\r\nde" + upgradeRequest)
	c.want(200, `/a "abc"`)
	c.want(200, `/b ""`)
	c.want(200, `/c "de"`)
	c.wantTunnel()
}

// Bytes that arrive during an answer wait for its end, and do not end it.
func TestPagesEarlyRequest(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL(), func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			select {
			case <-answer:
				io.WriteString(w, "answered")
			case <-r.Context().Done():
			}
		})
	})
	c := g.pageClient(t)
	c.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	<-asked
	c.send(upgradeRequest)
	close(answer)
	c.want(200, "answered")
	c.wantTunnel()
}

// A handler learns that its client has disconnected.
func TestPagesClientLeaves(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
			close(gone)
		})
	})
	c := g.pageClient(t)
	c.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	<-asked
	c.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the handler still waits")
	}
}

// A request whose end is ambiguous is the last one.
func TestPagesLastRequest(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL(), echoPages)
	for name, request := range map[string]string{
		"chunks":       "POST /a HTTP/1.1\r\nHost: example1.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.0":     "GET /a HTTP/1.0\r\nHost: example1.com\r\nConnection: keep-alive\r\n\r\n",
		"no Host":      "GET /a HTTP/1.0\r\n\r\n",
		"by wish":      "GET /a HTTP/1.1\r\nHost: example1.com\r\nConnection: close\r\n\r\n",
		"length twice": "POST /a HTTP/1.1\r\nHost: example1.com\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			c := g.pageClient(t)
			c.send(request + upgradeRequest)
			c.want(200, "example1.com /a")
			if b, err := c.r.ReadByte(); err == nil {
				t.Errorf("read %q behind the answer; want the end of the connection", b)
			}
		})
	}
}

// A request for another vhost than that of its connection is refused, whether Host or
// its target has the name.
func TestPagesMisdirected(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), echoPages)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: example2.com\r\n\r\n",
		"GET https://example2.com/ HTTP/1.1\r\nHost: example1.com\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: \r\n\r\n",
		"GET / HTTP/1.1\r\nHost: example1.com.example2.com\r\n\r\n",
	} {
		c := g.pageClient(t)
		c.send(request)
		c.want(421, "Host differs from the TLS server name")
		c.wantEnd()
	}
}

// Without Pages every path gets 404.
func TestNoPages(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	c := g.pageClient(t)
	c.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	c.want(404, "")
}

// A drain ends requests and connections that wait, without delay.
func TestPagesDrain(t *testing.T) {
	asked := make(chan struct{})
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				close(asked)
				<-r.Context().Done()
				w.WriteHeader(503)
			}
		})
	})
	waits, idle := g.pageClient(t), g.pageClient(t)
	waits.send("GET /wait HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	<-asked
	idle.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	idle.want(200, "")
	down := make(chan error, 1)
	go func() { down <- g.Shutdown(context.Background(), Pacing{Timeout: patience}) }()
	waits.want(503, "")
	if err := <-down; err != nil {
		t.Errorf("Shutdown = %v", err)
	}
	if _, err := idle.r.ReadByte(); err == nil {
		t.Error("the idle connection has something to say")
	}
	if got := g.Connections(); got != 0 {
		t.Errorf("%d connections are left", got)
	}
}

// Behind a balancer, the client is the one in the header.
func TestPagesBehindBalancer(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), echoPages, func(o *Options) {
		o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 50000 5291\r\n")
	secure := tls.Client(conn, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()})
	c := &pageClient{secure, t, bufio.NewReader(secure)}
	c.send("GET / HTTP/1.1\r\nHost: example1.com\r\n\r\n")
	c.want(200, "from 192.0.2.7")
}

// If bodyLength returns the length of a body, net/http reads the same.
func FuzzBodyLength(f *testing.F) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nX: b\n\r\nContent-Length: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nX: \rContent-Length: 1\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\n",
	} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		if i := bytes.Index(head, blankLine); i < 0 || i+len(blankLine) != len(head) {
			return // not a request's head; see readHead
		}
		n, ok := bodyLength(head)
		if !ok {
			return
		}
		r := bufio.NewReader(bytes.NewReader(append(bytes.Clone(head), "rest"...)))
		req, err := http.ReadRequest(r)
		if err != nil {
			return // it is answered with 400, and the connection closed
		}
		if req.ContentLength != n || len(req.TransferEncoding) > 0 {
			t.Errorf("bodyLength(%q) = %d; net/http has %d, %q", head, n, req.ContentLength, req.TransferEncoding)
		}
		if n == 0 {
			if rest, _ := io.ReadAll(r); string(rest) != "rest" {
				t.Errorf("bodyLength(%q): net/http leaves %q; want \"rest\"", head, rest)
			}
		}
	})
}

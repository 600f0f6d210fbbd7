package tests

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// An upstream that does not upgrade costs the client one answer that says so,
// never a 101.
func TestUpstreamRefuses(t *testing.T) {
	for _, tt := range []struct {
		what   string
		answer func(net.Conn) // after the opening handshake was read
		want   int
	}{
		{"400, as Tigase writes it", say("HTTP/1.0 400 Bad request\r\n\r\n"), 502},
		{"404 with a body", say("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"), 502},
		{"200 instead of 101", say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 502},
		{"101 for another key", say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"), 502},
		{"garbage", say("\x00\x01\x02 what is this?\r\n\r\n"), 502},
		{"half an answer", say("HTTP/1.1 101 Switching Pro"), 502},
		{"no answer but FIN", say(""), 502},
		{"no answer at all", func(conn net.Conn) { io.Copy(io.Discard, conn) }, 504},
	} {
		t.Run(tt.what, func(t *testing.T) {
			u := wire.Listen(t, func(conn net.Conn) {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					tt.answer(conn)
				}
			})
			site := gate.NewSite(t, name)
			config := toUpstream(u.URL) + "health.interval = \"0s\"\n"
			if tt.want == http.StatusGatewayTimeout {
				config += "dial_timeout = \"500ms\"\n"
			}
			g := site.Start(t, config)
			c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
			resp, body := c.Answer(wire.Request(name))
			checkRefusal(t, resp, body, tt.want)
		})
	}
}

func say(s string) func(net.Conn) {
	return func(conn net.Conn) { io.WriteString(conn, s) }
}

// Where nothing listens the client gets 503, and the next one gets through as
// soon as something does.
func TestUpstreamDown(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream("ws://127.0.0.1:1/"))
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	resp, body := c.Answer(wire.Request(name))
	checkRefusal(t, resp, body, http.StatusServiceUnavailable)
}

// The node after one that refuses is tried for the same client.
func TestUpstreamNextNode(t *testing.T) {
	refuses := wire.Listen(t, func(conn net.Conn) { conn.Close() })
	good := wire.Echo(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, "[upstream.xmpp]\nnodes = [\""+refuses.URL+"\", \""+good.URL+"\"]\nxmpp = false\n")
	for range 5 {
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		c.SendText("hello")
		c.WantText("hello")
	}
}

// What the upstream must know reaches it in the form that Tigase can read: more
// than 100 bytes, ended by the blank line, names in their classic spelling.
func TestUpstreamRequest(t *testing.T) {
	heads := make(chan []byte, 1)
	u := wire.Listen(t, func(conn net.Conn) {
		defer conn.Close()
		buf := make([]byte, 64<<10)
		n, _ := conn.Read(buf) // one write arrives in one read on loopback
		heads <- buf[:n]
	})
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(u.URL)+"health.interval = \"0s\"\n") // the client's request comes first, and alone
	c := wire.DialTLS(t, g.Addr("wss"), site.Client(name))
	c.Answer(wire.RequestLine("GET /path?query HTTP/1.1", name))
	head := string(<-heads)
	if len(head) <= 100 || head[len(head)-4:] != "\r\n\r\n" {
		t.Errorf("request of %d bytes: %q; want more than 100, ended by the blank line", len(head), head)
	}
	for _, want := range []string{"Host: " + name, "Sec-WebSocket-Key: ", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: xmpp", "Origin: https://" + name} {
		if !containsLine(head, want) {
			t.Errorf("request %q has no line %q", head, want)
		}
	}
	if containsLine(head, "Sec-WebSocket-Extensions") {
		t.Errorf("request %q offers extensions, which the gate could not follow", head)
	}
}

// Each vhost has the upstream that the configuration gives it.
func TestUpstreamByServerName(t *testing.T) {
	one, two := wire.Echo(t), wire.Echo(t)
	site := gate.NewSite(t, "example1.test", "*.example2.test")
	g := site.Start(t, fmt.Sprintf(`
[upstream.one]
nodes = [%q]
xmpp = false

[upstream.two]
nodes = [%q]
xmpp = false

[[vhost]]
names = ["example1.test"]
upstream = "one"

[[vhost]]
names = ["*.example2.test"]
upstream = "two"
`, one.URL, two.URL))
	wire.Dial(t, g.Addr("wss"), site.Client("example1.test"))
	wire.Dial(t, g.Addr("wss"), site.Client("a.example2.test"))
	wire.Dial(t, g.Addr("wss"), site.Client("B.Example2.test"))
	for _, tt := range []struct {
		upstream *wire.Upstream
		hosts    []string
	}{{one, []string{"example1.test"}}, {two, []string{"a.example2.test", "B.Example2.test"}}} {
		var hosts []string
		for _, req := range tt.upstream.Requests() {
			hosts = append(hosts, req.Host)
		}
		if !slices.Equal(hosts, tt.hosts) {
			t.Errorf("an upstream got the hosts %q; want %q", hosts, tt.hosts)
		}
	}
}

// A node may listen on a unix socket.
func TestUpstreamUnix(t *testing.T) {
	site := gate.NewSite(t, name)
	path := filepath.Join(site.Dir, "xmpp.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	u := wire.Serve(t, ln, wire.EchoFrames)
	g := site.Start(t, toUpstream("ws+unix://"+path))
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")
	if got := len(u.Requests()); got != 1 {
		t.Errorf("%d opening handshakes; want 1", got)
	}
}

// A node can speak TLS, with a client certificate or without: messages of every size pass,
// after a reload too, and a redirect leads from one such node to another.
func TestSecureUpstream(t *testing.T) {
	site := gate.NewSite(t, name)
	nodes := minica.NewCA("a private CA of nodes")
	site.Write(t, "nodes.pem", nodes.RootPEM())
	site.Write(t, "gate.pem", nodes.Issue("gate.test").PEM())
	secure := func(config *tls.Config) net.Listener {
		config.Certificates = []tls.Certificate{*nodes.Issue("localhost").TLS()}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	urlOf := func(ln net.Listener) string {
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		return "wss://localhost:" + port + "/"
	}
	serve := func(habits chat.Habits) string {
		ln := secure(&tls.Config{})
		s := chat.New(chat.Config{Domains: []string{name}, Habits: habits})
		served := make(chan error)
		go func() { served <- s.Serve(ln) }()
		t.Cleanup(func() {
			s.Close()
			<-served
		})
		return urlOf(ln)
	}
	echo := secure(&tls.Config{ClientAuth: tls.RequireAnyClientCert})
	wire.Serve(t, echo, wire.EchoFrames)
	second := serve(chat.Habits{})
	first := serve(chat.Habits{Redirect: func(chat.Open) string { return second }})

	const secret = "ca = \"nodes.pem\"\nclient_certificate = \"gate.pem\"\nclient_key = \"gate.pem\"\n"
	site.Certify(t, "echo.test", site.CA.Issue("echo.test"))
	site.Config(t, fmt.Sprintf("[upstream.echo]\nnodes = %q\nxmpp = false\n%s[upstream.chat]\nnodes = [%q, %q]\n%s", urlOf(echo), secret, first, second, secret)+
		fmt.Sprintf("[[vhost]]\nnames = %q\nupstream = \"chat\"\n[[vhost]]\nnames = \"echo.test\"\nupstream = \"echo\"\n", name))
	g := gate.Start(t, site.Dir)
	for range 2 {
		c := wire.Dial(t, g.Addr("wss"), site.Client("echo.test"))
		for _, size := range []int{1, 200, 20_000, 200_000} {
			text := strings.Repeat("x", size)
			c.SendText(text)
			c.WantText(text)
		}
		for range 4 { // each node first, some time
			client, err := chat.Login(t.Context(), chat.Target{URL: "wss://" + name + "/", Addr: g.Addr("wss"), TLS: site.Client(name)})
			if err != nil {
				t.Fatal(err)
			}
			client.Abort()
		}
		wait := g.Mark()
		g.Signal(syscall.SIGHUP)
		wait("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	}
}

package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
)

var request = &Request{
	Client: netip.MustParseAddrPort("192.0.2.7:51812"), Local: netip.MustParseAddrPort("198.51.100.1:5291"),
	ServerName: "example1.com", Host: "example1.com", RequestURI: "/ws", Subprotocol: "xmpp",
}

// dialOK dials, and ends the tunnel at the end of the test.
func dialOK(t *testing.T, v *Vhost) *Conn {
	t.Helper()
	c, err := v.Dial(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Conn.Close(); c.Release() })
	return c
}

// echoes sends bytes through the tunnel and expects them back.
func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("echo = %q, %v; want hello", b, err)
	}
}

// closedPort returns an address that refuses connections. It is kept until the end of
// the test, because another process could take a free port.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", addr.(*syscall.SockaddrInet4).Port)
}

// Bytes after the 101 belong to the tunnel, including later ones.
func TestDialKeepsWhatFollowsThe101(t *testing.T) {
	node := startNode(t, "tcp", func(c net.Conn, br *bufio.Reader, head string) {
		text := good(head) + "\x81\x02hi"
		io.WriteString(c, text[:40])
		io.WriteString(c, text[40:])
		io.Copy(c, br)
	})
	c := dialOK(t, one(t, GroupOptions{}, wsURL(node)))
	got := string(c.Rest)
	for len(got) < 4 {
		var b [8]byte
		n, err := c.Conn.Read(b[:])
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
	if got != "\x81\x02hi" {
		t.Errorf("after the 101 came %q; want %q", got, "\x81\x02hi")
	}
	echoes(t, c.Conn)
}

// A dead node costs a try, and the next node gets the stream. The dead one's failure is
// counted, and a tunnel counts until its first release.
func TestDialTriesTheNextNode(t *testing.T) {
	node := startNode(t, "tcp", polite)
	tab := table(t, Options{Upstreams: []GroupOptions{{Name: "tigase", Nodes: []NodeOptions{
		{Name: "dead", URL: "ws://" + closedPort(t)},
		{Name: "alive", URL: wsURL(node)},
	}}}})
	v, _ := tab.Routes().Lookup("x")
	for range 20 { // in random order, so the dead one is drawn first at some point
		c := dialOK(t, v)
		if c.Node.Name() != "alive" || c.Address != node.Addr().String() || c.Node.Upstream() != "tigase" {
			t.Fatalf("dialled %q at %s; want alive at %s", c.Node.Name(), c.Address, node.Addr())
		}
		c.Conn.Close()
		if got := tab.Status()[0].Nodes[1].Tunnels; got != 1 {
			t.Fatalf("%d tunnels before Release, want 1", got)
		}
		c.Release()
		c.Release()
	}
	s := tab.Status()[0].Nodes
	if s[0].State != StateOut || s[0].Failures == 0 || !strings.Contains(s[0].Addresses[0].LastError, "connection refused") || s[0].Addresses[0].LastFail.IsZero() {
		t.Errorf("dead: %+v; want it out", s[0])
	}
	if s[1].State != StateUp || s[1].Tunnels != 0 || s[1].Dialing != 0 || s[1].Dials != 20 || s[1].Addresses[0].LastDial <= 0 {
		t.Errorf("alive: %+v; want it up, without tunnels", s[1])
	}
}

// The text for people, and the status for the client.
func TestDialErrors(t *testing.T) {
	dead := closedPort(t)
	for _, c := range []struct {
		name   string
		nodes  []peer
		urls   []string
		status int
		want   string
		hint   string
	}{
		{"refused", nil, []string{"ws://" + dead}, 503, `upstream "tigase": dial ` + dead + `: connection refused`, ""},
		{"two refused", nil, []string{"ws://" + dead + "/1", "ws://" + dead + "/2"}, 503, `: connection refused; node "n`, ""},
		{"404", []peer{says("HTTP/1.1 404 Not Found\r\n\r\n")}, nil, 502, `upstream "tigase": answered 404 Not Found to the opening handshake, want 101`, "path"},
		{"503 of its own", []peer{says("HTTP/1.1 503 Service Unavailable\r\n\r\n")}, nil, 503, `answered 503 Service Unavailable`, ""},
		{"closed", []peer{says("")}, nil, 502, `upstream "tigase": closed without an answer to the opening handshake`, "new connections per second"},
		{"refused and 404", []peer{says("HTTP/1.1 404 Not Found\r\n\r\n")}, []string{"ws://" + dead}, 502, `node "n`, "path"},
		{"not TLS", nil, []string{"wss"}, 502, "TLS handshake: ", `write "ws://"`},
		{"no socket", nil, []string{"ws+unix://" + t.TempDir() + "/none"}, 503, "no such file or directory", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := GroupOptions{Name: "tigase"}
			for _, p := range c.nodes {
				c.urls = append(c.urls, wsURL(startNode(t, "tcp", p)))
			}
			for i, u := range c.urls {
				if u == "wss" {
					ln, _ := net.Listen("tcp", "127.0.0.1:0")
					defer ln.Close()
					go func() {
						if c, err := ln.Accept(); err == nil {
							io.WriteString(c, "HTTP/1.0 400 Bad request\r\n\r\n")
							c.Close()
						}
					}()
					u = "wss://" + ln.Addr().String()
				}
				g.Nodes = append(g.Nodes, NodeOptions{Name: "n" + string(rune('1'+i)), URL: u})
			}
			v, err := table(t, Options{Upstreams: []GroupOptions{g}}).Routes().Lookup("x")
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.Dial(t.Context(), request)
			d, ok := errors.AsType[*DialError](err)
			if !ok {
				t.Fatalf("err = %v; want a DialError", err)
			}
			if d.Status != c.status || !strings.Contains(d.Error(), c.want) || strings.Contains(d.Error(), "\n") || !strings.Contains(d.Hint(), c.hint) {
				t.Errorf("%d %q, hint %q;\nwant %d %q, hint %q", d.Status, d, d.Hint(), c.status, c.want, c.hint)
			}
			if (d.Status == 503) != (d.RetryAfter >= retryAfter && d.RetryAfter <= 2*retryAfter) {
				t.Errorf("status %d with Retry-After %v", d.Status, d.RetryAfter)
			}
			if len(d.Causes) != len(g.Nodes) {
				t.Errorf("%d causes of %d nodes: %v", len(d.Causes), len(g.Nodes), d)
			}
		})
	}
}

// A node that stops answering, at once or in the middle, costs dial_timeout.
func TestDialSilence(t *testing.T) {
	for text, want := range map[string]string{
		"":                                `upstream "tigase": no answer to the opening handshake: i/o timeout (after 5s)`,
		string(chat.HalfUpgrade):          `upstream "tigase": answered 58 bytes of an opening handshake, then: i/o timeout (after 5s)`,
		"HTTP/1.0 400 Bad request\r\nX: ": `upstream "tigase": answered 400 Bad request to the opening handshake, want 101`,
	} {
		synctest.Test(t, func(t *testing.T) {
			_, v := newCluster(func(c net.Conn, br *bufio.Reader, _ string) {
				io.WriteString(c, text)
				io.Copy(io.Discard, br)
			}, at1).vhost(t, GroupOptions{}, three[0])
			start := time.Now()
			_, err := v.Dial(t.Context(), request)
			if err == nil || err.Error() != want || time.Since(start) != DefaultDialTimeout {
				t.Errorf("%q: %v after %v; want %s", text, err, time.Since(start), want)
			}
		})
	}
}

func TestRoughly(t *testing.T) {
	for in, want := range map[string]string{
		"0s": "0s", "400us": "0s", "7.3ms": "7ms", "99.4ms": "99ms", "301ms": "300ms", "4.96s": "5s", "5.003s": "5s", "12.4s": "12s",
	} {
		d, err := time.ParseDuration(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := roughly(d).String(); got != want {
			t.Errorf("roughly(%s) = %s; want %s", in, got, want)
		}
	}
}

// A client can request something that the server does not have; that must not take the
// node out for others.
func TestDialClientsFaultIsNotTheNodes(t *testing.T) {
	node := startNode(t, "tcp", func(c net.Conn, br *bufio.Reader, head string) {
		if strings.HasPrefix(head, "GET /ws ") {
			polite(c, br, head)
		}
		io.WriteString(c, "HTTP/1.1 404 Not Found\r\n\r\n")
	})
	tab := table(t, Options{Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws://" + node.Addr().String()}}}}})
	v, _ := tab.Routes().Lookup("x")
	wrong := *request
	for uri, status := range map[string]int{"/none": 502, "none": 400, "/ HTTP/1.1\r\nX: y": 400} {
		wrong.RequestURI = uri
		_, err := v.Dial(t.Context(), &wrong)
		if d, ok := errors.AsType[*DialError](err); !ok || d.Status != status {
			t.Errorf("target %q: %v; want status %d", uri, err, status)
		}
	}
	wrong = *request
	wrong.Cookie = "a\r\nX-Forwarded-For: 1.2.3.4"
	if _, err := v.Dial(t.Context(), &wrong); err == nil || !strings.Contains(err.Error(), "is not a header value") {
		t.Errorf("a cookie of two lines: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Dial(gone, request); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that is gone: %v; want context canceled", err)
	}
	if s := tab.Status()[0].Nodes[0]; s.State != StateUp || s.Failures != 0 || s.Dialing != 0 {
		t.Errorf("the node: %+v; want it up, without failures", s)
	}
}

// Once Dial has returned, its context and deadline have no effect.
func TestDialLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := newCluster(polite, at1).vhost(t, GroupOptions{DialTimeout: time.Second}, three[0])
		ctx, cancel := context.WithCancel(t.Context())
		c, err := v.Dial(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Conn.Close()
		defer c.Release()
		cancel()
		time.Sleep(2 * time.Second)
		echoes(t, c.Conn)
	})
}

// A cancelled dial ends at once, even if the node does not answer.
func TestDialCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	node := startNode(t, "tcp", func(c net.Conn, br *bufio.Reader, _ string) {
		cancel()
		io.Copy(io.Discard, br)
	})
	v := one(t, GroupOptions{DialTimeout: time.Minute}, wsURL(node))
	_, err := v.Dial(ctx, request)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v; want context canceled", err)
	}
	if s := v.group.nodes[0].status(time.Now(), &room{}); s.Failures != 0 || s.Dialing != 0 {
		t.Errorf("the node: %+v; want no failure, no dial", s)
	}
}

type wrapped struct{ net.Conn }

// The conn of a ws node is Wrap's value; that of a wss node is TLS around it. Wrap gets
// the plain socket.
func TestDialWrap(t *testing.T) {
	ca := minica.NewCA("upstream")
	pair := ca.Issue("localhost", "127.0.0.1")
	secure := tlsNode(t, &tls.Config{Certificates: []tls.Certificate{*pair.TLS()}, NextProtos: []string{"h2", "http/1.1"}}, polite)
	for _, c := range []struct {
		name, url string
		bare      func(net.Conn) bool
	}{
		{"ws", wsURL(startNode(t, "tcp", polite)), func(c net.Conn) bool { _, ok := c.(*net.TCPConn); return ok }},
		{"wss", "wss://" + secure.Addr().String() + "/", func(c net.Conn) bool { _, ok := c.(*net.TCPConn); return ok }},
		{"unix", "ws+unix://" + startNode(t, "unix", polite).Addr().String() + ":/ws", func(c net.Conn) bool { _, ok := c.(*net.UnixConn); return ok }},
	} {
		var given net.Conn
		v, err := table(t, Options{
			Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: c.url}}, TLS: &tls.Config{RootCAs: ca.Pool()}}},
			Wrap: func(raw net.Conn) net.Conn {
				if !c.bare(raw) {
					t.Errorf("%s: Wrap got a %T", c.name, raw)
				}
				given = &wrapped{raw}
				return given
			},
		}).Routes().Lookup("x")
		if err != nil {
			t.Fatal(err)
		}
		conn := dialOK(t, v)
		got := conn.Conn
		if s, ok := got.(*tls.Conn); ok != (c.name == "wss") {
			t.Errorf("%s: Dial returned a %T", c.name, got)
		} else if ok {
			got = s.NetConn()
			if p := s.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
				t.Errorf("ALPN %q", p)
			}
		}
		if got != given {
			t.Errorf("%s: the conn is %T, not Wrap's value", c.name, got)
		}
		echoes(t, conn.Conn)
	}
}

func tlsNode(t *testing.T, config *tls.Config, p peer) *fakeNode {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	return serveNode(t, ln, p)
}

func TestDialTLS(t *testing.T) {
	ca, other := minica.NewCA("upstream"), minica.NewCA("other")
	clients := minica.NewCA("clients")
	client := clients.IssueSpec(minica.Spec{Names: []string{"gate.example"}, Edit: func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}})
	node := tlsNode(t, &tls.Config{
		Certificates: []tls.Certificate{*ca.Issue("t1.example", "127.0.0.1").TLS()},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: clients.Pool(),
	}, polite)
	url := "wss://" + node.Addr().String() + "/"
	for _, c := range []struct {
		name       string
		config     *tls.Config
		want, hint string
	}{
		{"its address, our CA", &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*client.TLS()}}, "", ""},
		{"another server name", &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*client.TLS()}, ServerName: "t1.example"}, "", ""},
		{"a name that it has not", &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*client.TLS()}, ServerName: "t2.example"}, "certificate is valid for t1.example, not t2.example", `"t2.example"`},
		{"another CA", &tls.Config{RootCAs: other.Pool()}, "certificate signed by unknown authority", "see ca and server_name"},
		{"the system's CAs", nil, "certificate signed by unknown authority", "see ca and server_name"},
		{"no client certificate", &tls.Config{RootCAs: ca.Pool()}, "TLS handshake: remote error: tls: certificate required", "client_certificate"},
		{"no client certificate, TLS 1.2", &tls.Config{RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12}, "TLS handshake: remote error: tls: ", "client_certificate"},
		{"a server's certificate as the client's", &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{*clients.Issue("gate.example").TLS()}}, "TLS handshake: remote error: tls: bad certificate", "client_certificate"},
	} {
		v := one(t, GroupOptions{TLS: c.config}, url)
		conn, err := v.Dial(t.Context(), request)
		if err == nil {
			echoes(t, conn.Conn)
			conn.Conn.Close()
			conn.Release()
		}
		switch d, _ := errors.AsType[*DialError](err); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (d == nil || d.Status != 502 || !strings.Contains(d.Error(), c.want) || !strings.Contains(d.Hint(), c.hint)):
			t.Errorf("%s: %v, hint %q; want 502, %q, hint %q", c.name, err, d.Hint(), c.want, c.hint)
		}
	}
}

// Tigase accepts PROXY v2 only in the segment with the request.
func TestDialProxyHeaderInOneWrite(t *testing.T) {
	for version, head := range map[string]string{
		"":   "GET / HTTP/1.1\r\nHost: ",
		"v1": "PROXY TCP4 192.0.2.7 198.51.100.1 51812 5291\r\nGET / HTTP/1.1\r\nHost: ",
		"v2": proxyV2Signature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\xca\x64\x14\xabGET / HTTP/1.1\r\nHost: ",
	} {
		node := startNode(t, "tcp", polite)
		var writes atomic.Int32
		v, err := table(t, Options{
			Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: wsURL(node)}}, ProxyProtocol: version}},
			Wrap:      func(c net.Conn) net.Conn { return &countingConn{c, &writes} },
		}).Routes().Lookup("x")
		if err != nil {
			t.Fatal(err)
		}
		dialOK(t, v)
		if n := writes.Load(); n != 1 {
			t.Errorf("%q: %d writes before the 101, want 1", version, n)
		}
		if got := node.head(t); !strings.HasPrefix(got, head) {
			t.Errorf("%q: the node read %q; want %q first", version, got, head)
		}
	}
}

type countingConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// For a client with an unknown address, as behind a unix socket, the header has the
// gate's own address: a header is required in any case.
func TestDialProxyHeaderOfUnknownClient(t *testing.T) {
	node := startNode(t, "tcp", polite)
	unknown := *request
	unknown.Client = netip.AddrPort{}
	c, err := one(t, GroupOptions{ProxyProtocol: "v1"}, wsURL(node)).Dial(t.Context(), &unknown)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Conn.Close()
	defer c.Release()
	if got := node.head(t); !strings.HasPrefix(got, "PROXY TCP4 127.0.0.1 127.0.0.1 ") {
		t.Errorf("the node read %q; want our own address in the PROXY header", got)
	}
}

// With TLS the PROXY header precedes it, in plain text.
func TestDialProxyHeaderBeforeTLS(t *testing.T) {
	ca := minica.NewCA("upstream")
	config := &tls.Config{Certificates: []tls.Certificate{*ca.Issue("127.0.0.1").TLS()}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	header := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, len("PROXY TCP4 192.0.2.7 198.51.100.1 51812 5291\r\n"))
		io.ReadFull(c, b)
		header <- string(b)
		s := tls.Server(c, config)
		br := bufio.NewReader(s)
		if head, err := readHead(br); err == nil && strings.HasPrefix(head, "GET ") {
			polite(s, br, head)
		}
	}()
	c := dialOK(t, one(t, GroupOptions{ProxyProtocol: "v1", TLS: &tls.Config{RootCAs: ca.Pool()}}, "wss://"+ln.Addr().String()+"/"))
	if got := <-header; got != "PROXY TCP4 192.0.2.7 198.51.100.1 51812 5291\r\n" {
		t.Errorf("before TLS came %q", got)
	}
	echoes(t, c.Conn)
	c.Conn.Close()
	<-done
}

// A log line has a hint only if there is one.
func TestHintInLog(t *testing.T) {
	for err, want := range map[error]string{
		syscall.ECONNREFUSED:                   "level=WARN msg=out\n",
		&HandshakeError{Hint: "is it loaded?"}: "level=WARN msg=out hint=\"is it loaded?\"\n",
	} {
		var out strings.Builder
		log := slog.New(slog.NewTextHandler(&out, nil))
		log.Warn("out", hintAttr(err))
		if _, got, _ := strings.Cut(out.String(), " "); got != want {
			t.Errorf("of %#v the log says %q; want %q", err, got, want)
		}
	}
}

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// A world is a Configuration that differs from that of another world in each part: the
// certificate, the path that is routed, the page, and the longest message.
type world struct {
	Configuration
	name string
	leaf []byte
}

// worlds creates some for g, in addition to its own Configuration.
func (g *gate) worlds(names ...string) []*world {
	g.t.Helper()
	up := newUpstream(g.t, chat.Config{Echo: true})
	var all []*world
	for i, name := range names {
		table, err := upstream.New(upstream.Options{
			Upstreams: []upstream.GroupOptions{group("test", up.URL())},
			Vhosts:    []upstream.VhostOptions{{Names: []string{testName}, Path: "/" + name}},
			Wrap:      WrapUpstream,
		})
		if err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { table.Close() })
		cert := g.ca.Issue(testName).TLS()
		w := &world{name: name, leaf: cert.Certificate[0], Configuration: g.now.Load().Configuration}
		w.GetCertificate, w.Routes = only(cert), table.Routes()
		w.Pages = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, name) })
		w.Settings.Message = int64(10 * (i + 1))
		all = append(all, w)
	}
	return all
}

// certified reports whether a connection has the world's certificate.
func (w *world) certified(conn *tls.Conn) bool {
	return bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, w.leaf)
}

// answers returns how a page differs from the world's.
func (w *world) answers(conn *tls.Conn, r *bufio.Reader) error {
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", testName)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != w.name {
		return fmt.Errorf("page of %q, %v; want %q", body, err, w.name)
	}
	return nil
}

// tunnels returns how an opening handshake and its tunnel differ from the world's.
func (w *world) tunnels(conn *tls.Conn, r *bufio.Reader) error {
	io.WriteString(conn, strings.Replace(upgradeRequest, "GET / ", "GET /"+w.name+" ", 1))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("path /%s: %s; want 101", w.name, resp.Status)
	}
	for _, size := range []int64{w.Settings.Message, w.Settings.Message + 1} {
		frame := ws.NewTextFrame(bytes.Repeat([]byte("x"), int(size)))
		if _, err := conn.Write(ws.MustCompileFrame(ws.MaskFrame(frame))); err != nil {
			return err
		}
		got, err := ws.ReadHeader(r)
		if err == nil {
			_, err = io.CopyN(io.Discard, r, got.Length)
		}
		if err != nil {
			return err
		}
		want := ws.OpText
		if size > w.Settings.Message {
			want = ws.OpClose
		}
		if got.OpCode != want {
			return fmt.Errorf("a message of %d bytes is answered with opcode %x; want %x", size, got.OpCode, want)
		}
	}
	return nil
}

// wants fails the test unless the whole connection belongs to the world.
func (w *world) wants(t *testing.T, what string, conn *tls.Conn, see func(*tls.Conn, *bufio.Reader) error) {
	t.Helper()
	if err := conn.Handshake(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !w.certified(conn) {
		t.Errorf("%s: another certificate than that of %q", what, w.name)
	}
	if err := see(conn, bufio.NewReader(conn)); err != nil {
		t.Errorf("%s: with the certificate of %q: %v", what, w.name, err)
	}
}

func (g *gate) clientConfig() *tls.Config {
	return &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()}
}

// over returns a client's connection without a socket, which is accepted at once.
func (g *gate) over() *tls.Conn {
	client, server := net.Pipe()
	g.t.Cleanup(func() { client.Close() })
	client.SetDeadline(time.Now().Add(patience))
	g.ingress.admit(server)
	return tls.Client(client, g.clientConfig())
}

// A connection belongs to one Configuration, the one at its ClientHello, regardless of
// later ones.
func TestConfigure(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	worlds := g.worlds("a", "b")
	a, b := worlds[0], worlds[1]
	for what, see := range map[string]func(*world) func(*tls.Conn, *bufio.Reader) error{
		"page":   func(w *world) func(*tls.Conn, *bufio.Reader) error { return w.answers },
		"tunnel": func(w *world) func(*tls.Conn, *bufio.Reader) error { return w.tunnels },
	} {
		g.Configure(a.Configuration)
		conn := g.over()
		g.Configure(b.Configuration)
		b.wants(t, what+" of one that was accepted before", conn, see(b))

		inside := a.Configuration
		inside.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			g.Configure(b.Configuration)
			return a.GetCertificate(hello)
		}
		g.Configure(inside)
		a.wants(t, what+" of one that came inside a handshake", g.over(), see(a))

		g.Configure(a.Configuration)
		conn = g.over()
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		g.Configure(b.Configuration)
		a.wants(t, what+" of one that has shaken hands", conn, see(a))
		b.wants(t, what+" of the next one", g.over(), see(b))
	}
}

// No client sees a mixture, however often the Configuration changes.
func TestConfigureAllTheTime(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	worlds := g.worlds("a", "b", "c")
	g.Configure(worlds[0].Configuration)
	stop := make(chan struct{})
	var changes, clients sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				g.Configure(worlds[i%len(worlds)].Configuration)
			}
		}
	})
	visit := func(i int) error {
		conn, err := tls.Dial("tcp", g.addr, g.clientConfig())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		for _, w := range worlds {
			if !w.certified(conn) {
				continue
			}
			see := w.tunnels
			if i%2 == 0 {
				see = w.answers
			}
			if err := see(conn, bufio.NewReader(conn)); err != nil {
				return fmt.Errorf("with the certificate of %q: %w", w.name, err)
			}
			return nil
		}
		return fmt.Errorf("a certificate of nobody's")
	}
	for range 4 {
		clients.Go(func() {
			for i := range 20 {
				if err := visit(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	changes.Wait()
}

// A further request on a connection that was kept has the current Configuration, and no
// answer if the name has lost its certificate.
func TestConfigureKeptConnection(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	worlds := g.worlds("a", "b")
	a, b := worlds[0], worlds[1]
	for what, see := range map[string]func(*tls.Conn, *bufio.Reader) error{"page": b.answers, "tunnel": b.tunnels} {
		g.Configure(a.Configuration)
		c := g.pageClient(t)
		if err := a.answers(c.Conn, c.r); err != nil {
			t.Fatal(err)
		}
		g.Configure(b.Configuration)
		if err := see(c.Conn, c.r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	c := g.pageClient(t)
	if err := b.answers(c.Conn, c.r); err != nil {
		t.Fatal(err)
	}
	g.Configure(a.without())
	c.send("GET / HTTP/1.1\r\nHost: " + testName + "\r\n\r\n")
	c.wantEnd()
}

// without returns the world without a certificate.
func (w *world) without() Configuration {
	c := w.Configuration
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
	c.HasCertificate = func(string) bool { return false }
	return c
}

// tickets is a client's session cache that forgets nothing, not even after a failed
// handshake.
type tickets struct{ last *tls.ClientSessionState }

func (c *tickets) Get(string) (*tls.ClientSessionState, bool) { return c.last, c.last != nil }
func (c *tickets) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.last = s
	}
}

// A ticket outlives its Configuration, but is useless for a name that has lost its
// certificate.
func TestConfigureTickets(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g := newGate(t, newUpstream(t, chat.Config{}).URL())
		worlds := g.worlds("a", "b")
		a, b := worlds[0], worlds[1]
		config := g.clientConfig()
		config.ClientSessionCache, config.MaxVersion = &tickets{}, version
		visit := func(w *world) (resumed bool, err error) {
			conn, err := tls.Dial("tcp", g.addr, config)
			if err != nil {
				return false, err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			return conn.ConnectionState().DidResume, w.tunnels(conn, bufio.NewReader(conn))
		}
		g.Configure(a.Configuration)
		if resumed, err := visit(a); resumed || err != nil {
			t.Errorf("%s, first: resumed %t, %v", tls.VersionName(version), resumed, err)
		}
		g.Configure(a.without())
		if _, err := visit(a); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s, without a certificate: %v; want unrecognized_name", tls.VersionName(version), err)
		}
		g.Configure(b.Configuration)
		if resumed, err := visit(b); !resumed || err != nil {
			t.Errorf("%s, with another: resumed %t, %v", tls.VersionName(version), resumed, err)
		}
	}
}

// A tunnel keeps only the parts of its Configuration that it needs.
func TestTunnelKeepsNoConfiguration(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{Echo: true}).URL())
	now := weak.Make(g.now.Load())
	client := g.dial()
	g.Configure(g.now.Load().Configuration)
	for until := time.Now().Add(patience); now.Value() != nil; runtime.GC() {
		if time.Now().After(until) {
			t.Fatal("the Configuration is still there")
		}
	}
	runtime.KeepAlive(client)
}

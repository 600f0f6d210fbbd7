package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
	"wssgate/panics"
	"wssgate/upstream"
)

// helloFor returns a client's first flight.
func helloFor(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go tls.Client(client, &tls.Config{ServerName: name}).Handshake()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return hello[:n]
}

// records puts a handshake message into records of so many bytes each.
func records(hello []byte, size int) (b []byte) {
	for part := range slices.Chunk(hello[recordHeader:], size) {
		b = append(append(b, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
	}
	return b
}

// A ClientHello is complete regardless of cuts, and nothing after it is read. Other
// input is left to crypto/tls, which gets exactly the bytes that were read.
func TestCollectHello(t *testing.T) {
	hello := helloFor(t, testName)
	long := bytes.Clone(records(append(append(bytes.Clone(hello[:5]), 1, 0, 0x50, 0), make([]byte, 0x5000)...), 8000))
	for _, test := range []struct {
		name  string
		bytes []byte
		whole int // 0: an error
		last  bool
	}{
		{"one record", hello, len(hello), false},
		{"records of 1 byte", records(hello, 1), len(records(hello, 1)), false},
		{"records of 3 bytes", records(hello, 3), len(records(hello, 3)), false},
		{"records of 500 bytes", records(hello, 500), len(records(hello, 500)), false},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), 5, true},
		{"SSL 2", []byte("\x80\x2e\x01\x00\x02\x00\x15"), 5, true},
		{"an alert", []byte{21, 3, 1, 0, 2, 1, 0}, 5, true},
		{"an empty record", []byte{22, 3, 1, 0, 0}, 5, true},
		{"another message", []byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, 9, true},
		{"too long", long, 0, false},
		{"a declared length", []byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, 0, false},
		{"cut short", hello[:len(hello)-1], 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, step := range []int{1, 7, len(test.bytes) + 3} {
				synctest.Test(t, func(t *testing.T) {
					client, conn := net.Pipe()
					c := (&ingress{door: newDoor()}).newClientConn(conn, &configuration{settings: &settings{}})
					left := make(chan int, 1)
					go func() {
						n := 0
						for part := range slices.Chunk(append(bytes.Clone(test.bytes), "..."[:3*min(test.whole, 1)]...), step) {
							k, _ := client.Write(part)
							n += k
						}
						client.Close()
						left <- n
					}()
					err := c.early.collectHello()
					if (err == nil) != (test.whole > 0) || len(c.early.whole) != test.whole || c.early.last != test.last {
						t.Fatalf("steps of %d: %d bytes, last %t, %v; want %d, %t", step, len(c.early.whole), c.early.last, err, test.whole, test.last)
					}
					conn.Close()
					if n := <-left; err == nil && n != test.whole {
						t.Errorf("steps of %d: %d bytes were read; want %d", step, n, test.whole)
					}
				})
			}
		})
	}
}

// Attackers at any point of their way in do not block others: neither by slots, of
// which there is one, nor by connections, of which there may be ten.
func TestStrangersKeepNobodyOut(t *testing.T) {
	hello := helloFor(t, testName)
	overTLS := func(conn net.Conn, says string) {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: testName})
		io.WriteString(c, says)
	}
	for _, test := range []struct {
		name string
		be   func(net.Conn)
	}{
		{"half a hello", func(conn net.Conn) { conn.Write(hello[:6]) }},
		{"a hello", func(conn net.Conn) { conn.Write(hello) }},
		{"TLS alone", func(conn net.Conn) { overTLS(conn, "") }},
		{"half a request", func(conn net.Conn) { overTLS(conn, "GET / HTTP/1.1\r\nHost: "+testName+"\r\n") }},
		{"half a record", func(conn net.Conn) { conn.Write(append(bytes.Clone(hello), 22, 3, 3, 0x40, 0)) }},
		{"a page", func(conn net.Conn) { overTLS(conn, "GET / HTTP/1.1\r\nHost: "+testName+"\r\n\r\n") }},
		{"a request without its body", func(conn net.Conn) {
			overTLS(conn, "POST / HTTP/1.1\r\nHost: "+testName+"\r\nContent-Length: 10\r\n\r\nhalf")
		}},
		{"a request without its chunks", func(conn net.Conn) {
			overTLS(conn, "POST / HTTP/1.1\r\nHost: "+testName+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n")
		}},
		{"silence behind a PROXY header", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
				o.Settings.Handshakes, o.Settings.Connections = 1, 10
				o.Settings.HandshakeTimeout, o.Settings.RequestTimeout = time.Hour, time.Hour
				if test.be == nil {
					o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				}
			})
			be, from, target := test.be, net.IPv4(127, 0, 0, 2), g.target()
			if be == nil {
				be = func(conn net.Conn) { io.WriteString(conn, "PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\r\n") }
				target.Addr = frontWith(t, g.addr, "PROXY TCP4 192.0.2.8 198.51.100.1 49152 5291\r\n")
			}
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: patience}
			var strangers sync.WaitGroup
			defer strangers.Wait()
			said := make(chan struct{}, 30)
			for range 30 {
				conn, err := dialer.Dial("tcp", g.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				strangers.Go(func() { be(conn); said <- struct{}{} })
			}
			for range 9 { // those inside; the others wait for them
				<-said
			}
			for range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				c, err := chat.Dial(ctx, target)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Abort()
			}
		})
	}
}

// A panic on the way in ends one connection, is counted, and is logged with its stack;
// other clients are served.
func TestPanics(t *testing.T) {
	for _, test := range []struct {
		name, where string
		edit        func(*Options, *atomic.Bool)
		dials       bool
	}{
		{"HasCertificate", "handshake", func(o *Options, on *atomic.Bool) {
			has := o.HasCertificate
			o.HasCertificate = func(name string) bool { panicIf(on.Load()); return has(name) }
		}, false},
		{"GetCertificate", "handshake", func(o *Options, on *atomic.Bool) {
			get := o.GetCertificate
			o.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { panicIf(on.Load()); return get(h) }
		}, false},
		{"dial", "request", nil, true},
		{"pages", "pages", func(o *Options, on *atomic.Bool) {
			o.Pages = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { panicIf(on.Load()) })
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			caught := caughtSoFar(test.where)
			var on atomic.Bool
			on.Store(true)
			routing := upstream.Options{Upstreams: []upstream.GroupOptions{group("test", newUpstream(t, chat.Config{}).URL())}}
			if test.dials {
				routing.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					panicIf(on.Load())
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			}
			g := newGateFor(t, routing, func(o *Options) {
				o.Settings.Handshakes = 1
				if test.edit != nil {
					test.edit(o, &on)
				}
			})
			if test.where == "pages" {
				page(t, g)
			} else if c, err := chat.Dial(t.Context(), g.target()); err == nil {
				c.Abort()
				t.Fatal("the client came in")
			}
			for deadline := time.Now().Add(patience); g.Connections() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections are open; want none", g.Connections())
				}
			}
			if n := caught(); n != 1 {
				t.Errorf("%d panics are counted; want 1", n)
			}
			if log := g.logs.String(); strings.Count(log, "level=ERROR msg=panic") != 1 || !strings.Contains(log, "panicIf") {
				t.Error("no line with the stack, or more than one")
			}
			on.Store(false)
			g.dial()
		})
	}
}

// A panic in the greeting's dial ends only that tunnel.
func TestPanicInGreetingsDial(t *testing.T) {
	caught := caughtSoFar("tunnel")
	var on atomic.Bool
	g := newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{group("test", newUpstream(t, chat.Config{}).URL())},
		Vhosts: []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", RouteTo: true}},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			panicIf(on.Load())
			return new(net.Dialer).DialContext(ctx, network, addr)
		}})
	for _, panics := range []bool{true, false} {
		on.Store(panics)
		c := g.dial()
		if err := c.WriteFrame(ws.NewTextFrame([]byte(openTag(testName, false)))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(); (err != nil) != panics {
			t.Errorf("panics %t: the answer to open is %v", panics, err)
		}
		c.Abort()
		for deadline := time.Now().Add(patience); g.Connections() > 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		if n := g.Connections(); n != 0 || caught() != 1 {
			t.Errorf("panics %t: %d connections, %d panics; want none, and 1", panics, n, caught())
		}
	}
}

// A panic in accept closes that connection, at any place; others can connect.
func TestPanicInAccept(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	caught, panics := caughtSoFar("handshake"), 0
	for nth := range 4 {
		client, server := net.Pipe()
		g.ingress.admit(&panicsAt{Conn: server, left: nth})
		client.Close()
		if n := int(caught()); n > panics {
			panics = n
		}
		g.dial().Abort()
	}
	if panics == 0 {
		t.Error("nothing has panicked")
	}
}

// A panicsAt panics once, when its address is requested after left more requests.
type panicsAt struct {
	net.Conn
	left int
}

func (c *panicsAt) RemoteAddr() net.Addr {
	c.left--
	panicIf(c.left == -1)
	return c.Conn.RemoteAddr()
}

// net/http does not catch panics in its goroutine that reads.
func TestPanicInPageRead(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	caught := caughtSoFar("pages")
	c := &pageConn{client: &clientConn{in: g.ingress}, framed: true} // without a connection
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || caught() != 1 {
		t.Errorf("Read = %d, %v; %d panics are counted; want an error, and 1", n, err, caught())
	}
}

// caughtSoFar returns a function that counts the panics of a place from now on.
func caughtSoFar(where string) func() int64 {
	before := panics.Counts()[where]
	return func() int64 { return panics.Counts()[where] - before }
}

func panicIf(on bool) {
	if on {
		panic("injected")
	}
}

// page requests a page until the connection ends.
func page(t *testing.T, g *gate) {
	conn, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+testName+"\r\n\r\n")
	io.Copy(io.Discard, conn)
}

// inTLS runs f with a function that does one handshake, on the fake clock.
func inTLS(t *testing.T, f func(t *testing.T, handshake func(*tls.Config) (tls.ConnectionState, error))) {
	cert := minica.NewCA("tls test").Issue(testName).TLS()
	synctest.Test(t, func(t *testing.T) {
		admission := newAdmission(nil)
		s := &ingress{now: new(current), log: slog.New(slog.DiscardHandler), admission: admission, door: admission.door}
		s.door.configure(100, 1)
		s.now.Store(&configuration{Configuration{
			GetCertificate: only(cert), HasCertificate: func(name string) bool { return name == testName },
		}, &settings{Settings: Settings{HandshakeTimeout: time.Minute}}})
		s.tls = newTLSConfig(s.now, nil)
		f(t, func(config *tls.Config) (tls.ConnectionState, error) {
			client, server := net.Pipe()
			defer client.Close()
			c := s.newClientConn(server, s.now.Load())
			c.visit.begin = func() {
				go func() {
					if c.handshake() {
						io.WriteString(c.tls, "x") // after the ticket
					}
					c.close()
				}()
			}
			s.door.enter(&c.visit, c.key)
			conn := tls.Client(client, config)
			_, err := conn.Read(make([]byte, 1))
			return conn.ConnectionState(), err
		})
	})
}

// A session can be resumed for a day, also in TLS 1.2, where each resumption gives a
// new ticket for the old secret.
func TestTicketsLiveADay(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		inTLS(t, func(t *testing.T, handshake func(*tls.Config) (tls.ConnectionState, error)) {
			config := &tls.Config{ServerName: testName, InsecureSkipVerify: true, MaxVersion: version,
				ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			resumed := func(want bool, why string) {
				t.Helper()
				cs, err := handshake(config)
				if err != nil || cs.DidResume != want || cs.Version != version {
					t.Errorf("%s, %s: resumed %t, %v; want %t", tls.VersionName(version), why, cs.DidResume, err, want)
				}
			}
			resumed(false, "at first")
			time.Sleep(23 * time.Hour)
			resumed(true, "after 23 h")
			if version == tls.VersionTLS12 {
				time.Sleep(time.Hour + time.Minute)
				resumed(false, "after 24 h, by a ticket of an hour ago")
			}
			time.Sleep(24*time.Hour + time.Minute)
			resumed(false, "after a day")
		})
	}
}

// Only suites with AEAD, in TLS 1.2 as well.
func TestSuites(t *testing.T) {
	inTLS(t, func(t *testing.T, handshake func(*tls.Config) (tls.ConnectionState, error)) {
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
				continue
			}
			_, err := handshake(&tls.Config{ServerName: testName, InsecureSkipVerify: true,
				MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
			aead := strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "POLY1305")
			good := aead && strings.Contains(suite.Name, "ECDHE_ECDSA") // as the certificate requires
			if (err == nil) != good {
				t.Errorf("%s: %v", suite.Name, err)
			}
		}
	})
}

// A name without a certificate gets its alert before any computation, in every version.
func TestNamelessAlert(t *testing.T) {
	inTLS(t, func(t *testing.T, handshake func(*tls.Config) (tls.ConnectionState, error)) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, name := range []string{"other.example", "192.0.2.1"} { // a client sends no server name for the latter
				_, err := handshake(&tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version})
				if err == nil || err.Error() != "remote error: tls: unrecognized name" {
					t.Errorf("%s, %q: %v; want unrecognized_name", tls.VersionName(version), name, err)
				}
			}
		}
	})
}

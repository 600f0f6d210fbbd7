package acme

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/certstore"
	"wssgate/tests/internal/gate"
)

// gateListeners are where one gate listens. The CA looks for all gates of a test
// at the same two ports, on different addresses.
type gateListeners struct {
	IP        string
	tls, http net.Listener
}

// listenGates opens two ports on as many addresses. They are such as may be
// closed and opened again. A port that was free may be another's a moment later, or on
// another address; then there are others.
func listenGates(t *testing.T, n int) []gateListeners {
	t.Helper()
	for {
		all, err := tryListenGates(t, n)
		switch {
		case err == nil:
			return all
		case !errors.Is(err, syscall.EADDRINUSE):
			t.Fatal(err)
		}
	}
}

func tryListenGates(t *testing.T, n int) (all []gateListeners, err error) {
	t.Helper()
	ports := []int{gate.FreePort(t), gate.FreePort(t)}
	for i := range n {
		at := gateListeners{IP: fmt.Sprintf("127.0.0.%d", i+1)}
		for k, ln := range []*net.Listener{&at.tls, &at.http} {
			if *ln, err = net.Listen("tcp", net.JoinHostPort(at.IP, fmt.Sprint(ports[k]))); err != nil {
				return nil, err
			}
			t.Cleanup(func() { (*ln).Close() })
		}
		all = append(all, at)
	}
	return all, nil
}

// A testGate is what the tests look at from outside: TLS and plain HTTP at an
// address, and the cache folder. It stands on certstore as package gate does; what is
// behind TLS is an echo instead of a proxy.
type testGate struct {
	t     *testing.T
	at    gateListeners
	addr  string // where it speaks TLS
	cache string
	acme  *certstore.ACME
	store *certstore.Store
	conns sync.WaitGroup
}

// gateConfig is the [acme] table of a gate.
type gateConfig struct {
	Names  []string
	Cache  string // default: one of its own
	NoTLS  bool   // tls-alpn-01 off
	HTTP   bool   // http-01 on
	EABKID string
	EABKey []byte
}

// poll is how often the gates of these tests look at their cache.
const poll = 200 * time.Millisecond

// startGate starts a gate. It ends with the test, or with Stop.
func startGate(t *testing.T, p *pebble, at gateListeners, c gateConfig) *testGate {
	t.Helper()
	if c.Cache == "" {
		c.Cache = filepath.Join(t.TempDir(), "acme")
	}
	store, err := certstore.Open(certstore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	g := &testGate{t: t, at: at, addr: at.tls.Addr().String(), cache: c.Cache, store: store}
	g.acme, err = certstore.NewACME(certstore.ACMEOptions{
		ACMECA: certstore.ACMECA{Email: "operator@example.org", Directory: p.Directory, Roots: p.https.Pool(),
			AcceptTerms: true, EABKeyID: c.EABKID, EABKey: c.EABKey},
		Names: c.Names, Cache: c.Cache, TLSALPN: !c.NoTLS, HTTP01: c.HTTP, Poll: poll,
		Install: func(name string, cert *tls.Certificate) {
			if err := store.Install("acme", name, cert); err != nil {
				t.Error(err)
			}
		},
		Remove: func(name string) { store.Remove("acme", name) },
		Log:    slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.acme.Start()
	web := &http.Server{Handler: g.acme.HTTPHandler(http.NotFoundHandler())}
	g.conns.Go(func() { web.Serve(at.http) })
	g.conns.Go(g.accept)
	t.Cleanup(func() {
		g.acme.Close()
		web.Close()
		at.tls.Close()
		g.conns.Wait()
		store.Close()
	})
	return g
}

func (g *testGate) accept() {
	config := &tls.Config{
		NextProtos: []string{"http/1.1", "acme-tls/1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if cert, err := g.acme.ChallengeCertificate(hello); cert != nil || err != nil {
				return cert, err
			}
			return g.store.GetCertificate(hello)
		},
	}
	for {
		conn, err := g.at.tls.Accept()
		if err != nil {
			return
		}
		g.conns.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			tc := tls.Server(conn, config)
			if tc.Handshake() == nil {
				io.Copy(tc, tc)
			}
		})
	}
}

// testWriter writes a log into a test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

// dial makes a TLS 1.3 connection as a client that trusts root does. Certificates of these
// tests may be good for seconds, in which a slow machine renews none: one that has ended
// is taken as of its last moment.
func (g *testGate) dial(name string, root *x509.CertPool) (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", g.addr, &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf, between := state.PeerCertificates[0], x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				between.AddCert(c)
			}
			now := time.Now()
			if now.After(leaf.NotAfter) {
				now = leaf.NotAfter
			}
			_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: root, Intermediates: between, CurrentTime: now})
			return err
		},
	})
}

// leaf returns the certificate that a client is given, which root vouches for.
func (g *testGate) leaf(name string, root *x509.CertPool) (*x509.Certificate, error) {
	conn, err := g.dial(name, root)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// obtains waits until a client is given a certificate that is none of before, and
// until the cache has it: a gate serves a certificate before it saves it, and does
// not make clients wait for a disk.
func (g *testGate) obtains(name string, root *x509.CertPool, before ...*x509.Certificate) *x509.Certificate {
	g.t.Helper()
	leaf := g.serves(name, root, before...)
	eventually(g.t, "the file of "+name, func() error {
		data, err := os.ReadFile(filepath.Join(g.cache, name))
		if err != nil {
			return err
		}
		saved, err := tls.X509KeyPair(data, data)
		if err == nil && slices.ContainsFunc(before, saved.Leaf.Equal) {
			err = errors.New("still the old one")
		}
		return err
	})
	return leaf
}

// serves waits until a client is given a certificate that is none of before.
func (g *testGate) serves(name string, root *x509.CertPool, before ...*x509.Certificate) *x509.Certificate {
	g.t.Helper()
	var leaf *x509.Certificate
	eventually(g.t, "a certificate for "+name, func() (err error) {
		leaf, err = g.leaf(name, root)
		if err == nil && slices.ContainsFunc(before, leaf.Equal) {
			err = errors.New("still the old one")
		}
		return err
	})
	return leaf
}

// refusal waits until the gate has written down why a name has no certificate.
func (g *testGate) refusal(name string) (failures int, text string) {
	g.t.Helper()
	var record struct {
		Failures int
		Error    string
	}
	eventually(g.t, "a failure of "+name, func() error {
		data, err := os.ReadFile(filepath.Join(g.cache, name+"+state"))
		if err == nil {
			err = json.Unmarshal(data, &record)
		}
		if err == nil && record.Failures == 0 {
			err = errors.New("no failure yet")
		}
		return err
	})
	return record.Failures, record.Error
}

// tryNow does what docs/acme.md tells an operator to do for a try at once.
func (g *testGate) tryNow(name string) {
	g.t.Helper()
	if err := os.Remove(filepath.Join(g.cache, name+"+state")); err != nil {
		g.t.Fatal(err)
	}
}

// echo makes one round trip.
func echo(conn *tls.Conn, r *bufio.Reader, text string) error {
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(conn, text); err != nil {
		return err
	}
	got, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	if got != text+"\n" {
		return fmt.Errorf("echo = %q; want %q", got, text)
	}
	return nil
}

// patience is how long what must come may take on a busy machine; it is no
// measure of speed.
const patience = 3 * time.Minute

// eventually waits until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s did not come within %v: %v", what, patience, err)
}

package certstore

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// root signs through an intermediate, as public CAs do, so that chains matter.
var (
	root = minica.NewCA("Test Root")
	ca   = root.Intermediate("Test CA 1")
)

// rsaKey is the one RSA key of all tests: generating one takes long.
var rsaKey = sync.OnceValue(func() crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A dir is a certificate directory that a test changes.
type dir string

func newDir(t testing.TB) dir { return dir(t.TempDir()) }

// put writes a file under a temporary name and renames it.
func (d dir) put(t testing.TB, name string, data ...[]byte) string {
	t.Helper()
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(filepath.Dir(path), ".new")
	var all []byte
	for _, part := range data {
		all = append(all, part...)
	}
	if err := os.WriteFile(tmp, all, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (d dir) remove(t testing.TB, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(string(d), name)); err != nil {
		t.Fatal(err)
	}
}

// open opens a Store on d that does not watch the directory.
func (d dir) open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reload(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
}

// handshake makes a TLS connection to a server that uses only s, and returns
// the client's state. Both ends are crypto/tls.
func handshake(s *Store, client *tls.Config) (*tls.ConnectionState, error) {
	near, far := net.Pipe()
	defer near.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		server := tls.Server(far, &tls.Config{GetCertificate: s.GetCertificate})
		if server.Handshake() == nil {
			server.Close()
		}
	}()
	conn := tls.Client(near, client)
	err := conn.Handshake()
	if err == nil { // in TLS 1.3, a refusal may follow the client's last message
		if _, err = conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	near.Close()
	<-done
	state := conn.ConnectionState()
	return &state, err
}

// trusting returns a client that trusts only the root. It has no intermediate
// and verifies the server.
func trusting(serverName string) *tls.Config {
	return &tls.Config{ServerName: serverName, RootCAs: root.Pool()}
}

// served returns the leaf that a client gets for this server name.
func served(t testing.TB, s *Store, serverName string) *x509.Certificate {
	t.Helper()
	state, err := handshake(s, &tls.Config{ServerName: serverName, InsecureSkipVerify: true})
	if err != nil {
		t.Fatalf("handshake for %q: %v", serverName, err)
	}
	return state.PeerCertificates[0]
}

func wantServed(t testing.TB, s *Store, serverName string, want *minica.Pair) {
	t.Helper()
	if got := served(t, s, serverName); !got.Equal(want.Cert) {
		t.Errorf("%q got the certificate with serial %x for %q, want serial %x for %q",
			serverName, got.SerialNumber, got.DNSNames, want.Cert.SerialNumber, want.Cert.DNSNames)
	}
}

func wantProblems(t testing.TB, s *Store, want ...string) {
	t.Helper()
	problems := s.Problems()
	for i, p := range problems {
		if i >= len(want) || !strings.Contains(p.Err.Error(), want[i]) {
			t.Errorf("problem %d = %v; want %q", i, p.Err, want)
		}
	}
	if len(problems) < len(want) {
		t.Errorf("%d problems, want %d: %q", len(problems), len(want), want)
	}
}

// Each vhost serves its own certificate. A client that trusts only the root
// accepts it, because the intermediate is sent.
func TestEachNameItsOwnCertificate(t *testing.T) {
	d := newDir(t)
	one, two := ca.Issue("example1.com", "*.example1.com"), ca.Issue("example2.com")
	d.put(t, "example1.com.pem", one.PEM())
	d.put(t, "example2.com.pem", two.PEM())
	s := d.open(t)
	wantProblems(t, s)
	for serverName, want := range map[string]*minica.Pair{
		"example1.com":      one,
		"EXAMPLE1.com":      one,
		"example1.com.":     one, // the client removes the dot, as RFC 6066 requires
		"chat.example1.com": one,
		"example2.com":      two,
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := trusting(serverName)
			client.MinVersion, client.MaxVersion = version, version
			state, err := handshake(s, client)
			if err != nil {
				t.Errorf("%s, %q: %v", tls.VersionName(version), serverName, err)
				continue
			}
			if !state.PeerCertificates[0].Equal(want.Cert) {
				t.Errorf("%s, %q: certificate for %q", tls.VersionName(version), serverName, state.PeerCertificates[0].DNSNames)
			}
			if n := len(state.PeerCertificates); n != 2 {
				t.Errorf("%s, %q: %d certificates, want leaf and intermediate", tls.VersionName(version), serverName, n)
			}
		}
	}
}

// There is no default certificate. A client that sends an unknown name, no
// name, or an address gets the alert that RFC 6066 defines.
func TestUnknownNameGetsUnrecognizedName(t *testing.T) {
	const unrecognizedName = tls.AlertError(112)
	d := newDir(t)
	d.put(t, "example1.com.pem", ca.Issue("example1.com", "*.example1.com", "127.0.0.1").PEM())
	s := d.open(t)
	for _, serverName := range []string{
		"", "example3.com", "com", "a.b.example1.com", "xexample1.com", "127.0.0.1", "::1",
		"*.example1.com", "a..example1.com", "exa mple1.com", "b\xfccher.example1.com", strings.Repeat("a.", 200) + "example1.com",
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
			_, err := handshake(s, client)
			var alert *net.OpError
			if !errors.As(err, &alert) || alert.Err.Error() != unrecognizedName.Error() {
				t.Errorf("%s, %q: err = %v, want alert %v", tls.VersionName(version), serverName, err, unrecognizedName)
			}
		}
		if s.Has(serverName) {
			t.Errorf("Has(%q) = true", serverName)
		}
	}
}

// Internationalized names are compared by their A-labels.
func TestInternationalNames(t *testing.T) {
	d := newDir(t)
	d.put(t, "b.pem", ca.Issue("xn--bcher-kva.example").PEM())
	s := d.open(t)
	for _, serverName := range []string{"xn--bcher-kva.example", "XN--Bcher-KVA.example", "bücher.example", "BÜCHER。example", "bu\u0308cher.example"} {
		if !s.Has(serverName) {
			t.Errorf("Has(%q) = false", serverName)
		}
		if cert, err := s.GetCertificate(&tls.ClientHelloInfo{ServerName: serverName}); cert == nil || err != nil {
			t.Errorf("GetCertificate(%q) = %v, %v", serverName, cert, err)
		}
	}
}

// A client that supports ECDSA gets ECDSA, and one that does not gets RSA, for
// the same name. If the name has only ECDSA, the alert does not blame the name.
func TestKeyTypesSideBySide(t *testing.T) {
	d := newDir(t)
	ec := ca.Issue("example1.com")
	r := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, Key: rsaKey()})
	d.put(t, "ec.pem", ec.PEM())
	d.put(t, "rsa.pem", r.PEM())
	d.put(t, "only.pem", ca.Issue("example2.com").PEM())
	s := d.open(t)

	state, err := handshake(s, trusting("example1.com"))
	if err != nil || !state.PeerCertificates[0].Equal(ec.Cert) {
		t.Errorf("a modern client: %v, %v, want the ECDSA certificate", state.PeerCertificates, err)
	}
	rsaOnly := trusting("example1.com")
	rsaOnly.MaxVersion = tls.VersionTLS12
	rsaOnly.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	state, err = handshake(s, rsaOnly)
	if err != nil || !state.PeerCertificates[0].Equal(r.Cert) {
		t.Errorf("a client without ECDSA: %v, %v, want the RSA certificate", state.PeerCertificates, err)
	}
	rsaOnly.ServerName = "example2.com"
	if _, err = handshake(s, rsaOnly); err == nil || !strings.Contains(err.Error(), "handshake failure") {
		t.Errorf("a client without ECDSA where there is nothing else: err = %v, want handshake failure", err)
	}
}

func TestOpenWithoutDirectoryFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := Open(Options{Directory: missing}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open = %v, want that it does not exist", err)
	} else if want := `certificates: directory "` + missing + `": `; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Open = %q, want %q…", err, want)
	}
}

// An installed certificate is chosen like any other, and can be removed.
func TestInstallAndRemove(t *testing.T) {
	d := newDir(t)
	fromFile := ca.Issue("example1.com")
	d.put(t, "example1.com.pem", fromFile.PEM())
	s := d.open(t)
	longer := ca.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: time.Now().AddDate(1, 0, 0)})
	if err := s.Install(SourceACME, "example1.com", longer.TLS()); err != nil {
		t.Fatal(err)
	}
	wantServed(t, s, "example1.com", longer)
	reload(t, s)
	wantServed(t, s, "example1.com", longer)
	s.Remove(SourceACME, "example1.com")
	wantServed(t, s, "example1.com", fromFile)

	other := ca.Issue("example2.com")
	broken := other.TLS()
	broken.PrivateKey = fromFile.Key
	if n := s.Names(); n != 1 {
		t.Errorf("Names() = %d; want 1, however many certificates it had", n)
	}
	if err := s.Install(SourceACME, "example2.com", broken); err == nil || s.Has("example2.com") {
		t.Errorf("Install with another certificate's key: %v", err)
	}
}

// Another directory replaces the first one completely. A missing one replaces
// nothing.
func TestSetDirectory(t *testing.T) {
	first, second := newDir(t), newDir(t)
	first.put(t, "a.pem", ca.Issue("example1.com").PEM())
	second.put(t, "b.pem", ca.Issue("example2.com").PEM())
	s := first.open(t)
	if err := setDirectory(s, string(second)+"/missing", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("setDirectory = %v, want that it does not exist", err)
	}
	if !s.Has("example1.com") {
		t.Error("a directory that is not there took the old one's certificates away")
	}
	if err := setDirectory(s, string(second), false); err != nil {
		t.Fatal(err)
	}
	if s.Has("example1.com") || !s.Has("example2.com") {
		t.Errorf("after the move: old %t, new %t; want false, true", s.Has("example1.com"), s.Has("example2.com"))
	}
	if err := setDirectory(s, "", false); err != nil || s.Has("example2.com") {
		t.Errorf("without a directory: %v, still there %t", err, s.Has("example2.com"))
	}
}

// hello returns the ClientHello of a modern client.
func hello(serverName string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        serverName,
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256},
		SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
	}
}

package certstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
)

// acmeTestGate is an ACME with the certificates that it has installed.
type acmeTestGate struct {
	*ACME
	log acmeTestLog

	mu       sync.Mutex
	certs    map[string]*tls.Certificate
	installs int
}

type acmeTestLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *acmeTestLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *acmeTestLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (g *acmeTestGate) cert(name string) *tls.Certificate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.certs[name]
}

// one returns the status of the only name.
func (g *acmeTestGate) one(t *testing.T) ACMEStatus {
	t.Helper()
	s := g.Status()
	if len(s) != 1 {
		t.Fatalf("Status() has %d names; want 1", len(s))
	}
	return s[0]
}

// newACMETestGate returns a gate that ca may validate; the test starts it.
// Under synctest, the test must Close it.
func newACMETestGate(t *testing.T, ca *acmeTestCA, dir string, edit func(*ACMEOptions)) *acmeTestGate {
	t.Helper()
	g := &acmeTestGate{certs: map[string]*tls.Certificate{}}
	opts := ACMEOptions{
		Names: []string{"chat.example.org"}, ACMECA: ACMECA{Directory: acmeTestURL + "/directory", AcceptTerms: true}, Cache: dir, TLSALPN: true,
		Install: func(name string, cert *tls.Certificate) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.certs[name] = cert
			g.installs++
		},
		Remove: func(name string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			delete(g.certs, name)
		},
		Log:       slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		transport: ca,
	}
	if edit != nil {
		edit(&opts)
	}
	a, err := NewACME(opts)
	if err != nil {
		t.Fatal(err)
	}
	g.ACME = a
	ca.set(func() { ca.gates = append(ca.gates, g) })
	return g
}

// acmeForAnHour starts a gate, which has its certificate within an hour. It is
// closed when the test ends.
func acmeForAnHour(t *testing.T, dir string) (*acmeTestCA, *acmeTestGate, *tls.Certificate) {
	t.Helper()
	ca := newACMETestCA(t)
	g := newACMETestGate(t, ca, dir, nil)
	t.Cleanup(g.Close)
	g.Start()
	time.Sleep(time.Hour)
	synctest.Wait()
	return ca, g, g.cert("chat.example.org")
}

// All certificates are obtained at the start, although no client requests one.
func TestACMEObtainsUnasked(t *testing.T) {
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := newACMETestCA(t)
				long := strings.Repeat("a.", 40) + "example.org" // longer than a common name can be
				g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
					o.Names = []string{"chat.example.org", "Bücher.example.", long}
					o.TLSALPN, o.HTTP01 = challenge == "tls-alpn-01", challenge == "http-01"
				})
				g.Start()
				defer g.Close()
				time.Sleep(time.Minute)
				synctest.Wait()
				for _, name := range []string{"chat.example.org", "xn--bcher-kva.example", long} {
					cert := g.cert(name)
					if cert == nil {
						t.Fatalf("%s: no certificate; log:\n%s", name, g.log.String())
					}
					if key, ok := cert.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
						t.Errorf("%s: key is %T; want ECDSA P-256", name, cert.PrivateKey)
					}
					if len(cert.Certificate) != 2 {
						t.Errorf("%s: chain of %d; want leaf and issuer", name, len(cert.Certificate))
					}
				}
				if got := ca.ordered(); got != 3 {
					t.Errorf("%d orders; want 3", got)
				}
				for _, s := range g.Status() {
					if s.State != ACMEValid || s.NotAfter.IsZero() || s.Failures != 0 || s.Err != "" || s.LeaseOwner != "" {
						t.Errorf("status = %+v; want valid", s)
					}
				}
				if n := ca.asked("POST /new-account"); n != 1 {
					t.Errorf("%d registrations for three names; want 1", n)
				}
				left, _ := filepath.Glob(filepath.Join(dir, "*+*"))
				for _, f := range left {
					if strings.HasSuffix(f, "+token") || strings.HasSuffix(f, "+http-01") || strings.HasSuffix(f, "+lease") {
						t.Errorf("%s is left in the cache", f)
					}
				}
			})
		})
	}
}

// Other users have access neither to the folder nor to the files in it.
func TestACMECacheModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "cache")
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, open} {
		synctest.Test(t, func(t *testing.T) {
			g := newACMETestGate(t, newACMETestCA(t), dir, nil)
			g.Start()
			defer g.Close()
			time.Sleep(time.Minute)
			synctest.Wait()
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != 0o700 {
				t.Errorf("folder has mode %o; want 700", got)
			}
			entries, _ := os.ReadDir(dir)
			if len(entries) != 5 { // mark, account, contact data, certificate, record
				t.Errorf("cache has %v; want 5 files", entries)
			}
			for _, e := range entries {
				if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %o; want 600", e.Name(), info.Mode().Perm())
				}
			}
		})
	}
}

// NewACME installs the certificates in an autocert cache before it returns, and
// without a CA. It includes expired ones, because the Store may have nothing
// better.
func TestACMEInstallsCache(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		root := minica.NewCA("root")
		file := func(name string, pair *minica.Pair, rsa bool) {
			key := pair.KeyPEMClassic() // as autocert writes it
			if err := os.WriteFile(filepath.Join(dir, name), append(key, pair.ChainPEM()...), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file("chat.example.org", root.Issue("chat.example.org"), false)
		file("chat.example.org+rsa", root.IssueSpec(minica.Spec{Names: []string{"chat.example.org"}, Key: rsaKey()}), true)
		file("old.example.org", root.IssueSpec(minica.Spec{Names: []string{"old.example.org"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour)}), false)
		file("wrong.example.org", root.Issue("other.example.org"), false)
		os.WriteFile(filepath.Join(dir, "torn.example.org"), []byte("-----BEGIN EC PRIV"), 0o600)
		os.WriteFile(filepath.Join(dir, acmeMark), nil, 0o600)

		ca := newACMETestCA(t)
		ca.silent = true
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Names = []string{"chat.example.org", "old.example.org", "wrong.example.org", "torn.example.org", "none.example.org"}
		})
		if len(ca.requests) > 0 {
			t.Errorf("NewACME asked the CA: %v", ca.requests)
		}
		want := map[string]ACMEState{
			"chat.example.org": ACMEValid, "old.example.org": ACMEExpired,
			"wrong.example.org": ACMEWaiting, "torn.example.org": ACMEWaiting, "none.example.org": ACMEWaiting,
		}
		for _, s := range g.Status() {
			if s.State != want[s.Name] {
				t.Errorf("%s is %s; want %s", s.Name, s.State, want[s.Name])
			}
			if has := g.cert(s.Name) != nil; has != !s.NotAfter.IsZero() {
				t.Errorf("%s installed = %v, NotAfter %v", s.Name, has, s.NotAfter)
			}
			if due := !s.NextTry.After(time.Now()); due == (s.Name == "chat.example.org") {
				t.Errorf("%s: next try %v", s.Name, s.NextTry)
			}
		}
		if _, ok := g.cert("chat.example.org").PrivateKey.(*ecdsa.PrivateKey); !ok {
			t.Error("the RSA certificate was installed")
		}
		g.Close()
	})
}

// Invalid options are refused, all at once.
func TestACMEOptionsRefused(t *testing.T) {
	_, err := NewACME(ACMEOptions{
		ACMECA: ACMECA{Directory: "http://ca.test/directory", EABKeyID: "kid"},
		Names:  []string{"*.localhost", "192.0.2.1", "localhost", "a..b", "-x.example.org", "good.example.org", "::1", "_x.example.org", ""},
	})
	if err == nil {
		t.Fatal("NewACME accepted it")
	}
	for _, want := range []string{
		`name "*.localhost": has one label only`, `name "192.0.2.1": is an IP address`, `name "localhost": has one label only`,
		`name "a..b"`, `name "-x.example.org"`, `name "::1": has a character`, `name "_x.example.org"`, `name ""`,
		`directory "http://ca.test/directory": not an https URL`, "needs both the key id and the key", "no cache folder", "no Install function", "no challenge can be answered",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "good.example.org") {
		t.Errorf("a good name is refused: %v", err)
	}
}

// A reload removes names and brings them back without an order. It does not
// affect the other names.
func TestACMESetNames(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names = []string{"a.example.org", "b.example.org"} })
		g.Start()
		defer g.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		a := g.cert("a.example.org")
		if a == nil || g.cert("b.example.org") == nil {
			t.Fatalf("not obtained:\n%s", g.log.String())
		}
		if err := g.SetNames([]string{"a.example.org", "*.localhost"}); err == nil {
			t.Error("SetNames accepted a wildcard of one label")
		}
		if g.cert("b.example.org") == nil {
			t.Error("a reload that is refused removed a name")
		}
		if err := g.SetNames([]string{"A.example.org.", "c.example.org"}); err != nil {
			t.Fatal(err)
		}
		if g.cert("b.example.org") != nil {
			t.Error("b.example.org is still there")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if g.cert("c.example.org") == nil {
			t.Errorf("c.example.org was not obtained:\n%s\n%+v", g.log.String(), g.Status())
		}
		if err := g.SetNames([]string{"a.example.org", "b.example.org"}); err != nil {
			t.Fatal(err)
		}
		if g.cert("b.example.org") == nil {
			t.Error("b.example.org was not installed from the cache")
		}
		time.Sleep(time.Hour)
		if got := ca.ordered(); got != 3 {
			t.Errorf("%d orders; want 3: a, b, c", got)
		}
		if g.cert("a.example.org") != a {
			t.Error("a.example.org was replaced")
		}
	})
}

// Close ends an order that hangs and releases its lease. Nothing happens
// afterwards. (A remaining goroutine would make the bubble fail.)
func TestACMECloseEndsEverything(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.silent = true
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		synctest.Wait()
		if s := g.one(t); s.State != ACMEOrdering || s.LeaseOwner != g.owner {
			t.Errorf("status = %+v; want ordering", s)
		}
		start := time.Now()
		g.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
		g.Close()
		g.Start()
		if err := g.SetNames([]string{"other.example.org"}); err != nil {
			t.Error(err)
		}
		if s := g.one(t); s.Failures != 0 || s.State != ACMEWaiting || s.Name != "chat.example.org" {
			t.Errorf("status = %+v; want no failure", s)
		}
		if left, _ := os.ReadDir(dir); len(left) != 2 { // the mark, the account's key
			t.Errorf("left in the cache: %v", left)
		}
	})
}

// A name that is removed during its order is not installed, even if the CA has
// just issued the certificate.
func TestACMERemovedWhileOrdering(t *testing.T) {
	for _, at := range []string{"/new-order", "/challenge/1/0/tls-alpn-01", "/cert/1"} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			g := newACMETestGate(t, ca, dir, nil)
			ca.refuse = func(path string, _ int) *acmeTestProblem {
				if path == at {
					if err := g.SetNames(nil); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
			g.Start()
			defer g.Close()
			time.Sleep(time.Hour)
			synctest.Wait()
			if g.cert("chat.example.org") != nil || g.installs != 0 || len(g.Status()) != 0 {
				t.Errorf("removed at %s: installed %d times", at, g.installs)
			}
			if ca.ordered() != 1 {
				t.Errorf("removed at %s: %d orders; want 1", at, ca.ordered())
			}
		})
	}
}

func acmeDescribe(cert *tls.Certificate) string {
	if cert == nil {
		return "none"
	}
	return fmt.Sprintf("serial %v until %v", cert.Leaf.SerialNumber, cert.Leaf.NotAfter)
}

// An order contains the profile. If the CA does not have it, the error lists
// the CA's profiles, and nothing is ordered.
func TestACMEProfile(t *testing.T) {
	for _, tt := range []struct {
		has  map[string]string
		want string // "": obtained
	}{
		{map[string]string{"classic": "90 days", "shortlived": "6 days"}, ""},
		{map[string]string{"tlsserver": "45 days", "classic": "90 days"}, `profile "shortlived": the CA offers "classic" (90 days), "tlsserver" (45 days)`},
		{nil, `profile "shortlived": the CA offers none`},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.profiles = tt.has
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Profile = "shortlived" })
			defer g.Close()
			g.Start()
			time.Sleep(time.Minute / 2)
			synctest.Wait()
			switch s := g.one(t); {
			case tt.want != "":
				if !strings.Contains(s.Err, tt.want) || ca.ordered() != 0 {
					t.Errorf("%d orders, %q; want none, %q", ca.ordered(), s.Err, tt.want)
				}
				ca.set(func() { ca.profiles = map[string]string{"shortlived": "6 days"} }) // the CA adds the profile
				time.Sleep(time.Hour)
				synctest.Wait()
				if g.one(t).State != ACMEValid {
					t.Errorf("status %+v; want valid", g.one(t))
				}
			case s.State != ACMEValid || ca.orders[0].profile != "shortlived":
				t.Errorf("status %+v, profile %q", s, ca.orders[0].profile)
			}
		})
	}
}

// The configuration sets the type of new keys. A cached key of either type is
// served and read again.
func TestACMEKeyType(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.KeyType = "rsa" })
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Close()
		key, ok := g.cert("chat.example.org").PrivateKey.(*rsa.PrivateKey)
		if !ok || key.Size() != 256 {
			t.Fatalf("key is %T; want RSA of 2048 bits", g.cert("chat.example.org").PrivateKey)
		}
		h := newACMETestGate(t, ca, dir, nil)
		h.Close()
		if cert := h.cert("chat.example.org"); cert == nil || !key.Equal(cert.PrivateKey) {
			t.Error("another gate does not read it")
		}
	})
}

package certstore

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
)

const acmeDay = 24 * time.Hour

// A certificate restored from a backup does not replace a newer valid one; the
// cache is corrected.
func TestACMERestoredFromBackup(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, good := acmeForAnHour(t, dir)
		path := filepath.Join(dir, "chat.example.org")
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old := ca.ca.IssueSpec(minica.Spec{Names: []string{"chat.example.org"}, NotBefore: time.Now().Add(-90 * acmeDay), NotAfter: time.Now().Add(-acmeDay)})
		os.WriteFile(path, append(old.KeyPEM(), old.ChainPEM()...), 0o600)
		time.Sleep(2 * acmePoll)
		synctest.Wait()
		if g.cert("chat.example.org") != good || ca.ordered() != 1 {
			t.Errorf("serves %s after %d orders; want what it had, and no order", acmeDescribe(g.cert("chat.example.org")), ca.ordered())
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, was) {
			t.Errorf("the cache was not put right: %v", err)
		}
		if n := strings.Count(g.log.String(), "is put back"); n != 1 {
			t.Errorf("said %d times; want once", n)
		}
		time.Sleep(acmeDay)
		synctest.Wait()
		if s := g.one(t); ca.ordered() != 1 || s.State != ACMEValid || s.NextTry.Before(time.Now().Add(50*acmeDay)) {
			t.Errorf("%d orders, status %+v", ca.ordered(), s)
		}
	})
}

// A certificate that is not valid yet is installed when it becomes valid.
func TestACMENotValidYet(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, good := acmeSlowly(t, dir)
		next := acmePutLater(t, ca, dir, 30*acmeDay)
		time.Sleep(29 * acmeDay)
		synctest.Wait()
		if g.cert("chat.example.org") != good {
			t.Errorf("serves %s", acmeDescribe(g.cert("chat.example.org")))
		}
		time.Sleep(acmeDay + 7*time.Hour)
		synctest.Wait()
		if got := g.cert("chat.example.org"); !got.Leaf.Equal(next.Cert) || ca.ordered() != 1 {
			t.Errorf("serves %s after %d orders; want the one whose day has come, and no order", acmeDescribe(got), ca.ordered())
		}
	})
}

// A certificate that becomes valid too late does not delay a renewal. A CA that
// issues such certificates gets at most two orders a day.
func TestACMENotValidInTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, good := acmeSlowly(t, dir)
		acmePutLater(t, ca, dir, 100*acmeDay)
		ca.set(func() { ca.backdate = -100 * acmeDay; ca.lifetime = 190 * acmeDay })
		time.Sleep(59 * acmeDay)
		if ca.ordered() != 1 {
			t.Fatalf("%d orders; want 1", ca.ordered())
		}
		time.Sleep(5 * acmeDay) // it is due after 60 days, or up to 36 hours later
		synctest.Wait()
		if n := ca.ordered(); n < 4 || n > 12 || g.cert("chat.example.org") != good {
			t.Errorf("%d orders, serves %s; want the old one, and two orders a day", n, acmeDescribe(g.cert("chat.example.org")))
		}
		ca.set(func() { ca.backdate = 0; ca.lifetime = 90 * acmeDay })
		time.Sleep(acmeDay)
		synctest.Wait()
		if got := g.cert("chat.example.org"); got == good || time.Now().Before(got.Leaf.NotBefore) {
			t.Errorf("serves %s; want a new one", acmeDescribe(got))
		}
	})
}

// acmeSlowly is acmeForAnHour with a look at the cache every six hours.
func acmeSlowly(t *testing.T, dir string) (*acmeTestCA, *acmeTestGate, *tls.Certificate) {
	t.Helper()
	ca := newACMETestCA(t)
	g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = 6 * time.Hour })
	t.Cleanup(g.Close)
	g.Start()
	time.Sleep(time.Hour)
	synctest.Wait()
	return ca, g, g.cert("chat.example.org")
}

// acmePutLater puts a certificate into the cache that becomes valid after in.
func acmePutLater(t *testing.T, ca *acmeTestCA, dir string, in time.Duration) *minica.Pair {
	t.Helper()
	from := time.Now().Add(in)
	next := ca.ca.IssueSpec(minica.Spec{Names: []string{"chat.example.org"}, NotBefore: from, NotAfter: from.Add(90 * acmeDay)})
	if err := os.WriteFile(filepath.Join(dir, "chat.example.org"), append(next.KeyPEM(), next.ChainPEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return next
}

func TestACMEWorse(t *testing.T) {
	root, other := minica.NewCA("root").Intermediate("between"), minica.NewCA("other")
	now := time.Now()
	issue := func(from, until time.Duration) *tls.Certificate {
		p := root.IssueSpec(minica.Spec{Names: []string{"a.example.org"}, NotBefore: now.Add(from), NotAfter: now.Add(until)})
		c, err := acmeDecode("a.example.org", append(p.KeyPEM(), p.ChainPEM()...))
		if err != nil {
			t.Fatal(err)
		}
		c.Certificate = append(c.Certificate[:1:1], root.Cert.Raw)
		return c
	}
	foreign := issue(-acmeDay, 90*acmeDay)
	foreign.Certificate[1] = other.Cert.Raw
	bare := issue(-acmeDay, 90*acmeDay)
	bare.Certificate = bare.Certificate[:1]
	garbage := issue(-acmeDay, 90*acmeDay)
	garbage.Certificate[1] = []byte("garbage")
	good, expired := issue(-acmeDay, 60*acmeDay), issue(-90*acmeDay, -acmeDay)
	for _, tt := range []struct {
		what       string
		next, held *tls.Certificate
		want       string // "": not worse
	}{
		{"the first", expired, nil, ""},
		{"expired", expired, good, "expired "},
		{"of tomorrow", issue(acmeDay, 90*acmeDay), good, "is not valid before "},
		{"later", issue(0, 90*acmeDay), good, ""},
		{"of a shorter life", issue(0, 6*acmeDay), good, ""},
		{"good for expired", good, expired, ""},
		{"expired for expired", issue(-100*acmeDay, -2*acmeDay), expired, ""},
		{"foreign issuer", foreign, good, "the chain is broken"},
		{"no issuer", bare, good, "the chain lacks its issuer"},
		{"no certificate as issuer", garbage, good, "x509: "},
		{"foreign issuer for expired", foreign, expired, ""},
		{"foreign issuer for the same", foreign, foreign, ""},
	} {
		err := acmeWorse(tt.next, tt.held, now)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.what, err, tt.want)
		}
	}
}

package certstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// newACMEWildGate makes a gate for wildcards, and a CA that allows them.
func newACMEWildGate(t *testing.T, dir string, edit func(*ACMEOptions)) (*acmeTestCA, *acmeTestZone, *acmeTestGate) {
	ca := newACMETestCA(t)
	ca.offers = append(ca.offers, acmePersist)
	ca.caa, ca.issuers, ca.zone = []string{"ca.test"}, []string{"ca.test"}, &acmeTestZone{}
	g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
		o.Names, o.lookupTXT, o.Poll = []string{"*.example.org"}, ca.zone.LookupTXT, 6*time.Hour
		if edit != nil {
			edit(o)
		}
	})
	return ca, ca.zone, g
}

const (
	acmeWildRecord = "_validation-persist.example.org."
	acmeWildValue  = "ca.test; accounturi=https://ca.test/account/1; policy=wildcard"
)

// Without its record a wildcard is not ordered, and what is missing is said; with it, it
// is ordered in minutes, and renewed without anybody's help.
func TestACMEWildcard(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, zone, g := newACMEWildGate(t, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		s := g.one(t)
		if ca.ordered() != 0 || s.State != ACMEWaiting || !strings.Contains(s.Err, `set `+acmeWildRecord+` IN TXT "`+acmeWildValue+`"`) {
			t.Fatalf("%d orders, status = %+v; want none, and what to set", ca.ordered(), s)
		}
		if n := strings.Count(g.log.String(), "no certificate ordered"); n != 1 {
			t.Errorf("said %d times; want once", n)
		}
		zone.set(acmeWildRecord, "v=spf1 -all", acmeWildValue)
		if err := g.Retry("*.EXAMPLE.org."); err != nil { // does not wait for acmeLookupAgain
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		cert := g.cert("*.example.org")
		if s := g.one(t); cert == nil || s.State != ACMEValid || s.Err != "" || ca.ordered() != 1 {
			t.Fatalf("%d orders, status = %+v; want one, valid", ca.ordered(), s)
		}
		if err := cert.Leaf.VerifyHostname("chat.example.org"); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.ContainsAny(e.Name(), "*?[") {
				t.Errorf("the cache has %q, which a shell expands", e.Name())
			}
		}

		// Another gate finds it in the cache; neither orders until it is due.
		other := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Names, o.lookupTXT, o.Poll = []string{"*.example.org"}, zone.LookupTXT, 6*time.Hour
		})
		defer other.Close()
		if got := other.cert("*.example.org"); got == nil || !got.Leaf.Equal(cert.Leaf) {
			t.Errorf("another gate serves %s", acmeDescribe(got))
		}
		other.Start()
		time.Sleep(59 * acmeDay)
		synctest.Wait()
		if ca.ordered() != 1 {
			t.Errorf("%d orders in 59 days; want 1", ca.ordered())
		}
		time.Sleep(10 * acmeDay)
		synctest.Wait()
		if got := g.cert("*.example.org"); ca.ordered() != 2 || got.Leaf.Equal(cert.Leaf) {
			t.Errorf("%d orders in 69 days; want 2", ca.ordered())
		}
	})
}

// A list with wildcards and other names is validated by records only.
func TestACMEWildcardAmongNames(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		list := []string{"example.org", "*.example.org", "chat.example.net"}
		ca, zone, g := newACMEWildGate(t, dir, func(o *ACMEOptions) { o.Names, o.Together = nil, [][]string{list} })
		defer g.Close()
		g.Start()
		zone.set(acmeWildRecord, acmeWildValue)
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); ca.ordered() != 0 || !strings.Contains(s.Err, `"ca.test; accounturi=https://ca.test/account/1"`) || strings.Contains(s.Err, acmeWildRecord) {
			t.Fatalf("%d orders, status = %+v; want none, and the record of example.net", ca.ordered(), s)
		}
		records, err := g.DNSRecords(t.Context())
		if err != nil || len(records) != 2 || records[0].Err == "" || records[1].Err != "" || records[1].String() != acmeWildRecord+` IN TXT "`+acmeWildValue+`"` ||
			!slices.Equal(records[1].For, list[:2]) {
			t.Errorf("DNSRecords() = %+v, %v", records, err)
		}
		zone.set("_validation-persist.chat.example.net.", "ca.test; accounturi=https://ca.test/account/1")
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || ca.ordered() != 1 {
			t.Errorf("%d orders, status = %+v; want one, valid", ca.ordered(), s)
		}
		if _, err := os.Stat(filepath.Join(dir, "example.org")); err != nil {
			t.Error(err)
		}
	})
}

// Where DNS does not answer, or the CA has not said its name, the CA is to judge.
func TestACMEWildcardUnknown(t *testing.T) {
	for _, what := range []string{"DNS", "issuer"} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca, zone, g := newACMEWildGate(t, dir, nil)
				defer g.Close()
				if what == "DNS" {
					zone.err = errors.New("server misbehaving")
				} else {
					ca.caa = nil
					if _, err := g.DNSRecords(t.Context()); err == nil {
						t.Error("DNSRecords knows the name of a CA that has not told it")
					}
				}
				g.Start()
				time.Sleep(time.Second)
				synctest.Wait()
				if s := g.one(t); ca.ordered() != 1 || !strings.Contains(s.Err, "dns-persist-01: unauthorized: no valid TXT record") {
					t.Errorf("%d orders, status = %+v; want one, refused", ca.ordered(), s)
				}
				zone.set(acmeWildRecord, acmeWildValue)
				if what == "issuer" {
					if r, err := g.DNSRecords(t.Context()); err != nil || len(r) != 1 || r[0].Value != acmeWildValue || r[0].Err != "" {
						t.Errorf("DNSRecords() = %+v, %v; want what the challenge said", r, err)
					}
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if s := g.one(t); s.State != ACMEValid {
					t.Errorf("status = %+v; want valid", s)
				}
			})
		})
	}
}

// A CA without the challenge is said to be.
func TestACMEWildcardNotOffered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, zone, g := newACMEWildGate(t, dir, nil)
		defer g.Close()
		ca.offers = ca.offers[:3]
		zone.set(acmeWildRecord, acmeWildValue)
		g.Start()
		time.Sleep(time.Second)
		synctest.Wait()
		if s := g.one(t); !strings.Contains(s.Err, "dns-persist-01: the CA does not offer it") {
			t.Errorf("status = %+v", s)
		}
	})
}

// If no CA has its record, none is asked; if one has it, that is asked.
func TestACMEWildcardFallback(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, zone, g := newACMEWildGate(t, dir, func(o *ACMEOptions) {
			o.Fallback = []ACMECA{{Directory: acmeTestURL + "/directory?second", AcceptTerms: true}}
		})
		defer g.Close()
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); ca.ordered() != 0 || s.Failures != 1 || time.Until(s.NextTry) > acmeLookupAgain || strings.Count(s.Err, "IN TXT") != 2 {
			t.Errorf("%d orders, status = %+v; want none, and two records", ca.ordered(), s)
		}
		zone.set(acmeWildRecord, strings.Replace(acmeWildValue, "/1", "/2", 1))
		time.Sleep(acmeLookupAgain)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || ca.ordered() != 1 || !strings.HasSuffix(s.CA, "second") {
			t.Errorf("%d orders, status = %+v; want one, of the second CA", ca.ordered(), s)
		}
	})
}

func TestACMEPersistRecord(t *testing.T) {
	now := time.Unix(1_900_000_000, 0)
	const account = "https://ca.test/account/1"
	for _, tt := range []struct{ text, want string }{
		{acmeWildValue, ""},
		{"ca.test;accounturi=" + account + ";policy=wildcard", ""},
		{" ca.test ;\tAccountURI = " + account + " ; POLICY=Wildcard; persistUntil=1900000000; else=x", ""},
		{"", "is for another CA"},
		{"other.test; accounturi=" + account + "; policy=wildcard", "is for another CA"},
		{"ca.test", "has no accounturi"},
		{"ca.test; policy=wildcard", "has no accounturi"},
		{"ca.test; accounturi=" + account, "lacks policy=wildcard"},
		{"ca.test; accounturi=" + account + "; policy=all", "lacks policy=wildcard"},
		{"ca.test; accounturi=" + account + "0; policy=wildcard", "is for another account"},
		{acmeWildValue + ";", "where a tag and a value are required"},
		{acmeWildValue + "; wildcard", "where a tag and a value are required"},
		{acmeWildValue + "; policy=wildcard", "has policy twice"},
		{acmeWildValue + "; persistUntil=soon", "not a number of seconds"},
		{acmeWildValue + "; persistUntil=1899999999", "has ended"},
		{acmeWildValue + "; x=\x1b[31m", "not one word of ASCII"},
		{acmeWildValue + "; \x1b=1; \x1b=1", "twice"},
	} {
		r, err := acmeParsePersist(tt.text)
		if err == nil {
			err = r.suits([]string{"ca.test"}, account, true, now)
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v; want %q", tt.text, err, tt.want)
		}
	}
}

func FuzzACMEPersistRecord(f *testing.F) {
	f.Add(acmeWildValue)
	f.Add("ca.test; accounturi=x; persistUntil=-9223372036854775808")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := acmeParsePersist(text)
		if err == nil {
			err = r.suits([]string{"ca.test"}, "x", true, time.Unix(0, 0))
		}
		if err != nil && err.Error() != printable(err.Error()) {
			t.Errorf("%q: error %q can't be printed", text, err)
		}
		if err == nil && !strings.Contains(strings.ToLower(text), "wildcard") {
			t.Errorf("%q allows a wildcard", text)
		}
	})
}

// A resolver that hangs delays an order, and does not stop it.
func TestACMEWildcardDNSHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, zone, g := newACMEWildGate(t, dir, func(o *ACMEOptions) {
			o.lookupTXT = func(ctx context.Context, _ string) ([]string, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		defer g.Close()
		zone.set(acmeWildRecord, acmeWildValue)
		g.Start()
		time.Sleep(2 * acmeLookupTimeout)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || ca.ordered() != 1 {
			t.Errorf("%d orders, status = %+v; want one, valid", ca.ordered(), s)
		}
	})
}

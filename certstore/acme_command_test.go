package certstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Renew replaces a certificate at once, up to three times a day, and ignores
// the back-off.
func TestACMERenew(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const name = "chat.example.org"
		ca, g, first := acmeForAnHour(t, dir)
		for i := range acmeEarlyADay {
			if err := g.Renew("CHAT.example.org."); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // before the next look at the cache
			synctest.Wait()
			if ca.ordered() != i+2 || g.cert(name) == first {
				t.Fatalf("%d orders after %d wishes", ca.ordered(), i+1)
			}
		}
		if err := g.Renew(name); !errors.Is(err, ErrACMEState) || !strings.Contains(err.Error(), "in 24h0m") {
			t.Errorf("the fourth time: %v", err)
		}
		time.Sleep(24 * time.Hour)
		ca.refuseOrders(acmeTestProblem{Type: "malformed", Detail: "no", Status: 400})
		if err := g.Renew(name); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // it fails, and backs off
		synctest.Wait()
		if s := g.one(t); s.Failures < 2 || s.State != ACMEValid {
			t.Errorf("status %+v", s)
		}
		ca.set(func() { ca.refuse = nil })
		if err := g.Renew(name); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s := g.one(t); s.Failures != 0 || ca.ordered() != 5 {
			t.Errorf("status %+v, %d orders", s, ca.ordered())
		}
		if err := g.Renew("other.example.org"); !errors.Is(err, ErrACMEUnknown) {
			t.Errorf("another name: %v", err)
		}
	})
}

// Retry ends a back-off, including the account's. It returns an error if there
// is none.
func TestACMERetry(t *testing.T) {
	for _, problem := range []acmeTestProblem{
		{Type: "malformed", Detail: "no", Status: 400},
		{Type: "rateLimited", Detail: "too many new orders for this account", Status: 429},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.refuseOrders(problem)
			g := newACMETestGate(t, ca, dir, nil)
			defer g.Close()
			g.Start()
			time.Sleep(12 * time.Hour)
			ca.set(func() { ca.refuse = nil })
			if g.one(t).Failures == 0 {
				t.Fatal("nothing failed")
			}
			if err := g.Retry("chat.example.org"); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if s := g.one(t); s.Failures != 0 || s.State != ACMEValid {
				t.Errorf("%s: status %+v", problem.Type, s)
			}
			if err := g.Retry("chat.example.org"); !errors.Is(err, ErrACMEState) {
				t.Errorf("nothing failed: %v", err)
			}
			if err := g.Retry("other.example.org"); !errors.Is(err, ErrACMEUnknown) {
				t.Errorf("another name: %v", err)
			}
		})
	}
}

// Revoke revokes the current certificate and replaces it on all gates. If the
// CA refuses, nothing changes.
func TestACMERevoke(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const name = "chat.example.org"
		ca, g, first := acmeForAnHour(t, dir)
		other := newACMETestGate(t, ca, dir, nil)
		defer other.Close()
		other.Start()
		time.Sleep(time.Minute)

		ca.set(func() { ca.revoking = &acmeTestProblem{Type: "badRevocationReason", Detail: "not today", Status: 400} })
		if _, err := g.Revoke(t.Context(), name, "keyCompromise"); !errors.Is(err, ErrACMERefused) || !strings.Contains(err.Error(), "badRevocationReason: not today") {
			t.Errorf("refused: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if ca.ordered() != 1 || g.cert(name) != first {
			t.Errorf("after a refusal: %d orders", ca.ordered())
		}

		ca.set(func() { // before Revoke, which has the keeper order at once
			ca.revoking = nil
			ca.refuseOrders(acmeTestProblem{Type: "serverInternal", Detail: "not now", Status: 500})
		})
		serial, err := g.Revoke(t.Context(), name, "keyCompromise")
		if want := fmt.Sprintf("%x", first.Leaf.SerialNumber); err != nil || serial != want {
			t.Errorf("Revoke = %q, %v; want %q", serial, err, want)
		}
		if want := fmt.Sprintf("%x for 1", first.Leaf.Raw); len(ca.revoked) != 1 || ca.revoked[0] != want {
			t.Errorf("revoked %.200s; want %.200s", ca.revoked, want)
		}
		if g.cert(name) == nil {
			t.Error("nothing is served")
		}
		if s := g.one(t); !s.Revoked {
			t.Errorf("status %+v; want that it is revoked", s)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); !s.Revoked || s.State != ACMEValid || s.Failures == 0 || g.cert(name) == nil {
			t.Errorf("status %+v; want that what is served while the CA refuses orders is revoked", s)
		}
		ca.set(func() { ca.refuse = nil })
		g.Retry(name)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := g.one(t); s.Revoked {
			t.Errorf("status %+v; want that the new certificate is not revoked", s)
		}
		if next := g.cert(name); ca.ordered() != 2 || next == first || !next.Leaf.Equal(other.cert(name).Leaf) {
			t.Errorf("%d orders; want two, and one certificate in both gates", ca.ordered())
		}

		for _, tt := range []struct {
			name, reason string
			want         error
		}{{name, "because", ErrACMEState}, {name, "", ErrACMEState}, {"other.example.org", "superseded", ErrACMEUnknown}} {
			if _, err := g.Revoke(t.Context(), tt.name, tt.reason); !errors.Is(err, tt.want) {
				t.Errorf("Revoke(%q, %q): %v; want %v", tt.name, tt.reason, err, tt.want)
			}
		}
	})
}

// A revocation does not give back the orders of a day; but the last one is kept for it.
func TestACMERevokeCounts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const name = "chat.example.org"
		ca, g, _ := acmeForAnHour(t, dir)
		settle := func() {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		for range acmeEarlyADay {
			if err := g.Renew(name); err != nil {
				t.Fatal(err)
			}
			settle()
		}
		for i, want := range []int{acmeEarlyRevoked + 1, acmeEarlyRevoked + 1} {
			if _, err := g.Revoke(t.Context(), name, "superseded"); err != nil {
				t.Fatal(err)
			}
			settle()
			if ca.ordered() != want || g.one(t).Revoked != (i == 1) {
				t.Errorf("%d orders after revocation %d; want %d", ca.ordered(), i+1, want)
			}
			if err := g.Renew(name); !errors.Is(err, ErrACMEState) {
				t.Errorf("Renew = %v", err)
			}
		}
		time.Sleep(24 * time.Hour)
		settle()
		if ca.ordered() != acmeEarlyRevoked+2 || g.one(t).Revoked {
			t.Errorf("%d orders after a day; want %d", ca.ordered(), acmeEarlyRevoked+2)
		}
	})
}

// Requests at the same time are for the same certificate: it is revoked at most once,
// and one is ordered.
func TestACMERevokeAndRenewAtOnce(t *testing.T) {
	for _, renew := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			const name = "chat.example.org"
			ca, g, first := acmeForAnHour(t, dir)
			k, _ := g.keeper(name)
			k.revoking <- struct{}{} // both have begun before one goes on
			errs := make(chan error, 2)
			for range cap(errs) {
				go func() {
					_, err := g.Revoke(t.Context(), name, "superseded")
					errs <- err
				}()
			}
			synctest.Wait()
			if renew {
				if err := g.Renew(name); err != nil {
					t.Error(err)
				}
			}
			<-k.revoking
			refused := 0
			for range cap(errs) {
				if err := <-errs; errors.Is(err, ErrACMEState) {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if s := g.one(t); ca.ordered() != 2 || len(ca.revoked) != cap(errs)-refused || refused == 0 || refused == 2 && !renew || s.Revoked || g.cert(name) == first {
				t.Errorf("%d orders and %d revocations, %d refused; status %+v", ca.ordered(), len(ca.revoked), refused, s)
			}
		})
	}
}

// A wish for a certificate while one is being ordered is fulfilled by that.
func TestACMERenewWhileOrdering(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		_, g, first := acmeForAnHour(t, dir)
		next := *first
		next.Leaf = new(x509.Certificate)
		for _, tt := range []struct {
			now  *tls.Certificate // when the keeper heeds the wish
			want acmeReason
		}{{first, acmeWanted}, {&next, ""}} {
			k := newACMEKeeper(g.ACME, []string{"chat.example.org"}) // that runs nowhere
			k.cert = first
			k.wants(acmeWish{renew: true})
			k.cert = tt.now
			if k.heed(); k.anew != tt.want {
				t.Errorf("due because it is %q; want %q", k.anew, tt.want)
			}
		}
	})
}

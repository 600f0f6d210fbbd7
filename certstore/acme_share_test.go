package certstore

// These tests cover several gates on one cache folder, a failing cache, and a
// clock that jumps.

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/minica"
	"wssgate/files"
)

// Two gates order each certificate once, at first and at each renewal. They
// answer each other's challenges, and both serve the certificate.
func TestACMETwoGates(t *testing.T) {
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		t.Run(challenge, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := newACMETestCA(t)
				names := []string{"a.example.org", "b.example.org", "c.example.org"}
				var gates []*acmeTestGate
				for range 2 {
					g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
						o.Names, o.TLSALPN, o.HTTP01, o.Poll = names, challenge == "tls-alpn-01", challenge == "http-01", 24*time.Hour
					})
					defer g.Close()
					gates = append(gates, g)
				}
				// The load balancer sends each validation to the gate that did
				// not order.
				ca.gates = []*acmeTestGate{}
				ca.invalid = func(name, _ string) *acmeTestProblem {
					ca.gates = gates
					for i, g := range gates {
						for _, s := range g.Status() {
							if s.Name == name && s.State == ACMEOrdering {
								ca.gates = []*acmeTestGate{gates[1-i]}
							}
						}
					}
					return nil
				}
				gates[0].Start()
				gates[1].Start()
				for round := 1; round <= 3; round++ {
					time.Sleep(time.Hour)
					synctest.Wait()
					for _, name := range names {
						a, b := gates[0].cert(name), gates[1].cert(name)
						if a == nil || b == nil {
							t.Fatalf("%s: %s and %s; logs:\n%s\n%s", name, acmeDescribe(a), acmeDescribe(b), gates[0].log.String(), gates[1].log.String())
						}
						if !a.Leaf.Equal(b.Leaf) {
							t.Errorf("round %d: %s: gates have %s and %s", round, name, acmeDescribe(a), acmeDescribe(b))
						}
					}
					if got, want := ca.ordered(), round*len(names); got != want {
						t.Errorf("round %d: %d orders; want %d", round, got, want)
					}
					time.Sleep(64 * 24 * time.Hour)
				}
				if n := len(ca.accounts); n != 1 {
					t.Errorf("%d accounts; want 1", n)
				}
			})
		})
	}
}

// Failures are counted for all gates: two gates do not ask the CA twice as
// often.
func TestACMETwoGatesBackOffTogether(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(string, string) *acmeTestProblem {
			return &acmeTestProblem{Type: "dns", Detail: "SERVFAIL", Status: 400}
		}
		a, b := newACMETestGate(t, ca, dir, nil), newACMETestGate(t, ca, dir, nil)
		defer a.Close()
		defer b.Close()
		a.Start()
		b.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := ca.ordered(); n < 4 || n > 5 {
			t.Errorf("%d orders in an hour; want 4 or 5", n)
		}
		for _, g := range []*acmeTestGate{a, b} {
			if s := g.one(t); s.Failures != ca.ordered() || !strings.Contains(s.Err, "SERVFAIL") {
				t.Errorf("status = %+v; want %d failures", s, ca.ordered())
			}
		}
	})
}

// While one gate orders, the other names it in its status. It waits as long as
// the first gate is alive, and takes over a minute after its death.
func TestACMETakesOverFromDeadGate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var seen acmeSighting
		cache := acmeCache{}
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		cache = g.cache
		other, err := cache.acquire(t.Context(), "chat.example.org+lease", "other/1/abc", &seen)
		if err != nil || other == nil {
			t.Fatalf("acquire = %v, %v", other, err)
		}
		g.Start()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if ca.ordered() != 0 {
			t.Error("ordered under another's lease")
		}
		if s := g.one(t); s.State != ACMEElsewhere || s.LeaseOwner != "other/1/abc" {
			t.Errorf("status = %+v; want elsewhere, other/1/abc", s)
		}
		other.cancel(errors.New("killed")) // no more beats, no release
		<-other.ended
		time.Sleep(acmeLeaseTTL - acmeLeaseBeat)
		synctest.Wait()
		if ca.ordered() != 0 {
			t.Error("took over too early")
		}
		time.Sleep(acmeLeaseBeat + acmeLeaseAgain + acmeLeaseSettle + 10*time.Second)
		synctest.Wait()
		if g.cert("chat.example.org") == nil {
			t.Errorf("not taken over:\n%s", g.log.String())
		}
		if _, err := os.Stat(filepath.Join(dir, "chat.example.org+lease")); err == nil {
			t.Error("the lease is left")
		}
	})
}

// A gate that dies in its first order, while it creates the account's key,
// leaves two leases. Together they delay the next gate by one lease.
func TestACMEDiesInFirstOrder(t *testing.T) {
	for _, left := range [][]string{{"chat.example.org+lease"}, {"chat.example.org+lease", acmeAccountFile + acmeLeaseSuffix}} {
		dir := t.TempDir()
		for _, file := range left {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(`{"id":"dead","beat":2,"owner":"dead/1/x"}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			g := newACMETestGate(t, newACMETestCA(t), dir, nil)
			defer g.Close()
			began := time.Now()
			g.Start()
			for g.cert("chat.example.org") == nil && time.Since(began) < time.Hour {
				time.Sleep(time.Second)
			}
			if took, want := time.Since(began), acmeLeaseTTL+2*(acmeLeaseAgain+acmeLeaseSettle); took > want {
				t.Errorf("%d leases cost %v; want %v", len(left), took, want)
			}
		})
	}
}

// An owner that was frozen and has lost its lease abandons its order. This does
// not count as a failure.
func TestACMELeaseLost(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.silent = true
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		synctest.Wait()
		path := filepath.Join(dir, "chat.example.org+lease")
		data, _ := json.Marshal(acmeLeaseFile{ID: "thief", Beat: 1, Owner: "thief/1/x"})
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(acmeLeaseBeat + time.Second)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEElsewhere || s.LeaseOwner != "thief/1/x" || s.Failures != 0 {
			t.Errorf("status = %+v; want elsewhere, thief/1/x", s)
		}
		if f, err := g.cache.lease(t.Context(), "chat.example.org+lease"); err != nil || f.ID != "thief" {
			t.Errorf("lease = %+v, %v; want the thief's", f, err)
		}
		if !strings.Contains(g.log.String(), "lease lost to another gate") {
			t.Errorf("log does not say why:\n%s", g.log.String())
		}
	})
}

// An empty or incomplete lease, from a gate that died while writing it, is
// valid for a minute like any other.
func TestACMELeaseTorn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		os.WriteFile(filepath.Join(dir, "chat.example.org+lease"), []byte(`{"id":"a`), 0o600)
		g.Start()
		time.Sleep(acmeLeaseTTL - time.Second)
		synctest.Wait()
		if ca.ordered() != 0 {
			t.Error("ordered under it")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if g.cert("chat.example.org") == nil {
			t.Error("it stands for ever")
		}
	})
}

// Only one of many applicants has a lease at any time, also after a dead owner.
func TestACMELeaseExcludes(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cache := newACMETestGate(t, newACMETestCA(t), dir, nil)
		defer cache.Close()
		os.WriteFile(filepath.Join(dir, "lease"), nil, 0o600) // from a dead owner
		var holders, taken atomic.Int32
		done := make(chan struct{})
		for i := range 8 {
			go func() {
				defer func() { done <- struct{}{} }()
				var seen acmeSighting
				for range 3 {
					var l *acmeLease
					for l == nil {
						var err error
						if l, err = cache.cache.acquire(t.Context(), "lease", fmt.Sprint(i), &seen); err != nil {
							t.Error(err)
							return
						}
						if l == nil {
							time.Sleep(5 * time.Second)
						}
					}
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d hold the lease", n)
					}
					taken.Add(1)
					time.Sleep(acmeLeaseTTL * 3 / 2) // beats renew it
					holders.Add(-1)
					l.release()
					time.Sleep(time.Second)
				}
			}()
		}
		for range 8 {
			<-done
		}
		if n := taken.Load(); n != 24 {
			t.Errorf("taken %d times; want 24", n)
		}
	})
}

// If two gates take over from a dead owner, the last one to write gets the
// lease; the first one notices and withdraws.
func TestACMELeaseTakeOverRace(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := newACMETestGate(t, newACMETestCA(t), dir, nil)
		defer g.Close()
		os.WriteFile(filepath.Join(dir, "lease"), nil, 0o600) // from a dead owner
		var won [2]bool
		for i := range won {
			go func() {
				var err error
				l := &acmeLease{cache: g.cache, key: "lease", file: acmeLeaseFile{ID: fmt.Sprint(i)}}
				if won[i], err = l.takeOver(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(acmeLeaseSettle / 2)
		}
		time.Sleep(2 * acmeLeaseSettle)
		synctest.Wait()
		if won[0] || !won[1] {
			t.Errorf("won = %v; want the second alone", won)
		}
	})
}

// A certificate that an operator deletes from the cache is replaced, with a new
// key. The old one is served until then.
func TestACMEDeletedFromCache(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, old := acmeForAnHour(t, dir)
		ca.set(func() { ca.down = errors.New("down") })
		if err := os.Remove(filepath.Join(dir, "chat.example.org")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(acmePoll)
		synctest.Wait()
		if g.cert("chat.example.org") != old {
			t.Error("the old one is gone before there is a new one")
		}
		ca.set(func() { ca.down = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if now := g.cert("chat.example.org"); now == old {
			t.Error("not obtained anew")
		}
		if _, err := os.Stat(filepath.Join(dir, "chat.example.org")); err != nil {
			t.Error(err)
		}
	})
}

// A job that repeatedly deletes or overwrites the file is not an operator. It
// causes three orders a day at most, which stays below the CA's limits.
func TestACMEDeletedAgainAndAgain(t *testing.T) {
	for what, spoil := range map[string]func(path string) error{
		"deleted":  os.Remove,
		"replaced": func(path string) error { return os.WriteFile(path, []byte("something else"), 0o600) },
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = 10 * time.Minute })
			defer g.Close()
			g.Start()
			time.Sleep(time.Hour + 5*time.Minute) // between two looks
			for day := range 2 {
				before := ca.ordered()
				for range 24 {
					spoil(filepath.Join(dir, "chat.example.org"))
					time.Sleep(time.Hour)
				}
				synctest.Wait()
				if n := ca.ordered() - before; n != acmeEarlyADay {
					t.Errorf("%s every hour of day %d: %d orders; want %d", what, day+1, n, acmeEarlyADay)
				}
			}
			if g.cert("chat.example.org") == nil {
				t.Error("none is served")
			}
		})
	}
}

// Deleting the file does not delay renewals: a short-lived certificate is
// renewed in time, whether its file exists or not.
func TestACMEDeletedAndDue(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.lifetime = 12 * time.Hour
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = 10 * time.Minute })
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour + 5*time.Minute)
		for hour := range 48 {
			os.Remove(filepath.Join(dir, "chat.example.org"))
			time.Sleep(time.Hour)
			synctest.Wait()
			if left := time.Until(g.cert("chat.example.org").Leaf.NotAfter); left < 5*time.Hour {
				t.Fatalf("after %d hours %v are left; want it renewed at six hours", hour+1, left)
			}
		}
	})
}

// A certificate that disappears and returns is not ordered again.
func TestACMEBackInCache(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const poll = 10 * time.Minute
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = poll })
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		ca.set(func() { ca.down = errors.New("down") })
		path := filepath.Join(dir, "chat.example.org")
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * poll)
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(poll)
		ca.set(func() { ca.down = nil })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if ca.ordered() != 1 || g.installs != 1 {
			t.Errorf("%d orders, installed %d times; want one each", ca.ordered(), g.installs)
		}
	})
}

// A failure that could not be written to the cache is remembered, and written
// later.
func TestACMERecordUnwritten(t *testing.T) {
	g := newACMETestGate(t, newACMETestCA(t), t.TempDir(), nil)
	defer g.Close()
	k, _ := g.keeper("chat.example.org")
	path := filepath.Join(g.cache.dir, "chat.example.org+state")
	if err := os.Mkdir(path, 0o700); err != nil { // no file can be renamed over it
		t.Fatal(err)
	}
	k.fail(errors.New("no"))
	if r, err := k.readRecord(); err != nil || r.Failures != 1 || !strings.Contains(g.one(t).Err, "acme: cache: ") {
		t.Errorf("record = %+v, %v, status %+v; want one failure, and the cache's error", r, err, g.one(t))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	k.turn()
	if data, err := os.ReadFile(path); err != nil || !strings.Contains(string(data), `"failures": 1`) {
		t.Errorf("file = %q, %v; want one failure", data, err)
	}
	if s := g.one(t); s.Failures != 1 || s.Err != "no" {
		t.Errorf("status = %+v; want the failure", s)
	}
}

// A file from another gate or an operator is installed within one Poll. An
// incomplete file changes nothing, and is replaced.
func TestACMEPicksUpFiles(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, old := acmeForAnHour(t, dir)
		pair := ca.ca.Issue("chat.example.org")
		os.WriteFile(filepath.Join(dir, "chat.example.org"), append(pair.KeyPEM(), pair.ChainPEM()...), 0o600)
		time.Sleep(acmePoll)
		synctest.Wait()
		if got := g.cert("chat.example.org"); !got.Leaf.Equal(pair.Cert) {
			t.Errorf("serves %s; want the new file's", acmeDescribe(got))
		}
		ca.set(func() { ca.down = errors.New("down") })
		os.WriteFile(filepath.Join(dir, "chat.example.org"), pair.KeyPEM(), 0o600)
		time.Sleep(acmePoll)
		synctest.Wait()
		if got := g.cert("chat.example.org"); !got.Leaf.Equal(pair.Cert) {
			t.Errorf("serves %s after a torn file", acmeDescribe(got))
		}
		ca.set(func() { ca.down = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := g.cert("chat.example.org"); got.Leaf.Equal(pair.Cert) || got == old {
			t.Error("the torn file was not replaced")
		}
	})
}

// Gates with different configurations, as during a rollout, each obey their own
// back-off, although they write the same record.
func TestACMETwoCAsBackOff(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cas := []*acmeTestCA{newACMETestCA(t), newACMETestCA(t)}
		for i, ca := range cas {
			ca.invalid = func(string, string) *acmeTestProblem {
				return &acmeTestProblem{Type: "dns", Detail: "SERVFAIL", Status: 400}
			}
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Directory += fmt.Sprint("?", i) })
			defer g.Close()
			g.Start()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for i, ca := range cas {
			if n := ca.ordered(); n < 4 || n > 5 {
				t.Errorf("CA %d: %d orders in an hour; want 4 or 5", i, n)
			}
		}
		if err := os.Remove(filepath.Join(dir, "chat.example.org+state")); err != nil {
			t.Fatal(err)
		}
		before := cas[0].ordered() + cas[1].ordered()
		time.Sleep(time.Minute)
		synctest.Wait()
		if cas[0].ordered()+cas[1].ordered() == before {
			t.Error("no try at once after the record was removed")
		}
	})
}

// A new CA in the configuration issues all certificates again, once. Another
// CA's refusals do not delay it.
func TestACMEAnotherCA(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		staging, real := newACMETestCA(t), newACMETestCA(t)
		g := newACMETestGate(t, staging, dir, func(o *ACMEOptions) { o.Directory = acmeTestURL + "/directory?staging" })
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		old := g.cert("chat.example.org")
		g2 := newACMETestGate(t, real, dir, nil)
		if g2.cert("chat.example.org") == nil {
			t.Error("the old one is not served meanwhile")
		}
		g2.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		if now := g2.cert("chat.example.org"); now.Leaf.Equal(old.Leaf) || real.ordered() != 1 {
			t.Errorf("still %s; %d orders", acmeDescribe(now), real.ordered())
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if staging.ordered() != 1 || real.ordered() != 1 {
			t.Errorf("gates with two configurations made %d and %d orders; want 1 and 1", staging.ordered(), real.ordered())
		}
		if !g.cert("chat.example.org").Leaf.Equal(g2.cert("chat.example.org").Leaf) {
			t.Error("the gate with the old configuration did not pick it up")
		}
		g.Close()
		g2.Close()

		// One CA's refusals do not apply to another.
		r := acmeRecord{CA: acmeTestURL + "/directory?staging", Failures: 9, Next: time.Now().Add(12 * time.Hour), Err: "no"}
		os.WriteFile(filepath.Join(dir, "chat.example.org+state"), r.encode(), 0o600)
		g3 := newACMETestGate(t, real, dir, nil)
		if s := g3.one(t); s.Failures != 0 || s.Err != "" {
			t.Errorf("status = %+v; want no failures", s)
		}
		g3.Close()
	})
}

// A cache that is read-only or unreadable takes no certificate out of service,
// and causes no orders whose result would be lost. It is reported once.
func TestACMECacheBroken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	synctest.Test(t, func(t *testing.T) {
		ca, g, old := acmeForAnHour(t, dir)
		if err := os.Rename(dir, dir+".gone"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || !strings.Contains(s.Err, "acme: cache: ") {
			t.Errorf("status = %+v; want valid, and what is wrong", s)
		}
		if g.cert("chat.example.org") != old || ca.ordered() != 1 {
			t.Errorf("a folder that is gone led to %d orders", ca.ordered()-1)
		}
		if n := strings.Count(g.log.String(), "cache failed"); n != 1 {
			t.Errorf("complained %d times; want once:\n%s", n, g.log.String())
		}
		if err := os.Rename(dir+".gone", dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(acmePoll)
		synctest.Wait()
		if s := g.one(t); s.Err != "" || s.State != ACMEValid {
			t.Errorf("status = %+v; want valid again", s)
		}
	})
}

// A cache that hangs, such as a network file system without its server, delays
// neither the start nor Close. Calls that return after Close change nothing.
func TestACMECacheHangs(t *testing.T) {
	for _, test := range []struct {
		name  string
		close bool // Close while the cache hangs
	}{{"until it is back", false}, {"until the end", true}} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			names := func(o *ACMEOptions) { o.Names = []string{"a.example.org", "b.example.org", "c.example.org"} }
			for _, name := range []string{"a.example.org", "b.example.org", "c.example.org"} {
				pair := minica.NewCA("root").IssueSpec(minica.Spec{Names: []string{name}, NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2000, 4, 1, 0, 0, 0, 0, time.UTC)})
				if err := os.WriteFile(filepath.Join(dir, name), append(pair.KeyPEM(), pair.ChainPEM()...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				resume := files.Stall(dir)
				began := time.Now()
				g := newACMETestGate(t, newACMETestCA(t), dir, names)
				g.Start()
				if took := time.Since(began); took != files.Patience {
					t.Errorf("the start took %v; want %v, however many names there are", took, files.Patience)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				began = time.Now()
				if test.close {
					g.Close()
					if took := time.Since(began); took > acmeGoodbye {
						t.Errorf("Close took %v", took)
					}
				}
				resume()
				synctest.Wait()
				if want := 3; g.installs != want && !test.close || g.installs > 0 && test.close {
					t.Errorf("%d certificates were installed at once", g.installs)
				}
				if n := strings.Count(g.log.String(), "\n"); n != 2 || !strings.Contains(g.log.String(), dir) {
					t.Errorf("want two lines, that it hangs and that it is back:\n%s", g.log.String())
				}
				g.Close()
			})
		})
	}
}

// A folder that is suddenly empty has lost its volume, because an operator
// would not delete the account as well. No order writes to it.
func TestACMECacheUnmounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	synctest.Test(t, func(t *testing.T) {
		ca, g, old := acmeForAnHour(t, dir)
		if err := errors.Join(os.Rename(dir, dir+".volume"), os.Mkdir(dir, 0o700)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || !strings.Contains(s.Err, "is empty") {
			t.Errorf("status = %+v; want valid, and what is wrong", s)
		}
		if g.cert("chat.example.org") != old || ca.ordered() != 1 {
			t.Errorf("a volume that is gone led to %d orders", ca.ordered()-1)
		}
		if err := errors.Join(os.Remove(dir), os.Rename(dir+".volume", dir)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(acmePoll)
		synctest.Wait()
		if s := g.one(t); s.Err != "" || s.State != ACMEValid || ca.ordered() != 1 {
			t.Errorf("status = %+v, %d orders; want valid again, one order", s, ca.ordered())
		}
	})
}

// An unreadable file may be a good certificate, so it is not replaced.
func TestACMECacheUnreadable(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, acmeMark), nil, 0o600)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "chat.example.org")
		os.Mkdir(path, 0o700) // reads as EISDIR
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); ca.ordered() != 0 || s.State != ACMEWaiting || !strings.Contains(s.Err, path) {
			t.Errorf("%d orders, status = %+v; want none, and the file's name", ca.ordered(), s)
		}
		os.Remove(path)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); ca.ordered() != 1 || s.State != ACMEValid {
			t.Errorf("%d orders, status = %+v; want one, valid", ca.ordered(), s)
		}
	})
}

// A lease that cannot be taken, for instance on a read-only volume, is reported
// once.
func TestACMECacheReadOnly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "chat.example.org+lease")
		os.Mkdir(path, 0o700)
		os.WriteFile(filepath.Join(dir, acmeMark), nil, 0o600)
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		for range 60 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := g.one(t); s.State != ACMEWaiting || !strings.Contains(s.Err, "acme: lease: ") {
				t.Fatalf("status = %+v; want waiting, and the error", s)
			}
		}
		if n := strings.Count(g.log.String(), "cache failed"); n != 1 || ca.ordered() != 0 {
			t.Errorf("complained %d times, %d orders; want once, none", n, ca.ordered())
		}
		os.Remove(path)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || s.Err != "" {
			t.Errorf("status = %+v; want valid", s)
		}
	})
}

// A certificate that could not be written to the cache is served, kept and
// written later. It is not ordered again.
func TestACMECacheFull(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		path := filepath.Join(dir, "chat.example.org")
		ca.invalid = func(string, string) *acmeTestProblem {
			os.Mkdir(path, 0o700) // no file can be renamed over a folder
			return nil
		}
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		cert := g.cert("chat.example.org")
		if cert == nil || ca.ordered() != 1 {
			t.Fatalf("%s after %d orders; want one, served", acmeDescribe(cert), ca.ordered())
		}
		if s := g.one(t); s.Err == "" || s.State != ACMEValid {
			t.Errorf("status = %+v; want the error", s)
		}
		os.Remove(path)
		time.Sleep(acmePoll)
		synctest.Wait()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if saved, err := acmeDecode("chat.example.org", data); err != nil || !saved.Leaf.Equal(cert.Leaf) {
			t.Errorf("saved %v, %v; want %s", saved, err, acmeDescribe(cert))
		}
		if s := g.one(t); s.Err != "" || ca.ordered() != 1 {
			t.Errorf("status = %+v, %d orders", s, ca.ordered())
		}
	})
}

// A gate that gets the account's lease after another gate has released it uses
// that gate's key.
func TestACMEAccountKeyMadeOnce(t *testing.T) {
	dir := t.TempDir()
	ca := newACMETestCA(t)
	a, b := newACMETestGate(t, ca, dir, nil), newACMETestGate(t, ca, dir, nil)
	defer a.Close()
	defer b.Close()
	first, err := a.cas[0].makeAccountKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := b.cas[0].makeAccountKey(t.Context()); err != nil || !first.(*ecdsa.PrivateKey).Equal(second) {
		t.Errorf("the second gate has %v, %v; want the first one's key", second, err)
	}
}

// A damaged account key is an error that names the file. It is not replaced.
func TestACMEAccountKeyDamaged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "acme_account+key")
		const damaged = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"
		os.WriteFile(path, []byte(damaged), 0o600)
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := g.one(t); !strings.Contains(s.Err, path) || !strings.Contains(s.Err, "account: key ") {
			t.Errorf("status says %q; want the file", s.Err)
		}
		if data, _ := os.ReadFile(path); string(data) != damaged {
			t.Errorf("the key was replaced by %q", data)
		}
	})
}

// A jump of the wall clock takes nothing out of service. Once the clock is
// right again, it prevents neither renewals nor retries.
func TestACMEClockJumps(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		wall := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.wall, o.Poll = wall, 6*time.Hour })
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		first := g.cert("chat.example.org")

		// 40 years ahead, the CA's own certificate has expired.
		ca.set(func() { ca.down = errors.New("x509: certificate has expired or is not yet valid") })
		jump.Store(int64(40 * 365 * 24 * time.Hour))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if g.cert("chat.example.org") != first {
			t.Error("a clock that is ahead took the certificate down")
		}
		if s := g.one(t); s.State != ACMEExpired || s.Failures == 0 || !strings.Contains(s.Err, "not yet valid") {
			t.Errorf("status = %+v; want expired and why", s)
		}
		// With the right time again, the record's next attempt is 40 years
		// away, which is ignored.
		jump.Store(0)
		ca.set(func() { ca.down = nil })
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || s.NextTry.After(first.Leaf.NotAfter) {
			t.Errorf("status = %+v; want valid", s)
		}

		// 30 years back, the certificate is not valid yet, which is no reason
		// to order.
		orders := ca.ordered()
		jump.Store(-int64(29 * 365 * 24 * time.Hour))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if ca.ordered() != orders || g.cert("chat.example.org") != first {
			t.Error("a clock that is behind led to an order")
		}
		jump.Store(0)
		// Renewal happens in time, although no timer was set for it.
		time.Sleep(62 * 24 * time.Hour)
		synctest.Wait()
		if now := g.cert("chat.example.org"); now == first || g.one(t).State != ACMEValid {
			t.Errorf("not renewed: %s, %+v", acmeDescribe(now), g.one(t))
		}
	})
}

// If the clock is so far ahead that each certificate is due when it arrives,
// the gate stays below the CA's rate limits. Neither a machine that sleeps nor
// the correction of the clock delays the next renewal.
func TestACMEClockAhead(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const poll = time.Hour
		var jump atomic.Int64
		ca := newACMETestCA(t)
		ca.lifetime = 160 * time.Hour // Let's Encrypt's short-lived profile
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Poll, o.wall = poll, func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		})
		defer g.Close()
		jump.Store(int64(96 * time.Hour))
		g.Start()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := ca.ordered(); n > 3 {
			t.Errorf("%d orders in a day; want 3 at most", n)
		}
		jump.Store(0)
		last := g.cert("chat.example.org")
		time.Sleep(time.Until(last.Leaf.NotAfter) - 75*time.Hour)
		synctest.Wait()
		if g.cert("chat.example.org") == last {
			t.Error("not renewed once the clock was right")
		}
		// The machine sleeps for longer than the new certificate's lifetime.
		last = g.cert("chat.example.org")
		jump.Store(int64(time.Until(last.Leaf.NotAfter) + time.Minute))
		ca.set(func() { ca.lifetime = 1000 * time.Hour })
		time.Sleep(poll + time.Minute)
		synctest.Wait()
		if g.cert("chat.example.org") == last {
			t.Error("not renewed after the machine's sleep")
		}
	})
}

// A CA whose certificates are due on arrival is not asked again at once.
func TestACMEDueAtOnce(t *testing.T) {
	for _, tt := range []struct {
		lifetime, backdate time.Duration
		during             time.Duration
		least, most        int // orders in that time
	}{
		{time.Hour, 1000 * time.Hour, time.Minute, 1, 1},
		{time.Minute, 1000 * time.Hour, time.Minute, 3, 4},
		{3 * time.Second, 0, 12 * time.Second, 4, 13},
		{time.Second, time.Hour, 12 * time.Second, 4, 13},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.lifetime, ca.backdate = tt.lifetime, tt.backdate
			g := newACMETestGate(t, ca, dir, nil)
			defer g.Close()
			g.Start()
			time.Sleep(tt.during)
			synctest.Wait()
			if n := ca.ordered(); n < tt.least || n > tt.most {
				t.Errorf("certificates of %v that began %v ago: %d orders in %v; want %d to %d", tt.lifetime, tt.backdate, n, tt.during, tt.least, tt.most)
			}
		})
	}
}

// A slow cache delays a start by files.Patience in all, whatever the number of
// names, and does not delay Commit. The other certificates are installed when
// they have been read. The same holds for a cache that hangs.
func TestACMESlowCache(t *testing.T) {
	for _, each := range []time.Duration{30 * time.Millisecond, time.Hour} {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, acmeMark), nil, 0o600)
		var names, more []string
		for i := range 80 {
			name := fmt.Sprintf("n%d.example.org", i)
			cert := ca.Issue(name)
			if err := os.WriteFile(filepath.Join(dir, name), append(cert.KeyPEM(), cert.ChainPEM()...), 0o600); err != nil {
				t.Fatal(err)
			}
			if more = append(more, name); i%2 == 0 {
				names = append(names, name)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			end := files.Delay(filepath.Join(dir, "n"), each)
			began := time.Now()
			lasts := func(what string, most time.Duration) {
				t.Helper()
				if took := time.Since(began); took > most {
					t.Errorf("%v: %s took %v; want at most %v", each, what, took, most)
				}
				began = time.Now()
			}
			g := newACMETestGate(t, newACMETestCA(t), dir, func(o *ACMEOptions) { o.Names, o.Poll = names, time.Hour })
			defer g.Close()
			g.Start()
			lasts("the start", files.Patience)
			if each < time.Second && (g.installs == 0 || g.installs == len(names)) {
				t.Errorf("%d of %d names are installed", g.installs, len(names))
			}
			if list := files.Hanging(); len(list) != 1 || list[0].What != "acme: cache" {
				t.Errorf("hanging: %+v", list)
			}
			n, err := g.PrepareNames(more)
			if err != nil {
				t.Fatal(err)
			}
			lasts("the preparation", files.Patience)
			if g.cert("n1.example.org") != nil {
				t.Error("a name is served before it is configured")
			}
			n.Commit()
			lasts("the commit", 0)
			end()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			for _, name := range more {
				if g.cert(name) == nil {
					t.Errorf("%v: no certificate for %s", each, name)
				}
			}
			if list := files.Hanging(); len(list) != 0 {
				t.Errorf("hanging: %+v", list)
			}
			// An abandoned set of names is never installed.
			if n, err = g.PrepareNames([]string{"other.example.org"}); err != nil {
				t.Fatal(err)
			}
			n.Abandon()
			began = time.Now()
			g.Close()
			lasts("the end", 0)
		})
	}
}

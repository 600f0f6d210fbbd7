package certstore

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// served returns a certificate in use for a name, as a Store would find it.
func (g *acmeTestGate) served(name string) *x509.Certificate {
	g.mu.Lock()
	defer g.mu.Unlock()
	var best *x509.Certificate
	for _, cert := range g.certs {
		if cert.Leaf.VerifyHostname(name) == nil && (best == nil || cert.Leaf.NotAfter.After(best.NotAfter)) {
			best = cert.Leaf
		}
	}
	return best
}

// Several names share one certificate, one order and one renewal. Each name is
// validated, here by a gate that did not order.
func TestACMETogether(t *testing.T) {
	for _, challenge := range []string{"tls-alpn-01", "http-01"} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			names := []string{"b.example.org", "a.example.org", "xn--bcher-kva.example"}
			edit := func(o *ACMEOptions) {
				o.Names, o.Together = []string{"single.example.org"}, [][]string{{"B.example.org", "a.example.org.", "bücher.example"}}
				o.Poll = 24 * time.Hour
				o.TLSALPN, o.HTTP01 = challenge == "tls-alpn-01", challenge == "http-01"
			}
			g := newACMETestGate(t, ca, dir, edit)
			defer g.Close()
			other := newACMETestGate(t, ca, dir, edit)
			defer other.Close()
			ca.gates = []*acmeTestGate{other}
			g.Start()
			time.Sleep(time.Hour)
			synctest.Wait()
			for round := 1; round <= 2; round++ {
				leaf := g.served(names[0])
				if leaf == nil || !slices.Equal(leaf.DNSNames, names) || ca.ordered() != 2*round {
					t.Fatalf("%s: %d orders, certificate %v\n%s", challenge, ca.ordered(), leaf, g.log.String())
				}
				for _, name := range names {
					if !g.served(name).Equal(leaf) {
						t.Errorf("%s has another certificate", name)
					}
				}
				time.Sleep(65 * 24 * time.Hour)
				synctest.Wait()
			}
			s := g.Status()
			if len(s) != 2 || s[0].Name != names[0] || !slices.Equal(s[0].Names, names) || s[0].State != ACMEValid {
				t.Errorf("status %+v", s)
			}
			if _, err := g.Revoke(t.Context(), "a.example.org", "superseded"); err != nil { // by any of its names
				t.Error(err)
			}
		})
	}
}

// If the validation of one of several names fails, the error names it. No
// certificate is obtained, and no files remain.
func TestACMETogetherFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(name, _ string) *acmeTestProblem {
			if name == "c.example.org" {
				return &acmeTestProblem{Type: "dns", Detail: "NXDOMAIN", Status: 400}
			}
			return nil
		}
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Names, o.Together = nil, [][]string{{"a.example.org", "b.example.org", "c.example.org"}}
		})
		defer g.Close()
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		s := g.one(t)
		if want := `acme: order for "a.example.org" and 2 more: tls-alpn-01: c.example.org: dns: NXDOMAIN`; s.Failures != 1 || s.Err != want {
			t.Errorf("status %+v; want %s", s, want)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*+token")); left != nil {
			t.Errorf("answers are left: %s", left)
		}
		ca.set(func() { ca.invalid = nil })
		if err := g.Retry("b.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A changed list of names gets a new order. Until it succeeds, each name is
// served from the cache, also after a reload and a restart. Failures of another
// list do not count. Unchanged lists are not ordered again.
func TestACMENamesChange(t *testing.T) {
	one := func(names ...string) []string { return names }
	for _, tt := range []struct {
		what   string
		names  []string
		lists  [][]string
		to     []string
		tos    [][]string
		orders int // after the change
	}{
		{"a name more", nil, [][]string{one("a", "b")}, nil, [][]string{one("a", "b", "c")}, 1},
		{"a name less", nil, [][]string{one("a", "b", "c")}, nil, [][]string{one("a", "c")}, 1},
		{"the first is gone", nil, [][]string{one("a", "b", "c")}, nil, [][]string{one("b", "c")}, 1},
		{"another order", nil, [][]string{one("a", "b")}, nil, [][]string{one("b", "a")}, 1},
		{"from single ones", one("a", "b", "c"), nil, one("c"), [][]string{one("b", "a")}, 1},
		{"to single ones", nil, [][]string{one("a", "b", "c")}, one("a", "b", "c"), nil, 2}, // a's file is sufficient
		{"mixed", nil, [][]string{one("a", "b"), one("c", "d")}, nil, [][]string{one("b", "c"), one("d", "a")}, 2},
		{"the same", one("x"), [][]string{one("a", "b")}, one("x"), [][]string{one("a", "b")}, 0},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", tt.what, restart), func(t *testing.T) {
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					full := func(names []string) (out []string) {
						for _, name := range names {
							out = append(out, name+".example.org")
						}
						return out
					}
					fulls := func(lists [][]string) (out [][]string) {
						for _, list := range lists {
							out = append(out, full(list))
						}
						return out
					}
					ca := newACMETestCA(t)
					g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names, o.Together = full(tt.names), fulls(tt.lists) })
					defer func() { g.Close() }()
					g.Start()
					time.Sleep(time.Hour)
					synctest.Wait()
					before := ca.ordered()
					known := slices.Concat(append([][]string{tt.names}, tt.lists...)...)
					stay := slices.DeleteFunc(slices.Concat(append([][]string{tt.to}, tt.tos...)...), func(n string) bool { return !slices.Contains(known, n) })
					all := func(when string) {
						t.Helper()
						for _, name := range full(stay) {
							if g.served(name) == nil {
								t.Errorf("%s: %s is not served\n%s", when, name, g.log.String())
							}
						}
					}

					ca.set(func() { ca.down = os.ErrDeadlineExceeded })
					if restart {
						g.Close()
						g = newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names, o.Together = full(tt.to), fulls(tt.tos) })
						all("at the start")
						g.Start()
					} else if err := g.SetNames(full(tt.to), fulls(tt.tos)...); err != nil {
						t.Fatal(err)
					}
					all("at once")
					time.Sleep(time.Hour)
					synctest.Wait()
					all("while the CA is down")
					ca.set(func() { ca.down = nil })
					for _, s := range g.Status() {
						g.Retry(s.Name)
					}
					time.Sleep(time.Hour)
					synctest.Wait()
					all("in the end")
					if n := ca.ordered() - before; n != tt.orders {
						t.Errorf("%d orders; want %d\n%s", n, tt.orders, g.log.String())
					}
					for _, s := range g.Status() {
						if s.State != ACMEValid || s.Failures != 0 {
							t.Errorf("status %+v", s)
						}
					}
					g.mu.Lock()
					defer g.mu.Unlock()
					if len(g.certs) != len(tt.to)+len(tt.tos) {
						t.Errorf("%d certificates in service; want %d", len(g.certs), len(tt.to)+len(tt.tos))
					}
				})
			})
		}
	}
}

// A name's own file that expired while the name was in a list does not replace
// the list's certificate when the name leaves the list.
func TestACMENamesExpiredFile(t *testing.T) {
	for _, restart := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			list := [][]string{{"a.example.org", "b.example.org"}}
			single := []string{"b.example.org"}
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names, o.Poll = single, time.Hour })
			defer func() { g.Close() }()
			g.Start()
			time.Sleep(time.Hour)
			if err := g.SetNames(nil, list...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * 24 * time.Hour)
			synctest.Wait()
			ca.set(func() { ca.down = os.ErrDeadlineExceeded })
			if restart {
				g.Close()
				g = newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names, o.Poll = single, time.Hour })
				g.Start()
			} else if err := g.SetNames(single); err != nil {
				t.Fatal(err)
			}
			check := func(when string) {
				t.Helper()
				if leaf := g.served("b.example.org"); leaf == nil || time.Now().After(leaf.NotAfter) {
					t.Errorf("restart %v, %s: no valid certificate is served\n%s", restart, when, g.log.String())
				}
			}
			check("at once")
			time.Sleep(time.Hour)
			check("while the CA is down")
			ca.set(func() { ca.down = nil })
			g.Retry("b.example.org")
			time.Sleep(time.Hour)
			synctest.Wait()
			check("in the end")
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.certs) != 1 {
				t.Errorf("%d certificates in service; want one", len(g.certs))
			}
		})
	}
}

// Failures belong to a list of names: another list is tried at once.
func TestACMENamesFailures(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(name, _ string) *acmeTestProblem {
			if name == "bad.example.org" {
				return &acmeTestProblem{Type: "dns", Detail: "NXDOMAIN", Status: 400}
			}
			return nil
		}
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Names, o.Together = nil, [][]string{{"a.example.org", "bad.example.org"}}
		})
		defer g.Close()
		g.Start()
		time.Sleep(6 * time.Hour)
		if err := g.SetNames(nil, []string{"a.example.org", "b.example.org"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); s.State != ACMEValid || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Two gates with different lists on one cache, as in an unfinished rollout, do
// not order alternately. The longer list stays in use.
func TestACMENamesRollout(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		list := func(names ...string) func(*ACMEOptions) {
			return func(o *ACMEOptions) { o.Names, o.Together, o.Poll = nil, [][]string{names}, time.Hour }
		}
		old := newACMETestGate(t, ca, dir, list("a.example.org", "b.example.org"))
		defer old.Close()
		old.Start()
		time.Sleep(time.Hour)
		next := newACMETestGate(t, ca, dir, list("a.example.org", "b.example.org", "c.example.org"))
		defer next.Close()
		next.Start()
		time.Sleep(time.Hour)
		again := newACMETestGate(t, ca, dir, list("a.example.org", "b.example.org")) // a restart of the old gate
		defer again.Close()
		again.Start()
		for range 60 {
			time.Sleep(24 * time.Hour)
			if next.served("c.example.org") == nil {
				t.Fatal("c.example.org is not served any more")
			}
		}
		if n := ca.ordered(); n > 4 {
			t.Errorf("%d orders; want 4 at most", n)
		}
	})
}

// Invalid lists are refused.
func TestACMETogetherRefused(t *testing.T) {
	_, err := NewACME(ACMEOptions{Names: []string{"a.example.org"}, Together: [][]string{{"b.example.org", "*.localhost"}, {"A.example.org"}, {"b.example.org."}}})
	for _, want := range []string{`name "*.localhost": has one label only`, `name "A.example.org": is listed twice`, `name "b.example.org.": is listed twice`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

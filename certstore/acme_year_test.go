package certstore

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	acmeYearNames = flag.Int("year-names", 3, "names of the simulated year")
	acmeYearDays  = flag.Int("year-days", 42, "its days")
	acmeYearSeed  = flag.Uint64("year-seed", 1, "its seed")
)

// TestACMEYear is a simulated year of certificates of 160 hours, for two gates that share
// a cache and each restart twice a day. The CA is down for a day each week, refuses orders
// for hours at random, and once revokes everything a day after saying so (RFC 9773); the
// disk is full for a day. No handshake may see a certificate that has expired or has been
// revoked, no limit of the CA may be reached, and orders may be at most 1.2 times as many as
// the CA's windows demand. "make year" runs the whole of it.
func TestACMEYear(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { newACMEYear(t, dir).run() })
}

// An acmeYear is the simulation. Its own goroutine has everything but what mu of ca guards.
type acmeYear struct {
	t     *testing.T
	dir   string
	rand  *rand.Rand
	ca    *acmeTestCA
	names []string
	gates []*acmeTestGate
	first map[string]bool // names that have had a certificate
	full  atomic.Bool     // the disk; the CA, which asks the gates, holds mu

	// Guarded by ca.mu.
	byID      map[string]*x509.Certificate // by acmeCertID
	read      int                          // orders that are in byID
	announced time.Time                    // of the mass revocation; zero: not yet
	limited   time.Time                    // until when orders are refused
	recent    []time.Time                  // orders of the account
	replaced  map[int]bool                 // orders that are exempt from limits

	count struct {
		handshakes, none, expired, revoked int
		refused, restarts, down, limits    int
	}
}

const (
	acmeYearLife    = 160 * time.Hour
	acmeYearRevokes = 24 * time.Hour // from the announcement to the revocation
	acmeYearOrders  = 300            // for an account in acmeYearSpan
	acmeYearSpan    = 3 * time.Hour
)

func newACMEYear(t *testing.T, dir string) *acmeYear {
	y := &acmeYear{t: t, dir: dir, rand: rand.New(rand.NewPCG(*acmeYearSeed, 0)), ca: newACMETestCA(t), first: map[string]bool{}, byID: map[string]*x509.Certificate{}, replaced: map[int]bool{}}
	for i := range *acmeYearNames {
		y.names = append(y.names, fmt.Sprintf("chat.example%d.org", i))
	}
	y.ca.lifetime = acmeYearLife
	y.ca.renewal = y.renewalInfo
	y.ca.refuse = y.refuse
	return y
}

// window is when the CA wants a certificate to be renewed: at half its life, give or take
// 2 % of it.
func (y *acmeYear) window(leaf *x509.Certificate) (start, end time.Time) {
	half := leaf.NotBefore.Add(acmeYearLife / 2)
	return half.Add(-acmeYearLife / 50), half.Add(acmeYearLife / 50)
}

// revokes reports whether a certificate is among those that the CA revokes.
func (y *acmeYear) revokes(leaf *x509.Certificate) bool {
	return !y.announced.IsZero() && leaf.NotBefore.Before(y.announced)
}

func (y *acmeYear) renewalInfo(id string) (status int, retryAfter, body string) {
	y.ca.mu.Lock()
	defer y.ca.mu.Unlock()
	for ; y.read < len(y.ca.orders); y.read++ {
		o := y.ca.orders[y.read]
		if o.status != "valid" && o.status != "invalid" && o.authz != "deactivated" {
			break // its certificate may come
		}
		if o.leaf != nil {
			y.byID[acmeCertID(o.leaf)] = o.leaf
		}
	}
	leaf := y.byID[id]
	for _, o := range y.ca.orders[y.read:] {
		if o.leaf != nil && acmeCertID(o.leaf) == id {
			leaf = o.leaf
		}
	}
	if leaf == nil {
		return 404, "", `{"type":"urn:ietf:params:acme:error:malformed","detail":"no such certificate"}`
	}
	start, end := y.window(leaf)
	if y.revokes(leaf) {
		start, end = y.announced.Add(-2*time.Hour), y.announced.Add(-time.Hour)
	}
	return 200, "21600", fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.Format(time.RFC3339), end.Format(time.RFC3339))
}

// refuse is the CA's answer to an order that is over a limit, or comes at a bad hour.
func (y *acmeYear) refuse(path string, _ int) *acmeTestProblem {
	if path != "/new-order" {
		return nil
	}
	y.ca.mu.Lock()
	defer y.ca.mu.Unlock()
	now := time.Now()
	y.recent = slices.DeleteFunc(y.recent, func(at time.Time) bool { return now.Sub(at) > acmeYearSpan })
	if now.Before(y.limited) {
		y.count.refused++
		return &acmeTestProblem{Type: "rateLimited", Detail: "busy", Status: 429, retryAfter: fmt.Sprint(int(y.limited.Sub(now).Seconds()) + 1)}
	}
	if y.recent = append(y.recent, now); len(y.recent) > acmeYearOrders {
		y.count.limits++
		return &acmeTestProblem{Type: "rateLimited", Detail: "too many orders", Status: 429, retryAfter: "3600"}
	}
	return nil
}

// start starts gate i, after ending the one that runs.
func (y *acmeYear) start(i int) {
	if i < len(y.gates) {
		y.gates[i].Close()
		y.count.restarts++
	}
	g := newACMETestGate(y.t, y.ca, y.dir, func(o *ACMEOptions) {
		o.Names, o.Poll = y.names, 2*time.Hour
		o.writes = func() error {
			if y.full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	if i < len(y.gates) {
		y.gates[i] = g
	} else {
		y.gates = append(y.gates, g)
	}
	y.ca.set(func() { y.ca.gates = slices.Clone(y.gates) })
	g.Start()
}

func (y *acmeYear) run() {
	y.start(0)
	y.start(1)
	began := time.Now()
	hours := *acmeYearDays * 24
	downAt, fullAt, revokeAt := 0, hours/3, hours/2+y.rand.IntN(24)
	for h := range hours {
		if h%(7*24) == 0 {
			downAt = h + 24 + y.rand.IntN(5*24) // not while everything is revoked
			if revokeAt+24 > downAt && revokeAt < downAt+48 {
				downAt = revokeAt + 24
			}
		}
		y.full.Store(h >= fullAt && h < fullAt+24)
		y.ca.set(func() {
			y.ca.down = nil
			if h >= downAt && h < downAt+24 {
				y.ca.down = errors.New("connection refused")
				y.count.down++
			}
			if h == revokeAt {
				y.announced = time.Now()
			}
			if y.rand.IntN(60) == 0 {
				y.limited = time.Now().Add(time.Duration(1+y.rand.IntN(3)) * time.Hour)
			}
		})
		for i := range y.gates {
			if y.rand.IntN(12) == 0 {
				y.start(i)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		y.look()
	}
	for _, g := range y.gates {
		g.Close()
	}
	y.judge(time.Since(began))
}

// look is a handshake for each name at each gate.
func (y *acmeYear) look() {
	now := time.Now()
	y.ca.mu.Lock()
	defer y.ca.mu.Unlock()
	for i, g := range y.gates {
		for _, name := range y.names {
			cert := g.cert(name)
			y.count.handshakes++
			var fault string
			switch {
			case cert == nil && !y.first[name]:
			case cert == nil:
				y.count.none++
				fault = "no certificate"
			case !acmeInDates(cert.Leaf, now):
				y.count.expired++
				fault = "an expired certificate"
			case y.revokes(cert.Leaf) && now.Sub(y.announced) >= acmeYearRevokes:
				y.count.revoked++
				fault = "a revoked certificate"
			default:
				y.first[name] = true
			}
			if fault != "" {
				y.t.Fatalf("%s: gate %d serves %s for %s; its status: %+v; its log:\n%s", now, i, fault, name, g.status(name), g.lastWords(name))
			}
		}
	}
}

func (g *acmeTestGate) status(name string) ACMEStatus {
	all := g.Status()
	return all[slices.IndexFunc(all, func(s ACMEStatus) bool { return s.Name == name })]
}

// lastWords returns the last lines of the log about a name.
func (g *acmeTestGate) lastWords(name string) string {
	var about []string
	for line := range strings.Lines(g.log.String()) {
		if strings.Contains(line, name) {
			about = append(about, line)
		}
	}
	return strings.Join(about[max(0, len(about)-10):], "")
}

// judge counts the orders and prints the table.
func (y *acmeYear) judge(took time.Duration) {
	t := y.t
	orders, issued := map[string]int{}, 0
	for _, o := range y.ca.orders {
		orders[o.names[0]]++
		if o.leaf != nil {
			issued++
		}
	}
	_, end := y.window(&x509.Certificate{})
	least := int(took/end.Sub(time.Time{})) + 1 + 1 // the first, and that after the revocation
	most := 0
	for _, n := range orders {
		most = max(most, n)
	}
	mean := float64(len(y.ca.orders)) / float64(len(y.names))
	for _, row := range []struct {
		what string
		n    any
	}{
		{"days", *acmeYearDays}, {"names", len(y.names)}, {"restarts of two gates", y.count.restarts},
		{"hours without the CA", y.count.down}, {"orders refused for a rate limit of the CA's own", y.count.refused},
		{"handshakes", y.count.handshakes}, {"without a certificate, after the first", y.count.none},
		{"with an expired one", y.count.expired}, {"with a revoked one", y.count.revoked},
		{"limits of the account reached", y.count.limits},
		{"orders", len(y.ca.orders)}, {"certificates", issued},
		{"orders for each name, least possible", least}, {"mean", fmt.Sprintf("%.1f", mean)}, {"most", most},
	} {
		t.Logf("%-50s %v", row.what, row.n)
	}
	if y.count.limits > 0 {
		t.Errorf("%d orders over the account's limit", y.count.limits)
	}
	if got := mean / float64(least); got > 1.2 {
		t.Errorf("%.2f times as many orders as possible; want at most 1.2", got)
	}
	if len(y.first) != len(y.names) {
		t.Errorf("%d of %d names have had a certificate", len(y.first), len(y.names))
	}
}

// A cache that fails for months costs no name its certificate, and as few orders as with
// it; what was obtained meanwhile is in it when it is back.
func TestACMECacheFailsForMonths(t *testing.T) {
	// Without leases each renewal is late; where only the file is bad, the first one is.
	for how, orders := range map[string]int{"full": 3, "unmounted": 3, "unreadable": 4} {
		t.Run(how, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			synctest.Test(t, func(t *testing.T) {
				var full atomic.Bool
				ca := newACMETestCA(t)
				g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
					o.Poll = 6 * time.Hour
					o.writes = func() error {
						if full.Load() {
							return syscall.ENOSPC
						}
						return nil
					}
				})
				defer g.Close()
				g.Start()
				time.Sleep(time.Hour)
				file := filepath.Join(dir, "chat.example.org")
				var err error
				switch how {
				case "full":
					full.Store(true)
				case "unmounted":
					err = os.Rename(dir, dir+"-away")
				case "unreadable": // it can't be replaced either
					err = errors.Join(os.Remove(file), os.Mkdir(file, 0o700))
				}
				if err != nil {
					t.Fatal(err)
				}
				for day := range 200 {
					time.Sleep(acmeDay)
					synctest.Wait()
					if cert := g.cert("chat.example.org"); !acmeInDates(cert.Leaf, time.Now()) {
						t.Fatalf("day %d: serves %s; status %+v; log:\n%s", day, acmeDescribe(cert), g.one(t), g.lastWords("chat"))
					}
				}
				if n := ca.ordered(); n != orders {
					t.Errorf("%d orders in 200 days; want %d", n, orders)
				}
				if s := g.one(t); s.Err == "" {
					t.Errorf("status %+v; want the cache's error", s)
				}
				switch how {
				case "full":
					full.Store(false)
				case "unmounted":
					err = os.Rename(dir+"-away", dir)
				case "unreadable":
					err = os.Remove(file)
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(acmeDay)
				synctest.Wait()
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if kept, err := acmeDecodeAny(data); err != nil || !kept.Leaf.Equal(g.cert("chat.example.org").Leaf) {
					t.Errorf("the cache has not what is served: %v", err)
				}
				if s := g.one(t); s.Err != "" || ca.ordered() != orders {
					t.Errorf("%d orders, status %+v; want %d, and no error", ca.ordered(), s, orders)
				}
			})
		})
	}
}

package certstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A refusal that concerns the whole account is received once, and not once for
// each name. When the CA accepts the account again, all names have their
// certificates within an hour.
func TestACMEAccountBacksOff(t *testing.T) {
	for _, tt := range []struct {
		path    string
		problem acmeTestProblem
		most    int // requests in an hour
	}{
		{"/new-account", acmeTestProblem{Type: "externalAccountRequired", Detail: "an external account is required", Status: 403}, 5},
		{"/new-account", acmeTestProblem{Type: "unauthorized", Detail: "the account is suspended", Status: 403}, 5},
		{"/new-order", acmeTestProblem{Type: "userActionRequired", Detail: "agree to the new terms", Status: 403}, 5},
		// Four orders are under way when the first is answered.
		{"/new-order", acmeTestProblem{Type: "rateLimited", Detail: "too many new orders (300) from this account in the last 3h0m0s", Status: 429, retryAfter: "1800"}, 8},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.refuse = func(path string, _ int) *acmeTestProblem {
				if path != tt.path {
					return nil
				}
				p := tt.problem
				return &p
			}
			var names []string
			for i := range 12 {
				names = append(names, fmt.Sprintf("n%d.example.org", i))
			}
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names, o.Poll = names, 10*time.Minute })
			defer g.Close()
			g.Start()
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := ca.asked("POST " + tt.path); n > tt.most+3 {
				t.Errorf("%s: %s: asked %d times in an hour; want %d", tt.path, tt.problem.Detail, n, tt.most)
			}
			for _, s := range g.Status() {
				if s.Failures == 0 || !strings.Contains(s.Err, tt.problem.Detail) {
					t.Errorf("%s: status %+v; want the CA's reason", tt.path, s)
					break
				}
			}
			ca.set(func() { ca.refuse = nil })
			time.Sleep(time.Hour + 20*time.Minute)
			synctest.Wait()
			for _, s := range g.Status() {
				if s.State != ACMEValid || s.Failures != 0 {
					t.Errorf("%s: status %+v; want valid", tt.path, s)
				}
			}
		})
	}
}

// A refusal that concerns one name does not delay other names, although the CA
// uses the same error type.
func TestACMENameIsNoAccount(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.refuse = func(path string, n int) *acmeTestProblem {
			if path == "/new-order" && n == 1 {
				return &acmeTestProblem{Type: "rateLimited", Detail: `too many certificates (5) already issued for this exact set of identifiers`, Status: 429, retryAfter: "36000"}
			}
			return nil
		}
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names = []string{"a.example.org", "b.example.org"} })
		defer g.Close()
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		valid := 0
		for _, s := range g.Status() {
			if s.State == ACMEValid {
				valid++
			}
		}
		if valid != 1 {
			t.Errorf("%d valid; want one: %+v", valid, g.Status())
		}
	})
}

// Removing a name's record requests an attempt, whatever the account is waiting
// for.
func TestACMEAccountTriedOnRequest(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.refuse = func(path string, _ int) *acmeTestProblem {
			if path == "/new-account" {
				return &acmeTestProblem{Type: "rateLimited", Detail: "too many new registrations", Status: 429, retryAfter: "36000"}
			}
			return nil
		}
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := ca.asked("POST /new-account"); n != 1 {
			t.Fatalf("asked %d times; want once", n)
		}
		ca.set(func() { ca.refuse = nil })
		os.Remove(filepath.Join(dir, "chat.example.org+state"))
		time.Sleep(acmePoll + time.Second)
		synctest.Wait()
		if g.cert("chat.example.org") == nil {
			t.Errorf("not tried: %+v", g.one(t))
		}
	})
}

// A new contact is sent to the CA once, immediately, although no order is due.
func TestACMEContact(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		for _, tt := range []struct {
			email, want string
			requests    int // to the account
		}{
			{"a@example.org", "mailto:a@example.org", 0},
			{"a@example.org", "mailto:a@example.org", 0},
			{"b@example.org", "mailto:b@example.org", 1},
			{"b@example.org", "mailto:b@example.org", 1},
		} {
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Email = tt.email })
			g.Start()
			time.Sleep(time.Hour)
			synctest.Wait()
			g.Close()
			if n := ca.asked("POST /account/1"); ca.contact != tt.want || n != tt.requests || ca.ordered() != 1 {
				t.Errorf("%s: the CA has %q after %d requests and %d orders; want %q, %d and 1", tt.email, ca.contact, n, ca.ordered(), tt.want, tt.requests)
			}
		}
	})
}

// A deactivated account is replaced once, and its key is kept. An account that
// the CA has revoked is not replaced.
func TestACMEAccountDeactivated(t *testing.T) {
	for _, restart := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca, g, _ := acmeForAnHour(t, dir)
			old, _ := os.ReadFile(filepath.Join(dir, acmeAccountFile))
			ca.set(func() {
				ca.deactivated = map[string]bool{}
				for print := range ca.accounts {
					ca.deactivated[print] = true
				}
			})
			if restart {
				g.Close()
				g = newACMETestGate(t, ca, dir, nil)
				t.Cleanup(g.Close)
				g.Start()
			}
			os.Remove(filepath.Join(dir, "chat.example.org"))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if s := g.one(t); ca.ordered() != 2 || s.Failures != 0 || len(ca.accounts) != 2 {
				t.Errorf("restart %v: %d orders, %d accounts, status %+v; want two each, valid", restart, ca.ordered(), len(ca.accounts), s)
			}
			if kept, _ := os.ReadFile(filepath.Join(dir, acmeAccountFile+acmeOldSuffix)); string(kept) != string(old) || len(old) == 0 {
				t.Errorf("restart %v: the old key was not kept", restart)
			}
		})
	}
}

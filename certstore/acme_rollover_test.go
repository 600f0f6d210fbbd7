package certstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func acmeFileOf(dir, name string) []byte {
	data, _ := os.ReadFile(filepath.Join(dir, name))
	return data
}

// After a rollover, all gates use the same account with the new key. Neither
// their next orders nor an order in progress count a failure.
func TestACMERollover(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, _ := acmeForAnHour(t, dir)
		other := newACMETestGate(t, ca, dir, nil)
		defer other.Close()
		other.Start()
		time.Sleep(time.Minute)
		if err := other.Renew("chat.example.org"); err != nil { // makes the other gate use the account, too
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		old := acmeFileOf(dir, acmeAccountFile)

		changing := false
		ca.set(func() {
			ca.invalid = func(string, string) *acmeTestProblem { // an order is in progress
				if !changing {
					changing = true
					ca.mu.Unlock()
					if did, err := g.Rollover(t.Context()); err != nil || len(did) != 1 || did[0] != acmeTestURL+"/directory" {
						t.Errorf("Rollover = %q, %v", did, err)
					}
					ca.mu.Lock()
				}
				return nil
			}
		})
		if err := other.Renew("chat.example.org"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		next := acmeFileOf(dir, acmeAccountFile)
		if len(old) == 0 || bytes.Equal(old, next) || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
			t.Error("the key in the cache is the old one, or there are two")
		}
		for _, g := range []*acmeTestGate{g, other} {
			if err := g.Renew("chat.example.org"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := g.one(t); s.Failures != 0 || s.Err != "" || s.State != ACMEValid {
				t.Errorf("status %+v", s)
			}
			if log := g.log.String(); strings.Contains(log, "no certificate obtained") {
				t.Errorf("an order failed:\n%s", log)
			}
		}
		if len(ca.accounts) != 1 || len(ca.keys) != 1 {
			t.Errorf("%d accounts; want one", len(ca.keys))
		}
	})
}

// Whatever an interrupted rollover leaves, the account continues with the key
// that the CA has. No second account is created.
func TestACMERolloverInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state func(t *testing.T, dir string, ca *acmeTestCA, old, next []byte)
	}{
		{"after the CA's answer", func(t *testing.T, dir string, _ *acmeTestCA, old, next []byte) {
			acmeWrite(t, dir, acmeAccountFile, old)
			acmeWrite(t, dir, acmeAccountFile+acmeNextSuffix, next)
		}},
		{"under a dead gate's lease", func(t *testing.T, dir string, _ *acmeTestCA, old, next []byte) {
			acmeWrite(t, dir, acmeAccountFile, old)
			acmeWrite(t, dir, acmeAccountFile+acmeNextSuffix, next)
			acmeWrite(t, dir, acmeAccountFile+acmeLeaseSuffix, []byte(`{"id":"dead","beat":1}`))
		}},
		{"after the key was written", func(t *testing.T, dir string, _ *acmeTestCA, _, next []byte) {
			acmeWrite(t, dir, acmeAccountFile+acmeNextSuffix, next)
		}},
		{"before the CA was asked", func(t *testing.T, dir string, _ *acmeTestCA, _, next []byte) {
			key, _ := acmeNewKey()
			file, _ := acmeEncodeKey(key)
			acmeWrite(t, dir, acmeAccountFile+acmeNextSuffix, file)
		}},
		{"torn", func(t *testing.T, dir string, _ *acmeTestCA, _, next []byte) {
			acmeWrite(t, dir, acmeAccountFile+acmeNextSuffix, next[:40])
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca, g, _ := acmeForAnHour(t, dir)
				old := acmeFileOf(dir, acmeAccountFile)
				if _, err := g.Rollover(t.Context()); err != nil {
					t.Fatal(err)
				}
				next := acmeFileOf(dir, acmeAccountFile)
				g.Close()
				tt.state(t, dir, ca, old, next)
				g = newACMETestGate(t, ca, dir, nil)
				defer g.Close()
				g.Start()
				if err := g.Renew("chat.example.org"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if got := acmeFileOf(dir, acmeAccountFile); !bytes.Equal(got, next) || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
					t.Error("the wrong key, or two")
				}
				if s := g.one(t); ca.ordered() != 2 || s.Failures != 0 || len(ca.keys) != 1 {
					t.Errorf("%d orders, %d accounts, status %+v", ca.ordered(), len(ca.keys), s)
				}
			})
		})
	}
}

func acmeWrite(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// If the CA's answer is lost, the CA is asked which key it has. Both keys stay
// until it answers. If it refuses the change, nothing changes.
func TestACMERolloverUnanswered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, g, _ := acmeForAnHour(t, dir)
		first := acmeFileOf(dir, acmeAccountFile)
		ca.set(func() {
			ca.refuse = func(path string, _ int) *acmeTestProblem {
				if path == "/key-change" {
					return &acmeTestProblem{Type: "unauthorized", Detail: "not today", Status: 403}
				}
				return nil
			}
		})
		if _, err := g.Rollover(t.Context()); !errors.Is(err, ErrACMEUnchanged) || !strings.Contains(err.Error(), "is not changed: unauthorized: not today") {
			t.Errorf("refused: %v", err)
		}
		if !bytes.Equal(first, acmeFileOf(dir, acmeAccountFile)) || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
			t.Error("a refusal has changed the key")
		}

		ca.set(func() { ca.refuse, ca.lose = nil, func(path string) bool { return path == "/key-change" } })
		if _, err := g.Rollover(t.Context()); err != nil {
			t.Errorf("the answer was lost: %v", err)
		}
		second := acmeFileOf(dir, acmeAccountFile)
		if bytes.Equal(first, second) {
			t.Error("the answer was lost, and the key is the old one")
		}

		gone := false
		ca.set(func() {
			ca.lose = func(path string) bool {
				gone = gone || path == "/key-change"
				return gone
			}
		})
		if _, err := g.Rollover(t.Context()); err == nil || !strings.Contains(err.Error(), "both are kept until the CA says which it has") {
			t.Errorf("the CA is gone: %v", err)
		}
		if !bytes.Equal(second, acmeFileOf(dir, acmeAccountFile)) || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) == nil {
			t.Error("the CA is gone, and one of the keys with it")
		}
		ca.set(func() { ca.lose = nil })
		if err := g.Renew("chat.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // the CA gets a minute to finish
		synctest.Wait()
		if third := acmeFileOf(dir, acmeAccountFile); bytes.Equal(second, third) || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
			t.Error("the CA is back, and has the new key; the cache has not")
		}
		if s := g.one(t); s.Failures != 0 || ca.ordered() != 2 || len(ca.keys) != 1 {
			t.Errorf("%d orders, %d accounts, status %+v", ca.ordered(), len(ca.keys), s)
		}
	})
}

// A CA that changes the key long after the request has timed out, and after a
// query for the account, does not cost the account.
func TestACMERolloverLate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, late := newACMETestCA(t), false
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path != "/key-change" || late {
					return ca.RoundTrip(r)
				}
				late = true
				body, _ := io.ReadAll(r.Body)
				again := r.Clone(context.WithoutCancel(r.Context()))
				again.Body = io.NopCloser(bytes.NewReader(body))
				time.AfterFunc(50*time.Second, func() { ca.RoundTrip(again) })
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
		})
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		if _, err := g.Rollover(ctx); err == nil || !strings.Contains(err.Error(), "may be another one now; both are kept") || !strings.HasSuffix(err.Error(), "; then it still had the old one") {
			t.Errorf("Rollover = %v; want that it is not known", err)
		}
		for range 2 { // during the change, and afterwards
			if err := g.Renew("chat.example.org"); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}
		if s := g.one(t); s.Failures != 0 || ca.ordered() != 3 || len(ca.keys) != 1 || len(ca.accounts) != 1 {
			t.Errorf("%d orders, %d accounts, status %+v; want three by one account", ca.ordered(), len(ca.keys), s)
		}
		if acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
			t.Error("there are still two keys")
		}
		if _, err := g.Rollover(t.Context()); err != nil {
			t.Errorf("the next rollover: %v", err)
		}
	})
}

// A gate that uses the account continues with the CA's key, even if the gate
// that changed it died before it learned the result.
func TestACMERolloverOpen(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, other, _ := acmeForAnHour(t, dir)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		gone := false
		ca.set(func() {
			ca.lose = func(path string) bool {
				gone = gone || path == "/key-change"
				return gone
			}
		})
		if _, err := g.Rollover(t.Context()); err == nil {
			t.Error("Rollover succeeded without an answer")
		}
		g.Close()
		ca.set(func() { ca.lose = nil })
		if err := other.Renew("chat.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := other.one(t); s.Failures != 0 || ca.ordered() != 2 || len(ca.keys) != 1 || acmeFileOf(dir, acmeAccountFile+acmeNextSuffix) != nil {
			t.Errorf("%d orders, %d accounts, status %+v", ca.ordered(), len(ca.keys), s)
		}
	})
}

// A rollover without an account is an error.
func TestACMERolloverWithoutAccount(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := newACMETestGate(t, newACMETestCA(t), dir, nil)
		defer g.Close()
		if _, err := g.Rollover(t.Context()); !errors.Is(err, ErrACMEState) {
			t.Errorf("Rollover: %v; want ErrACMEState", err)
		}
	})
}

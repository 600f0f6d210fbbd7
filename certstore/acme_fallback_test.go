package certstore

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"
)

// newACMEFallback returns a gate with two CAs.
func newACMEFallback(t *testing.T, dir string, edit func(*ACMEOptions)) (first, second *acmeTestCA, g *acmeTestGate) {
	t.Helper()
	first, second = newACMETestCA(t), newACMETestCA(t)
	second.url = "https://second.test"
	g = acmeFallbackGate(t, first, second, dir, edit)
	return first, second, g
}

func acmeFallbackGate(t *testing.T, first, second *acmeTestCA, dir string, edit func(*ACMEOptions)) *acmeTestGate {
	t.Helper()
	g := newACMETestGate(t, first, dir, func(o *ACMEOptions) {
		o.Fallback = []ACMECA{{Directory: second.url + "/directory", AcceptTerms: true}}
		o.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(r.URL.String(), second.url+"/") {
				return second.RoundTrip(r)
			}
			return first.RoundTrip(r)
		})
		if edit != nil {
			edit(o)
		}
	})
	second.gates = append(second.gates, g)
	return g
}

// The second CA is asked if the first one fails for a reason of its own, and
// not if the names are the reason.
func TestACMEFallback(t *testing.T) {
	problem := func(path string, p acmeTestProblem) func(*acmeTestCA) {
		return func(ca *acmeTestCA) {
			ca.refuse = func(at string, _ int) *acmeTestProblem {
				if at != path {
					return nil
				}
				return &p
			}
		}
	}
	invalid := func(p acmeTestProblem) func(*acmeTestCA) {
		return func(ca *acmeTestCA) { ca.invalid = func(string, string) *acmeTestProblem { q := p; return &q } }
	}
	for what, tt := range map[string]struct {
		first func(*acmeTestCA)
		falls bool
	}{
		"well":                 {func(*acmeTestCA) {}, false},
		"down":                 {func(ca *acmeTestCA) { ca.down = errors.New("connection refused") }, true},
		"silent":               {func(ca *acmeTestCA) { ca.silent = true }, true},
		"out of order":         {problem("/new-order", acmeTestProblem{Type: "serverInternal", Detail: "down for maintenance", Status: 503}), true},
		"rate limit":           {problem("/new-order", acmeTestProblem{Type: "rateLimited", Detail: "too many certificates already issued", Status: 429, retryAfter: "86400"}), true},
		"malformed":            {problem("/new-order", acmeTestProblem{Type: "malformed", Detail: "?", Status: 400}), true},
		"at the end":           {problem("/finalize/1", acmeTestProblem{Type: "serverInternal", Detail: "no HSM", Status: 500}), true},
		"account":              {problem("/new-account", acmeTestProblem{Type: "externalAccountRequired", Detail: "bind it", Status: 403}), true},
		"validation broken":    {invalid(acmeTestProblem{Type: "serverInternal", Detail: "no DNS here", Status: 500}), true},
		"CAA":                  {invalid(acmeTestProblem{Type: "caa", Detail: "CAA forbids", Status: 403}), false},
		"DNS":                  {invalid(acmeTestProblem{Type: "dns", Detail: "NXDOMAIN", Status: 400}), false},
		"unreachable":          {invalid(acmeTestProblem{Type: "connection", Detail: "refused", Status: 400}), false},
		"another's answer":     {invalid(acmeTestProblem{Type: "unauthorized", Detail: "404", Status: 403}), false},
		"a name it dislikes":   {problem("/new-order", acmeTestProblem{Type: "rejectedIdentifier", Detail: "policy", Status: 400}), false},
		"no such challenge":    {func(ca *acmeTestCA) { ca.offers = []string{"dns-01"} }, false},
		"CAA before the order": {problem("/new-order", acmeTestProblem{Type: "caa", Detail: "CAA forbids", Status: 403}), false},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				first, second, g := newACMEFallback(t, dir, nil)
				defer g.Close()
				tt.first(first)
				g.Start()
				time.Sleep(4 * time.Minute) // a request without an answer takes its full timeout
				synctest.Wait()
				want := ""
				switch {
				case tt.falls:
					want = second.url + "/directory"
				case what == "well":
					want = first.url + "/directory"
				}
				s := g.one(t)
				if s.CA != want || (s.CA == "") != (s.Failures > 0) {
					t.Errorf("status %+v; want a certificate of %q\n%s", s, want, g.log.String())
				}
				if !tt.falls && second.ordered() != 0 {
					t.Errorf("the second CA was asked %d times", second.ordered())
				}
				if s.Failures > 0 && !strings.HasPrefix(s.Err, `acme: order for "chat.example.org": ca.test: tls-alpn-01: `) {
					t.Errorf("error %q does not say which CA", s.Err)
				}
				if tt.falls && !strings.Contains(g.log.String(), `msg="acme: certificate of a fallback CA" server_name=chat.example.org ca=https://second.test/directory err="acme: order for`) {
					t.Errorf("the log does not say why:\n%s", g.log.String())
				}
			})
		})
	}
}

// A certificate of the second CA is kept, revoked and checked for renewal
// there, also after a restart. Its renewal asks the first CA. Each CA has an
// account with a key of its own.
func TestACMEFallbackLife(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, second, g := newACMEFallback(t, dir, func(o *ACMEOptions) { o.Poll = time.Hour })
		first.down = errors.New("connection refused")
		second.renewal = func(string) (int, string, string) {
			return 200, "21600", `{"suggestedWindow":{"start":"2000-03-01T00:00:00Z","end":"2000-03-02T00:00:00Z"}}`
		}
		g.Start()
		time.Sleep(24 * time.Hour)
		g.Close()
		first.set(func() { first.down = nil })
		g = acmeFallbackGate(t, first, second, dir, func(o *ACMEOptions) { o.Poll = time.Hour })
		defer func() { g.Close() }()
		g.Start()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		s := g.one(t)
		if first.ordered() != 0 || second.ordered() != 1 || s.CA != second.url+"/directory" || s.Renewal.Start.IsZero() {
			t.Errorf("%d and %d orders, status %+v; want one order at the second CA, and its window", first.ordered(), second.ordered(), s)
		}
		time.Sleep(62 * 24 * time.Hour)
		synctest.Wait()
		if s := g.one(t); first.ordered() != 1 || second.ordered() != 1 || s.CA != first.url+"/directory" {
			t.Errorf("%d and %d orders, status %+v; want a renewal by the first CA", first.ordered(), second.ordered(), s)
		}
		first.set(func() { first.down = errors.New("connection refused") })
		if err := g.Renew("chat.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if _, err := g.Revoke(t.Context(), "chat.example.org", "superseded"); err != nil || len(second.revoked) != 1 {
			t.Errorf("the second CA has revoked %d certificates, %v; want one", len(second.revoked), err)
		}
		keys, _ := filepath.Glob(filepath.Join(dir, "acme_account+key*"))
		var pems []string
		for _, file := range keys {
			if data, _ := os.ReadFile(file); strings.Contains(string(data), "PRIVATE KEY") {
				pems = append(pems, string(data))
			}
		}
		if len(pems) != 2 || pems[0] == pems[1] || len(first.accounts) != 1 || len(second.accounts) != 1 {
			t.Errorf("%d keys in %s, %d and %d accounts; want one of each", len(pems), keys, len(first.accounts), len(second.accounts))
		}
		did, err := g.Rollover(t.Context())
		if len(did) != 1 || did[0] != second.url+"/directory" || err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Rollover = %q, %v; want the second, and why not the first", did, err)
		}
	})
}

// If both CAs fail, the error has both reasons, and the next attempt is due
// when the first of them accepts orders again. A Retry-After of a day is
// obeyed.
func TestACMEFallbackFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, second, g := newACMEFallback(t, dir, nil)
		defer g.Close()
		first.refuseOrders(acmeTestProblem{Type: "rateLimited", Detail: "too many certificates already issued", Status: 429, retryAfter: "28800"})
		second.down = errors.New("connection refused")
		g.Start()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		s := g.one(t)
		for _, want := range []string{"ca.test: tls-alpn-01: rateLimited: too many certificates", "second.test: account: ", "connection refused"} {
			if !strings.Contains(s.Err, want) {
				t.Errorf("error %q lacks %q", s.Err, want)
			}
		}
		if n := first.asked("POST /new-order"); n != 1 {
			t.Errorf("the first CA was asked %d times before it wished", n)
		}
		if n := second.asked("GET /directory"); n < 3 {
			t.Errorf("the second CA was asked %d times in two hours", n)
		}
		second.set(func() { second.down = nil })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if s := g.one(t); s.CA != second.url+"/directory" || s.Failures != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// The first CA's delays do not affect the second CA. While the first refuses
// the account or has set a Retry-After, failures at the second are counted,
// logged and retried like those of a single CA.
func TestACMEFallbackAlone(t *testing.T) {
	account := acmeTestProblem{Type: "rateLimited", Detail: "too many new orders for this account", Status: 429, retryAfter: "28800"}
	names := acmeTestProblem{Type: "rateLimited", Detail: "too many certificates already issued", Status: 429, retryAfter: "28800"}
	for what, tt := range map[string]struct {
		first  acmeTestProblem
		second func(*acmeTestCA)
	}{
		"account, malformed": {account, func(ca *acmeTestCA) { ca.refuseOrders(acmeTestProblem{Type: "malformed", Detail: "?", Status: 400}) }},
		"account, DNS":       {account, nil},
		"limit, DNS":         {names, nil},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				first, second, g := newACMEFallback(t, dir, nil)
				defer g.Close()
				first.refuseOrders(tt.first)
				if tt.second != nil {
					tt.second(second)
				} else {
					second.invalid = func(string, string) *acmeTestProblem {
						return &acmeTestProblem{Type: "dns", Detail: "NXDOMAIN", Status: 400}
					}
				}
				g.Start()
				time.Sleep(time.Second)
				if err := g.SetNames([]string{"chat.example.org", "other.example.org"}); err != nil { // the first CA already refuses its account
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				for _, s := range g.Status() {
					if s.Failures != 3 || !strings.Contains(s.Err, "ca.test: ") || !strings.Contains(s.Err, "; second.test: ") {
						t.Errorf("status %+v; want three failures, with the reasons of both CAs", s)
					}
				}
				if n := strings.Count(g.log.String(), `msg="acme: no certificate obtained"`); n != 6 {
					t.Errorf("%d failures in the log; want three of each name:\n%s", n, g.log.String())
				}
				asked := first.asked("POST /new-order")
				second.set(func() { second.refuse, second.invalid = nil, nil })
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				for _, s := range g.Status() {
					if s.CA != second.url+"/directory" {
						t.Errorf("status %+v; want a certificate of the second CA", s)
					}
				}
				if n := first.asked("POST /new-order"); n != asked || asked > 2 {
					t.Errorf("the first CA was asked %d times, and then %d; want to leave it alone", asked, n-asked)
				}
			})
		})
	}
}

// Failures belong to the CAs that were asked: a fallback that is added during
// an outage is asked at once.
func TestACMEFallbackAdded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		first, second := newACMETestCA(t), newACMETestCA(t)
		second.url = "https://second.test"
		first.down = errors.New("connection refused")
		g := newACMETestGate(t, first, dir, nil)
		g.Start()
		time.Sleep(24 * time.Hour)
		g.Close()
		g = acmeFallbackGate(t, first, second, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := g.one(t); s.CA != second.url+"/directory" || s.Failures != 0 {
			t.Errorf("status %+v; want a certificate of the second CA", s)
		}
	})
}

// These failures are the CA's own; the CA in the tests cannot produce all of
// them.
func TestACMECAsFault(t *testing.T) {
	problem := func(kind string, status int) *acme.Error {
		return &acme.Error{ProblemType: "urn:ietf:params:acme:error:" + kind, StatusCode: status, Detail: kind}
	}
	failed := func(kinds ...string) error {
		var errs []error
		for _, kind := range kinds {
			errs = append(errs, problem(kind, 400))
		}
		return &acme.AuthorizationError{Errors: errs}
	}
	for i, tt := range []struct {
		err  error
		want bool
	}{
		{errors.New("no route to host"), true},
		{acmeFailure{[]string{"a"}, []error{acmeCause{"tls-alpn-01", failed("connection")}, acmeCause{"http-01", problem("rateLimited", 429)}}}, true},
		{acmeFailure{[]string{"a"}, []error{acmeCause{"tls-alpn-01", problem("rateLimited", 429)}, acmeCause{"http-01", failed("connection")}}}, false},
		{acmeFailure{[]string{"a", "b"}, []error{acmeCause{"tls-alpn-01", acmeCauses{acmeCause{"a", failed("serverInternal")}, acmeCause{"b", failed("dns")}}}}}, false},
		{acmeFailure{[]string{"a", "b"}, []error{acmeCause{"tls-alpn-01", acmeCauses{acmeCause{"a", failed("serverInternal")}}}}}, true},
		{&acme.AuthorizationError{}, false},
		{failed("serverInternal", "dns"), false},
		{problem("caa", 403), false},
		{problem("caa", 500), true},
		{problem("unheardOf", 400), true},
		{&acme.OrderError{Status: "invalid"}, true},
		{&acme.OrderError{Status: "invalid", Problem: problem("caa", 403)}, false},
		{fmt.Errorf("profile %q: the CA offers none", "x"), true},
		{&acme.Error{StatusCode: 400, ProblemType: "urn:ietf:params:acme:error:malformed", Subproblems: []acme.Subproblem{{Type: "urn:ietf:params:acme:error:caa"}}}, false},
	} {
		if got := acmeCAsFault(tt.err); got != tt.want {
			t.Errorf("%d: acmeCAsFault(%v) = %v", i, tt.err, got)
		}
	}
}

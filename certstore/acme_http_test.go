package certstore

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"
)

// A nonce that the CA rejects is replaced, and does not count as a failure.
func TestACMERefusedNonces(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.refuse = func(_ string, n int) *acmeTestProblem {
			if n%4 == 0 {
				return nil
			}
			return &acmeTestProblem{Type: "badNonce", Detail: "stale", Status: 400}
		}
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		g.Start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if g.cert("chat.example.org") == nil || g.one(t).Failures != 0 || ca.ordered() != 1 {
			t.Errorf("status = %+v, %d orders; want one", g.one(t), ca.ordered())
		}
	})
}

// A CA with a brief error is soon asked again. A CA that stays down is a
// failure.
func TestACMEServerErrors(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.refuse = func(path string, n int) *acmeTestProblem {
			if path == "/new-order" && n < 3 {
				return &acmeTestProblem{Type: "serverInternal", Detail: "oops", Status: 500}
			}
			return nil
		}
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		if _, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", ""); err != nil {
			t.Error(err)
		}
		ca.refuse = func(path string, n int) *acmeTestProblem {
			return &acmeTestProblem{Type: "serverInternal", Detail: "<html>\n\n maintenance", Status: 503}
		}
		start := time.Now()
		_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		if err == nil || !strings.HasSuffix(err.Error(), "serverInternal: <html> maintenance") {
			t.Errorf("err = %v; want the CA's words", err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("gave up after %v", took)
		}
	})
}

// An overloaded CA is asked again after its Retry-After if that is short, and
// otherwise not before the next order.
func TestACMEOverloaded(t *testing.T) {
	for _, tt := range []struct {
		retryAfter  string
		asked       int
		least, most time.Duration
	}{
		{"5", 4, 15 * time.Second, 20 * time.Second},
		{"600", 1, 0, time.Second},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.refuseOrders(acmeTestProblem{Type: "serverInternal", Detail: "busy", Status: 503, retryAfter: tt.retryAfter})
			g := newACMETestGate(t, ca, dir, nil)
			defer g.Close()
			start := time.Now()
			_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
			took, asked := time.Since(start), ca.asked("POST /new-order")
			if err == nil || asked != tt.asked || took < tt.least || took > tt.most {
				t.Errorf("Retry-After %s: asked %d times in %v, error %v; want %d in %v to %v", tt.retryAfter, asked, took, err, tt.asked, tt.least, tt.most)
			}
		})
	}
}

// A CA that does not answer costs the timeout of one request.
func TestACMESilentCA(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.silent = true
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		start := time.Now()
		_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		if took := time.Since(start); err == nil || took != acmeRequestTimeout {
			t.Errorf("gave up after %v with %v; want %v", took, err, acmeRequestTimeout)
		}
	})
}

// A CA that has lost the account (a private CA without its database) gets it
// again at once.
func TestACMEAccountForgotten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		defer g.Close()
		if _, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", ""); err != nil {
			t.Fatal(err)
		}
		ca.set(func() { clear(ca.accounts); clear(ca.keys) })
		if _, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", ""); err != nil {
			t.Error(err)
		}
	})
}

// External account binding needs the key from the CA.
func TestACMEExternalAccountBinding(t *testing.T) {
	for _, tt := range []struct{ id, key, want string }{
		{"kid-1", "right key", ""},
		{"kid-1", "wrong key", "account: unauthorized: external account binding is wrong"},
		{"kid-2", "right key", "account: unauthorized: external account binding is wrong"},
		{"", "", "account: externalAccountRequired: an external account is required"},
	} {
		t.Run(tt.id+tt.key, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := newACMETestCA(t)
				ca.eab = map[string][]byte{"kid-1": []byte("right key")}
				g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.EABKeyID, o.EABKey = tt.id, []byte(tt.key) })
				defer g.Close()
				_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
				if got := errorText(err); !strings.HasSuffix(got, tt.want) || (tt.want == "") != (err == nil) {
					t.Errorf("err = %v; want …%s", err, tt.want)
				}
				if err != nil && strings.Contains(err.Error(), tt.key) && tt.key != "" {
					t.Errorf("the error has the key: %v", err)
				}
			})
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Without the operator's consent to the terms, no account is created. The error
// says where to read them.
func TestACMETermsNotAccepted(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.AcceptTerms = false })
		defer g.Close()
		_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		if err == nil || !strings.HasSuffix(err.Error(), "account: the CA's terms of service are not accepted: "+acmeTestURL+"/terms") {
			t.Errorf("err = %v", err)
		}
		if n := ca.asked("POST /new-account"); n != 0 {
			t.Errorf("%d registrations", n)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The size of an answer's header is bounded, like that of its body.
func TestACMEHeaderLimit(t *testing.T) {
	ca := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Padding", strings.Repeat("x", acmeMaxHeader))
	}))
	defer ca.Close()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	client := acmeHTTPClient(ACMECA{Roots: roots}, nil)
	defer client.CloseIdleConnections()
	if res, err := client.Get(ca.URL); err == nil || !strings.Contains(err.Error(), "header") {
		t.Errorf("%v, %v; want an error about the header", res, err)
	}
}

// No answer of a CA makes the client loop, wait too long, or use too much
// memory.
func TestACMETransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
		for _, tt := range []struct {
			status   int
			in, want string
		}{
			{200, "", ""},
			{200, "3", "3"},
			{200, "-5", ""},           // acme.Client would poll without a pause
			{200, in(-time.Hour), ""}, // the same
			{200, "86400", "60"},      // and would sleep here until its deadline
			{200, in(24 * time.Hour), "60"},
			{200, in(3 * time.Second), "3"},
			{200, "soon", ""},
			{200, "99999999999999999999", ""},
			{429, "86400", "86400"},
			{503, in(24 * time.Hour), in(24 * time.Hour)},
		} {
			next := roundTrip(func(*http.Request) (*http.Response, error) {
				h := http.Header{}
				if tt.in != "" {
					h.Set("Retry-After", tt.in)
				}
				return &http.Response{StatusCode: tt.status, Header: h, Body: io.NopCloser(strings.NewReader("{}"))}, nil
			})
			r := httptest.NewRequest("POST", acmeTestURL+"/order/1", nil)
			res, err := acmeTransport{next}.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := res.Header.Get("Retry-After"); got != tt.want {
				t.Errorf("%d with Retry-After %q = %q; want %q", tt.status, tt.in, got, tt.want)
			}
		}
	})
	for _, tt := range []struct {
		status, size int
		err          error
	}{
		{200, 2, nil}, {200, acmeMaxBody, nil}, {200, acmeMaxBody + 1, errACMEBody}, {200, 10 * acmeMaxBody, errACMEBody},
		{500, 0, nil}, {500, 10 * acmeMaxBody, nil}, // the status is what matters
	} {
		res, err := acmeTransport{roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: tt.status, Body: io.NopCloser(strings.NewReader(strings.Repeat(" ", max(tt.size-2, 0)) + "{}"))}, nil
		})}.RoundTrip(httptest.NewRequest("POST", acmeTestURL+"/order/1", nil))
		if !errors.Is(err, tt.err) {
			t.Errorf("status %d with %d bytes: %v; want %v", tt.status, tt.size, err, tt.err)
		}
		if err == nil {
			if data, err := io.ReadAll(res.Body); err != nil || len(data) > acmeMaxBody {
				t.Errorf("status %d with %d bytes: %d bytes, %v", tt.status, tt.size, len(data), err)
			}
		}
	}
}

// A CA's errors become one printable line of bounded length.
func TestACMEWords(t *testing.T) {
	problem := &acme.Error{StatusCode: 400, ProblemType: "urn:ietf:params:acme:error:orderNotReady", Detail: "wait"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{problem, "orderNotReady: wait"},
		{&acme.Error{ProblemType: "about:blank", Detail: "x"}, "about:blank: x"},
		{&acme.Error{StatusCode: 502, Detail: "<html>\r\n<h1>Bad\x00 Gateway</h1>"}, "status 502: <html> <h1>Bad\uFFFD Gateway</h1>"},
		{&acme.OrderError{Status: "invalid", Problem: problem}, "orderNotReady: wait"},
		{&acme.OrderError{Status: "invalid"}, `the order is "invalid"; the CA gives no reason`},
		{&acme.AuthorizationError{Errors: []error{problem, problem}}, "orderNotReady: wait, orderNotReady: wait"},
		{&acme.AuthorizationError{}, "the authorization is invalid; the CA gives no reason"},
		{errors.New("a\nb"), "a b"},
		{&acme.Error{ProblemType: "t", Detail: strings.Repeat("ä", 5000)}, "t: " + strings.Repeat("ä", 500) + "…"},
	} {
		if got := acmeWords(tt.err); got != tt.want {
			t.Errorf("acmeWords(%#v) = %q; want %q", tt.err, got, tt.want)
		}
	}
}

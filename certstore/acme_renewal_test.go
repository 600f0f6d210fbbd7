package certstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The certificate identifier matches the example in RFC 9773, section 4.1.
func TestACMECertID(t *testing.T) {
	aki := []byte{0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3, 0x7B, 0x84, 0x7B, 0xA0, 0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4}
	for _, tt := range []struct {
		aki    []byte
		serial int64
		want   string
	}{
		{aki, 0x87654321, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"},
		{aki, 0x7F654321, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.f2VDIQ"},
		{nil, 1, ""},
		{aki, 0, ""},
		{aki, -1, ""},
	} {
		if got := acmeCertID(&x509.Certificate{AuthorityKeyId: tt.aki, SerialNumber: big.NewInt(tt.serial)}); got != tt.want {
			t.Errorf("acmeCertID(%x, %x) = %q; want %q", tt.aki, tt.serial, got, tt.want)
		}
	}
}

// acmeWindow returns a RenewalInfo object.
func acmeWindow(start, end time.Time, more string) string {
	return fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}%s}`, start.UTC().Format(time.RFC3339Nano), end.UTC().Format(time.RFC3339Nano), more)
}

// An invalid window is rejected. An explanation that is not a web page is
// omitted.
func TestACMEParseRenewal(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		body        string
		ok          bool
		explanation string
	}{
		{acmeWindow(from, from.Add(time.Hour), ""), true, ""},
		{acmeWindow(from, from.Add(time.Hour), `,"explanationURL":"https://ca.test/why?id=1"`), true, "https://ca.test/why?id=1"},
		{acmeWindow(from, from.Add(time.Hour), `,"explanationURL":"javascript:alert(1)"`), true, ""},
		{acmeWindow(from, from.Add(time.Hour), `,"explanationURL":"/why"`), true, ""},
		{acmeWindow(from, from.Add(time.Hour), `,"explanationURL":"https://ca.test/`+strings.Repeat("a", 1000)+`"`), true, ""},
		{acmeWindow(from, from, ""), false, ""},
		{acmeWindow(from.Add(time.Hour), from, ""), false, ""},
		{`{"suggestedWindow":{"start":"2026-01-01T00:00:00Z"}}`, false, ""},
		{`{"suggestedWindow":{"end":"2026-01-01T00:00:00Z"}}`, false, ""},
		{`{"suggestedWindow":{"start":"yesterday","end":"tomorrow"}}`, false, ""},
		{`{}`, false, ""},
		{`[]`, false, ""},
		{``, false, ""},
		{`<html>`, false, ""},
	} {
		got, err := acmeParseRenewal([]byte(tt.body))
		if (err == nil) != tt.ok || got.Explanation != tt.explanation {
			t.Errorf("acmeParseRenewal(%.100s) = %+v, %v; want ok %v, %q", tt.body, got, err, tt.ok, tt.explanation)
		}
		if err == nil && (!got.Start.Equal(from) || !got.End.Equal(from.Add(time.Hour))) {
			t.Errorf("acmeParseRenewal(%.100s) = %+v", tt.body, got)
		}
	}
}

// Whatever a CA answers, the moment is in the window, and is always the same.
func FuzzACMEParseRenewal(f *testing.F) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Add([]byte(acmeWindow(from, from.Add(48*time.Hour), `,"explanationURL":"https://ca.test/why"`)))
	f.Add([]byte(acmeWindow(time.Time{}.Add(1), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), "")))
	f.Add([]byte(`{"suggestedWindow":{"start":"2026-01-01T00:00:00+14:00","end":"2026-01-01T00:00:00-12:00"},"explanationURL":"http://\u202e/"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := acmeParseRenewal(data)
		if err != nil {
			return
		}
		leaf := &x509.Certificate{Raw: data}
		at := r.moment(leaf)
		if at.Before(r.Start) || at.After(r.End) || !r.moment(leaf).Equal(at) {
			t.Errorf("%s: the moment is %v", data, at)
		}
		if e := r.Explanation; e != "" && (printable(e) != e || !strings.HasPrefix(e, "http")) {
			t.Errorf("%s: explanation %q", data, e)
		}
	})
}

// Each certificate and each window has its own moment of renewal.
func TestACMERenewalMoment(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := ACMERenewal{Start: from, End: from.Add(48 * time.Hour)}
	thirds, seen := [3]int{}, map[time.Time]bool{}
	for i := range 300 {
		at := r.moment(&x509.Certificate{Raw: []byte(strconv.Itoa(i))})
		thirds[int(at.Sub(from)/(16*time.Hour))]++
		seen[at] = true
	}
	if len(seen) < 290 || min(thirds[0], thirds[1], thirds[2]) < 60 {
		t.Errorf("300 certificates have %d moments, %v in each third of the window", len(seen), thirds)
	}
	leaf := &x509.Certificate{Raw: []byte("1")}
	if r.moment(leaf).Sub(r.Start) == (ACMERenewal{Start: from.Add(time.Hour), End: r.End.Add(time.Hour)}).moment(leaf).Sub(from.Add(time.Hour)) {
		t.Error("another window has the same moment in it")
	}
}

// The gate obeys a window that is earlier or later than its own schedule, but
// not one that is too late. A window in the past is obeyed at once, up to three
// times a day.
func TestACMERenewalWindow(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name        string
		start, end  time.Duration // since the certificate was issued
		least, most time.Duration // when the certificate is renewed
	}{
		{"earlier", 20 * day, 22 * day, 20 * day, 22 * day},
		{"later", 70 * day, 71 * day, 70 * day, 71 * day},
		{"too late", 200 * day, 201 * day, 74 * day, 76 * day},
		{"past", -2 * day, -day, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca, issued := newACMETestCA(t), time.Now()
				first := ""
				ca.renewal = func(id string) (int, string, string) {
					if first == "" {
						first = id
					}
					start, end := issued.Add(tt.start), issued.Add(tt.end)
					if id != first {
						start, end = issued.Add(300*day), issued.Add(301*day)
					}
					return 200, "21600", acmeWindow(start, end, "")
				}
				g := newACMETestGate(t, ca, dir, acmeSeldom)
				defer g.Close()
				g.Start()
				time.Sleep(tt.least - time.Second)
				synctest.Wait()
				if n := ca.ordered(); n > 1 && tt.least > 0 {
					t.Errorf("%d orders after %v; want one", n, tt.least)
				}
				time.Sleep(tt.most - tt.least + 7*time.Hour)
				synctest.Wait()
				if n := ca.ordered(); n != 2 {
					t.Fatalf("%d orders after %v; want two", n, tt.most)
				}
				if a, b := ca.orders[0].replaces, ca.orders[1].replaces; a != "" || b != first {
					t.Errorf("the orders replace %q, then %q; want none, then %q", a, b, first)
				}
			})
		})
	}
}

// A CA whose windows are always in the past gets three orders a day in addition
// to the first.
func TestACMERenewalAlwaysPast(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.renewal = func(string) (int, string, string) {
			return 200, "1", acmeWindow(time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour), `,"explanationURL":"https://ca.test/why"`)
		}
		g := newACMETestGate(t, ca, dir, acmeSeldom)
		defer g.Close()
		g.Start()
		time.Sleep(2*24*time.Hour - time.Hour)
		synctest.Wait()
		if n := ca.ordered(); n != 7 {
			t.Errorf("%d orders in two days; want seven", n)
		}
		if got := g.one(t).Renewal.Explanation; got != "https://ca.test/why" {
			t.Errorf("explanation %q", got)
		}
		if !strings.Contains(g.log.String(), "explanation=https://ca.test/why") {
			t.Errorf("the log does not say why:\n%s", g.log.String())
		}
	})
}

// acmeSeldom is for tests that take months.
func acmeSeldom(o *ACMEOptions) { o.Poll = 3 * time.Hour }

// The CA is asked as often as its Retry-After requests, within bounds.
func TestACMERenewalAsked(t *testing.T) {
	for _, tt := range []struct {
		after string
		every time.Duration
	}{
		{"3600", time.Hour}, {"21600", acmeAskAgain}, {"", acmeAskAgain}, {"soon", acmeAskAgain}, {"-5", acmeAskAgain}, {"0", acmeAskAgain},
		{"1", acmeAskMin}, {"99999999999", acmeAskAgain}, {"2147483647", acmeAskMax}, {"Fri, 31 Dec 9999 23:59:59 GMT", acmeAskMax},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			var asked []time.Time
			ca.renewal = func(string) (int, string, string) {
				asked = append(asked, time.Now())
				return 200, tt.after, acmeWindow(time.Now().Add(60*24*time.Hour), time.Now().Add(61*24*time.Hour), "")
			}
			poll := tt.every / 20
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = poll })
			defer g.Close()
			g.Start()
			time.Sleep(3*tt.every + 4*poll)
			synctest.Wait()
			for i := range asked[1:] {
				if d := asked[i+1].Sub(asked[i]); d < tt.every || d > tt.every+poll {
					t.Errorf("Retry-After %q: asked again after %v; want %v", tt.after, d, tt.every)
				}
			}
			if len(asked) < 3 {
				t.Errorf("Retry-After %q: asked %d times", tt.after, len(asked))
			}
		})
	}
}

// A CA that fails to answer changes nothing: the certificate is renewed by its
// dates, and a known early window stays in force. The CA is asked less and less
// often.
func TestACMERenewalFails(t *testing.T) {
	const day = 24 * time.Hour
	big := strings.Repeat(" ", acmeMaxBody) + "{}"
	for name, answer := range map[string]func(string) (int, string, string){
		"error": func(string) (int, string, string) {
			return 500, "", `{"type":"urn:ietf:params:acme:error:serverInternal","detail":"oops"}`
		},
		"unknown": func(string) (int, string, string) { return 404, "", `{"detail":"no such certificate"}` },
		"page":    func(string) (int, string, string) { return 200, "", "<html>log in" },
		"nothing": func(string) (int, string, string) { return 200, "", `{"suggestedWindow":{}}` },
		"big":     func(string) (int, string, string) { return 200, "", big },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca, asked, began := newACMETestCA(t), 0, time.Now()
				ca.renewal = func(id string) (int, string, string) {
					if asked++; asked > 1 { // the first answer is a window later than the gate's own schedule
						return answer(id)
					}
					return 200, "86400", acmeWindow(began.Add(80*day), began.Add(81*day), "")
				}
				g := newACMETestGate(t, ca, dir, acmeSeldom)
				defer g.Close()
				g.Start()
				time.Sleep(63 * day)
				synctest.Wait()
				if n := ca.ordered(); n != 2 {
					t.Errorf("%d orders after 63 days; want two", n)
				}
				if asked > 63*5 {
					t.Errorf("asked %d times in 63 days", asked)
				}
				if got := g.one(t).Renewal.Err; got == "" {
					t.Error("the status does not say that the CA fails")
				}
			})
		})
	}
}

// A CA that does not answer delays neither renewals nor other names.
func TestACMERenewalSilent(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			acmeSeldom(o)
			o.Names = []string{"a.example.org", "b.example.org", "c.example.org"}
			next := o.transport
			o.transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/renewal-info/") {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return next.RoundTrip(r)
			})
		})
		ca.renewal = func(string) (int, string, string) { panic("not reached") }
		g.Start()
		time.Sleep(62 * 24 * time.Hour)
		synctest.Wait()
		if n := ca.ordered(); n != 6 {
			t.Errorf("%d orders in 62 days; want six", n)
		}
		began := time.Now()
		g.Close() // during a request
		if took := time.Since(began); took > acmeGoodbye {
			t.Errorf("Close took %v", took)
		}
	})
}

// If the CA refuses to let an order replace a certificate, the order is
// repeated without that field. The certificate may belong to another account or
// may have been replaced already; the account itself is not at fault.
func TestACMEReplacesRefused(t *testing.T) {
	for _, problem := range []acmeTestProblem{
		{Type: "alreadyReplaced", Detail: "replaced by an order of this account", Status: 409},
		{Type: "unauthorized", Detail: "requester account did not request the certificate being replaced by this order", Status: 403},
		{Type: "malformed", Detail: "no such certificate", Status: 400},
		{Type: "serverInternal", Detail: "could not find an order for the given certificate", Status: 500}, // Pebble
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.renewal = func(string) (int, string, string) {
				return 200, "", acmeWindow(time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour), "")
			}
			g := newACMETestGate(t, ca, dir, nil)
			defer g.Close()
			g.Start()
			time.Sleep(time.Minute)
			synctest.Wait()
			ca.set(func() { ca.replacing = &problem })
			if _, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", acmeCertID(g.cert("chat.example.org").Leaf)); err != nil {
				t.Errorf("%s: %v", problem.Type, err)
			}
			want := 3
			if problem.Status == 500 {
				want += 3 // acmeRetry
			}
			if n := ca.asked("POST /new-order"); n != want || ca.orders[1].replaces != "" {
				t.Errorf("%s: %d orders were asked for, the last one replaces %q", problem.Type, n, ca.orders[1].replaces)
			}
			ca.set(func() { ca.replacing = nil })
			ca.refuseOrders(acmeTestProblem{Type: "rateLimited", Detail: "too many certificates", Status: 429})
			if _, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "x.y"); err == nil || ca.asked("POST /new-order") != want+1 {
				t.Errorf("a rate limit: %v after %d requests; want one", err, ca.asked("POST /new-order")-want)
			}
		})
	}
}

// Without renewal information, the directory is read once a day, and no failure
// is reported.
func TestACMERenewalNotOffered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, acmeSeldom)
		defer g.Close()
		g.Start()
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		if n := ca.asked("GET /directory"); n < 10 || n > 13 {
			t.Errorf("the directory was read %d times in ten days", n)
		}
		if got := g.one(t).Renewal; got != (ACMERenewal{}) {
			t.Errorf("status %+v; want nothing", got)
		}
	})
}

// A CA is not asked about another CA's certificate.
func TestACMERenewalOfAnotherCA(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		first := newACMETestGate(t, ca, dir, acmeSeldom)
		first.Start()
		time.Sleep(time.Minute)
		first.Close()
		ca.renewal = func(string) (int, string, string) { t.Error("asked"); return 404, "", "" }
		ca.down = errors.New("refused")
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Directory = acmeTestURL + "/other" })
		defer g.Close()
		g.Start()
		time.Sleep(time.Hour)
		synctest.Wait()
	})
}

package certstore

// Each problem of autocert that ACME avoids has its test here, or is listed
// with the test that covers it:
//
//  - holds one lock while it reads its cache: TestACMEAnswersWhileCacheHangs
//  - calls HostPolicy for cached names, too: TestACMESetNames, TestACMEInstallsCache
//  - waits in a handshake: TestACMENeverOrdersInHandshake
//  - returns an RSA certificate to TLS 1.3 clients: TestACMECertificateForTLS13
//  - renews only names that were requested: TestACMERenewsUnasked
//  - forgets a failure after a minute: TestACMEBacksOff, TestACMEBackoffSurvivesRestart
//  - drops the CA's reasons: TestACMEKeepsReasons
//  - never rotates keys: TestACMERenewsUnasked
//  - cannot be closed: TestACMECloseEndsEverything
//  - tries tls-alpn-01 even if it is not configured: TestACMEOnlyConfiguredChallenges
//  - trusts the clock of another gate: TestACMEChallengeOfFastClock
//  - shows file names to clients: TestACMEHTTPHandler

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Certificates are renewed in time although no client requests them, each with
// a new key. The old one is served until then.
func TestACMERenewsUnasked(t *testing.T) {
	for _, life := range []time.Duration{90 * 24 * time.Hour, 6 * 24 * time.Hour} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.lifetime = life
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = life / 100 })
			g.Start()
			defer g.Close()
			var certs []*tls.Certificate
			for range 4 {
				time.Sleep(time.Minute)
				synctest.Wait()
				cert := g.cert("chat.example.org")
				if cert == nil {
					t.Fatalf("no certificate:\n%s", g.log.String())
				}
				certs = append(certs, cert)
				share := life / 3
				if life <= 10*24*time.Hour {
					share = life / 2
				}
				time.Sleep(time.Until(cert.Leaf.NotAfter.Add(-share)) - time.Second)
				if got := g.cert("chat.example.org"); got != cert {
					t.Errorf("renewed early: %s, at %v", acmeDescribe(got), time.Now())
				}
				time.Sleep(share/20 + 2*time.Second)
			}
			if ca.ordered() != 5 {
				t.Errorf("%d orders; want 5", ca.ordered())
			}
			for i, a := range certs {
				for _, b := range certs[:i] {
					if a.PrivateKey.(*ecdsa.PrivateKey).Equal(b.PrivateKey) {
						t.Errorf("certificates %s and %s have one key", acmeDescribe(a), acmeDescribe(b))
					}
				}
			}
		})
	}
}

// A client's ClientHello starts nothing and waits for nothing, whatever the CA
// does. The same holds for a scanner that offers acme-tls/1.
func TestACMENeverOrdersInHandshake(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.silent = true
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		defer g.Close()
		synctest.Wait()
		before := len(ca.requests)
		start := time.Now()
		for _, hello := range []*tls.ClientHelloInfo{
			{ServerName: "chat.example.org"},
			{ServerName: "chat.example.org", SupportedProtos: []string{"http/1.1"}},
			{ServerName: "chat.example.org", SupportedProtos: []string{"acme-tls/1", "http/1.1"}}, // RFC 8737 requires it as the only protocol
			{ServerName: "chat.example.org", SupportedProtos: []string{"acme-tls/1"}},
			{ServerName: "CHAT.example.org.", SupportedProtos: []string{"acme-tls/1"}},
			{ServerName: "unknown.example.org", SupportedProtos: []string{"acme-tls/1"}},
			{ServerName: "../../etc/passwd", SupportedProtos: []string{"acme-tls/1"}},
			{SupportedProtos: []string{"acme-tls/1"}},
		} {
			cert, err := g.ChallengeCertificate(hello)
			if cert != nil || err != nil {
				t.Errorf("%q %q: got %v, %v; want nil, nil", hello.ServerName, hello.SupportedProtos, cert, err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("handshakes waited %v", took)
		}
		if len(ca.requests) != before {
			t.Errorf("handshakes made requests: %v", ca.requests[before:])
		}
	})
}

// Clients that reconnect every second do not make the gate ask the CA more
// often.
func TestACMEClientsDoNotDriveOrders(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(string, string) *acmeTestProblem {
			return &acmeTestProblem{Type: "connection", Detail: "refused", Status: 400}
		}
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		defer g.Close()
		for range 3600 {
			g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "chat.example.org", SupportedProtos: []string{"acme-tls/1"}})
			g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "chat.example.org"})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := ca.ordered(); n < 4 || n > 5 {
			t.Errorf("%d orders in an hour of failures; want 4 or 5", n)
		}
	})
}

// A cache folder that hangs only affects handshakes that need it, and only
// briefly. Answers for this gate's own orders come from memory.
func TestACMEAnswersWhileCacheHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Names = []string{"own.example.org", "other.example.org"} })
		defer g.Close()
		// The readers that are allowed to hang do so.
		for range acmeAnswerReads {
			g.answers.reads <- struct{}{}
		}
		client := &acme.Client{}
		client.Key, _ = acmeNewKey()
		key, answer, err := acmeAnswer(client, "own.example.org", &acme.Challenge{Type: "tls-alpn-01", Token: "token"})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.answers.present(t.Context(), key, answer); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		hanging := make(chan time.Duration)
		go func() {
			cert, err := g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "other.example.org", SupportedProtos: []string{"acme-tls/1"}})
			if cert != nil || err != nil {
				t.Errorf("got %v, %v; want nil, nil", cert, err)
			}
			hanging <- time.Since(start)
		}()
		synctest.Wait()
		cert, err := g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "own.example.org", SupportedProtos: []string{"acme-tls/1"}})
		if cert == nil || err != nil {
			t.Errorf("own challenge: got %v, %v; want a certificate", cert, err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("own challenge waited %v", took)
		}
		if took := <-hanging; took != acmeAnswerTimeout {
			t.Errorf("the other waited %v; want %v", took, acmeAnswerTimeout)
		}
		g.answers.withdraw(key)
		for range acmeAnswerReads {
			<-g.answers.reads
		}
	})
}

// A client with only TLS 1.3 suites, which do not show a key type, gets a
// certificate.
func TestACMECertificateForTLS13(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		defer g.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		hello := &tls.ClientHelloInfo{
			ServerName:        "chat.example.org",
			CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256},
			SupportedVersions: []uint16{tls.VersionTLS13},
			SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
			SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		}
		if err := hello.SupportsCertificate(g.cert("chat.example.org")); err != nil {
			t.Error(err)
		}
	})
}

// Each name backs off on its own, up to half a day, until an order succeeds.
func TestACMEBacksOff(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		var tries []time.Time
		broken := true
		ca.invalid = func(name, _ string) *acmeTestProblem {
			if name == "good.example.org" || !broken {
				return nil
			}
			tries = append(tries, time.Now())
			return &acmeTestProblem{Type: "dns", Detail: "NXDOMAIN looking up A", Status: 400}
		}
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) {
			o.Names, o.Poll = []string{"bad.example.org", "good.example.org"}, 6*time.Hour
		})
		g.Start()
		defer g.Close()
		time.Sleep(4 * 24 * time.Hour)
		synctest.Wait()
		if g.cert("good.example.org") == nil {
			t.Error("good.example.org suffers from bad.example.org")
		}
		ca.mu.Lock()
		for i := 1; i < len(tries); i++ {
			gap, want := tries[i].Sub(tries[i-1]), acmeBackoffMin
			for range i - 1 {
				want = min(want*3, acmeBackoffMax)
			}
			if gap < want*4/5 || gap > want*6/5 || gap > acmeBackoffMax+time.Second {
				t.Errorf("try %d came after %v; want about %v", i+1, gap, want)
			}
		}
		if n := len(tries); n < 12 || n > 16 {
			t.Errorf("%d tries in four days; want 12 to 16", n)
		}
		failures := len(tries)
		broken = false
		ca.mu.Unlock()
		s := g.Status()[0]
		if s.State != ACMEWaiting || s.Failures != failures || !s.NextTry.After(time.Now()) || s.NextTry.After(time.Now().Add(acmeBackoffMax)) {
			t.Errorf("status = %+v; want %d failures", s, failures)
		}
		if !strings.Contains(s.Err, "NXDOMAIN looking up A") {
			t.Errorf("status says %q; want the CA's words", s.Err)
		}
		time.Sleep(acmeBackoffMax)
		synctest.Wait()
		if s := g.Status()[0]; s.State != ACMEValid || s.Failures != 0 || s.Err != "" {
			t.Errorf("status = %+v; want valid, failures forgotten", s)
		}
	})
}

// If a CA is down for most of a certificate's remaining life and recovers
// before its end, the renewal is in time.
func TestACMERenewsAfterLongOutage(t *testing.T) {
	for _, life := range []time.Duration{90 * 24 * time.Hour, 6 * 24 * time.Hour, 24 * time.Hour} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ca := newACMETestCA(t)
			ca.lifetime = life
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.Poll = life / 144 })
			g.Start()
			defer g.Close()
			time.Sleep(time.Minute)
			synctest.Wait()
			first := g.cert("chat.example.org")
			ca.set(func() { ca.down = errors.New("no route to host") })
			time.Sleep(time.Until(first.Leaf.NotAfter) - life/10)
			synctest.Wait()
			if s := g.one(t); s.Failures == 0 || s.State != ACMEValid {
				t.Errorf("a life of %v: status = %+v; want valid, with failures", life, s)
			}
			ca.set(func() { ca.down = nil })
			time.Sleep(time.Until(first.Leaf.NotAfter) - time.Second)
			synctest.Wait()
			if now := g.cert("chat.example.org"); now == first {
				t.Errorf("a life of %v: not renewed in time: %+v", life, g.one(t))
			}
		})
	}
}

// A restart does not forget failures. Removing the record requests an attempt
// at once.
func TestACMEBackoffSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(string, string) *acmeTestProblem {
			return &acmeTestProblem{Type: "caa", Detail: "CAA record forbids issuance", Status: 403}
		}
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		before := g.one(t)
		g.Close()
		orders := ca.ordered()

		g = newACMETestGate(t, ca, dir, nil)
		if s := g.one(t); !reflect.DeepEqual(s, before) {
			t.Errorf("after a restart status = %+v; want %+v", s, before)
		}
		g.Start()
		time.Sleep(time.Until(before.NextTry) - time.Second)
		if ca.ordered() != orders {
			t.Errorf("the restart made an order %v early", time.Until(before.NextTry))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if ca.ordered() != orders+1 || g.one(t).Failures != before.Failures+1 {
			t.Errorf("%d orders, %+v; want one more than before", ca.ordered()-orders, g.one(t))
		}
		if err := os.Remove(filepath.Join(dir, "chat.example.org+state")); err != nil {
			t.Fatal(err)
		}
		ca.set(func() { ca.invalid = nil })
		time.Sleep(acmePoll)
		synctest.Wait()
		if g.cert("chat.example.org") == nil {
			t.Error("no try after the record was removed")
		}
		g.Close()
	})
}

// The cause of each attempt is kept: problem documents, subproblems and network
// errors. The error is one line, and errors.As finds each cause.
func TestACMEKeepsReasons(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(_, challenge string) *acmeTestProblem {
			if challenge == "http-01" {
				return &acmeTestProblem{Type: "unauthorized", Detail: "192.0.2.1: Invalid response: 404", Status: 403}
			}
			return &acmeTestProblem{Type: "connection", Detail: "192.0.2.1: Connection refused", Status: 400}
		}
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.HTTP01 = true })
		defer g.Close()
		_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		const want = `acme: order for "chat.example.org": tls-alpn-01: connection: 192.0.2.1: Connection refused; http-01: unauthorized: 192.0.2.1: Invalid response: 404`
		if err == nil || err.Error() != want {
			t.Errorf("err = %v\nwant  %s", err, want)
		}
		var authz *acme.AuthorizationError
		if !errors.As(err, &authz) {
			t.Errorf("%T has no AuthorizationError", err)
		}

		ca.refuseOrders(acmeTestProblem{Type: "rejectedIdentifier", Detail: "Some names are\nrefused", Status: 400, Subproblems: []acmeTestProblem{
			{Type: "urn:ietf:params:acme:error:malformed", Detail: "bad label", Identifier: map[string]string{"type": "dns", "value": "chat.example.org"}},
			{Type: "urn:ietf:params:acme:error:caa", Detail: "forbidden\x1b[31m"},
		}})
		_, err = g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		const refused = `acme: order for "chat.example.org": tls-alpn-01: rejectedIdentifier: Some names are refused (chat.example.org: malformed: bad label; caa: forbidden` + "\uFFFD" + `[31m)`
		if err == nil || err.Error() != refused {
			t.Errorf("err = %v\nwant  %s", err, refused)
		}
		var problem *acme.Error
		if !errors.As(err, &problem) || len(problem.Subproblems) != 2 {
			t.Errorf("%T has no problem document", err)
		}

		ca.down = errors.New("dial tcp 192.0.2.9:443: connect: network is unreachable")
		_, err = g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
		if err == nil || !errors.Is(err, ca.down) || !strings.Contains(err.Error(), "network is unreachable") {
			t.Errorf("err = %v; want the network's", err)
		}
	})
}

// The Retry-After of a rate limit is obeyed, and no other challenge is tried.
func TestACMERateLimited(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.refuseOrders(acmeTestProblem{Type: "rateLimited", Detail: "too many certificates (5) already issued", Status: 429, retryAfter: "7200"})
		g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.HTTP01 = true })
		g.Start()
		defer g.Close()
		time.Sleep(2*time.Hour - time.Minute)
		synctest.Wait()
		if n := ca.asked("POST /new-order"); n != 1 {
			t.Errorf("%d requests within the two hours; want 1", n)
		}
		s := g.one(t)
		if d := time.Until(s.NextTry); d < 0 || d > 30*time.Minute {
			t.Errorf("next try in %v; want two hours and jitter after the first", d)
		}
		if !strings.Contains(s.Err, "rateLimited: too many certificates (5) already issued") {
			t.Errorf("status says %q; want the CA's words", s.Err)
		}
		ca.set(func() { ca.refuse = nil })
		time.Sleep(time.Hour)
		synctest.Wait()
		if g.cert("chat.example.org") == nil {
			t.Error("not obtained after the limit")
		}
	})
}

// Only challenges that have a listener are tried, if the CA offers them.
// autocert's Manager would always try tls-alpn-01.
func TestACMEOnlyConfiguredChallenges(t *testing.T) {
	for _, tt := range []struct {
		tls, http bool
		offers    []string
		want      []string // challenges that the CA was asked to validate
		err       string
	}{
		{true, false, []string{"http-01", "tls-alpn-01"}, []string{"tls-alpn-01"}, "tls-alpn-01: malformed: no"},
		{false, true, []string{"http-01", "tls-alpn-01"}, []string{"http-01"}, "http-01: malformed: no"},
		{true, true, []string{"http-01", "tls-alpn-01"}, []string{"tls-alpn-01", "http-01"}, "tls-alpn-01: malformed: no; http-01: malformed: no"},
		{true, true, []string{"http-01"}, []string{"http-01"}, "tls-alpn-01: the CA does not offer it; http-01: malformed: no"},
		{true, true, []string{"dns-01"}, nil, "tls-alpn-01: the CA does not offer it; http-01: the CA does not offer it"},
	} {
		t.Run(fmt.Sprint(tt.tls, tt.http, tt.offers), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ca := newACMETestCA(t)
				ca.offers = tt.offers
				var asked []string
				ca.invalid = func(_, challenge string) *acmeTestProblem {
					asked = append(asked, challenge)
					return &acmeTestProblem{Type: "malformed", Detail: "no", Status: 400}
				}
				g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.TLSALPN, o.HTTP01 = tt.tls, tt.http })
				defer g.Close()
				_, err := g.cas[0].order(t.Context(), []string{"chat.example.org"}, "", "")
				if err == nil || !strings.HasSuffix(err.Error(), `"chat.example.org": `+tt.err) {
					t.Errorf("err = %v; want …%s", err, tt.err)
				}
				if !slices.Equal(asked, tt.want) {
					t.Errorf("validated %v; want %v", asked, tt.want)
				}
				for _, o := range ca.orders {
					if o.authz == "pending" {
						t.Errorf("order %d is left pending", o.id)
					}
				}
			})
		})
	}
}

// The challenge that succeeded is tried first the next time, also after a
// restart.
func TestACMEBeginsWithWhatWorked(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		var asked []string
		ca.invalid = func(_, challenge string) *acmeTestProblem {
			asked = append(asked, challenge)
			if challenge == "http-01" {
				return nil
			}
			return &acmeTestProblem{Type: "connection", Detail: "443 is not ours", Status: 400}
		}
		for range 2 {
			g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.HTTP01, o.Poll = true, 12*time.Hour })
			g.Start()
			time.Sleep(65 * 24 * time.Hour)
			synctest.Wait()
			if s := g.one(t); s.State != ACMEValid || s.Failures != 0 {
				t.Errorf("status = %+v; want valid", s)
			}
			g.Close()
		}
		if want := []string{"tls-alpn-01", "http-01", "http-01", "http-01"}; !slices.Equal(asked, want) {
			t.Errorf("validated %v; want %v", asked, want)
		}
	})
}

// A rate limit does not hide its cause.
func TestACMERateLimitKeepsCause(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newACMETestCA(t)
		ca.invalid = func(string, string) *acmeTestProblem {
			return &acmeTestProblem{Type: "dns", Detail: "NXDOMAIN", Status: 400}
		}
		ca.refuse = func(path string, n int) *acmeTestProblem {
			if path != "/new-order" || n < 3 {
				return nil
			}
			return &acmeTestProblem{Type: "rateLimited", Detail: fmt.Sprintf("too many failures, request %d", n), Status: 429}
		}
		g := newACMETestGate(t, ca, dir, nil)
		g.Start()
		defer g.Close()
		time.Sleep(time.Hour)
		synctest.Wait()
		const order = `acme: order for "chat.example.org": tls-alpn-01: `
		if got, want := g.one(t).Err, order+"rateLimited: too many failures, request 5; before that: "+order+"dns: NXDOMAIN"; got != want {
			t.Errorf("status says %q\nwant         %q", got, want)
		}
	})
}

// A gate answers for another one whose clock is ahead or behind.
func TestACMEChallengeOfFastClock(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		g := newACMETestGate(t, newACMETestCA(t), dir, nil)
		defer g.Close()
		client := &acme.Client{}
		client.Key, _ = acmeNewKey()
		key, answer, err := acmeAnswer(client, "chat.example.org", &acme.Challenge{Type: "tls-alpn-01", Token: "token"})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.cache.put(t.Context(), key, answer); err != nil { // as another gate does
			t.Fatal(err)
		}
		for _, ahead := range []time.Duration{-12 * time.Hour, 0, 12 * time.Hour} {
			cert, err := acmeDecode("chat.example.org", answer)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now().Add(-ahead)
			if now.Before(cert.Leaf.NotBefore) || now.After(cert.Leaf.NotAfter) {
				t.Errorf("a gate whose clock is %v behind refuses the answer", ahead)
			}
		}
		if cert, _ := g.ChallengeCertificate(&tls.ClientHelloInfo{ServerName: "chat.example.org", SupportedProtos: []string{"acme-tls/1"}}); cert == nil {
			t.Error("no answer for another gate")
		}
	})
}

// The http-01 handler answers only for configured names, and only with answers
// to challenges. It neither serves nor mentions other files. The fallback gets
// all other requests.
func TestACMEHTTPHandler(t *testing.T) {
	dir := t.TempDir()
	ca := newACMETestCA(t)
	g := newACMETestGate(t, ca, dir, func(o *ACMEOptions) { o.HTTP01 = true })
	defer g.Close()
	if err := g.cache.put(t.Context(), "tok-EN_1+http-01", []byte("tok-EN_1.print")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600)
	os.Mkdir(filepath.Join(dir, "folder+http-01"), 0o700)
	handler := g.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(418)
	}))
	const at = "/.well-known/acme-challenge/"
	for _, tt := range []struct {
		host, path string
		status     int
		body       string
	}{
		{"chat.example.org", at + "tok-EN_1", 200, "tok-EN_1.print"},
		{"chat.example.org:80", at + "tok-EN_1", 200, "tok-EN_1.print"},
		{"CHAT.Example.org.", at + "tok-EN_1", 200, "tok-EN_1.print"},
		{"other.example.org", at + "tok-EN_1", 403, ""},
		{"", at + "tok-EN_1", 403, ""},
		{"chat.example.org", at + "unknown", 404, ""},
		{"chat.example.org", at + "../../secret", 404, ""},
		{"chat.example.org", at, 404, ""},
		{"chat.example.org", at + "folder", 404, ""},
		{"chat.example.org", at + strings.Repeat("x", 5000), 404, ""},
		{"chat.example.org", at + "a%00b", 404, ""},
		{"chat.example.org", "/", 418, ""},
		{"chat.example.org", "/.well-known/host-meta", 418, ""},
	} {
		r := httptest.NewRequest("GET", "http://x"+tt.path, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("GET %.60s of %q = %d %q; want %d", tt.path, tt.host, w.Code, w.Body, tt.status)
		}
		if tt.body != "" && w.Body.String() != tt.body {
			t.Errorf("GET %s = %q; want %q", tt.path, w.Body, tt.body)
		}
		if strings.Contains(w.Body.String(), dir) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("GET %s tells of files: %q", tt.path, w.Body)
		}
	}
	w := httptest.NewRecorder()
	g.HTTPHandler(nil).ServeHTTP(w, httptest.NewRequest("GET", "http://chat.example.org/ws", nil))
	if got := w.Header().Get("Location"); w.Code != 302 || got != "https://chat.example.org/ws" {
		t.Errorf("without a fallback: %d to %q; want a redirect to https", w.Code, got)
	}
}

// The Manager would refuse to order if it ever received an ordinary
// ClientHello.
func TestACMEManagerOnlyReads(t *testing.T) {
	g := newACMETestGate(t, newACMETestCA(t), t.TempDir(), nil)
	defer g.Close()
	if err := g.answers.Put(context.Background(), "chat.example.org", nil); err == nil {
		t.Error("Put succeeded")
	}
	if err := g.answers.Delete(context.Background(), "chat.example.org"); err == nil {
		t.Error("Delete succeeded")
	}
	if err := g.cache.put(t.Context(), "chat.example.org", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if data, err := g.answers.Get(t.Context(), "chat.example.org"); err != autocert.ErrCacheMiss {
		t.Errorf("a file that is no answer is read: %q, %v", data, err)
	}
	for _, key := range []string{"chat.example.org", "acme_account+key", "chat.example.org+state", "../x+token", "x y+http-01", "+token", "+http-01"} {
		if acmeIsAnswer(key) {
			t.Errorf("acmeIsAnswer(%q) = true", key)
		}
	}
}

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"wssgate/demo/chat"
	"wssgate/upstream"
)

// noon is the time of these tests.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func keyFor(addr string) clientKey { return keyOfAddr(netip.MustParseAddr(addr)) }

// guarding returns an empty guard with a limit.
func guarding(count int, period time.Duration) *guard {
	g := newGuard(nil)
	g.configure(LoginFailures{count, period}, noon)
	return g
}

// fail records failed logins from an address, all at once, and returns the last
// verdict.
func (g *guard) fail(addr string, n int, now time.Time) (v verdict) {
	for range n {
		v = g.failed(keyFor(addr), now)
	}
	return v
}

func (g *guard) bannedFor(addr string, now time.Time) time.Duration {
	banned, _ := g.state(keyFor(addr), now)
	return banned
}

// The first half is free, then each failure causes a wait that doubles, then the
// address is refused for the period, and starts afresh.
func TestGuardSlowsThenRefuses(t *testing.T) {
	g := guarding(20, 10*time.Minute)
	for i := 1; i <= 45; i++ {
		v := g.failed(keyFor("192.0.2.7"), noon)
		var want verdict
		switch {
		case i <= 10:
			want = verdict{count: i}
		case i < 20:
			want = verdict{count: i, slow: min(time.Second<<(i-11), 10*time.Second)}
		default:
			want = verdict{count: 20, banned: 10 * time.Minute, first: i == 20}
		}
		if v != want {
			t.Errorf("failure %d: %+v, want %+v", i, v, want)
		}
	}
	for after, want := range map[time.Duration]time.Duration{
		0: 10 * time.Minute, 9*time.Minute + 59*time.Second: time.Second, 10 * time.Minute: 0, time.Hour: 0,
	} {
		if got := g.bannedFor("192.0.2.7", noon.Add(after)); got != want {
			t.Errorf("after %v refused for %v, want %v", after, got, want)
		}
	}
	later := noon.Add(10 * time.Minute)
	if v := g.fail("192.0.2.7", 1, later); v != (verdict{count: 1}) {
		t.Errorf("the first failure afterwards: %+v, want count 1", v)
	}
	if got := g.bannedFor("192.0.2.8", noon); got != 0 {
		t.Errorf("a neighbour is refused for %v", got)
	}
}

// Failures are forgotten one by one: an address that stays below the rate is never
// refused; one above it is.
func TestGuardForgets(t *testing.T) {
	for every, refused := range map[time.Duration]bool{31 * time.Second: false, 30 * time.Second: false, 20 * time.Second: true} {
		g, now, was := guarding(20, 10*time.Minute), noon, false
		for range 1000 {
			was = was || g.fail("192.0.2.7", 1, now).banned > 0
			now = now.Add(every)
		}
		if was != refused {
			t.Errorf("a failure every %v: refused %t, want %t", every, was, refused)
		}
	}
	g := guarding(20, 10*time.Minute)
	g.fail("192.0.2.7", 19, noon)
	if v := g.fail("192.0.2.7", 1, noon.Add(5*time.Minute)); v.count != 10 || v.banned != 0 || v.slow != 0 {
		t.Errorf("19 failures, and one after half the period: %+v, want 10 that count", v)
	}
}

// The /64 of an IPv6 address is one client; an IPv4 address is, in either form.
func TestGuardNetworks(t *testing.T) {
	g := guarding(3, time.Minute)
	for _, addr := range []string{"2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:2:1::3"} {
		g.fail(addr, 1, noon)
	}
	for addr, refused := range map[string]bool{"2001:db8:1:2::9": true, "2001:db8:1:3::1": false, "::": false} {
		if got := g.bannedFor(addr, noon) > 0; got != refused {
			t.Errorf("%s: refused %t, want %t", addr, got, refused)
		}
	}
	if v := g.failed(clientKey{}, noon); v != (verdict{}) {
		t.Errorf("nobody's failure: %+v, want none", v)
	}
	list := g.list(noon)
	if len(list) != 1 || list[0].Network.String() != "2001:db8:1:2::/64" || !list[0].Refused || list[0].Failures != 3 || !list[0].Until.Equal(noon.Add(time.Minute)) {
		t.Errorf("list = %+v", list)
	}
}

// The table does not grow, regardless of an attacker's addresses, and an address with
// more than one failure stays in it.
func TestGuardIsBounded(t *testing.T) {
	g := guarding(20, 10*time.Minute)
	g.fail("192.0.2.7", 20, noon)
	g.fail("192.0.2.8", 15, noon)
	now := noon
	for i := range 3 * maxGuarded {
		now = now.Add(time.Millisecond)
		g.failed(keyFor(fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff)), now)
	}
	if len(g.known) != maxGuarded || g.heap.Len() != maxGuarded {
		t.Errorf("%d addresses are known, %d in the heap; want %d", len(g.known), g.heap.Len(), maxGuarded)
	}
	if g.bannedFor("192.0.2.7", now) == 0 {
		t.Errorf("the address that was refused is let in")
	}
	if v := g.fail("192.0.2.8", 7, now); v.banned == 0 {
		t.Errorf("an address with 22 failures: %+v, want it refused", v)
	}
	// If all others have more failures, a new address is not added.
	g = guarding(20, 10*time.Minute)
	for i := range maxGuarded {
		g.fail(fmt.Sprintf("2001:db8:0:%x::1", i), 2, noon)
	}
	if g.fail("192.0.2.9", 1, noon); len(g.known) != maxGuarded || g.known[keyFor("192.0.2.9")] != nil {
		t.Errorf("%d addresses are known, the least bad one among them", len(g.known))
	}
	// After their time they are removed.
	later := noon.Add(2 * time.Minute)
	if c := g.counts(later); c.Known != 0 || len(g.known) != 0 {
		t.Errorf("%d are known when all is forgotten", c.Known)
	}
}

// The heap stays valid and its counts right after any operations.
func TestGuardHeap(t *testing.T) {
	g, now := guarding(5, time.Minute), noon
	for i := range 3000 {
		now = now.Add(time.Duration(i%7) * 100 * time.Millisecond)
		addr := fmt.Sprintf("198.51.100.%d", i*i%97)
		g.fail(addr, 1+i%3, now)
		switch {
		case i%11 == 0:
			g.forgive(addr)
		case i%997 == 0:
			g.configure(LoginFailures{3 + i%5, time.Duration(20+i%90) * time.Second}, now)
		}
		bans := 0
		for at, s := range g.heap.all {
			if s.index != at || g.known[s.key] != s || at > 0 && s.clear.Before(g.heap.all[(at-1)/2].clear) {
				t.Fatalf("after %d: place %d of the heap is wrong", i, at)
			}
			if s.banned {
				bans++
			}
		}
		if len(g.known) != g.heap.Len() || bans != g.bans {
			t.Fatalf("after %d: %d known, %d in the heap, %d refused, counted %d", i, len(g.known), g.heap.Len(), bans, g.bans)
		}
	}
}

func (g *guard) forgive(addr string) int { return g.pardon(keyFor(addr)) }

// A reload keeps the counts; removing the limit clears them.
func TestGuardConfigure(t *testing.T) {
	g := guarding(20, 10*time.Minute)
	g.fail("192.0.2.7", 8, noon)
	g.fail("192.0.2.8", 20, noon)
	g.configure(LoginFailures{10, time.Minute}, noon)
	if got := g.bannedFor("192.0.2.8", noon.Add(5*time.Minute)); got != 5*time.Minute {
		t.Errorf("refused for another %v, want what was said: 5m", got)
	}
	if v := g.fail("192.0.2.7", 1, noon); v.count != 9 || v.banned != 0 {
		t.Errorf("8 failures before, one after: %+v, want 9", v)
	}
	if v := g.fail("192.0.2.7", 1, noon); v.banned != time.Minute {
		t.Errorf("the tenth: %+v, want refused for 1m", v)
	}
	g.configure(LoginFailures{}, noon)
	if g.bannedFor("192.0.2.7", noon) != 0 || len(g.list(noon)) != 0 || g.fail("192.0.2.7", 100, noon) != (verdict{}) {
		t.Errorf("without a limit somebody is counted")
	}
}

// A pardon ends a refusal at once, for one address or all.
func TestGuardPardon(t *testing.T) {
	g := guarding(3, time.Minute)
	g.fail("192.0.2.7", 3, noon)
	g.fail("192.0.2.8", 3, noon)
	g.fail("2001:db8::1", 3, noon)
	if n := g.forgive("192.0.2.9"); n != 0 {
		t.Errorf("a pardon for nobody was for %d", n)
	}
	if n := g.forgive("2001:db8::ffff"); n != 1 || g.bannedFor("2001:db8::1", noon) != 0 {
		t.Errorf("a pardon for the /64 was for %d", n)
	}
	if v := g.fail("2001:db8::1", 1, noon); v.count != 1 {
		t.Errorf("the first failure after a pardon: %+v", v)
	}
	if n := g.pardon(clientKey{}); n != 3 || g.bannedFor("192.0.2.7", noon) != 0 || g.counts(noon).RefusedNow != 0 {
		t.Errorf("a pardon for all was for %d", n)
	}
}

func BenchmarkGuardFailed(b *testing.B) {
	g := guarding(20, 10*time.Minute)
	var keys []clientKey
	for i := range 4 * maxGuarded {
		keys = append(keys, keyFor(fmt.Sprintf("2001:db8:0:%x::1", i)))
	}
	now, i := noon, 0
	for b.Loop() {
		g.failed(keys[i%len(keys)], now)
		now = now.Add(time.Millisecond)
		i++
	}
}

// guessing makes a client log in with a wrong password.
func guessing(legacy, sasl2 bool) func(*chat.Target) {
	return func(t *chat.Target) {
		t.Legacy, t.SASL2, t.User, t.Password = legacy, sasl2, "alice", "wrong"
	}
}

func withLimit(count int) func(*Options) {
	return func(o *Options) { o.Settings.LoginFailures = LoginFailures{count, 10 * time.Minute} }
}

// newXMPPGate is newGate for an upstream with XMPP.
func newXMPPGate(t *testing.T, url string, edit ...func(*Options)) *gate {
	t.Helper()
	xmpp := group("test", url)
	xmpp.XMPP = true
	return newGateFor(t, upstream.Options{Upstreams: []upstream.GroupOptions{xmpp}}, edit...)
}

// wantRefused fails unless an opening handshake is answered with 403.
func (g *gate) wantRefused() {
	g.t.Helper()
	ctx := g.t.Context()
	c, err := chat.Dial(ctx, g.target())
	var refused *chat.StatusError
	if !errors.As(err, &refused) {
		if c != nil {
			c.Abort()
		}
		g.t.Fatalf("opening handshake: %v, want 403", err)
	}
	if after := refused.Response.Header.Get("Retry-After"); refused.Response.StatusCode != http.StatusForbidden || after != "600" && after != "599" {
		g.t.Errorf("opening handshake: %v, Retry-After %q; want 403, 600", refused, after)
	}
}

// Wrong passwords, on one tunnel and on several, cause a stream error in place of the
// answer, and 403 for later clients of the address. Tunnels that are logged in
// continue. A pardon lets all clients in again.
func TestLoginFailures(t *testing.T) {
	framings(t, func(t *testing.T, legacy bool) {
		for _, sasl2 := range []bool{false, true} {
			g := newXMPPGate(t, newUpstream(t, chat.Config{Password: "right"}).URL(), withLimit(4))
			in := g.stream(func(t *chat.Target) { t.User, t.Password = "bob", "right" })
			for _, step := range []func() error{in.OpenStream, in.Authenticate, in.OpenStream, in.Bind} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			one, waits := g.stream(guessing(legacy, sasl2)), g.stream(guessing(legacy, sasl2))
			other := g.stream(func(t *chat.Target) { guessing(legacy, sasl2)(t); t.Password = "right" })
			for _, c := range []*chat.Client{one, waits, other} {
				if err := c.OpenStream(); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := one.Authenticate(); err == nil || err.Error() != "SASL: not-authorized" {
					t.Fatalf("%v, want not-authorized", err)
				}
			}
			if _, slow := g.guard.state(keyFor("127.0.0.1"), time.Now()); slow != 0 {
				t.Errorf("slowed for %v after half of the failures", slow)
			}
			// Two more failures elsewhere: a failure here would be slowed.
			g.guard.fail("127.0.0.1", 2, time.Now())
			for what, c := range map[string]*chat.Client{"a wrong password": waits, "the right one": other} {
				if err := c.Authenticate(); err == nil || err.Error() != "stream: error policy-violation" {
					t.Errorf("%s, when refused: %v; want policy-violation", what, err)
				}
				if _, code := lastWords(t, c); code != ws.StatusPolicyViolation {
					t.Errorf("%s, when refused: Close %d, want 1008", what, code)
				}
			}
			g.wantRefused()
			if err := in.Message(in.JID, "still here"); err != nil {
				t.Fatal(err)
			}
			if e, err := in.ReadMessage(); err != nil || e.ChildText("body") != "still here" {
				t.Errorf("who is logged in: %v", err)
			}
			c := g.Counts()
			if c.Logins.Refused["tunnel"] != 2 || c.Logins.Refused["upgrade"] != 1 || c.Logins.RefusedNow != 1 || c.Closed["login_failures"] < 1 {
				t.Errorf("counts %+v, closed %v", c.Logins, c.Closed)
			}
			if n := g.Pardon(netip.MustParseAddr("127.0.0.1")); n != 1 {
				t.Errorf("a pardon was for %d", n)
			}
			again := g.stream(guessing(legacy, sasl2))
			if err := errors.Join(again.OpenStream(), again.Authenticate()); err == nil || err.Error() != "SASL: not-authorized" {
				t.Errorf("after the pardon: %v, want not-authorized", err)
			}
		}
	})
}

// The line for programs is written once, when an address is refused.
func TestLoginFailuresLog(t *testing.T) {
	g := newXMPPGate(t, newUpstream(t, chat.Config{Password: "right"}).URL(), withLimit(1))
	c := g.stream(guessing(false, false))
	if err := errors.Join(c.OpenStream(), c.Authenticate()); err == nil || err.Error() != "stream: error policy-violation" {
		t.Fatalf("%v, want policy-violation", err)
	}
	g.wantRefused()
	client := c.Conn.LocalAddr().String()
	want := `level=WARN msg="logins refused" client=` + client + ` network=127.0.0.1/32 failures=1 refused_for=10m0s server_name=` + testName
	for until := time.Now().Add(patience); !strings.Contains(g.logs.String(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no %s in the log:\n%s", want, g.logs)
		}
	}
	if n := strings.Count(g.logs.String(), "logins refused"); n != 1 {
		t.Errorf("%d lines, want one", n)
	}
}

// Other errors are not counted, and neither are clients whose address is unknown.
func TestLoginFailuresThatAreNone(t *testing.T) {
	for _, condition := range []string{"temporary-auth-failure", "aborted", "invalid-mechanism", "encryption-required"} {
		up := newUpstream(t, chat.Config{Password: "right", Habits: chat.Habits{LoginFailure: condition}})
		g := newXMPPGate(t, up.URL(), withLimit(1))
		c := g.stream(guessing(false, false))
		if err := errors.Join(c.OpenStream(), c.Authenticate()); err == nil || err.Error() != "SASL: "+condition {
			t.Errorf("%v, want %s", err, condition)
		}
		if n := g.Counts().Logins.Failures; n != 0 {
			t.Errorf("%s: %d failures are counted", condition, n)
		}
	}
	g := newGate(t, newUpstream(t, chat.Config{Password: "right"}).URL(), withLimit(1))
	c := g.stream(guessing(false, false))
	if err := errors.Join(c.OpenStream(), c.Authenticate()); err == nil || err.Error() != "SASL: not-authorized" || g.Counts().Logins.Failures != 0 {
		t.Errorf("an upstream that speaks something else: %v, %d failures are counted", err, g.Counts().Logins.Failures)
	}
	for what, c := range map[string]*clientConn{
		"a unix socket": {key: keyOf(&net.UnixAddr{Name: "@", Net: "unix"})},
		"PROXY UNKNOWN": {key: keyFor("192.0.2.1"), unnamed: true},
	} {
		if c.suspect().IsValid() {
			t.Errorf("%s: counted as %v", what, c.suspect())
		}
	}
}

// A slowed client is not read for a while, and neither is the next one from its
// address, which still has the full time for its start tag. A start tag that was sent
// before is read afterwards.
func TestLoginFailuresSlow(t *testing.T) {
	const (
		open  = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='" + testName + "' version='1.0'/>"
		wrong = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAHdyb25n</auth>"
	)
	strict := func(o *upstream.Options) {
		o.Upstreams[0].XMPP = true
		o.Vhosts = []upstream.VhostOptions{{Names: []string{testName}, Upstream: "test", Domains: []string{testName}}}
	}
	inFront(t, chat.Config{Password: "right"}, strict, func(g *front) {
		g.server.guard.configure(LoginFailures{1000, 1000 * time.Hour}, time.Now())
		g.server.guard.fail("192.0.2.7", 500, time.Now())
		begin := time.Now()
		after := func(what string, want time.Duration) {
			g.t.Helper()
			if took := time.Since(begin); took != want {
				g.t.Errorf("%s after %v, want %v", what, took, want)
			}
		}
		login := func(b *bench, words ...string) {
			g.t.Helper()
			for _, w := range words {
				go b.send(b.client, opText, w)
				want := map[string]string{open: "<stream:features", wrong: "<failure"}[w]
				for payload := []byte(nil); !strings.HasPrefix(string(payload), want); {
					var err error
					if _, payload, err = b.frame(b.client); err != nil {
						g.t.Fatal(err)
					}
				}
			}
		}
		one := g.tunnel()
		login(one, open, wrong)
		after("the first answer", 0)
		login(one, wrong)
		after("the second, slowed by 1 s", time.Second)
		next := g.tunnel()
		time.Sleep(11 * time.Second) // its ten seconds begin once it is read
		login(next, open)
		after("the other tunnel's stream", 12*time.Second)
		login(next, wrong) // the third: 4 s
		begin = time.Now()
		fourth := g.tunnel()
		login(fourth, open)
		after("the stream of one that said it at once", 4*time.Second)
		for _, b := range []*bench{one, next, fourth} {
			b.client.Close()
		}
	})
}

package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeDNS answers from its maps; other names do not exist.
type fakeDNS struct {
	mu   sync.Mutex
	ips  map[string][]string
	srvs map[string][]*net.SRV
	slow time.Duration
	n    int         // number of queries
	when []time.Time // times of the queries
}

func (d *fakeDNS) set(name string, ips ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ips[name] = ips
}

func (d *fakeDNS) asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.n
	d.n = 0
	return n
}

func (d *fakeDNS) wait(ctx context.Context) error {
	d.mu.Lock()
	d.n++
	d.when = append(d.when, time.Now())
	slow := d.slow
	d.mu.Unlock()
	if slow == 0 {
		return nil
	}
	select {
	case <-time.After(slow):
		return nil
	case <-ctx.Done():
		return &net.DNSError{Err: "i/o timeout", Server: "10.0.0.53:53", IsTimeout: true}
	}
}

func (d *fakeDNS) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := d.wait(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []netip.Addr
	for _, s := range d.ips[host] {
		out = append(out, netip.MustParseAddr(s))
	}
	if network != "ip" || len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.0.0.53:53", IsNotFound: true}
	}
	return out, nil
}

func (d *fakeDNS) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if err := d.wait(ctx); err != nil {
		return "", nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := "_" + service + "._" + proto + "." + name
	if d.srvs[key] == nil {
		return "", nil, &net.DNSError{Err: "no such host", Name: key, IsNotFound: true}
	}
	return key, d.srvs[key], nil
}

// named returns a table of one node whose host is a name.
func named(t *testing.T, c *cluster, d *fakeDNS, g GroupOptions, nodes ...NodeOptions) (*Table, *Vhost) {
	t.Helper()
	o := c.options(g, nodes...)
	o.Resolver = d
	tab := table(t, o)
	v, err := tab.Routes().Lookup("x")
	if err != nil {
		t.Fatal(err)
	}
	return tab, v
}

func places(tab *Table) []string {
	var out []string
	for _, a := range tab.Status()[0].Nodes[0].Addresses {
		out = append(out, a.Address)
	}
	return out
}

// All addresses of a name are used, like several nodes.
func TestNameWithSeveralAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, "[2001:db8::3]:5290")
		d := &fakeDNS{ips: map[string][]string{"pods": {"10.0.0.2", "10.0.0.1", "2001:db8::3", "::ffff:10.0.0.1"}}}
		tab, v := named(t, c, d, GroupOptions{}, NodeOptions{Name: "pods", URL: "ws://Pods:5290/"})
		_, conns := tunnels(t, v, 300)
		for addr, n := range c.count() {
			within(t, addr, n, 95, 105)
		}
		if got, want := places(tab), []string{at1, at2, "[2001:db8::3]:5290"}; !slices.Equal(got, want) {
			t.Errorf("addresses %v; want %v", got, want)
		}
		if s := tab.Status()[0].Nodes[0]; s.Tunnels != 300 || s.Dials != 300 {
			t.Errorf("%d tunnels, %d dials; want 300 and 300", s.Tunnels, s.Dials)
		}
		release(conns)
	})
}

// The first client waits for the first answer; later ones never wait.
func TestDialWaitsForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}, slow: time.Second}
		_, v := named(t, c, d, GroupOptions{}, NodeOptions{URL: "ws://t1:5290/"})
		for _, want := range []time.Duration{time.Second, 0} {
			start := time.Now()
			_, conns := tunnels(t, v, 1)
			release(conns)
			if took := time.Since(start); took != want {
				t.Errorf("dialled after %v, want %v", took, want)
			}
		}
	})
}

// A name is resolved again periodically. An address that stays keeps its tunnels; a
// removed one gets no new ones, and its old ones may be released.
func TestNameChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		d := &fakeDNS{ips: map[string][]string{"t": {"10.0.0.1", "10.0.0.2"}}}
		tab, v := named(t, c, d, GroupOptions{ResolveInterval: 10 * time.Second}, NodeOptions{URL: "ws://t:5290/"})
		_, conns := tunnels(t, v, 100)
		d.set("t", "10.0.0.2", "10.0.0.3")
		time.Sleep(11 * time.Second)
		s := tab.Status()[0].Nodes[0].Addresses
		if len(s) != 2 || s[0].Address != at2 || s[0].Tunnels != 50 || s[1].Address != at3 || s[1].State != StateWarming {
			t.Errorf("addresses %+v; want %s with its 50 tunnels, %s warming", s, at2, at3)
		}
		c.count()
		time.Sleep(30 * time.Second)
		_, more := tunnels(t, v, 50)
		if n := c.count(); n[at1] != 0 || n[at3] < 40 {
			t.Errorf("dials %v; want most on the empty %s", n, at3)
		}
		release(conns)
		release(more)
		for _, a := range tab.Status()[0].Nodes[0].Addresses {
			if a.Tunnels != 0 {
				t.Errorf("%s has %d tunnels after all were released", a.Address, a.Tunnels)
			}
		}
	})
}

// If a resolver fails, the last answer stays, the failure is logged, and the next
// queries come sooner, at growing intervals.
func TestResolverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}}
		tab, v := named(t, c, d, GroupOptions{}, NodeOptions{URL: "ws://t1:5290/"})
		_, conns := tunnels(t, v, 1)
		release(conns)
		d.set("t1")
		time.Sleep(40 * time.Second)
		_, conns = tunnels(t, v, 1)
		release(conns)
		if s := tab.Status()[0].Nodes[0]; !strings.Contains(s.DNSError, `resolve "t1" on 10.0.0.53:53: no such host`) || s.State != StateUp {
			t.Errorf("state %q, DNS error %q; want up, and the reason", s.State, s.DNSError)
		}
		d.asked()
		time.Sleep(5 * time.Minute)
		within(t, "questions in 5 minutes of failure", d.asked(), 9, 14)
		d.set("t1", "10.0.0.1")
		time.Sleep(40 * time.Second)
		if s := tab.Status()[0].Nodes[0]; s.DNSError != "" {
			t.Errorf("DNS error %q after an answer", s.DNSError)
		}
	})
}

// The pauses stop growing at the interval, however long DNS fails.
func TestResolverFailsForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{slow: 10 * time.Millisecond} // so that a loop without pauses ends
		named(t, newCluster(nil), d, GroupOptions{}, NodeOptions{URL: "ws://t1:5290/"})
		time.Sleep(10 * time.Minute)
		d.asked()
		time.Sleep(time.Hour)
		within(t, "questions in an hour of failure", d.asked(), 110, 135)
	})
}

// A client that finds no address triggers a DNS query soon, however long DNS has
// failed: the next client gets through.
func TestNoAddressAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		// It answers after a moment; otherwise some of the 50 would come after it.
		d := &fakeDNS{ips: map[string][]string{}, slow: 10 * time.Millisecond}
		_, v := named(t, c, d, GroupOptions{ResolveInterval: time.Hour}, NodeOptions{URL: "ws://t1:5290/"})
		time.Sleep(40 * time.Minute)
		d.set("t1", "10.0.0.1")
		d.asked()
		for range 50 {
			if _, err := v.Dial(t.Context(), request); !errors.Is(err, ErrNoAddress) {
				t.Errorf("err = %v; want %v", err, ErrNoAddress)
			}
		}
		time.Sleep(1100 * time.Millisecond)
		within(t, "questions after 50 clients in 1.1 s", d.asked(), 1, 2)
		_, conns := tunnels(t, v, 1)
		release(conns)
	})
}

// A name that does not exist: 503 and the resolver's error.
func TestNameUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{ips: map[string][]string{}}
		tab, v := named(t, newCluster(nil), d, GroupOptions{}, NodeOptions{URL: "ws://t1:5290/"})
		_, err := v.Dial(t.Context(), request)
		e, ok := errors.AsType[*DialError](err)
		if !ok || e.Status != 503 || !errors.Is(err, ErrNoAddress) || e.Error() != `upstream "tigase": no address: resolve "t1" on 10.0.0.53:53: no such host` {
			t.Errorf("err = %v; want 503, no address", err)
		}
		if _, ok := errors.AsType[*net.DNSError](err); !ok {
			t.Errorf("%v has no DNSError", err)
		}
		if s := tab.Status()[0].Nodes[0]; s.State != StateNoAddress {
			t.Errorf("state %q; want %q", s.State, StateNoAddress)
		}
		d.set("t1", "10.0.0.1")
		time.Sleep(5 * time.Second)
		if got := places(tab); !slices.Equal(got, []string{at1}) {
			t.Errorf("addresses %v; want %s", got, at1)
		}
	})
}

// A failed dial triggers a DNS query at once, but not for each client.
func TestDialFailureAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}}
		_, v := named(t, c, d, GroupOptions{ResolveInterval: time.Hour}, NodeOptions{URL: "ws://t1:5290/"})
		_, conns := tunnels(t, v, 1)
		release(conns)
		c.kill(at1) // it moved
		c.set(at2, brief)
		d.set("t1", "10.0.0.2")
		time.Sleep(time.Minute)
		d.asked()
		for range 50 {
			v.Dial(t.Context(), request)
		}
		time.Sleep(1100 * time.Millisecond)
		within(t, "questions after 50 failures in 1.1 s", d.asked(), 1, 2)
		_, conns = tunnels(t, v, 1)
		release(conns)
	})
}

// SRV: targets of a lower priority value come first, others while none of these work;
// weights apply within a priority; several addresses share their target's weight.
func TestSRV(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, "10.0.0.1:5290", "10.0.0.2:5290", "10.0.0.3:5290", "10.0.0.4:5291")
		d := &fakeDNS{
			ips: map[string][]string{"t1.example.com": {"10.0.0.1", "10.0.0.2"}, "t2.example.com": {"10.0.0.3"}, "b.example.com": {"10.0.0.4"}},
			srvs: map[string][]*net.SRV{"_xmpp-websocket._tcp.example.com": {
				{Target: "b.example.com.", Port: 5291, Priority: 20, Weight: 1},
				{Target: "t1.example.com.", Port: 5290, Priority: 10, Weight: 20},
				{Target: "T2.example.com.", Port: 5290, Priority: 10, Weight: 10},
			}},
		}
		tab, v := named(t, c, d, GroupOptions{Balance: "random"}, NodeOptions{Name: "srv", URL: "srv+ws://_xmpp-websocket._tcp.example.com/ws"})
		_, conns := tunnels(t, v, 900)
		release(conns)
		n := c.count()
		for _, addr := range []string{at1, at2, at3} {
			within(t, addr, n[addr], 250, 350)
		}
		if n["10.0.0.4:5291"] != 0 {
			t.Errorf("%d dials of the second priority", n["10.0.0.4:5291"])
		}
		for _, addr := range []string{at1, at2, at3} {
			c.kill(addr)
		}
		_, conns = tunnels(t, v, 10)
		release(conns)
		if n := c.count(); n["10.0.0.4:5291"] != 10 {
			t.Errorf("dials %v; want 10 of the second priority", n)
		}
		if s := tab.Status()[0].Nodes[0].Addresses[3]; s.Target != "b.example.com:5291" {
			t.Errorf("target %q", s.Target)
		}
		// A redirect to one target goes only there.
		for _, address := range []string{"b.example.com:5291", "b.example.com:5222", "B.example.com"} {
			if at := v.NodeByAddress(address); at == nil {
				t.Errorf("the target %q is not found", address)
			} else if conn, err := v.Follow(t.Context(), address, at, request); err != nil || conn.Address != "10.0.0.4:5291" {
				t.Errorf("Follow of %q = %v, %v", address, conn, err)
			} else {
				conn.Conn.Close()
				conn.Release()
			}
		}
	})
}

// If one of several targets can't be resolved, it keeps its addresses.
func TestSRVTargetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{
			ips: map[string][]string{"t1.e": {"10.0.0.1"}, "t2.e": {"10.0.0.2"}},
			srvs: map[string][]*net.SRV{"_x._tcp.e": {
				{Target: "t1.e.", Port: 5290}, {Target: "t2.e.", Port: 5290}, {Target: ".", Port: 1},
			}},
		}
		tab, _ := named(t, newCluster(brief), d, GroupOptions{}, NodeOptions{URL: "srv+ws://_x._tcp.e/"})
		synctest.Wait()
		d.set("t1.e")
		d.set("t2.e", "10.0.0.3")
		time.Sleep(35 * time.Second)
		if got, want := places(tab), []string{at1, at3}; !slices.Equal(got, want) {
			t.Errorf("addresses %v; want %v", got, want)
		}
		if s := tab.Status()[0].Nodes[0]; s.DNSError != `resolve "t1.e" on 10.0.0.53:53: no such host` {
			t.Errorf("DNS error %q; want one of t1.e, and nothing of the target that says no", s.DNSError)
		}
	})
}

// A node has at most 64 places from DNS.
func TestPlacesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{ips: map[string][]string{}}
		var many []string
		for i := range 200 {
			many = append(many, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String())
		}
		d.set("t", many...)
		tab, v := named(t, newCluster(nil), d, GroupOptions{}, NodeOptions{URL: "ws://t/"})
		synctest.Wait()
		if n := len(places(tab)); n != maxPlaces {
			t.Errorf("%d places, want %d", n, maxPlaces)
		}
		// The queries for that are bounded as well.
		node := v.group.nodes[0]
		if addrs, err := node.lookup(t.Context(), "t"); len(addrs) != maxPlaces || err != nil {
			t.Errorf("%d addresses of one name, %v; want %d", len(addrs), err, maxPlaces)
		}
	})
}

// Close ends queries and probes, even if DNS hangs.
func TestCloseWhileDNSHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{slow: time.Hour}
		tab, v := named(t, newCluster(nil), d, GroupOptions{Health: HealthOptions{Interval: time.Second}}, NodeOptions{URL: "ws://t/"})
		start := time.Now()
		tab.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
		before := tab.Routes()
		update(t, tab, newCluster(nil, at1).options(GroupOptions{}, three[0]))
		if tab.Routes() != before {
			t.Error("committed after Close")
		}
		if _, err := v.Dial(t.Context(), request); err == nil {
			t.Error("dialled without an address")
		}
	})
}

// An SRV node beside a plain one gets a node's share, regardless of its records'
// weights.
func TestSRVBesideANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{
			ips:  map[string][]string{"t1.e": {"10.0.0.1"}, "t2.e": {"10.0.0.2"}},
			srvs: map[string][]*net.SRV{"_x._tcp.e": {{Target: "t1.e.", Port: 5290, Weight: 300}, {Target: "t2.e.", Port: 5290, Weight: 100}}},
		}
		c := newCluster(brief, at1, at2, at3)
		_, v := named(t, c, d, GroupOptions{}, NodeOptions{URL: "srv+ws://_x._tcp.e/"}, three[2])
		synctest.Wait()
		_, conns := tunnels(t, v, 800)
		release(conns)
		n := c.count()
		within(t, "the node's of 800", n[at3], 390, 410)
		within(t, "the first target's", n[at1], 290, 310)
	})
}

// A service with the target "." has no address.
func TestSRVNotHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{srvs: map[string][]*net.SRV{"_x._tcp.e": {{Target: ".", Port: 5290}}}}
		_, v := named(t, newCluster(nil), d, GroupOptions{}, NodeOptions{URL: "srv+ws://_x._tcp.e/"})
		_, err := v.Dial(t.Context(), request)
		if !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "its SRV records name no target") {
			t.Errorf("err = %v; want no address", err)
		}
	})
}

// Slow DNS is not a slow node: 503, not 504.
func TestDNSTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{slow: time.Hour}
		_, v := named(t, newCluster(nil), d, GroupOptions{DialTimeout: time.Minute}, NodeOptions{URL: "ws://t1/"})
		start := time.Now()
		_, err := v.Dial(t.Context(), request)
		if e, ok := errors.AsType[*DialError](err); !ok || e.Status != 503 || !strings.Contains(e.Error(), `resolve "t1" on 10.0.0.53:53: i/o timeout`) {
			t.Errorf("err = %v; want 503", err)
		}
		if took := time.Since(start); took != dnsTimeout {
			t.Errorf("gave up after %v, want %v", took, dnsTimeout)
		}
	})
}

// Queries are spread in time; after a failure they follow after 1, 2, 4 s, and start
// again at 1 s after the next failure.
func TestQuestionsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}}
		named(t, newCluster(nil), d, GroupOptions{}, NodeOptions{URL: "ws://t1/"})
		gaps := func(lasting time.Duration) (out []time.Duration) {
			d.mu.Lock()
			d.when = d.when[max(0, len(d.when)-1):]
			d.mu.Unlock()
			time.Sleep(lasting)
			d.mu.Lock()
			defer d.mu.Unlock()
			for i := range len(d.when) - 1 {
				out = append(out, d.when[i+1].Sub(d.when[i]))
			}
			return out
		}
		synctest.Wait()
		different := map[time.Duration]bool{}
		for _, gap := range gaps(10 * time.Minute) {
			different[gap] = true
			if gap < 27*time.Second || gap > 33*time.Second {
				t.Errorf("%v between two questions, want 27 to 33 s", gap)
			}
		}
		within(t, "different gaps of about 20", len(different), 15, 22)
		for range 2 {
			d.set("t1")
			got := gaps(50 * time.Second)
			if want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}; len(got) < 4 || !slices.Equal(got[1:4], want) {
				t.Errorf("after the failure: %v; want the first interval, then %v", got, want)
			}
			d.set("t1", "10.0.0.1")
			time.Sleep(2 * time.Minute)
		}
	})
}

// Probes notice that a name moved, without a client.
func TestFailedProbeAsksDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster((&xmppNode{}).peer, at1)
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}}
		g := probing("")
		g.ResolveInterval = time.Hour
		tab, _ := named(t, c, d, g, NodeOptions{URL: "ws://t1:5290/"})
		time.Sleep(time.Minute)
		c.kill(at1)
		d.set("t1", "10.0.0.2")
		time.Sleep(15 * time.Second)
		if got := places(tab); !slices.Equal(got, []string{at2}) {
			t.Errorf("addresses %v; want %s", got, at2)
		}
	})
}

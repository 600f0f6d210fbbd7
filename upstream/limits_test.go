package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// No second has more dials than the rate; others wait for their turn, and those without
// a turn within dial_timeout are refused.
func TestConnectRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		_, v := c.vhost(t, GroupOptions{ConnectRate: 200, DialTimeout: 2 * time.Second}, three[0])
		type result struct {
			err  error
			took time.Duration
		}
		const storm = 1000
		results := make(chan result, storm)
		start := time.Now()
		for range storm {
			go func() {
				conn, err := v.Dial(t.Context(), request)
				if err == nil {
					conn.Conn.Close()
					conn.Release()
				}
				results <- result{err, time.Since(start)}
			}()
		}
		served := 0
		for range storm {
			r := <-results
			if r.err == nil {
				served++
				continue
			}
			d, ok := errors.AsType[*DialError](r.err)
			if !ok || d.Status != 503 || d.RetryAfter == 0 || !errors.Is(r.err, errFull) || r.took > 2*time.Second {
				t.Fatalf("after %v: %v; want a prompt 503", r.took, r.err)
			}
		}
		within(t, "served of 1000 in 3/4 of 2 s at 200/s", served, 300, 302)
		when := c.times(at1)
		for i := range when {
			n := 0
			for _, w := range when[i:] {
				if w.Sub(when[i]) < time.Second {
					n++
				}
			}
			if n > 200 {
				t.Fatalf("%d new connections within a second, want 200 at most", n)
			}
		}
	})
}

// A client that disconnects while it waits for its turn frees its place.
func TestConnectRateCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab, v := newCluster(brief, at1).vhost(t, GroupOptions{ConnectRate: 1}, three[0])
		_, conns := tunnels(t, v, 1)
		release(conns)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := v.Dial(ctx, request); err == nil {
			t.Error("a turn came at once")
		}
		if s := tab.Status()[0].Nodes[0]; s.Dialing != 0 || s.Failures != 0 || s.State != StateUp {
			t.Errorf("%+v; want no dial under way, no failure", s)
		}
	})
}

// A node at its limit is skipped; if all are, the client gets 503.
func TestMaxConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := []NodeOptions{three[0], three[1]}
		nodes[1].MaxConnections = 30
		tab, v := newCluster(brief, at1, at2).vhost(t, GroupOptions{MaxConnections: 10, Balance: "random"}, nodes...)
		got, conns := tunnels(t, v, 40)
		if got["t1"] != 10 || got["t2"] != 30 {
			t.Errorf("%v; want 10 and 30", got)
		}
		_, err := v.Dial(t.Context(), request)
		d, ok := errors.AsType[*DialError](err)
		if !ok || d.Status != 503 || d.RetryAfter == 0 || !strings.Contains(d.Error(), `node "t1": is at its limit of 10 connections`) {
			t.Errorf("all full: %v", err)
		}
		conns[0].Release()
		if _, err := v.Dial(t.Context(), request); err != nil {
			t.Errorf("after a release: %v", err)
		}
		if s := tab.Status()[0].Nodes; s[0].State != StateUp || s[1].State != StateUp {
			t.Errorf("full nodes are %q and %q; want up", s[0].State, s[1].State)
		}
		release(conns)
	})
}

// Dials in progress count; otherwise a storm would exceed the limit.
func TestMaxConnectionsCountsDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(c net.Conn, br *bufio.Reader, head string) {
			time.Sleep(time.Second)
			io.WriteString(c, good(head))
		}
		_, v := newCluster(slow, at1).vhost(t, GroupOptions{MaxConnections: 3}, three[0])
		errs := make(chan error, 10)
		for range 10 {
			go func() {
				conn, err := v.Dial(t.Context(), request)
				if err == nil {
					conn.Conn.Close()
				}
				errs <- err
			}()
		}
		ok := 0
		for range 10 {
			if <-errs == nil {
				ok++
			}
		}
		if ok != 3 {
			t.Errorf("%d of 10 dials worked, want 3", ok)
		}
	})
}

// A hanging node does not use up the time of the next one.
func TestDialTimeoutIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at2)
		c.set(at1, hole)
		o := c.options(GroupOptions{DialTimeout: 4 * time.Second}, three[:2]...)
		o.Vhosts = []VhostOptions{{Names: []string{"x"}, Node: "t1", Fallback: true}}
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		start := time.Now()
		conn, err := v.Dial(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		conn.Conn.Close()
		conn.Release()
		if took := time.Since(start); conn.Node.Name() != "t2" || took != 2*time.Second {
			t.Errorf("%q after %v; want t2 after 2s", conn.Node.Name(), took)
		}
		c.set(at2, hole)
		start = time.Now()
		_, err = v.Dial(t.Context(), request)
		d, ok := errors.AsType[*DialError](err)
		if took := time.Since(start); !ok || d.Status != 504 || took != 4*time.Second {
			t.Errorf("all hang: %v after %v; want 504 after 4s", err, took)
		}
	})
}

// If a large cluster is down, a client causes at most eight dials.
func TestDialTriesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(nil)
		var nodes []NodeOptions
		for i := range 20 {
			nodes = append(nodes, NodeOptions{URL: "ws://10.0.1." + string(rune('1'+i%9)) + ":" + string(rune('1'+i/9)) + "/"})
		}
		_, v := c.vhost(t, GroupOptions{}, nodes...)
		v.Dial(t.Context(), request)
		n := 0
		for _, k := range c.count() {
			n += k
		}
		if n != maxTries {
			t.Errorf("%d dials, want %d", n, maxTries)
		}
	})
}

// A path that two nodes refuse is not requested from others.
func TestDialRefusalsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for answer, want := range map[string]int{"404 Not Found": 2, "500 Oops": 3, "429 Too Many Requests": 3} {
			c := newCluster(says("HTTP/1.1 "+answer+"\r\n\r\n"), at1, at2, at3)
			tab, v := c.vhost(t, GroupOptions{}, three...)
			_, err := v.Dial(t.Context(), request)
			if d, ok := errors.AsType[*DialError](err); !ok || len(d.Causes) != want {
				t.Errorf("%s: %v; want %d causes", answer, err, want)
			}
			for _, n := range tab.Status()[0].Nodes {
				if (n.State == StateOut) != (want == 3) {
					t.Errorf("%s: node %s is %s", answer, n.Name, n.State)
				}
			}
		}
	})
}

// A client that finds a long queue is told to return when it is over.
func TestRetryAfterOfAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := newCluster(brief, at1).vhost(t, GroupOptions{ConnectRate: 1, DialTimeout: time.Minute}, three[0])
		errs := make(chan error, 50)
		for range 50 {
			go func() {
				conn, err := v.Dial(t.Context(), request)
				if err == nil {
					conn.Conn.Close()
					conn.Release()
				}
				errs <- err
			}()
		}
		refused := 0
		for range 50 {
			if d, ok := errors.AsType[*DialError](<-errs); ok {
				refused++
				if d.RetryAfter < 45*time.Second {
					t.Errorf("Retry-After %v, want the queue's 45 s at least", d.RetryAfter)
				}
			}
		}
		within(t, "refused of 50", refused, 3, 5)
	})
}

// Retry-After differs; otherwise all clients would return in the same second.
func TestRetryAfterIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := newCluster(nil).vhost(t, GroupOptions{}, three[0])
		different := map[time.Duration]bool{}
		for range 20 {
			_, err := v.Dial(t.Context(), request)
			d, ok := errors.AsType[*DialError](err)
			if !ok || d.RetryAfter < retryAfter || d.RetryAfter > 2*retryAfter {
				t.Fatalf("%v; want Retry-After between %v and twice that", err, retryAfter)
			}
			different[d.RetryAfter] = true
		}
		within(t, "different values of 20", len(different), 15, 20)
	})
}

// A node that got only a short rest of the dial's time did not fail.
func TestHardlyAChanceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(hole, at1, at2, at3, "10.0.0.4:5290")
		tab, v := c.vhost(t, GroupOptions{DialTimeout: 4 * time.Second}, append(three[:3:3], NodeOptions{Name: "t4", URL: "ws://10.0.0.4:5290/"})...)
		if _, err := v.Dial(t.Context(), request); err == nil {
			t.Fatal("dialled a hole")
		}
		out := 0
		for _, n := range tab.Status()[0].Nodes { // they had 2, 1, 0.5 and 0.5 s
			if n.State == StateOut {
				out++
			}
		}
		if out != 2 {
			t.Errorf("%d of 4 nodes are out, want the two that had a second or more", out)
		}
	})
}

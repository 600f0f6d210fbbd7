package upstream

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

func TestBalanceShares(t *testing.T) {
	weighted := []NodeOptions{three[0], three[1], three[2]}
	weighted[2].Weight = 4
	for _, c := range []struct {
		name, balance string
		nodes         []NodeOptions
		want          map[string]int // of 3000
		slack         int
	}{
		// Two choices by load give an almost even result; random choice does not.
		{"least", "least", three, map[string]int{"t1": 1000, "t2": 1000, "t3": 1000}, 10},
		{"random", "random", three, map[string]int{"t1": 1000, "t2": 1000, "t3": 1000}, 80},
		{"hash", "hash", three, map[string]int{"t1": 1000, "t2": 1000, "t3": 1000}, 80},
		{"least by weight", "", weighted, map[string]int{"t1": 500, "t2": 500, "t3": 2000}, 10},
		{"random by weight", "random", weighted, map[string]int{"t1": 500, "t2": 500, "t3": 2000}, 80},
		{"hash by weight", "hash", weighted, map[string]int{"t1": 500, "t2": 500, "t3": 2000}, 80},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, v := newCluster(brief, at1, at2, at3).vhost(t, GroupOptions{Balance: c.balance}, c.nodes...)
				got, conns := tunnels(t, v, 3000)
				defer release(conns)
				for name, want := range c.want {
					within(t, name, got[name], want-c.slack, want+c.slack)
				}
			})
		})
	}
}

// After a node returns without tunnels, `least` evens the load out, without sending
// every new stream there.
func TestBalanceLeastFillsAnEmptyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := newCluster(brief, at1, at2, at3).vhost(t, GroupOptions{}, three...)
		_, conns := tunnels(t, v, 900)
		defer release(conns)
		for _, c := range conns {
			if c.Node.Name() == "t3" {
				c.Release()
			}
		}
		got, more := tunnels(t, v, 90)
		defer release(more)
		within(t, "of 90 on the empty node", got["t3"], 35, 65) // 5/9 of the pairs contain it
	})
}

// A client keeps its node, and the loss of a node moves only that node's clients.
func TestBalanceHashMovesOnlyTheLostNodesClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		_, v := c.vhost(t, GroupOptions{Balance: "hash"}, three...)
		where := func() map[int]string {
			_, conns := tunnels(t, v, 600)
			release(conns)
			got := map[int]string{}
			for i, c := range conns {
				got[i] = c.Node.Name()
			}
			return got
		}
		before := where()
		if again := where(); !maps.Equal(before, again) {
			t.Error("the same clients went elsewhere the second time")
		}
		c.kill(at2)
		moved := map[string]int{}
		for i, node := range where() {
			switch {
			case before[i] == "t2":
				moved[node]++
			case node != before[i]:
				t.Fatalf("client %d went from %s to %s, and only t2 is down", i, before[i], node)
			}
		}
		within(t, "of t2's clients on t1", moved["t1"], 60, 140)
		within(t, "of t2's clients on t3", moved["t3"], 60, 140)
	})
}

// The port does not matter: a second stream of a client goes to the same node.
func TestBalanceHashIgnoresThePort(t *testing.T) {
	a := request.Client
	if draw(a.Addr(), "t1", at1) != draw(request.Client.Addr(), "t1", at1) || draw(a.Addr(), "t1", at1) == draw(a.Addr(), "t1", at2) {
		t.Error("draw depends on something else than client, node and address")
	}
}

// Healthy nodes come before unhealthy ones; a node that is out gets nothing while
// another works, and is tried again after its time out.
func TestBalanceAvoidsWhatIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2)
		tab, v := c.vhost(t, GroupOptions{}, three...)
		got, conns := tunnels(t, v, 100)
		release(conns)
		if got["t3"] != 0 {
			t.Errorf("%d tunnels on a dead node", got["t3"])
		}
		if n := c.count()[at3]; n != 1 {
			t.Errorf("the dead node was dialled %d times in an instant; want 1", n)
		}
		// Out for about 1, 2, 4, 8, 16, 30, 30 s: few dials, regardless of the number
		// of clients.
		for range 100 {
			time.Sleep(time.Second)
			_, conns := tunnels(t, v, 5)
			release(conns)
		}
		within(t, "dials of the dead node in 100 s", c.count()[at3], 5, 8)
		if s := tab.Status()[0].Nodes[2]; s.State != StateOut {
			t.Errorf("state %q; want out", s.State)
		}
	})
}

// If all are out, the group is tried nevertheless, and works again at once.
func TestBalanceTriesAnyway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(nil)
		_, v := c.vhost(t, GroupOptions{}, three...)
		for range 3 {
			if _, err := v.Dial(t.Context(), request); err == nil {
				t.Fatal("dialled a dead cluster")
			}
		}
		c.count()
		c.set(at2, brief)
		got, conns := tunnels(t, v, 1)
		release(conns)
		if got["t2"] != 1 {
			t.Errorf("tunnels %v; want one on t2", got)
		}
	})
}

// returned is a cluster whose t3 has failed more than once and has just returned. t1
// and t2 hold that many tunnels together.
func returned(t *testing.T, balance string, held int) (*Vhost, []*Conn) {
	c := newCluster(brief, at1, at2)
	_, v := c.vhost(t, GroupOptions{Balance: balance}, three...)
	_, conns := tunnels(t, v, held)
	for range 60 {
		time.Sleep(time.Second)
		_, conns := tunnels(t, v, 5)
		release(conns)
	}
	if n := v.group.nodes[2].endpoints()[0].failures; n < 2 {
		t.Fatalf("t3 failed %d times, want more", n)
	}
	c.set(at3, brief)
	for range 60 {
		time.Sleep(time.Second)
		_, more := tunnels(t, v, 5)
		release(more)
		if v.group.nodes[2].status(time.Now(), &room{}).State == StateWarming {
			return v, conns
		}
	}
	t.Fatal("t3 did not come back")
	return nil, nil
}

// A node that returns has a slow start: its share grows over 30 s.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, conns := returned(t, "random", 0)
		defer release(conns)
		share := func() int {
			got, conns := tunnels(t, v, 600)
			release(conns)
			return got["t3"]
		}
		// With weights of 1 : 1 : w, a node gets w/(2+w) of 600 on average.
		within(t, "at first", share(), 1, 30)
		time.Sleep(10 * time.Second)
		within(t, "after 10 s", share(), 60, 110)
		time.Sleep(20 * time.Second)
		within(t, "after 30 s", share(), 170, 230)
		if s := v.group.nodes[2].status(time.Now(), &room{}).State; s != StateUp {
			t.Errorf("state %q after 30 s; want up", s)
		}
	})
}

// With `least`, the returned node's tunnels grow to an even load; without a slow start,
// all new ones in a storm would go there at once.
func TestSlowStartLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, conns := returned(t, "least", 600)
		defer release(conns)
		load := func() int { return v.group.nodes[2].status(time.Now(), &room{}).Tunnels }
		_, more := tunnels(t, v, 300)
		defer release(more)
		within(t, "t3's of 300 new tunnels at first", load(), 1, 30)
		time.Sleep(10 * time.Second)
		_, more2 := tunnels(t, v, 300)
		defer release(more2)
		within(t, "after 10 s and 600", load(), 60, 180) // a third of 500 is 167
		time.Sleep(20 * time.Second)
		_, more3 := tunnels(t, v, 600)
		defer release(more3)
		within(t, "after 30 s and 1200", load(), 400, 610)
	})
}

// A single failure may be an accident: the node is out for a second, without a slow
// start.
func TestOneFailureIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		_, v := c.vhost(t, GroupOptions{}, three[:2]...)
		_, conns := tunnels(t, v, 20)
		release(conns)
		c.set(at2, brief)
		time.Sleep(2 * time.Second)
		_, conns = tunnels(t, v, 100)
		release(conns)
		if s := v.group.nodes[1].status(time.Now(), &room{}); s.State != StateUp || s.Dials < 2 {
			t.Errorf("after one failure and a success: %q, %d dials; want up", s.State, s.Dials)
		}
	})
}

// While one client tests whether a node works again, the others go elsewhere: a hanging
// node delays one of them, not all.
func TestOnlyOneTrialAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1)
		c.set(at2, hole)
		_, v := c.vhost(t, GroupOptions{Balance: "hash"}, three[:2]...)
		_, conns := tunnels(t, v, 10) // t2 is out now
		release(conns)
		time.Sleep(5 * time.Second)
		c.count()
		done := make(chan struct{})
		for range 50 {
			go func() {
				defer func() { done <- struct{}{} }()
				_, conns := tunnels(t, v, 4)
				release(conns)
			}()
		}
		for range 50 {
			<-done
		}
		within(t, "dials of the hanging node", c.count()[at2], 1, 2)
	})
}

// A vhost's pinned node gets its streams; without fallback no other node does.
func TestPinnedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		o := c.options(GroupOptions{}, three...)
		o.Vhosts = []VhostOptions{
			{Names: []string{"example1.com"}},
			{Names: []string{"t2.example1.com"}, Node: "t2"},
			{Names: []string{"f.example1.com"}, Node: "t2", Fallback: true},
		}
		tab := table(t, o)
		pinned, _ := tab.Routes().Lookup("t2.example1.com")
		fallback, _ := tab.Routes().Lookup("f.example1.com")
		for _, v := range []*Vhost{pinned, fallback} {
			got, conns := tunnels(t, v, 50)
			release(conns)
			if got["t2"] != 50 {
				t.Errorf("%s: %v; want all on t2", v.Name(), got)
			}
		}
		c.kill(at2)
		_, err := pinned.Dial(t.Context(), request)
		if d, ok := err.(*DialError); !ok || d.Status != 503 || d.RetryAfter == 0 {
			t.Errorf("pinned to a dead node: %v; want 503", err)
		}
		got, conns := tunnels(t, fallback, 50)
		release(conns)
		if got["t2"] != 0 || got["t1"] < 15 || got["t3"] < 15 {
			t.Errorf("fallback: %v; want all on t1 and t3", got)
		}
	})
}

// Clients with an unknown address, as behind a unix socket, do not count as one client.
func TestHashWithoutAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		_, v := c.vhost(t, GroupOptions{Balance: "hash"}, three...)
		var conns []*Conn
		for range 300 {
			conn, err := v.Dial(t.Context(), &Request{Host: "x", Subprotocol: "xmpp"})
			if err != nil {
				t.Fatal(err)
			}
			conn.Conn.Close()
			conns = append(conns, conn)
		}
		for addr, n := range c.count() {
			within(t, addr, n, 95, 105)
		}
		release(conns)
	})
}

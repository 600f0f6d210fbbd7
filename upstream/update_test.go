package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"wssgate/xmpp"
)

// A node that stays keeps its tunnels, its health and its addresses; a new one has a
// slow start; tunnels of a removed one continue.
func TestUpdateKeepsWhatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at3)
		d := &fakeDNS{ips: map[string][]string{"t1": {"10.0.0.1"}}}
		o := c.options(GroupOptions{}, NodeOptions{Name: "t1", URL: "ws://t1:5290/"}, three[1])
		o.Resolver = d
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		_, conns := tunnels(t, v, 20) // t2 is found to be dead
		defer release(conns)
		d.asked()

		o.Upstreams[0].Nodes = []NodeOptions{{Name: "t1", URL: "ws://t1:5290/", Weight: 5, PublicURL: "wss://t1.example1.com:5291/"}, three[1], three[2]}
		update(t, tab, o)
		s := tab.Status()[0].Nodes
		if s[0].Tunnels != 20 || s[0].State != StateUp || s[0].Weight != 5 || s[0].PublicURL != "wss://t1.example1.com:5291/" {
			t.Errorf("t1 after the reload: %+v; want its 20 tunnels, weight 5", s[0])
		}
		if s[1].State != StateOut || s[2].State != StateWarming {
			t.Errorf("t2 is %q, t3 %q; want out, warming", s[1].State, s[2].State)
		}
		if n := d.asked(); n != 0 {
			t.Errorf("%d DNS questions because of a reload", n)
		}

		o.Upstreams[0].Nodes = three[1:]
		update(t, tab, o)
		if !conns[0].Node.Leaving() {
			t.Error("a node that is gone is not leaving")
		}
		release(conns)
		if n := conns[0].Node.status(time.Now(), &room{}).Tunnels; n != 0 {
			t.Errorf("%d tunnels after all were released", n)
		}
		// An old vhost may still be used.
		got, more := tunnels(t, v, 3)
		defer release(more)
		if got["t1"] != 3 {
			t.Errorf("with the old vhost: %v; want t1", got)
		}
		d.asked()
		time.Sleep(10 * time.Minute)
		if n := d.asked(); n != 0 {
			t.Errorf("%d DNS questions for a node that is gone", n)
		}
	})
}

// Nothing changes before Commit, and holders of older Routes continue to use them after
// it.
func TestCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2)
		tab, _ := c.vhost(t, GroupOptions{}, three[0])
		before := tab.Routes()
		leads := func(when string, r *Routes, node string) {
			t.Helper()
			v, err := r.Lookup("x")
			if err != nil {
				t.Fatal(err)
			}
			got, conns := tunnels(t, v, 1)
			release(conns)
			if got[node] != 1 {
				t.Errorf("%s: %v; want %s", when, got, node)
			}
		}
		if _, err := Prepare(c.options(GroupOptions{Balance: "x"}, three[1])); err == nil {
			t.Fatal("a mistake was taken")
		}
		after, err := Prepare(c.options(GroupOptions{}, three[1]))
		if err != nil {
			t.Fatal(err)
		}
		if tab.Routes() != before {
			t.Error("the routes are others before Commit")
		}
		leads("prepared", before, "t1")
		tab.Commit(after)
		if tab.Routes() != after {
			t.Error("the routes are not those of Commit")
		}
		leads("the old routes", before, "t1")
		leads("the new routes", after, "t2")
	})
}

// With drain = true, a node gets no new streams and keeps the old ones, and its state
// shows it.
func TestUpdateDrainsANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2)
		o := c.options(GroupOptions{}, three[0], three[1])
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		_, conns := tunnels(t, v, 40)
		defer release(conns)
		o.Upstreams[0].Nodes = []NodeOptions{three[0], three[1]}
		o.Upstreams[0].Nodes[1].Drain = true
		update(t, tab, o)
		got, more := tunnels(t, v, 20) // with the previous vhost, which also obeys
		defer release(more)
		if got["t1"] != 20 {
			t.Errorf("%v; want all on t1", got)
		}
		for _, c := range conns {
			if c.Node.Leaving() != (c.Node.Name() == "t2") {
				t.Errorf("a tunnel of %s: leaving %t", c.Node.Name(), c.Node.Leaving())
			}
		}
		if s := tab.Status()[0].Nodes[1]; s.State != StateDraining || s.Tunnels != 20 {
			t.Errorf("t2: %q, %d tunnels; want draining, 20", s.State, s.Tunnels)
		}
		o.Upstreams[0].Nodes[0].Drain = true
		update(t, tab, o)
		v, _ = tab.Routes().Lookup("x")
		_, err := v.Dial(t.Context(), request)
		if d, ok := errors.AsType[*DialError](err); !ok || d.Status != 503 || !errors.Is(err, ErrDrained) {
			t.Errorf("all drained: %v; want 503, ErrDrained", err)
		}
		o.Upstreams[0].Nodes[1].Drain = false
		update(t, tab, o)
		if conns[0].Node.Leaving() != (conns[0].Node.Name() == "t1") {
			t.Error("Leaving does not follow the newest configuration")
		}
	})
}

// Drain does the same without new options, and neither of the two cancels the other.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		o := c.options(GroupOptions{}, three[0], three[1], three[2])
		o.Upstreams[0].Nodes[2].Drain = true
		tab := table(t, o)
		want := func(states ...string) {
			t.Helper()
			for i, n := range tab.Status()[0].Nodes {
				if n.State != states[i] {
					t.Errorf("%s: %q; want %q", n.Name, n.State, states[i])
				}
			}
		}
		want(StateUp, StateUp, StateDraining)
		tab.Drain("tigase", "t2", true)
		tab.Drain("tigase", "t3", true)
		want(StateUp, StateDraining, StateDraining)
		tab.Drain("tigase", "t2", false)
		tab.Drain("tigase", "t3", false)
		want(StateUp, StateUp, StateDraining)
		tab.Drain("tigase", "t2", true)
		tab.Drain("tigase", "t3", true)
		o.Upstreams[0].Nodes[2].Drain = false
		update(t, tab, o)
		want(StateUp, StateDraining, StateDraining)
		tab.Drain("tigase", "t2", false)
		tab.Drain("tigase", "t3", false)
		want(StateUp, StateUp, StateUp)
	})
}

// Concurrent reloads and dials: no client is refused.
func TestUpdateUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2, at3)
		tab, _ := c.vhost(t, GroupOptions{}, three...)
		var jobs sync.WaitGroup
		for range 20 {
			jobs.Go(func() {
				for range 20 {
					v, err := tab.Routes().Lookup("x")
					if err != nil {
						t.Error(err)
						return
					}
					_, conns := tunnels(t, v, 1)
					release(conns)
				}
			})
		}
		jobs.Go(func() {
			for i := range 100 {
				update(t, tab, c.options(GroupOptions{}, three[i%2:]...))
				tab.Status()
			}
		})
		jobs.Wait()
		for _, n := range tab.Status()[0].Nodes {
			if n.Tunnels != 0 || n.Dialing != 0 {
				t.Errorf("%s: %d tunnels, %d dials left", n.Name, n.Tunnels, n.Dialing)
			}
		}
	})
}

func TestNodeByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDNS{ips: map[string][]string{"t3.example1.com": {"10.0.0.3", "10.0.0.4"}}}
		o := newCluster(brief).options(GroupOptions{},
			NodeOptions{Name: "t1", URL: "ws://10.0.0.1:5290/"},
			NodeOptions{Name: "t2.example1.com", URL: "ws://10.0.0.2:5290/"},
			NodeOptions{Name: "t3", URL: "ws://t3.example1.com:5290/"},
			NodeOptions{Name: "a", URL: "ws://[2001:db8::1]:5290/"},
			NodeOptions{Name: "b", URL: "ws://[2001:db8::1]:5291/"},
			NodeOptions{Name: "w", URL: "ws://w.example1.com/"},
			NodeOptions{Name: "u", URL: "ws+unix:///run/t3.example1.com"},
		)
		o.Upstreams = append(o.Upstreams, GroupOptions{Name: "other", Nodes: []NodeOptions{{URL: "ws://10.9.9.9:5290/"}}})
		o.Vhosts = []VhostOptions{{Names: []string{"x"}, Upstream: "tigase"}}
		o.Resolver = d
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		synctest.Wait()
		for _, c := range []struct{ address, node, place string }{
			{"10.0.0.1:5290", "t1", ""},
			{"ws://10.0.0.1:5290/", "t1", ""},
			{"ws://10.0.0.1:5290/some/path", "t1", ""},
			{"t1", "t1", ""},
			{"t2.example1.com", "t2.example1.com", ""},
			{"T2.example1.com:5290", "t2.example1.com", ""},
			{"ws://t2.example1.com:5290/", "t2.example1.com", ""},
			{"ws://t3.example1.com:5290/", "t3", ""},
			{"t3.example1.com.", "t3", ""},
			{"t3.example1.com:5222", "t3", ""}, // see-other-host with c2s's port
			{"10.0.0.4:5290", "t3", "10.0.0.4:5290"},
			{"10.0.0.4", "t3", "10.0.0.4:5290"},
			{"10.0.0.4:5222", "t3", "10.0.0.4:5290"},
			{"ws://10.0.0.4:5290?a=b", "t3", "10.0.0.4:5290"},
			{"::ffff:10.0.0.4", "t3", "10.0.0.4:5290"},
			{"[2001:DB8::1]:5291", "b", ""},
			{"ws://[2001:db8::1]:5290/", "a", ""},
			{"[2001:db8::1]:5222", "", ""}, // an address of two of our nodes
			{"ws://w.example1.com/", "w", ""},
			{"wss://10.0.0.1/", "t1", ""},
			{"10.9.9.9:5290", "", ""}, // another upstream's
			{"192.0.2.1:5290", "", ""},
			{"ws://evil.example:5290/", "", ""},
			{"", "", ""},
			{"ws:///", "", ""},
			{":5290", "", ""},
			{"t1:http", "", ""},
			{"/run/t3.example1.com", "", ""},
		} {
			n := v.NodeByAddress(c.address)
			switch {
			case n == nil:
				if c.node != "" {
					t.Errorf("NodeByAddress(%q) = nil; want %q", c.address, c.node)
				}
			case n.Name() != c.node || n.place != c.place:
				t.Errorf("NodeByAddress(%q) = %q at %q; want %q at %q", c.address, n.Name(), n.place, c.node, c.place)
			}
		}
	})
}

// The cluster of the manual: Tigase names a node by its host name, which publicly leads
// to the gate, with the port of its own listener.
func TestNodeByPublicName(t *testing.T) {
	node := func(name, url, public string) NodeOptions {
		return NodeOptions{Name: name, URL: url, PublicURL: public}
	}
	for _, c := range []struct {
		what  string
		nodes []NodeOptions
		want  map[string]string // node by address; "": none
	}{
		{"a name for each", []NodeOptions{
			node("t1", "ws://10.0.0.1:5290/", "wss://t1.example1.com:5291/"),
			node("t2", "ws://10.0.0.2:5290/", "wss://T2.Example1.com.:5291/x"),
			node("t3", "ws://10.0.0.3:5290/", "wss://bücher.example:5291/"),
			node("t4", "ws://[2001:db8::4]:5290/", "wss://[2001:db8::f4]:5291/"),
			node("node 5", "ws+unix:///run/5", "wss://t5.example1.com/"),
		}, map[string]string{
			"ws://t2.example1.com:5290/": "t2", "ws://T1.EXAMPLE1.com.:5290/": "t1", "t2.example1.com": "t2", "t2.example1.com:5222": "t2",
			"wss://t2.example1.com:5291/": "t2", "ws://xn--bcher-kva.example:5290/": "t3", "ws://Bücher.example/": "t3",
			"ws://[2001:DB8:0::f4]:5290/": "t4", "2001:db8::4": "t4", "Node 5": "node 5", "t5.example1.com": "node 5",
			"ws://t9.example1.com:5290/": "", "example1.com": "", "ws://x.t2.example1.com:5290/": "",
		}},
		{"one name for all, told by the port", []NodeOptions{
			node("t1", "ws://10.0.0.1:5290/", "wss://chat.example1.com:5291/"),
			node("t2", "ws://10.0.0.2:5290/", "wss://chat.example1.com:5292/"),
		}, map[string]string{"ws://chat.example1.com:5290/": "", "chat.example1.com": "", "wss://chat.example1.com:5292/": "t2", "chat.example1.com:05291": "t1", "t2": "t2"}},
		{"the name of one is the public host of the other", []NodeOptions{
			node("t2.example1.com", "ws://10.0.0.1:5290/", ""),
			node("b", "ws://10.0.0.2:5290/", "wss://t2.example1.com:5291/"),
		}, map[string]string{"ws://t2.example1.com:5290/": "", "t2.example1.com": "", "10.0.0.2": "b", "wss://t2.example1.com:5291/": "b"}},
		{"the URL of one has the public host of the other", []NodeOptions{
			node("t1", "ws://t2.example1.com:5290/", "wss://t1.example1.com:5291/"),
			node("t2", "ws://10.0.0.2:5290/", "wss://t2.example1.com:5291/"),
		}, map[string]string{"ws://t2.example1.com:5290/": "t1", "t2.example1.com": "", "ws://t2.example1.com:5280/": ""}},
		{"one server, two paths", []NodeOptions{
			node("a", "ws://10.0.0.1:5290/a", ""), node("b", "ws://10.0.0.1:5290/b", ""),
		}, map[string]string{"ws://10.0.0.1:5290/": "", "10.0.0.1": "", "a": "a"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newCluster(brief).options(GroupOptions{}, c.nodes...)
			o.Resolver = &fakeDNS{ips: map[string][]string{}}
			v, err := table(t, o).Routes().Lookup("x")
			if err != nil {
				t.Fatal(err)
			}
			for address, want := range c.want {
				got := ""
				if n := v.NodeByAddress(address); n != nil {
					got = n.Name()
				}
				if got != want {
					t.Errorf("%s: NodeByAddress(%q) = %q; want %q", c.what, address, got, want)
				}
			}
		})
	}
}

// A lost redirect is logged at most once a minute, also across reloads.
func TestLoseRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		o := newCluster(brief).options(GroupOptions{},
			NodeOptions{Name: "t1", URL: "ws://10.0.0.1:5290/", PublicURL: "wss://chat.example1.com:5291/"})
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		tab := table(t, o)
		reload := func() (*Vhost, LostRedirect) {
			routes, err := Prepare(o)
			if err != nil {
				t.Fatal(err)
			}
			tab.Commit(routes)
			v, _ := routes.Lookup("x")
			return v, tab.Status()[0].Lost
		}
		v, _ := tab.Routes().Lookup("x")
		for range 60 { // one per second
			v.LoseRedirect("ws://t9.example1.com:5290/", nil, nil)
			time.Sleep(time.Second)
			v, _ = reload()
		}
		old := v
		v, lost := reload()
		if lost.Count != 60 || lost.Address != "ws://t9.example1.com:5290/" {
			t.Errorf("after a reload lost = %+v; want the last of 60", lost)
		}
		old.LoseRedirect("ws://t8.example1.com:5290/", nil, nil) // a client that began before
		v.LoseRedirect("ws://t9.example1.com:5290/", nil, nil)
		synctest.Wait()
		got := log.take()
		if len(got) != 2 || !strings.Contains(got[0], "count=1 ") || !strings.Contains(got[1], "count=60 ") || !strings.Contains(got[0], "t9.example1.com") {
			t.Errorf("log of a minute: %q; want two lines, of 1 and of 60", got)
		}
		o.Upstreams[0].Nodes = append(o.Upstreams[0].Nodes, NodeOptions{Name: "t2", URL: "ws://10.0.0.2:5290/", PublicURL: "wss://t9.example1.com:5291/"})
		if v, lost = reload(); lost.Count != 0 {
			t.Errorf("once the node is known lost = %+v; want none", lost)
		}
		v.LoseRedirect("ws://t8.example1.com:5290/", nil, nil)
		if lost := tab.Status()[0].Lost; lost.Count != 63 {
			t.Errorf("of another node lost = %+v; want all 63", lost)
		}
	})
}

// The advice about a lost redirect is practicable, and makes no internal address
// public.
func TestLoseRedirectAdvice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newCluster(brief).options(GroupOptions{},
			NodeOptions{Name: "t1", URL: "ws://10.0.0.1:5290/", PublicURL: "wss://chat.example1.com:5291/"},
			NodeOptions{Name: "t2", URL: "ws://10.0.0.2:5290/", PublicURL: "wss://chat.example1.com:5292/"},
			NodeOptions{Name: "t3", URL: "ws://10.0.0.3:5290/"})
		o.Upstreams = append(o.Upstreams, GroupOptions{Name: "other", Nodes: []NodeOptions{{Name: "t4", URL: "ws://10.0.0.4:5290/x", PublicURL: "wss://t4.example1.com/"}}})
		o.Vhosts = []VhostOptions{{Names: []string{"x"}, Upstream: "tigase"}}
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		for _, c := range []struct{ address, why, do string }{
			{"ws://t9.example1.com:5290/", "which is not a node", `add a node to upstream "tigase", with an address that the gate can reach as its url: { name = "t9.example1.com", url = "ws://t9.example1.com:5290/" }; if the redirect means an existing node, give that node name = "t9.example1.com"`},
			{" T9.example1.com:5222\n", "which is not a node", `{ name = "t9.example1.com", url = "ws://t9.example1.com:5290/" }`},
			{"wss://t9.example1.com/ws", "which is not a node", `{ name = "t9.example1.com", url = "wss://t9.example1.com/" }`},
			{"ws://10.0.0.9:5290/", "which is not a node", `{ name = "10.0.0.9", url = "ws://10.0.0.9:5290/" }`},
			{"2001:DB8::9", "which is not a node", `{ name = "2001:db8::9", url = "ws://[2001:db8::9]:5290/" }`},
			{"ws://t4.example1.com:5290/", `which is not a node of this upstream but node "t4" of upstream "other"`, `add that node to upstream "tigase" as well: { name = "t4", url = "ws://10.0.0.4:5290/x", public_url = "wss://t4.example1.com/" }`},
			{"10.0.0.4", `but node "t4" of upstream "other"`, `{ name = "t4", `},
			{"ws://chat.example1.com:5290/", `the address of several nodes: "t1", "t2"`, "a URL and a public_url of its own"},
			{"http://t9.example1.com/", "neither a host nor a ws or wss URL", "settings of the XMPP servers"},
			{"ws://u@t9.example1.com/", "neither a host nor a ws or wss URL", "settings of the XMPP servers"},
			{"t9.example1.com:http", "neither a host nor a ws or wss URL", "settings of the XMPP servers"},
			{"<" + strings.Repeat("x", 1000), "neither a host nor a ws or wss URL", "settings of the XMPP servers"},
			{"ws://t9.example1.com:5290/" + strings.Repeat("x", 999), "which is not a node", `url = "ws://t9.example1.com:5290/" }`},
			{"ws://10.0.0.3:5290/", `node "t3": the gate can no longer follow the redirect`, `give node "t3" of upstream "tigase" a public_url`},
			{"ws://10.0.0.1:5290/", `node "t1": the redirect is in the middle of a message`, "settings of the XMPP servers"},
		} {
			err := v.LoseRedirect(c.address, v.NodeByAddress(c.address), nil)
			lost := tab.Status()[0].Lost
			if !strings.Contains(err.Error(), c.why) || !strings.Contains(lost.Do, c.do) || len(err.Error()) > 400 {
				t.Errorf("%.50q: %v\n%s\nwant %q,\n%s", c.address, err, lost.Do, c.why, c.do)
			}
			if addr, err := netip.ParseAddr(placeOf(c.address).host); err == nil && strings.Contains(lost.Do, "public_url = \"wss://"+addr.String()) {
				t.Errorf("%q: %s; want no inner address for clients", c.address, lost.Do)
			}
			if lost.Why != "" && !strings.HasPrefix(lost.Why, "which") {
				t.Errorf("%q: %s", c.address, lost.Why)
			}
		}
		// A node with the name from the advice is known.
		for _, address := range []string{"ws://t9.example1.com:5290/", "ws://10.0.0.9:5290/", "2001:DB8::9", "10.0.0.9:5222"} {
			to, _ := xmpp.ParseTarget(address)
			n := &Node{name: targetPlace(to).host}
			g := &group{nodes: []*Node{{name: "t1", server: newServer(n, false)}, n}}
			if n.server = newServer(n, false); g.nodeByAddress(address) != n {
				t.Errorf("a node with name = %q is not known by %q", n.name, address)
			}
		}
	})
}

// A node with several places counts as visited once all of them were, and each of them
// can be visited separately.
func TestTrail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newCluster(brief, at1, at3, "10.0.0.4:5290").options(GroupOptions{},
			NodeOptions{Name: "t1", URL: "ws://10.0.0.1:5290/"}, NodeOptions{Name: "t3", URL: "ws://t3.example1.com:5290/"})
		o.Resolver = &fakeDNS{ips: map[string][]string{"t3.example1.com": {"10.0.0.3", "10.0.0.4"}}}
		v, _ := table(t, o).Routes().Lookup("x")
		synctest.Wait()
		var trail Trail
		for _, step := range []struct {
			to   string
			ends map[string]bool
		}{
			{"10.0.0.3", map[string]bool{"10.0.0.3": true, "10.0.0.4": false, "t3": false, "t1": false}},
			{"10.0.0.4", map[string]bool{"10.0.0.3": true, "10.0.0.4": true, "t3": true, "t1": false}},
			{"t1", map[string]bool{"10.0.0.1": true}},
		} {
			c, err := v.Follow(t.Context(), step.to, v.NodeByAddress(step.to), request)
			if err != nil {
				t.Fatal(err)
			}
			trail.Add(c)
			c.Conn.Close()
			c.Release()
			for to, want := range step.ends {
				if got := trail.Ends(v.NodeByAddress(to)); got != want {
					t.Errorf("behind %s, %s: Ends = %v; want %v", step.to, to, got, want)
				}
			}
		}
	})
}

// lines keeps the output of a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(strings.Lines(l.b.String()))
}

// A redirect is followed only to the node that it names. If that node accepts no
// streams, the redirect is lost, unless the client has disconnected.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(brief, at1, at2)
		o := c.options(GroupOptions{}, slices.Clone(three)...)
		tab := table(t, o)
		v, _ := tab.Routes().Lookup("x")
		follow := func(ctx context.Context, address string) (*Conn, error) {
			return v.Follow(ctx, address, v.NodeByAddress(address), request)
		}
		for range 10 {
			conn, err := follow(t.Context(), "ws://10.0.0.2:5290/")
			if err != nil || conn.Node.Name() != "t2" {
				t.Fatalf("Follow = %v, %v; want t2", conn, err)
			}
			conn.Conn.Close()
			conn.Release()
		}
		gone, end := context.WithCancel(t.Context())
		end()
		if _, err := follow(gone, "10.0.0.3:5290"); err == nil || tab.Status()[0].Lost.Count != 0 {
			t.Errorf("without its client: %v, lost %+v", err, tab.Status()[0].Lost)
		}
		_, err := follow(t.Context(), "10.0.0.3:5290")
		if d, ok := errors.AsType[*DialError](err); !ok || d.Status != 503 || len(d.Causes) != 1 {
			t.Errorf("Follow to a dead node: %v; want 503 and one cause", err)
		}
		if lost := tab.Status()[0].Lost; lost.Count != 1 || lost.Address != "10.0.0.3:5290" || !strings.Contains(lost.Why, `node "t3": the gate can't connect`) {
			t.Errorf("lost %+v; want the dead node", lost)
		}
		o.Upstreams[0].Nodes[1].Drain = true
		update(t, tab, o)
		v, _ = tab.Routes().Lookup("x")
		if _, err := follow(t.Context(), "10.0.0.2:5290"); !errors.Is(err, ErrDrained) {
			t.Errorf("Follow to a node that is draining: %v", err)
		}
		if lost := tab.Status()[0].Lost; lost.Count != 2 || !strings.Contains(lost.Why, `node "t2": it is draining`) || !strings.Contains(lost.Do, "end its drain") {
			t.Errorf("lost %+v; want the node that is draining", lost)
		}
	})
}

// One of three nodes with 500 clients is killed. Its clients return to the other two,
// evenly, and other clients are not affected.
func TestFailover(t *testing.T) {
	addrs := map[string]string{}
	var nodes []*fakeNode
	g := GroupOptions{Name: "tigase"}
	for _, name := range []string{"t1", "t2", "t3"} {
		n := startNode(t, "tcp", func(c net.Conn, br *bufio.Reader, head string) {
			c.SetDeadline(time.Time{})
			polite(c, br, head)
		})
		nodes = append(nodes, n)
		addrs[n.Addr().String()] = name
		g.Nodes = append(g.Nodes, NodeOptions{Name: name, URL: wsURL(n)})
	}
	tab := table(t, Options{Upstreams: []GroupOptions{g}})
	v, _ := tab.Routes().Lookup("x")
	dial := func(i int) *Conn {
		r := *request
		r.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 5000)
		c, err := v.Dial(t.Context(), &r)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	conns := make([]*Conn, 500)
	for i := range conns {
		conns[i] = dial(i)
	}
	defer func() {
		for _, c := range conns {
			c.Conn.Close()
			c.Release()
		}
	}()
	nodes[1].Close() // it accepts no new ones, and its old ones are cut
	var lost []int
	for i, c := range conns {
		if c.Node.Name() == "t2" {
			c.Conn.Close()
			c.Release()
			lost = append(lost, i)
		}
	}
	for _, i := range lost {
		conns[i] = dial(i)
	}
	count := map[string]int{}
	for i, c := range conns {
		count[c.Node.Name()]++
		if _, err := io.WriteString(c.Conn, "x"); err != nil {
			t.Fatalf("client %d on %s: %v", i, c.Node.Name(), err)
		}
		if _, err := io.ReadFull(c.Conn, make([]byte, 1)); err != nil {
			t.Fatalf("client %d on %s: %v", i, c.Node.Name(), err)
		}
	}
	within(t, "clients that t2 had", len(lost), 150, 180)
	within(t, "on t1 afterwards", count["t1"], 230, 270)
	within(t, "on t3 afterwards", count["t3"], 230, 270)
	if got := []string{tab.Status()[0].Nodes[0].State, tab.Status()[0].Nodes[1].State}; !slices.Equal(got, []string{StateUp, StateOut}) {
		t.Errorf("states %v; want t1 up, t2 out", got)
	}
}

// Tunnels keep their Vhost and Node, possibly for weeks; they must not keep all others
// of the same configuration.
func TestVhostKeepsNoRoutes(t *testing.T) {
	o := Options{
		Upstreams: []GroupOptions{{Name: "a", Nodes: []NodeOptions{{URL: "ws://127.0.0.1:9/"}}}},
		Vhosts:    []VhostOptions{{Names: []string{"one.test"}}, {Names: []string{"two.test"}}},
	}
	tab := table(t, o)
	v, err := tab.Routes().Lookup("one.test")
	if err != nil {
		t.Fatal(err)
	}
	routes := weak.Make(tab.Routes())
	update(t, tab, o)
	runtime.GC()
	if routes.Value() != nil {
		t.Error("a Vhost keeps the Routes that it is from")
	}
	runtime.KeepAlive(v)
}

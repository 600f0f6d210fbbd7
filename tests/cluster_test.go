package tests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/tests/internal/gate"
)

// The cluster of Tigase's manual: nodes t1 and t2 with a certificate each, both
// host example2.com, the client picks a node by its name and says example2.com
// in `to`. One gate stands before both; Tigase redirects a client that is on
// the wrong node to the plain address of the other.
func TestManualCluster(t *testing.T) {
	const t1, t2, domain = "t1.example1.com", "t2.example1.com", "example2.com"
	var nodes [2]*chat.Server
	home := "" // where example2.com's users are; "": wherever they come
	for i := range nodes {
		habits := chat.Tigase()
		habits.Redirect = func(o chat.Open) string {
			if home == "" || home == nodes[i].Addr() {
				return ""
			}
			if o.Legacy {
				return home
			}
			return "ws://" + home + "/"
		}
		nodes[i] = listenXMPP(t, chat.Config{Domains: []string{domain}, Habits: habits})
	}
	site := gate.NewSite(t, t1, t2)
	g := site.Start(t, fmt.Sprintf(`
[upstream.tigase]
nodes = [
  { name = "t1", url = %q, public_url = "wss://t1.example1.com:5291/" },
  { name = "t2", url = %q, public_url = "wss://t2.example1.com:5291/" },
]
health.interval = "0s"
[[vhost]]
names = ["t1.example1.com"]
node = "t1"
domains = ["example2.com"]
[[vhost]]
names = ["t2.example1.com"]
node = "t2"
domains = ["example2.com"]
`, nodes[0].URL(), nodes[1].URL()))
	login := func(name string, legacy bool) *chat.Client {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
		defer cancel()
		c, err := chat.Login(ctx, chat.Target{
			URL: "wss://" + name + ":5291/", Addr: g.Addr("wss"), TLS: site.Client(name), Domain: domain, Legacy: legacy,
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { c.Abort() })
		return c
	}
	for i, name := range []string{t1, t2} {
		for _, legacy := range []bool{false, true} {
			before := nodes[i].Seen()
			c := login(name, legacy)
			if !strings.HasSuffix(strings.Split(c.JID, "/")[0], "@"+domain) {
				t.Errorf("%s: JID %q is not of %s", name, c.JID, domain)
			}
			if nodes[i].Seen() != before+1 {
				t.Errorf("%s did not reach its node", name)
			}
		}
	}
	home = nodes[1].Addr()
	for _, legacy := range []bool{false, true} {
		before := nodes[1].Open()
		login(t1, legacy) // answered by t1 with a redirect, served by t2
		if nodes[1].Open() != before+1 {
			t.Errorf("legacy %v: the redirect of t1 was not followed to t2", legacy)
		}
	}
}

// Of three nodes one is killed under load. The 500 clients of the other two notice
// nothing; those of the third come back, and are shared between the two.
func TestFailoverUnderLoad(t *testing.T) {
	const clients = 750
	var nodes [3]*chat.Server
	var urls []string
	for i := range nodes {
		nodes[i] = listenXMPP(t, chat.Config{Echo: true})
		urls = append(urls, nodes[i].URL())
	}
	site := gate.NewSite(t, name)
	g := site.Start(t, fmt.Sprintf("[upstream.echo]\nnodes = [%q, %q, %q]\nxmpp = false\nhealth.interval = \"0s\"\n", urls[0], urls[1], urls[2]))
	dial := func() (*chat.Client, error) {
		ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
		defer cancel()
		return chat.Dial(ctx, chat.Target{URL: "wss://" + name + "/", Addr: g.Addr("wss"), TLS: site.Client(name)})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	returned, lost := 0, 0
	var ready sync.WaitGroup
	ready.Add(clients)
	for range clients {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { c.Abort() }()
			first := true
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				want := fmt.Sprintf("message %d", n)
				c.Conn.SetDeadline(time.Now().Add(gate.Patience))
				err := c.Send(want)
				var got string
				if err == nil {
					got, err = c.Recv()
				}
				if first {
					first = false
					ready.Done()
				}
				var ce *chat.CloseError
				if errors.As(err, &ce) && ce.Code == 1012 || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
					mu.Lock()
					returned++
					mu.Unlock()
					c.Abort()
					if c, err = dial(); err != nil {
						t.Errorf("coming back: %v", err)
						return
					}
					continue
				}
				if err != nil || got != want {
					mu.Lock()
					lost++
					mu.Unlock()
					t.Errorf("%q, %v; want %q", got, err, want)
					return
				}
			}
		})
	}
	ready.Wait()
	third := nodes[2].Open()
	before := [2]int{nodes[0].Open(), nodes[1].Open()}
	nodes[2].Close()
	ctx, cancel := context.WithTimeout(t.Context(), 4*gate.Patience)
	defer cancel()
	for nodes[0].Open()+nodes[1].Open() < clients {
		select {
		case <-ctx.Done():
			t.Fatalf("%d of %d clients are back", nodes[0].Open()+nodes[1].Open(), clients)
		case <-time.After(20 * time.Millisecond):
		}
	}
	close(stop)
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if returned != third {
		t.Errorf("%d clients were disturbed; %d were on the node that died", returned, third)
	}
	t.Logf("nodes had %d, %d, %d clients", before[0], before[1], third)
	for i, n := range []int{before[0], before[1], third} {
		if n < clients/3-clients/10 || n > clients/3+clients/10 {
			t.Errorf("node %d had %d of %d clients; want about a third", i+1, n, clients)
		}
	}
}

// A node that is taken out by a reload gets no new streams, and those that it
// has are closed; put in again, it gets new ones.
func TestNodeDrain(t *testing.T) {
	nodes := [2]*chat.Server{listenXMPP(t, chat.Config{}), listenXMPP(t, chat.Config{})}
	config := func(drain bool) string {
		return fmt.Sprintf(`
[upstream.test]
nodes = [{ name = "n1", url = %q, drain = %v }, { name = "n2", url = %q }]
health.interval = "0s"
[drain]
pace = 100
`, nodes[0].URL(), drain, nodes[1].URL())
	}
	site := gate.NewSite(t, name)
	g := site.Start(t, config(false))
	dial := func() *chat.Client {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
		defer cancel()
		c, err := chat.Login(ctx, chat.Target{URL: "wss://" + name + "/", Addr: g.Addr("wss"), TLS: site.Client(name)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Abort() })
		return c
	}
	var all []*chat.Client
	for nodes[0].Open() < 3 {
		all = append(all, dial())
	}
	closed := make(chan error, len(all))
	for _, c := range all {
		go func() {
			for {
				if _, err := c.Recv(); err != nil {
					closed <- err
					return
				}
			}
		}()
	}
	onFirst, onSecond := nodes[0].Open(), nodes[1].Open()
	site.Config(t, config(true))
	g.Signal(syscall.SIGHUP)
	for range onFirst {
		var ce *chat.CloseError
		if err := <-closed; !errors.As(err, &ce) || ce.Code != 1001 {
			t.Errorf("err = %v; want Close 1001", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
	defer cancel()
	if err := nodes[0].WaitOpen(ctx, 0); err != nil {
		t.Error(err)
	}
	seen := nodes[0].Seen()
	for range 5 {
		dial()
	}
	if nodes[0].Seen() != seen || nodes[1].Open() != onSecond+5 {
		t.Errorf("the node that is out was dialled %d times; the other has %d streams, want %d", nodes[0].Seen()-seen, nodes[1].Open(), onSecond+5)
	}
}

// A node that was drained, then left out of the file while it was away, has its
// streams when it is named again: its drain does not wait for it.
func TestNodeDrainedThenAway(t *testing.T) {
	nodes := [2]*chat.Server{listenXMPP(t, chat.Config{}), listenXMPP(t, chat.Config{})}
	config := func(first string) string {
		return fmt.Sprintf("[upstream.test]\nnodes = [%s { name = \"n2\", url = %q }]\nhealth.interval = \"0s\"\n", first, nodes[1].URL())
	}
	site := gate.NewSite(t, name)
	n1 := fmt.Sprintf("{ name = \"n1\", url = %q", nodes[0].URL())
	g := site.Start(t, config(n1+" },"))
	for _, first := range []string{n1 + ", drain = true },", "", n1 + " },"} {
		wait := g.Mark()
		site.Config(t, config(first))
		g.Signal(syscall.SIGHUP)
		wait("reloaded", func(l gate.Line) bool { return l.Msg() == "reloaded" })
	}
	nodes[1].Close() // n1 alone is left
	ctx, cancel := context.WithTimeout(t.Context(), gate.Patience)
	defer cancel()
	c, err := chat.Login(ctx, chat.Target{URL: "wss://" + name + "/", Addr: g.Addr("wss"), TLS: site.Client(name)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	if err := c.Message(c.JID, "hello"); err != nil {
		t.Fatal(err)
	}
	if e, err := c.ReadMessage(); err != nil || e.ChildText("body") != "hello" {
		t.Errorf("message to itself: %v, %v; want it back", e, err)
	}
}

func listenXMPP(t *testing.T, cfg chat.Config) *chat.Server {
	t.Helper()
	s, err := chat.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

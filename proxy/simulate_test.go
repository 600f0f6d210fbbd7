package proxy

// A year of bad luck in a minute: whole Servers in a simulated world.
//
// The code under test is the code that ships: a Server, its event loops with everything
// that their goroutines do, the tunnels and their parts (greeting, vetting, quota,
// drain, shedding, guard), and an upstream.Table with its dials. The outside is
// simulated: the clock, sockets and their poller (simulate_net_test.go), and the peers
// at their other ends (simulate_peers_test.go). TLS is left out: a handshake would cost
// as much as the rest of a small world.
//
// One goroutine, the world's, decides everything, with one random source from one seed.
// All others wait at a known place:
//
//	an event loop   in simPoller.wait      until it gets a batch of events
//	a dial          in simWorld.dial        until it is answered, or gives up
//	a job           not begun              until it is allowed to begin
//	an order        in loops.visit         until it has visited the loops
//	an opening      in simSocket.Read      until the network moves something
//
// Two worlds of three read and write in batches, whose calls the network makes, some
// incompletely.
//
// The world lets one of them continue, and waits until all are waiting again. So a seed
// always produces the same world. It is checked after each step of a loop
// (simWorld.check), and by the peers with each byte that they receive. At the end all
// faults are repaired, everything that was sent must have arrived, and everything ends.
//
// make simulate SEEDS=10000 runs many, make simulate SEED=4711 one, with its trace.

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

var (
	simSeeds = flag.Uint64("seeds", 200, "how many worlds TestSimulation runs, from seed 1 on")
	simSeed  = flag.Uint64("seed", 0, "the one that it runs, and whose trace it prints")
)

const (
	simSteps        = 500       // per world
	simClients      = 8         // maximum
	simMessageLimit = 256 << 10 // bytes
	simBacklog      = 96 << 10  // bytes
	simLogins       = 4         // allowed to fail
)

// Nothing is lost, doubled, misdirected or left behind, whatever happens.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		w := simulate(t, *simSeed, true)
		t.Logf("seed %d:\n%s", *simSeed, strings.Join(w.lines, "\n"))
		w.report(t)
		return
	}
	var next atomic.Uint64
	var happened tally
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= *simSeeds; seed = next.Add(1) {
					w := simulate(t, seed, false)
					w.report(t)
					happened.add(w)
				}
			})
		}
	})
	t.Log(happened.String())
}

// A seed always produces the same world.
func TestSimulationIsRepeatable(t *testing.T) {
	for seed := range uint64(10) {
		first, second := simulate(t, seed+1, true), simulate(t, seed+1, true)
		for i := range min(len(first.lines), len(second.lines)) {
			if first.lines[i] != second.lines[i] {
				t.Fatalf("seed %d, line %d: %q, then %q", seed+1, i, first.lines[i], second.lines[i])
			}
		}
		if len(first.lines) != len(second.lines) {
			t.Fatalf("seed %d: %d lines, then %d", seed+1, len(first.lines), len(second.lines))
		}
	}
}

// simulate runs one world.
func simulate(t *testing.T, seed uint64, verbose bool) (w *simWorld) {
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(t, seed, verbose)
		for n := 0; n < simSteps && !w.broken(); n++ {
			w.act()
		}
		w.finale()
	})
	return w
}

// A simWorld is one simulation.
type simWorld struct {
	seed    uint64
	rnd     *rand.Rand
	server  *Server
	table   *upstream.Table
	vhosts  []*simVhost
	groups  []*simGroup
	pollers []*simPoller
	clients []*simClient
	links   []*simLink
	faults  bool        // faults still occur
	drained bool        // a node was, at some time: a dial may find none
	slow    int         // steps with long turns
	stops   []func()    // of drains
	orders  drainOrders // of all loops, at the last check
	short   bool        // memory is or was short: tunnels may be shed
	batches bool        // loops read and write in batches
	late    int64       // writes of a batch that were incomplete
	left    int64       // batches that found input left ahead

	verbose bool
	started time.Time
	lines   []string

	mu      sync.Mutex // guards data shared by waiting goroutines and the world's
	sockets []*simSocket
	dials   []*simDial
	jobs    []func()
	busy    bool // an order is in progress
	faulty  []string
}

// A simVhost is a server name.
type simVhost struct {
	name            string
	strict          bool // streams need a valid start tag
	domains, routes bool
}

func (w *simWorld) oneIn(n int) bool { return w.rnd.IntN(n) == 0 }

func (w *simWorld) trace(format string, args ...any) {
	if w.verbose {
		w.lines = append(w.lines, fmt.Sprintf("%12v ", time.Since(w.started))+fmt.Sprintf(format, args...))
	}
}

// fail records a broken invariant.
func (w *simWorld) fail(format string, args ...any) {
	w.trace("FAULT "+format, args...)
	w.faulty = append(w.faulty, fmt.Sprintf(format, args...))
}

func (w *simWorld) broken() bool { return len(w.faulty) > 0 }

func (w *simWorld) report(t *testing.T) {
	if w.broken() {
		t.Errorf("seed %d: %s\n(again with its trace: make simulate SEED=%d)", w.seed, w.faulty[0], w.seed)
	}
}

func newWorld(t *testing.T, seed uint64, verbose bool) *simWorld {
	w := &simWorld{seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), verbose: verbose, started: time.Now(), faults: true, batches: seed%3 != 0}
	w.vhosts = []*simVhost{
		{name: "lax.example"}, {name: "xmpp.example", strict: true}, {name: "domains.example", strict: true, domains: true},
		{name: "route.example", strict: true, routes: true}, {name: "rewrite.example", strict: true},
	}
	for i, g := range []*simGroup{{name: "lax", nodes: make([]*simNode, 2)}, {name: "cluster", nodes: make([]*simNode, 3)},
		{name: "one", nodes: make([]*simNode, 1)}, {name: "rewrite", nodes: make([]*simNode, 2), public: true}} {
		for n := range g.nodes {
			g.nodes[n] = &simNode{address: fmt.Sprintf("%s%d.%d:5290", innerNetwork, i+1, n+1), group: g, number: n + 1}
		}
		w.groups = append(w.groups, g)
	}
	var err error
	if w.table, err = upstream.New(w.upstreams()); err != nil {
		t.Fatal(err)
	}
	w.server, err = newServer(Options{Configuration: w.configuration(), Log: slog.New(slog.DiscardHandler)},
		func(*Server) (*loops, error) {
			d := &loops{started: time.Now(), max: 2, newPoller: w.newPoller, pump: w.pump,
				random:   rand.New(rand.NewPCG(seed, 1)),
				panicked: func(_ panics.Place, cause any, _ ...any) { w.fail("panic: %v\n%s", cause, debug.Stack()) }}
			_, err := d.grow()
			return d, err
		})
	if err != nil {
		t.Fatal(err)
	}
	w.server.dialler.job = func(f func()) { w.jobs = append(w.jobs, f) }
	w.settle()
	return w
}

// upstreams returns the same upstreams at each reload, except for options that do not
// affect streams.
func (w *simWorld) upstreams() upstream.Options {
	o := upstream.Options{Dial: w.dial, Wrap: WrapUpstream, Log: slog.New(slog.DiscardHandler), Random: func() float64 { return 0.5 }}
	for _, g := range w.groups {
		group := upstream.GroupOptions{Name: g.name, Balance: "hash", XMPP: g.name != "lax"}
		if g.public {
			group.Redirects = "rewrite"
		}
		for _, n := range g.nodes {
			node := upstream.NodeOptions{Name: fmt.Sprint("n", n.number), URL: "ws://" + n.address + "/"}
			if g.public {
				node.PublicURL = fmt.Sprintf("wss://n%d.example:5291/", n.number)
			}
			group.Nodes = append(group.Nodes, node)
		}
		o.Upstreams = append(o.Upstreams, group)
	}
	o.Vhosts = []upstream.VhostOptions{
		{Names: []string{"lax.example"}, Upstream: "lax"},
		{Names: []string{"xmpp.example"}, Upstream: "cluster"},
		{Names: []string{"domains.example"}, Upstream: "cluster", Domains: []string{"domains.example"}},
		{Names: []string{"route.example"}, Upstream: "cluster", RouteTo: true, ByDomain: map[string]string{"one.example": "one"}},
		{Names: []string{"rewrite.example"}, Upstream: "rewrite"},
	}
	return o
}

func (w *simWorld) configuration() Configuration {
	return Configuration{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		HasCertificate: func(string) bool { return false },
		Routes:         w.table.Routes(),
		Settings: Settings{
			Connections: 1000, Handshakes: 16, Message: simMessageLimit, ClientBacklog: simBacklog,
			FramesPerSecond: []int{0, 200}[w.rnd.IntN(2)], LoginFailures: LoginFailures{simLogins, time.Minute},
			HandshakeTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second,
			Ping: []time.Duration{0, 20 * time.Second, 45 * time.Second}[w.rnd.IntN(3)], Pong: 20 * time.Second,
		},
	}
}

func (w *simWorld) node(address string) *simNode {
	for _, g := range w.groups {
		for _, n := range g.nodes {
			if n.address == address {
				return n
			}
		}
	}
	w.fail("a dial of %q", address)
	return nil
}

// sleep lets time pass; goroutines that wait for a time continue.
func (w *simWorld) sleep(d time.Duration) {
	w.meet()
	time.Sleep(d)
	w.settle()
}

// meet tells the race detector that no other goroutine runs: all that wait have held
// mu.
func (w *simWorld) meet() {
	w.mu.Lock()
	defer w.mu.Unlock()
}

// settle waits until all goroutines wait for the world.
func (w *simWorld) settle() {
	w.meet()
	defer w.meet()
	synctest.Wait()
	for _, p := range w.pollers {
		if p.moving {
			<-p.parked
			p.moving = false
		}
	}
}

// act does one random step.
func (w *simWorld) act() {
	w.sleep(time.Duration(1 + w.rnd.IntN(50_000))) // so that no two events coincide
	switch n := w.rnd.IntN(1000); {
	case n < 40:
		w.arrive()
	case n < 220:
		if len(w.clients) > 0 {
			w.clients[w.rnd.IntN(len(w.clients))].act()
		}
	case n < 400:
		if len(w.links) > 0 {
			w.links[w.rnd.IntN(len(w.links))].act()
		}
	case n < 640:
		w.carry()
	case n < 900:
		w.turn()
	case n < 930:
		w.begin()
	case n < 955:
		w.answer()
	case n < 975:
		w.sleep(time.Duration(w.rnd.IntN(20_000_000)))
	case n < 980:
		w.pass(time.Duration(w.rnd.Int64N(int64(40 * time.Second))))
	default:
		w.operate()
	}
	w.settle()
	w.check()
}

// arrive adds a client. It enters as in request.go and opening.go, without TLS.
func (w *simWorld) arrive() {
	if len(w.clients) == simClients {
		return
	}
	c := &simClient{w: w, name: fmt.Sprintf("c%d", len(w.clients)+1), vhost: w.vhosts[w.rnd.IntN(len(w.vhosts))],
		legacy: w.oneIn(3), frames: simFrames{}}
	if w.oneIn(2) {
		c.plan = simPlan(w.rnd.IntN(int(planCount)))
	}
	c.socket = w.newSocket(c.name, c, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5291},
		&net.TCPAddr{IP: net.IPv4(198, 18, 0, byte(len(w.clients)+1)), Port: 40000})
	w.clients = append(w.clients, c)
	w.trace("%s comes to %s, plan %d", c.name, c.vhost.name, c.plan)
	s := w.server
	conn := s.ingress.newClientConn(c.socket, s.now.Load())
	conn.visit.begin = func() { go c.enter(conn) }
	s.admission.clients.add(conn.key, 0, nil)
	if err := s.door.enter(&conn.visit, conn.key); err != nil {
		w.fail("%s is not let in: %v", c.name, err)
	}
}

// enter is the goroutine of a new connection.
func (c *simClient) enter(conn *clientConn) {
	s := c.w.server
	conn.tls = tls.Server(conn.sock, s.ingress.tls) // it sends nothing; begins removes it
	req := &request{host: c.vhost.name, path: "/", target: "/", subprotocol: subprotocolXMPP}
	vhost, err := conn.config.Routes.Lookup(c.vhost.name)
	if err == nil {
		if conn.admitted, conn.elsewhere = s.admission.admits(vhost, req.host); !conn.admitted && conn.elsewhere == "" {
			err = errClosing
		}
	}
	if err == nil && !vhost.RoutesTo() && conn.elsewhere == "" {
		conn.upstream, err = s.dialler.first(vhost, conn.dialRequest(req))
	}
	if err != nil || !conn.toLoop(req, vhost, conn.upstream, nil) {
		conn.close()
	}
}

// carry lets the network move something.
func (w *simWorld) carry() {
	var can []*simSocket
	for _, s := range w.sockets {
		if s.in.pending() || s.out.pending() {
			can = append(can, s)
		}
	}
	if len(can) == 0 {
		return
	}
	s := can[w.rnd.IntN(len(can))]
	n := 1 << 20
	switch w.rnd.IntN(4) {
	case 0:
		n = 1 + w.rnd.IntN(8)
	case 1:
		n = 1 + w.rnd.IntN(2000)
	}
	if s.in.pending() && (!s.out.pending() || w.oneIn(2)) {
		s.carry(n)
	} else {
		s.carryBack(n)
	}
}

// turn lets a loop handle some of the ready events, in any order.
func (w *simWorld) turn() {
	p := w.pollers[w.rnd.IntN(len(w.pollers))]
	events := p.pending()
	w.rnd.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	if len(events) > 0 && w.oneIn(2) {
		events = events[:1+w.rnd.IntN(len(events))]
	}
	if w.slow > 0 {
		w.slow--
		for i := range events {
			events[i].slow = time.Duration(w.rnd.Int64N(int64(window)))
		}
	}
	p.run(simBatch{events: events, woken: p.isWoken() && !w.oneIn(4)})
}

// begin starts a job.
func (w *simWorld) begin() {
	if n := len(w.jobs); n > 0 {
		i := w.rnd.IntN(n)
		f := w.jobs[i]
		w.jobs = slices.Delete(w.jobs, i, i+1)
		w.server.dialler.jobs.Go(f)
	}
}

// answer answers a dial.
func (w *simWorld) answer() {
	if len(w.dials) == 0 {
		return
	}
	i := w.rnd.IntN(len(w.dials))
	d := w.dials[i]
	w.dials = slices.Delete(w.dials, i, i+1)
	if d.node.down || w.faults && w.oneIn(12) {
		w.trace("dial of %s: refused", d.node.address)
		w.dialFault()
		d.answer <- nil
		return
	}
	l := &simLink{w: w, name: fmt.Sprintf("l%d", len(w.links)+1), node: d.node, frames: simFrames{masked: true}}
	if w.faults && w.oneIn(12) {
		l.refuse, l.hangs = w.oneIn(2), w.oneIn(2)
		w.dialFault()
	}
	l.socket = w.newSocket(l.name, l, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 50000}, &net.TCPAddr{IP: net.IPv4(10, 9, 0, 1), Port: 5290})
	w.links = append(w.links, l)
	w.trace("dial of %s: %s, refuses %t, hangs %t", d.node.address, l.name, l.refuse, l.hangs)
	d.answer <- l
}

// dialFault allows that current dials get no upstream.
func (w *simWorld) dialFault() {
	for _, c := range w.clients {
		if t := c.tunnel; t != nil && t.stage == stageDialling {
			c.allow(reasonDialFailed)
		}
	}
}

// operate does an action of operators or of the machine.
func (w *simWorld) operate() {
	s := w.server
	switch w.rnd.IntN(9) {
	case 0:
		w.trace("reload")
		routes, err := upstream.Prepare(w.upstreams())
		if err != nil {
			w.fail("reload: %v", err)
			return
		}
		w.table.Commit(routes)
		s.Configure(w.configuration())
	case 1, 2:
		w.drain()
	case 3:
		if n := len(w.stops); n > 0 {
			i := w.rnd.IntN(n)
			w.trace("a drain is taken back")
			w.stops[i]()
			w.stops = slices.Delete(w.stops, i, i+1)
		}
	case 4:
		w.short = true
		w.order(func() { s.Shed(1+w.rnd.Int64N(1<<18), w.oneIn(2), time.Duration(w.rnd.IntN(2))*time.Second) }, "shed")
	case 5:
		short, brake := w.oneIn(2), w.oneIn(2)
		w.trace("memory is short: %t, brake %t", short, brake)
		w.short = w.short || brake
		s.SetShort(short, brake)
	case 6:
		g := w.groups[w.rnd.IntN(len(w.groups))]
		n := g.nodes[w.rnd.IntN(len(g.nodes))]
		n.down = !n.down
		w.trace("%s is down: %t", n.address, n.down)
	case 7:
		g := w.groups[w.rnd.IntN(len(w.groups))]
		w.drained = true
		w.table.Drain(g.name, fmt.Sprint("n", 1+w.rnd.IntN(len(g.nodes))), w.oneIn(2))
	default:
		w.slow = 40
	}
}

// order runs an action that waits for the loops in another goroutine.
func (w *simWorld) order(f func(), what string) {
	if w.busy {
		return
	}
	w.trace("%s", what)
	w.busy = true
	go func() {
		f()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.busy = false
	}()
}

// drain begins a drain.
func (w *simWorld) drain() {
	if len(w.stops) == 2 || w.busy {
		return
	}
	var target Target
	g := w.groups[w.rnd.IntN(len(w.groups))]
	switch w.rnd.IntN(4) {
	case 0:
	case 1:
		target.Vhost = w.vhosts[w.rnd.IntN(len(w.vhosts))].name
	default:
		target.Upstream, target.Node = g.name, fmt.Sprint("n", 1+w.rnd.IntN(len(g.nodes)))
	}
	pacing := Pacing{Timeout: time.Duration(1+w.rnd.IntN(20)) * time.Second, Pace: w.rnd.IntN(5)}
	if w.oneIn(2) {
		pacing.Redirect = func(*upstream.Vhost, string) string { return "wss://other.example:5291/" }
	}
	w.order(func() {
		_, stop := w.server.StartDrain(target, pacing)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stops = append(w.stops, stop)
	}, fmt.Sprintf("drain %+v", target))
}

// quiesce lets everything happen that can happen without the passing of time.
func (w *simWorld) quiesce() {
	for n := 0; !w.broken(); n++ {
		if n > 2000 {
			w.fail("there is no end of what there is to do")
		}
		busy := false
		for _, s := range w.sockets {
			if s.in.pending() {
				if s.carry(1 << 20); s.poller == nil {
					w.settle() // one goroutine at a time
				}
				busy = true
			}
			if s.out.pending() {
				s.carryBack(1 << 20)
				busy = true
			}
		}
		w.settle()
		for len(w.jobs) > 0 {
			w.begin()
			w.settle()
			busy = true
		}
		for len(w.dials) > 0 {
			w.answer()
			w.settle()
			busy = true
		}
		for _, p := range slices.Clone(w.pollers) {
			events := p.pending()
			if due := !p.due.IsZero() && !p.due.After(time.Now()); !p.closed && (len(events) > 0 || p.isWoken() || due) {
				p.run(simBatch{events: events, woken: p.isWoken()})
				w.check()
				busy = true
			}
		}
		if !busy {
			return
		}
	}
}

// pass lets time pass.
func (w *simWorld) pass(how time.Duration) {
	w.trace("%v pass", how)
	end := time.Now().Add(how)
	w.quiesce()
	for _, c := range w.clients {
		if c.tunnel != nil && !c.tagged && !c.over && w.rnd.IntN(10) > 0 {
			c.begin()
		}
	}
	for {
		w.quiesce()
		for _, c := range w.clients {
			if c.tunnel != nil && !c.tagged {
				c.allow(reasonNoStream)
			}
		}
		w.dialFault() // a hanging dial exceeds all patience
		now := time.Now()
		if !now.Before(end) || w.broken() {
			return
		}
		next := end
		for _, p := range w.pollers {
			if !p.closed && !p.due.IsZero() && p.due.Before(next) {
				next = p.due
			}
		}
		w.sleep(max(next.Sub(now), time.Duration(1+w.rnd.IntN(1000))))
		w.settle()
	}
}

// finale repairs all faults, checks that everything sent has arrived, and ends the
// world.
func (w *simWorld) finale() {
	w.trace("finale")
	if w.faults = false; !w.broken() {
		w.server.SetShort(false, false)
		for _, g := range w.groups {
			for _, n := range g.nodes {
				n.down = false
				w.table.Drain(g.name, fmt.Sprint("n", n.number), false)
			}
		}
		w.quiesce() // an order may be in progress
		for _, stop := range w.stops {
			stop()
		}
		for _, s := range w.sockets {
			s.in.stalled, s.out.stalled = false, false
		}
		w.quiesce()
		for _, l := range w.links {
			for len(l.queue) > 0 && !l.over {
				l.act()
			}
		}
		w.pass(90 * time.Second)
		for _, c := range w.clients {
			c.complete()
			if c.tunnel != nil && c.tunnel.why == reasonNone && !c.over && w.seed%2 == 0 {
				c.closes()
			}
		}
		w.pass(closeTimeout + time.Second)
	}
	w.shutdown()
	for _, c := range w.clients {
		if !w.broken() {
			c.verify()
		}
	}
}

// shutdown ends the Server, and checks that nothing remains.
func (w *simWorld) shutdown() {
	var err error
	over := false
	timeout := time.Minute
	if w.broken() {
		timeout = 0
	}
	w.trace("shutdown")
	go func() {
		err = w.server.Shutdown(w.server.dialler.ctx, Pacing{Timeout: timeout})
		over = true
	}()
	w.settle()
	for n := 0; !over && n < 1000; n++ {
		if w.broken() { // nevertheless the goroutines must end
			w.abort()
			continue
		}
		w.pass(time.Second)
	}
	w.table.Close()
	w.settle()
	if w.broken() {
		return
	}
	patient := slices.ContainsFunc(w.clients, func(c *simClient) bool { return c.mute }) // a client that does not answer a Close frame
	if err != nil && !(errors.Is(err, ErrDrainDeadline) && patient) || !over {
		w.fail("Shutdown: over %t, %v", over, err)
		return
	}
	c := w.server.Counts()
	admitted, clients := w.server.admission.drains.admitted, len(w.server.admission.clients.open)
	if c.Connections != 0 || admitted != 0 || clients != 0 {
		w.fail("at the end: %d connections, %d admitted, %d addresses", c.Connections, admitted, clients)
	}
	for _, v := range c.Vhosts {
		if v.Open != 0 {
			w.fail("at the end: %d tunnels of %s", v.Open, v.Name)
		}
	}
	for _, g := range w.table.Status() {
		for _, n := range g.Nodes {
			if n.Tunnels != 0 || n.Dialing != 0 {
				w.fail("at the end: node %s of %s has %d tunnels, %d dials", n.Name, g.Name, n.Tunnels, n.Dialing)
			}
		}
	}
	for _, s := range w.sockets {
		if !s.closed {
			w.fail("at the end: %s is open", s.name)
		}
	}
	for _, p := range w.pollers {
		if !p.closed || slices.ContainsFunc(p.conns, func(s *simSocket) bool { return s != nil }) {
			w.fail("at the end: a poller has sockets")
		}
	}
	if len(w.jobs)+len(w.dials) > 0 {
		w.fail("at the end: %d jobs, %d dials", len(w.jobs), len(w.dials))
	}
}

// abort is a step of a shutdown without further checks.
func (w *simWorld) abort() {
	for len(w.jobs) > 0 {
		w.begin()
	}
	for _, d := range w.dials {
		d.answer <- nil
	}
	w.dials = nil
	for _, s := range w.sockets {
		if s.poller == nil {
			s.breaks()
		}
	}
	w.settle()
	for _, p := range slices.Clone(w.pollers) {
		if !p.closed {
			p.resume <- simBatch{woken: true}
			<-p.parked
		}
	}
	w.sleep(100 * time.Millisecond)
	w.settle()
}

// check verifies the invariants that hold between two turns.
func (w *simWorld) check() {
	if w.broken() {
		return
	}
	owners := map[*tunnel]int{}
	transit := false
	orders := w.orders // a loop may not know a stop yet
	w.orders = nil
	for _, l := range w.server.loops.all() {
		w.orders = append(w.orders, l.orders...)
		l.mu.Lock()
		inbox := len(l.inbox)
		l.mu.Unlock()
		transit = transit || inbox > 0
		for i, t := range l.timers {
			owners[t]++
			w.checkTunnel(l, i, t)
			if inbox > 0 || t.why != reasonNone || t.drainAt != 0 {
				continue
			}
			if l.orders.has(t) {
				w.fail("%s: a drain forgot it", w.nameOf(t))
			}
		}
	}
	orders = append(orders, w.orders...)
	for _, c := range w.clients {
		t := c.tunnel
		if t == nil || c.judged {
			continue
		}
		if w.drained && t.stage == stageDialling {
			c.allow(reasonDialFailed)
		}
		if t.why != c.why {
			c.why = t.why
			w.trace("%s: ends for %s, %v", c.name, t.why, t.lastError())
		}
		for _, o := range orders {
			if o.matches(t) {
				c.allow(reasonDrain)
			}
		}
		if t.client.err == errShort && w.short {
			c.allow(reasonSlowClient)
		}
		switch {
		case !t.done && owners[t] != 1 && !(owners[t] == 0 && transit):
			w.fail("%s: %d loops have it", c.name, owners[t])
		case !t.done:
		case owners[t] != 0:
			w.fail("%s: a loop has it, and it is done", c.name)
		case !c.socket.closed || t.upstream.sock.state != sockClosed:
			w.fail("%s: a socket is open, and it is done", c.name)
		default:
			c.judged = true
			w.trace("%s: ended, %v", c.name, t.why)
			if !c.may[t.why] {
				w.fail("%s: ended for %q; may only for %s", c.name, t.why, c.allowed())
			}
		}
	}
}

func (c *simClient) allowed() (words []string) {
	for r, may := range c.may {
		if may {
			words = append(words, reason(r).String())
		}
	}
	return words
}

func (w *simWorld) nameOf(t *tunnel) string {
	for _, c := range w.clients {
		if c.tunnel == t {
			return c.name
		}
	}
	return "a tunnel of nobody"
}

// checkTunnel is check for one tunnel of a loop.
func (w *simWorld) checkTunnel(l *loop, i int, t *tunnel) {
	bad := func(format string, args ...any) { w.fail("%s: %s", w.nameOf(t), fmt.Sprintf(format, args...)) }
	switch {
	case t.done:
		bad("done, and a loop has it")
	case t.loop != l:
		bad("belongs to another loop")
	case t.place.index != i || t.place.due > t.due || i > 0 && t.place.due < l.timers[(i-1)/2].place.due:
		bad("place %+v of the timers at %d, due %v", t.place, i, t.due)
	case t.why != reasonNone && (t.closeBy == never || t.closeBy == 0 || t.due > t.closeBy):
		bad("closing until %v, due %v", t.closeBy, t.due)
	case (t.greeting != nil) != (t.stage == stageTag || t.stage == stageDialling || t.stage == stageAnswer):
		bad("stage %d, greeting %t", t.stage, t.greeting != nil)
	case t.greeting != nil && len(t.greeting.frames) > maxGreeting+plainSize, t.vetting != nil && len(t.vetting.kept) > maxGreeting+plainSize:
		bad("a greeting without a bound")
	}
	for _, leg := range []*leg{&t.client, &t.upstream} {
		s := leg.sock
		if s.state == sockClosed {
			continue
		}
		raw := s.raw.(*simSocket)
		size := 0
		for _, b := range s.out.blocks {
			size += len(b)
		}
		switch {
		case raw.closed:
			bad("%s is closed, and it does not know", raw.name)
		case raw.poller != l.poller || raw.fd < 0 || raw.poller.conns[raw.fd] != raw || raw.tunnel != t:
			bad("%s is not in its loop's poller", raw.name)
		case s.turn != nil:
			bad("%s has a turn between turns", raw.name)
		case s.pending:
			bad("%s has a write pending between batches", raw.name)
		case s.ahead != 0 && l.work.batch.slots[s.ahead-1].s != s:
			bad("%s has what another is to read", raw.name)
		case size != s.out.size || size > s.max || len(leg.unscanned) > maxHeld:
			bad("%s: %d bytes wait, and are said to be %d; %d are held", raw.name, size, s.out.size, len(leg.unscanned))
		case raw.want != s.want || s.state >= sockFailed && s.want != 0 || s.state < sockFailed && s.want&forFailure == 0:
			bad("%s in state %d is waited for with %b and %b", raw.name, s.state, s.want, raw.want)
		case s.out.size > 0 && s.want&forRoom == 0:
			bad("%s: nobody waits for room for %d bytes", raw.name, s.out.size)
		case s.state == sockOpen && s.want&forInput == 0 && leg == &t.upstream,
			s.state == sockOpen && s.want&forInput == 0 && !t.paused() && t.upstream.sock.out.size == 0 && t.quota.until <= l.work.now && t.due > l.work.now:
			bad("%s: nobody reads it", raw.name)
		}
	}
}

// complete checks that an open tunnel has lost nothing.
func (c *simClient) complete() {
	if c.tunnel == nil || c.tunnel.why != reasonNone || len(c.links) == 0 || c.w.broken() {
		return
	}
	l := c.links[len(c.links)-1]
	if got, sent := l.next, open(c.sent); got != sent && !c.mute {
		c.w.fail("%s has %d of %d messages of %s", l.name, got, sent, c.name)
	}
	if got, sent := c.next, open(l.sent); got != sent || c.bound != nil && c.bound != l {
		c.w.fail("%s has %d of %d messages of %s", c.name, got, sent, l.name)
	}
}

// open returns the number of messages before one that is secret.
func open(sent []simMessage) int {
	if n := slices.IndexFunc(sent, func(m simMessage) bool { return m.secret }); n >= 0 {
		return n
	}
	return len(sent)
}

// verify checks everything that a client received, once nothing more can come.
func (c *simClient) verify() {
	t := c.tunnel
	if t == nil {
		return
	}
	c.halfRead()
	unhurt := !c.broke && !c.reset && c.socket.broken == nil
	codes := []int{0, int(reasons[t.why].code)}
	switch t.why {
	case reasonClientClose:
		codes = []int{0, codeNone, int(c.code), 4000} // the last one if both close at once
	case reasonUpstreamClose:
		codes = []int{0, 4000}
	}
	if !slices.Contains(codes, c.closed) {
		c.w.fail("%s: Close %d; want one of %v after %q", c.name, c.closed, codes, t.why)
	}
	if !unhurt || len(c.links) == 0 || !c.only(t.why) {
		return
	}
	l := c.links[len(c.links)-1]
	switch t.why {
	case reasonClientClose:
		if c.closed == 0 || !l.closed || l.next != open(c.sent) {
			c.w.fail("%s: Close %d, its upstream got one: %t, and %d of %d messages", c.name, c.closed, l.closed, l.next, open(c.sent))
		}
	case reasonUpstreamClose, reasonUpstreamGone:
		if c.next != open(l.sent) && !l.hurt {
			c.w.fail("%s has %d of %d messages of %s, which ended in good order", c.name, c.next, open(l.sent), l.name)
		}
	case reasonDrain:
		if c.closed != codeAway {
			c.w.fail("%s: Close %d at the end of a drain", c.name, c.closed)
		}
	}
}

// A tally counts events in many worlds.
type tally struct {
	mu      sync.Mutex
	worlds  int
	moved   int64
	streams int
	late    int64
	left    int64
	ends    map[string]int64
}

func (y *tally) add(w *simWorld) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.ends == nil {
		y.ends = map[string]int64{}
	}
	y.worlds++
	y.moved += w.server.loops.migrated.Load()
	y.streams += len(w.links)
	y.late += w.late
	y.left += w.left
	for why, n := range w.server.Counts().Closed {
		y.ends[why] += n
	}
}

func (y *tally) String() string {
	s := fmt.Sprintf("%d worlds, %d streams at nodes, %d moves between loops, %d late writes, %d reads left ahead; ends:", y.worlds, y.streams, y.moved, y.late, y.left)
	for _, why := range slices.Sorted(maps.Keys(y.ends)) {
		s += fmt.Sprintf(" %s %d", why, y.ends[why])
	}
	return s
}

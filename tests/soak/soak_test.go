// Package soak runs the built binary for a while in a hostile world: honest
// clients whose every word is followed, among slow, rude and flooding ones,
// while upstreams are killed, nodes drained, certificates and the configuration
// changed, standard error not read, files hang and descriptors run out.
//
//	go test ./soak -v -timeout 0 -args -for 10m -seed 1
//
// What one client does follows from the seed, and what is done to the gate as
// well; how the two meet does not.
package soak

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
)

var (
	length = flag.Duration("for", 12*time.Second, "how long clients and gate are let at each other")
	seed   = flag.Uint64("seed", 0, "of everything that is drawn; 0: one that the time gives")
)

const (
	honestClients = 40
	rudeClients   = 4
	floodClients  = 2
	boshClients   = 6

	// Few enough to run out of, enough for the honest: two for a tunnel.
	descriptors = 512

	// What the process may keep at the end; see spareIdle for its memory.
	spareGoroutines = 5
)

// A rig is one soak.
type rig struct {
	tb    testing.TB
	site  *gate.Site
	gate  *process
	names []string
	nodes []*node
	bosh  *boshServer
	book  *book
	short spell // the gate may have no descriptor left
	fault fault // for TestSoakNotices
	// How long a client waits for an answer, or for the end.
	patience time.Duration
	calm     sync.WaitGroup // done when nothing is done to the gate any more

	// Ends run's clients; set by run.
	enough context.CancelFunc
	past   atomic.Bool // an event is over, for the fault later

	ids                                                     atomic.Int64
	tunnels, finished, excused, refused                     atomic.Int64
	redirected, resumed, old                                atomic.Int64
	accepted, delivered                                     atomic.Int64
	boshSessions, boshFinished, boshRequests, boshRepeated  atomic.Int64
	boshAccepted, boshDelivered, boshOutages                atomic.Int64
	rudes, floods, updates                                  atomic.Int64
	kills, drains, reloads, certs, stalls, hangs, shortages atomic.Int64

	footprints []footprint // by watchMemory

	mu       sync.Mutex
	breaches []string
	more     int

	certLock sync.Mutex
	issued   map[string]*minica.Pair
}

// breach notes that the gate did what it must not.
func (r *rig) breach(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.breaches) == 20 {
		r.more++
		return
	}
	r.breaches = append(r.breaches, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// untidy is a test that keeps no list of what to close at its end: whoever opens
// a connection here closes it.
type untidy struct{ testing.TB }

func (untidy) Cleanup(func()) {}

// TestSoak is the soak; make soak runs it for longer.
func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano() % 1e9)
	}
	t.Logf("seed %d, for %v", *seed, *length)
	r := newRig(t)
	before, err := r.gate.possessions()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.run(*length, r.disturbNodes, r.bosh.disturb, r.change, r.starve)
	r.finish(before, time.Since(began).Round(time.Second))
}

// A rig that notices nothing proves nothing: a world that does what a gate must
// not do to messages and tunnels is found out.
func TestSoakNotices(t *testing.T) {
	kill := func(how ending, wait time.Duration) func(*rig) {
		return func(r *rig) {
			time.Sleep(wait)
			for _, n := range r.nodes {
				n.kill(func() ending { return how })
				if err := n.start(); err != nil {
					r.breach("rig: %v", err)
				}
			}
		}
	}
	drain := func(r *rig) {
		for _, n := range r.nodes {
			n.drain()
			r.gate.ask("POST", "/drain?node=up/"+n.name)
			time.Sleep(time.Second)
			r.gate.ask("POST", "/drain?stop&node=up/"+n.name)
			n.stopDrain()
		}
		r.past.Store(true)
	}
	afterMoment := lastMoment + time.Second
	for _, tt := range []struct {
		fault fault
		event string
		do    func(*rig)
		want  string
	}{
		{twice, "", nil, "wants answer"},
		{lost, "", nil, "wants answer"},
		{others, "", nil, "wants answer"},
		{torn, "", nil, "wants answer"},
		{ends, "", nil, "ended without a reason"},
		{up, "", nil, " of client "},
		{boshTwice, "", nil, "comes twice"},
		{boshLost, "", nil, "BOSH: client"},
		{boshOthers, "", nil, "BOSH: client"},
		{boshEnds, "", nil, "failed without a reason"},
		{atEnd, "FIN", kill(inOrder, time.Second), "answers are missing"},
		{atEnd, "Close", kill(goodbye, time.Second), "answers are missing"},
		{silent, "reset", kill(byReset, afterMoment), "answers are missing"},
		{silent, "drain", func(r *rig) { time.Sleep(afterMoment); drain(r) }, "answers are missing"},
		{unheard, "drain", drain, "a drain lost"},
		{later, "drain", drain, "ended without a reason"},
		{later, "kill", func(r *rig) { kill(byReset, 0)(r); r.past.Store(true) }, "ended without a reason"},
	} {
		t.Run(strings.TrimSuffix(string(tt.fault)+", "+tt.event, ", "), func(t *testing.T) {
			t.Parallel()
			var all string
			for _, more := range []time.Duration{0, 5 * time.Second, 30 * time.Second} { // a slow machine has not come far in a second
				r := newRig(t)
				r.fault, r.patience = tt.fault, 5*time.Second
				if tt.do == nil {
					r.run(time.Second + more)
				} else {
					r.run(2*time.Minute, func(ctx context.Context, _ *rand.Rand) {
						pause(ctx, more)
						tt.do(r)
						pause(ctx, time.Second+more)
						r.enough()
					})
				}
				if all = strings.Join(r.breaches, "\n"); strings.Contains(all, tt.want) {
					return
				}
			}
			t.Errorf("noticed %q; want %q in it", all, tt.want)
		})
	}
}

// A fault is what nodes do wrong, as if it were the gate.
type fault string

const (
	twice  fault = "an answer comes twice"
	lost   fault = "an answer is lost"
	others fault = "an answer is another client's"
	torn   fault = "a byte of an answer is another one"
	ends   fault = "a tunnel ends by itself"
	up     fault = "a message comes to the node twice"

	boshTwice  fault = "a request of BOSH comes twice"
	boshLost   fault = "an answer over BOSH is lost"
	boshOthers fault = "an answer over BOSH is another client's"
	boshEnds   fault = "answers over BOSH break off"

	silent  fault = "answers are lost long before the end"
	atEnd   fault = "the last answer before an end in order is lost"
	unheard fault = "a drain loses what the client said"
	later   fault = "tunnels end long after an event"
)

// newRig starts the nodes and the gate.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{tb: t, book: &book{accounts: map[string]*account{}}, patience: patience, names: []string{"one.test", "two.test", "three.test", "to.test"}, issued: map[string]*minica.Pair{}}
	done := make(chan struct{})
	go lateness.measure(done)
	t.Cleanup(func() { close(done) })
	r.site = gate.NewSite(t)
	for _, name := range r.names {
		r.certify(name)
	}
	for i := range 2 {
		n := &node{r: r, name: fmt.Sprintf("n%d", i+1), addr: gate.FreeAddr(t)}
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.end)
		r.nodes = append(r.nodes, n)
	}
	r.bosh = newBOSHServer(t, r)
	r.configure(0)
	r.gate = startProcess(t, r.site.Dir, descriptors)
	return r
}

// run has the clients and what is done to the gate go on for a while, and then
// waits until all clients have gone.
func (r *rig) run(length time.Duration, chaos ...func(context.Context, *rand.Rand)) {
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	r.enough = cancel
	var clients, doings sync.WaitGroup
	r.calm.Add(1)
	for i := range honestClients {
		h := &honest{r: r, rng: r.rng(i), kind: honestKind(i) % honestKinds, old: i/2%4 == 1}
		if i/2%3 != 0 {
			h.cache = tls.NewLRUClientSessionCache(len(r.names))
		}
		clients.Go(func() { h.run(ctx) })
	}
	for i := range rudeClients {
		clients.Go(func() { r.rude(ctx, r.rng(100+i)) })
	}
	for i := range floodClients {
		clients.Go(func() { r.flood(ctx, r.rng(200+i)) })
	}
	for i := range boshClients {
		h := &boshClient{r: r, rng: r.rng(400 + i)}
		clients.Go(func() { h.run(ctx) })
	}
	for i, do := range chaos {
		doings.Go(func() { do(ctx, r.rng(300+i)) })
	}
	doings.Go(func() { r.watchLife(ctx) })
	doings.Go(func() { r.watchMemory(ctx, length) })
	doings.Wait()
	r.calm.Done()
	clients.Wait()
}

// finish looks at what is left when all have gone, and prints the figures.
func (r *rig) finish(before possessions, lasted time.Duration) {
	t := r.tb
	for _, b := range r.breaches {
		t.Error(b)
	}
	if r.more > 0 {
		t.Errorf("and %d more", r.more)
	}
	if r.gate.hasEnded() {
		t.Fatalf("the gate ended: %v", r.gate.cmd.ProcessState)
	}
	// It still obeys: a last reload, and the last certificates.
	r.configure(1 << 20)
	good, err := r.gate.metrics()
	if err != nil {
		t.Fatal(err)
	}
	r.gate.cmd.Process.Signal(syscall.SIGHUP)
	const reloads = `wssgate_config_reloads_total{result="good"}`
	eventually(t, "the last reload", func() error {
		m, err := r.gate.metrics()
		if err == nil && m[reloads] <= good[reloads] {
			err = fmt.Errorf("%v good reloads, %v before it", m[reloads], good[reloads])
		}
		return err
	})
	for _, name := range r.names {
		eventually(t, "the last certificate of "+name, func() error {
			conn, err := tls.Dial("tcp", r.gate.addr("wss"), r.site.Client(name))
			if err != nil {
				return err
			}
			defer conn.Close()
			if got, want := conn.ConnectionState().PeerCertificates[0].SerialNumber, r.issued[name].Cert.SerialNumber; got.Cmp(want) != 0 {
				return fmt.Errorf("serial %v; want %v", got, want)
			}
			return nil
		})
	}
	r.bosh.kill(false) // the gate keeps idle connections to it
	eventually(t, "no tunnel is left", func() error {
		m, err := r.gate.metrics()
		open := 0
		for _, n := range r.nodes {
			open += n.open()
		}
		// One connection may be a probe.
		if err == nil && (m["wssgate_connections"] > 0 || open > len(r.nodes)) {
			err = fmt.Errorf("%v client connections, %d at the nodes", m["wssgate_connections"], open)
		}
		return err
	})
	peak := r.gate.peak()
	var after possessions
	eventually(t, "descriptors, goroutines and memory come back", func() (err error) {
		after, err = r.gate.possessions()
		if err == nil && (after.descriptors > before.descriptors+len(r.nodes) || after.goroutines > before.goroutines+spareGoroutines ||
			after.live > before.live+spareIdle) {
			err = fmt.Errorf("from %+v to %+v", before, after)
		}
		return err
	})
	first, second, wrong := growth(r.footprints)
	if wrong != "" {
		t.Error(wrong)
	}
	if r.boshDelivered.Load() == 0 || r.boshFinished.Load() == 0 {
		t.Errorf("%d messages in %d sessions of BOSH: the rig did nothing", r.boshDelivered.Load(), r.boshFinished.Load())
	}
	if r.delivered.Load() == 0 || r.finished.Load() == 0 {
		t.Errorf("%d messages on %d tunnels: the rig did nothing", r.delivered.Load(), r.finished.Load())
	}
	for what, n := range map[string]int64{"with TLS 1.2": r.old.Load(), "on a resumed TLS session": r.resumed.Load(), "behind a redirect": r.redirected.Load()} {
		if n == 0 {
			t.Errorf("no tunnel %s: the rig did not try it", what)
		}
	}
	r.gate.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.gate.ended:
		if status := r.gate.cmd.ProcessState.ExitCode(); status != 0 {
			t.Errorf("exit status %d; want 0", status)
		}
	case <-time.After(patience):
		t.Errorf("SIGTERM does not end it within %v", patience)
	}
	var b strings.Builder
	for _, row := range [][2]any{
		{"seed", *seed},
		{"lasted", lasted},
		{"honest tunnels", r.tunnels.Load()},
		{"… that said all they had to say", r.finished.Load()},
		{"… ended by a kill or a drain", r.excused.Load()},
		{"… with TLS 1.2; on a resumed TLS session", fmt.Sprintf("%d; %d", r.old.Load(), r.resumed.Load())},
		{"… behind a redirect from one node to the other", r.redirected.Load()},
		{"tries that led to no tunnel, nodes out or no descriptor left", r.refused.Load()},
		{"messages that nodes accepted", r.accepted.Load()},
		{"answers delivered, each once, in order, at its own client", r.delivered.Load()},
		{"BOSH sessions; that said all they had to say", fmt.Sprintf("%d; %d", r.boshSessions.Load(), r.boshFinished.Load())},
		{"BOSH requests; repeated, server out or no descriptor left", fmt.Sprintf("%d; %d", r.boshRequests.Load(), r.boshRepeated.Load())},
		{"messages accepted over BOSH", r.boshAccepted.Load()},
		{"answers delivered over BOSH, each once, in order, at its own client", r.boshDelivered.Load()},
		{"times that the BOSH server was out or broke off", r.boshOutages.Load()},
		{"rude connections", r.rudes.Load()},
		{"floods; KeyUpdates in them", fmt.Sprintf("%d; %d", r.floods.Load(), r.updates.Load())},
		{"nodes killed; drained", fmt.Sprintf("%d; %d", r.kills.Load(), r.drains.Load())},
		{"reloads; certificates changed", fmt.Sprintf("%d; %d", r.reloads.Load(), r.certs.Load())},
		{"times that standard error was not read", r.stalls.Load()},
		{"… that a certificate was a FIFO", r.hangs.Load()},
		{"… that descriptors ran out", r.shortages.Load()},
		{"descriptors before, after", fmt.Sprintf("%d, %d", before.descriptors, after.descriptors)},
		{"goroutines before, after", fmt.Sprintf("%d, %d", before.goroutines, after.goroutines)},
		{"memory in use before, after", mib(before.live) + ", " + mib(after.live)},
		{"… under load, median of the first half behind the warm-up, of the second", mib(first.live) + ", " + mib(second.live)},
		{"anonymous memory, before, after", mib(before.anonymous) + ", " + mib(after.anonymous)},
		{"… under load, likewise", mib(first.anonymous) + ", " + mib(second.anonymous)},
		{"resident memory, peak", mib(peak)},
	} {
		fmt.Fprintf(&b, "| %v | %v |\n", row[0], row[1])
	}
	t.Logf("figures\n\n| | |\n|---|---|\n%s", b.String())
}

// rng is the source of randomness of one goroutine.
func (r *rig) rng(i int) *rand.Rand { return rand.New(rand.NewPCG(*seed, uint64(i))) }

// configure writes a configuration; variants differ in what a reload may change.
// Each name has BOSH.
func (r *rig) configure(variant int) {
	limits := fmt.Sprintf("[limits]\nmessage = %d\n", 1<<20+variant)
	bosh := fmt.Sprintf("bosh = %q\n", "http://"+r.bosh.addr+boshPath)
	vhosts := fmt.Sprintf("[[vhost]]\nnames = [%q, %q, %q, %q]\n", r.names[0], r.names[1], r.names[2], r.names[3]) + bosh
	if variant%2 == 1 {
		vhosts = fmt.Sprintf("[[vhost]]\nnames = [%q]\n", r.names[0]) + bosh +
			fmt.Sprintf("[[vhost]]\nnames = [%q, %q]\n", r.names[1], r.names[2]) + bosh +
			fmt.Sprintf("[[vhost]]\nnames = [%q]\nroute = \"to\"\n", r.names[3]) + bosh
	}
	r.site.Write(r.tb, "config.toml", fmt.Appendf(nil, `[listen]
wss = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_debug = true
[certificates]
directory = "certs"
[upstream.up]
nodes = [{ name = "n1", url = "ws://%s/" }, { name = "n2", url = "ws://%s/" }]
health = { interval = "1s", timeout = "10s" }
[timeouts]
ping = "5s"
pong = "1m"
%s%s`, r.nodes[0].addr, r.nodes[1].addr, limits, vhosts))
}

// certify gives a name a new certificate.
func (r *rig) certify(name string) {
	r.certLock.Lock()
	defer r.certLock.Unlock()
	pair := r.site.CA.Issue(name)
	r.site.Certify(r.tb, name, pair)
	r.issued[name] = pair
}

// between waits for a moment that is drawn.
func between(ctx context.Context, rng *rand.Rand, low, high time.Duration) {
	pause(ctx, low+time.Duration(rng.Int64N(int64(high-low))))
}

// disturbNodes kills a node or drains it, and takes it back, time and again. The
// other one goes on meanwhile.
func (r *rig) disturbNodes(ctx context.Context, rng *rand.Rand) {
	for {
		between(ctx, rng, 500*time.Millisecond, 4*time.Second)
		if ctx.Err() != nil {
			return
		}
		n := r.nodes[rng.IntN(len(r.nodes))]
		if rng.IntN(2) == 0 {
			r.kills.Add(1)
			n.kill(func() ending { return []ending{inOrder, goodbye, byReset}[rng.IntN(3)] })
			between(ctx, rng, 200*time.Millisecond, 3*time.Second)
			if err := n.start(); err != nil {
				r.breach("rig: node %s: %v", n.name, err)
				return
			}
			continue
		}
		r.drains.Add(1)
		n.drain()
		if _, err := r.gate.ask("POST", "/drain?node=up/"+n.name); err != nil {
			r.breach("drain: %v", err)
		}
		between(ctx, rng, 200*time.Millisecond, 3*time.Second)
		if _, err := r.gate.ask("POST", "/drain?stop&node=up/"+n.name); err != nil {
			r.breach("the end of a drain: %v", err)
		}
		n.stopDrain()
	}
}

// change changes the configuration or a certificate.
func (r *rig) change(ctx context.Context, rng *rand.Rand) {
	for i := 1; ; i++ {
		between(ctx, rng, 100*time.Millisecond, 1500*time.Millisecond)
		if ctx.Err() != nil {
			return
		}
		if rng.IntN(3) == 0 {
			r.certs.Add(1)
			r.certify(r.names[rng.IntN(len(r.names))])
			continue
		}
		r.reloads.Add(1)
		r.configure(i)
		r.gate.cmd.Process.Signal(syscall.SIGHUP)
	}
}

// starve takes something away from the gate for a while.
func (r *rig) starve(ctx context.Context, rng *rand.Rand) {
	for i := 0; ; i++ {
		between(ctx, rng, 500*time.Millisecond, 3*time.Second)
		if ctx.Err() != nil {
			return
		}
		switch i % 3 { // each in turn, so that a short run has all
		case 0:
			r.stalls.Add(1)
			r.gate.reading.Lock()
			between(ctx, rng, time.Second, 5*time.Second)
			r.gate.reading.Unlock()
		case 1:
			r.shortages.Add(1)
			r.exhaust(ctx, rng)
		case 2:
			r.hangs.Add(1)
			r.hang(ctx, rng)
		}
	}
}

// exhaust has more silent connections open than the gate has descriptors for.
func (r *rig) exhaust(ctx context.Context, rng *rand.Rand) {
	r.short.begin()
	defer r.short.end(0)
	var silent []net.Conn
	for range descriptors + 100 {
		if conn, err := net.DialTimeout("tcp", r.gate.addr("wss"), time.Second); err == nil {
			silent = append(silent, conn)
		}
	}
	between(ctx, rng, 500*time.Millisecond, 3*time.Second)
	for _, conn := range silent {
		conn.Close()
	}
	// It is over when the gate has noticed.
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		m, err := r.gate.metrics()
		if err == nil && m["process_open_fds"] < descriptors*3/4 {
			return
		}
		if time.Since(began) > patience {
			r.breach("the gate keeps %v descriptors after a shortage: %v", m["process_open_fds"], err)
			return
		}
	}
}

// hang puts a FIFO that nobody writes in a certificate's place, as a file on a
// mount that hangs, and has the gate read it.
func (r *rig) hang(ctx context.Context, rng *rand.Rand) {
	name := r.names[rng.IntN(len(r.names))]
	r.certLock.Lock()
	path := filepath.Join(r.site.Dir, r.site.CertFile(name))
	err := syscall.Mkfifo(path+".fifo", 0o600)
	if err == nil {
		err = os.Rename(path+".fifo", path)
	}
	r.certLock.Unlock()
	if err != nil {
		r.breach("rig: %v", err)
	}
	r.gate.cmd.Process.Signal(syscall.SIGHUP)
	between(ctx, rng, time.Second, 4*time.Second)
	r.certify(name)
}

// watchLife asks the gate whether it lives.
func (r *rig) watchLife(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := r.gate.ask("GET", "/healthz"); err != nil {
			r.breach("/healthz: %v", err)
		}
		if r.gate.hasEnded() {
			r.breach("the gate ended")
			return
		}
		pause(ctx, time.Second)
	}
}

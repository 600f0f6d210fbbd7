package gate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/admin"
	"wssgate/certstore"
	"wssgate/config"
	"wssgate/files"
	"wssgate/listen"
	"wssgate/logqueue"
	"wssgate/panics"
	"wssgate/proxy"
)

// A console serves the operator. It owns the admin listener, and passes
// commands to the gate's loop, which runs them one at a time.
type console struct {
	warnings *admin.Warnings
	asked    chan func() // for the loop; see ask
	drainAll chan struct{}

	lines  *logqueue.Queue // nil in tests
	turn   atomic.Int64    // when the loop last ran, Unix nanoseconds
	gate   *gate
	cfg    atomic.Pointer[config.Config] // in force
	server *admin.Server
	ln     net.Listener // nil: off; belongs to the loop
	addr   string       // of ln, as configured

	mu      sync.Mutex
	serving []string // addresses of the listeners
	missing []admin.MissingListener
	reload  admin.Reload
	drain   *admin.Drain
	drains  []partialDrain
	over    chan struct{} // closed when the loop accepts no more requests
}

func newConsole(warnings *admin.Warnings, lines *logqueue.Queue) *console {
	d := &console{
		warnings: warnings,
		lines:    lines,
		asked:    make(chan func()),
		drainAll: make(chan struct{}, 1),
		over:     make(chan struct{}),
		reload:   admin.Reload{OK: true, LastGood: time.Now()},
	}
	d.turned() // the listener may answer before the loop begins
	return d
}

// An adminListener is opened before a reload changes anything. It is installed
// once nothing can fail.
type adminListener struct {
	addr   string
	ln     net.Listener // nil: keep the current one, or have none
	access admin.Access
}

// open opens the listener of cfg, unless it is already open.
func (d *console) open(cfg *config.Config, sockets *listen.Sockets) (*adminListener, error) {
	l := &adminListener{addr: cfg.Listen.Admin, access: admin.Access{Debug: cfg.Listen.AdminDebug}}
	if file := cfg.Listen.AdminTokenFile; file != "" {
		token := cfg.Files[file]
		if err := config.CheckToken(token); err != nil { // an empty token would disable the check
			return nil, fmt.Errorf("listen.admin_token_file: %q: %w", file, err)
		}
		l.access.Token = strings.TrimSpace(string(token))
	}
	if l.addr == "" || l.addr == d.addr {
		return l, nil
	}
	ln, err := sockets.Open("admin", l.addr)
	if err != nil {
		return l, fmt.Errorf("listen.admin: %w", err)
	}
	l.ln = ln
	return l, nil
}

func (l *adminListener) close() {
	if l.ln != nil {
		l.ln.Close()
	}
}

// install applies cfg and its listener. It cannot fail.
func (d *console) install(g *gate, cfg *config.Config, l *adminListener) {
	d.cfg.Store(cfg)
	d.forget(cfg)
	if d.server == nil {
		d.gate = g
		d.server = admin.New(admin.Options{
			Gate:     d.describe,
			Counts:   g.server.Counts,
			Memory:   g.adminMemory,
			NotReady: d.notReady,
			Panicked: func(v any) { panics.Caught(g.log, panics.Admin, v) },
			Alive:    d.alive,
			Reload:   d.askReload,
			Drain:    d.askDrain,
			Pardon:   func(client netip.Addr) int { return g.server.Pardon(client) },
			Tunnels: func(q proxy.TunnelQuery) proxy.TunnelList {
				if name, err := config.ServerName(q.Vhost); err == nil { // the name may be spelled as in the file
					q.Vhost = name
				}
				return g.server.Tunnels(q)
			},
			Clients:      g.server.Clients,
			CloseTunnels: g.server.CloseTunnels,
			Ban:          g.server.Ban,
			Trace:        g.server.Trace,
			ACME:         func(ctx context.Context, r admin.ACMERequest) (string, error) { return g.acme.do(ctx, r) },
			Warnings:     d.warnings,
			Access:       l.access,

			Connections: proxy.DescriptorReserve().Admin,
			Log:         g.log,
		})
	}
	d.server.SetAccess(l.access)
	if l.addr == d.addr {
		return
	}
	if d.ln != nil {
		g.log.Info("no longer listening", "listener", "admin", "addr", d.ln.Addr().String())
		d.ln.Close()
	}
	d.listen(l.addr, l.ln)
}

// listen serves the operator on ln from now on. If ln is nil, it closes the
// listener.
func (d *console) listen(addr string, ln net.Listener) {
	g := d.gate
	d.addr, d.ln = addr, ln
	if ln != nil {
		g.log.Info("listening", "listener", "admin", "addr", ln.Addr().String())
		g.serving.Go(func() {
			_, err := panics.Do(panics.Admin, func() (struct{}, error) { return struct{}{}, d.server.Serve(ln) })
			if err != nil {
				g.log.Error("listener", "listener", "admin", "err", err)
			}
		})
	}
}

// listens records the client listeners, which makes /readyz ready.
func (d *console) listens(listeners map[string]net.Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = nil
	for _, ln := range listeners {
		d.serving = append(d.serving, ln.Addr().String())
	}
	slices.Sort(d.serving)
}

// reloaded records the result of a reload.
func (d *console) reloaded(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reload.At, d.reload.OK, d.reload.Errors = time.Now(), err == nil, nil
	if err != nil {
		d.reload.Bad++
		d.reload.Errors = strings.Split(err.Error(), "\n")
		return
	}
	d.reload.Good++
	d.reload.LastGood = d.reload.At
}

// lastReload reports whether the last reload succeeded.
func (d *console) lastReload() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reload.OK
}

// leaves records, before a drain, that the gate is not ready and accepts no
// more requests.
func (d *console) leaves(connections int, timeout time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.drain = &admin.Drain{Scope: "all", Since: now, Deadline: now.Add(timeout), Total: connections}
	close(d.over)
}

// close closes the listener. The console may never have been opened.
func (d *console) close() {
	if d.server != nil {
		d.server.Close()
	}
}

// askReload makes the loop reload, and waits for the result.
func (d *console) askReload(ctx context.Context) error {
	result := make(chan error, 1)
	err := d.ask(ctx, func() error {
		d.gate.reload(func(err error) { result <- err })
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-d.over:
		return fmt.Errorf("the gate is draining: this is %w", admin.ErrConflict)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// turned records that the loop has run.
func (d *console) turned() { d.turn.Store(time.Now().UnixNano()) }

// loopPatience is how long one turn of the loop may take: many times longer
// than it should.
const loopPatience = 30 * time.Second

// alive returns an error if the loop is stuck. It does not check during a drain, which
// has a deadline.
func (d *console) alive() error {
	d.mu.Lock()
	draining := d.drain != nil
	d.mu.Unlock()
	if since := time.Since(time.Unix(0, d.turn.Load())); !draining && since > loopPatience {
		return fmt.Errorf("the main loop has been stuck for %v", since.Round(time.Second))
	}
	return nil
}

// ask makes the loop call f, and waits for the result.
func (d *console) ask(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case d.asked <- func() {
		_, err := panics.Do(panics.Admin, func() (struct{}, error) { return struct{}{}, f() })
		result <- err
	}:
		return <-result
	case <-d.over:
		return fmt.Errorf("the gate is draining: this is %w", admin.ErrConflict)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askDrain drains the whole gate, as SIGTERM does. It can also start or stop
// the drain of one vhost, one node or all vhosts.
func (d *console) askDrain(r admin.DrainRequest) error {
	if name, err := config.ServerName(r.Vhost); err == nil { // the request may spell the name as the file does
		r.Vhost = name
	}
	if r.All || r.Vhost != "" || r.Node != "" {
		return d.ask(context.Background(), func() error { return d.drainSome(r) })
	}
	if r.Stop {
		return fmt.Errorf("draining the whole gate ends it (?all does not): stopping that is %w", admin.ErrConflict)
	}
	select {
	case d.drainAll <- struct{}{}:
	default: // already requested
	}
	return nil
}

// A partialDrain is the drain of one vhost, one node or all vhosts that an
// operator started. A reload keeps it, unless it removes the target.
type partialDrain struct {
	target proxy.Target // zero: all vhosts
	since  time.Time
	begins time.Time // zero: it has already begun
	total  int       // tunnels at its beginning
	stop   func()    // ends it
}

// drainSome starts or stops a partial drain. It runs in the loop.
func (d *console) drainSome(r admin.DrainRequest) error {
	g, target := d.gate, proxy.Target{Vhost: r.Vhost, Upstream: r.Upstream, Node: r.Node}
	if !has(g.cfg, target) {
		return fmt.Errorf("%s: %w", r.Scope(), admin.ErrUnknown)
	}
	i := slices.IndexFunc(d.drains, func(p partialDrain) bool { return p.target == target })
	if r.Stop && i < 0 {
		return fmt.Errorf("%s is not draining: stopping that is %w", r.Scope(), admin.ErrConflict)
	}
	if r.After > 0 && i >= 0 && d.drains[i].begins.IsZero() {
		return nil // it has already begun
	}
	drains, before := slices.Clone(d.drains), func() {}
	if i >= 0 {
		before = drains[i].stop
		drains = slices.Delete(drains, i, i+1)
	}
	if !r.Stop {
		p := partialDrain{target: target, since: time.Now()}
		if r.After > 0 {
			p.begins = p.since.Add(r.After)
			p.stop = d.beginDrainAt(target, p.begins)
		}
		drains = append(drains, p)
	}
	d.setDrains(drains)
	if r.Node != "" { // the upstream must not choose it for clients that reconnect
		g.upstreams.Drain(r.Upstream, r.Node, !r.Stop)
	}
	if r.Stop {
		before()
		g.log.Info("drain stopped", "scope", r.Scope())
		return nil
	}
	if r.After > 0 {
		before()
		g.log.Info("drain soon", "scope", r.Scope(), "after", r.After)
		return nil
	}
	d.beginDrain(r.Scope(), len(drains)-1)
	before() // at once, so that no client connects between the two drains
	return nil
}

// beginDrain begins the drain at index i of the list. It runs in the loop.
func (d *console) beginDrain(scope string, i int) {
	drains := slices.Clone(d.drains)
	now := &drains[i]
	now.begins = time.Time{}
	now.total, now.stop = d.gate.server.StartDrain(now.target, d.gate.pacing())
	d.setDrains(drains)
	d.gate.log.Info("drain", "scope", scope, "tunnels", now.total)
}

// beginDrainAt makes the loop begin a listed drain at a time, unless stop is
// called or the drain is no longer listed.
func (d *console) beginDrainAt(target proxy.Target, at time.Time) (stop func()) {
	begin := func() error {
		i := slices.IndexFunc(d.drains, func(p partialDrain) bool { return p.target == target && p.begins.Equal(at) })
		if i >= 0 {
			d.beginDrain(requestFor(target).Scope(), i)
		}
		return nil
	}
	timer := time.AfterFunc(time.Until(at), func() {
		panics.Catch(panics.Admin, func() { d.ask(context.Background(), begin) })
	})
	return func() { timer.Stop() }
}

// setDrains replaces the list, which other goroutines read.
func (d *console) setDrains(drains []partialDrain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drains = drains
}

// forget drops drains whose target is not in cfg.
func (d *console) forget(cfg *config.Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drains = slices.DeleteFunc(slices.Clone(d.drains), func(p partialDrain) bool {
		gone := !has(cfg, p.target)
		if gone {
			p.stop()
			d.gate.upstreams.Drain(p.target.Upstream, p.target.Node, false)
		}
		return gone
	})
}

// has reports whether a target is configured. The target for all vhosts always
// is.
func has(c *config.Config, t proxy.Target) bool {
	if t == (proxy.Target{}) {
		return true
	}
	if t.Vhost != "" {
		return t.Vhost == "*" && len(c.Vhost) == 0 ||
			slices.ContainsFunc(c.Vhost, func(v *config.Vhost) bool { return slices.Contains(v.Names, t.Vhost) })
	}
	u := c.Upstream[t.Upstream]
	return u != nil && slices.ContainsFunc(u.Nodes, func(n *config.Node) bool { return n.Name == t.Node })
}

// notReady returns the reasons why the gate cannot accept clients.
func (d *console) notReady() []string {
	d.mu.Lock()
	draining, listening := d.drain != nil, len(d.serving) > 0
	away := slices.IndexFunc(d.drains, func(p partialDrain) bool { return p.target == proxy.Target{} })
	soon := away >= 0 && !d.drains[away].begins.IsZero()
	d.mu.Unlock()
	var why []string
	if draining {
		why = append(why, "the gate is draining")
	}
	switch {
	case soon:
		why = append(why, "a drain of all vhosts is about to begin")
	case away >= 0:
		why = append(why, "all vhosts are draining")
	}
	if d.gate.upstreams.PortsUsedUp() {
		why = append(why, "no source port is left to any node")
	}
	if !listening {
		why = append(why, "no listener is open yet")
	}
	cfg, store := d.cfg.Load(), d.gate.store
	if hangs := store.Reading(); hangs != nil {
		why = append(why, "certificates: "+hangs.Error())
	}
	named := false
	for _, name := range configuredNames(cfg) {
		named = true
		if !store.Has(name) {
			why = append(why, fmt.Sprintf("no certificate for %q", name))
		}
	}
	if !named && store.Empty() {
		why = append(why, fmt.Sprintf("no certificate in %q", cfg.Certificates.Directory))
	}
	return why
}

// configuredNames returns the names that need a certificate according to the
// file.
func configuredNames(c *config.Config) []string {
	names := c.ACME.AllNames()
	for _, v := range c.Vhost {
		for _, name := range v.Names {
			if !strings.HasPrefix(name, "*.") && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// describe returns the state of the gate for the admin page.
func (d *console) describe() admin.Gate {
	cfg, g := d.cfg.Load(), d.gate
	out := admin.Gate{
		Go: runtime.Version(), Started: processStart, Config: cfg.File,
	}
	out.Host, _ = os.Hostname()
	build := ThisBuild()
	out.Version, out.Revision = build.Version, build.Commit
	d.mu.Lock()
	out.Listeners = slices.Clone(d.serving)
	out.Reload = d.reload
	if d.drain != nil {
		drain := *d.drain
		drain.Left = g.server.Connections()
		out.Drain = &drain
	}
	drains := d.drains
	d.mu.Unlock()

	// There may be ten thousand; only adminVhosts needs all of them.
	out.Certificates = make([]admin.Certificate, 0, g.store.Names())
	var entries []certstore.Entry
	for e := range g.store.Certificates() {
		if e.Chosen {
			out.Certificates = append(out.Certificates, adminCertificate(e))
		}
		if len(cfg.Vhost) > 0 {
			entries = append(entries, e)
		}
	}
	vhosts := g.server.Counts().Vhosts
	out.Vhosts = adminVhosts(cfg, entries, vhosts)
	for _, p := range g.store.Problems() {
		out.Files = append(out.Files, admin.FileProblem{File: p.File, Err: p.Err.Error(), Hint: p.Hint, Since: p.Since, Kept: p.Kept})
	}
	out.Rejected = adminRejected(g.store.Warnings())
	out.Ignored = adminIgnored(g.store.Ignored())
	if on, trouble := g.store.Watched(); on {
		out.Watch = new(admin.Watch)
		if trouble != nil {
			*out.Watch = admin.Watch{Err: trouble.Err.Error(), Hint: trouble.Hint, Since: trouble.Since}
			if trouble.Path != "" {
				out.Watch.Err = fmt.Sprintf("cannot watch %q: %v", trouble.Path, trouble.Err)
			}
		}
	}
	out.ECH = g.ech.on.Load().describe(g.store.Has)
	if p := g.acme.problem(); p != nil {
		out.ACMEFiles = append(out.ACMEFiles, *p)
	}
	for _, f := range cfg.AccessFiles {
		if p, bad := accessProblem(f); bad {
			out.AccessFiles = append(out.AccessFiles, p)
		}
	}
	for _, s := range g.acme.status() {
		out.ACME = append(out.ACME, admin.ACMEName{Name: s.Name, Names: s.Names, State: string(s.State), NotAfter: s.NotAfter, CA: s.CA, Revoked: s.Revoked,
			NextTry: s.NextTry, Failures: s.Failures, Since: s.Since, Err: s.Err, Renewal: admin.ACMERenewal(s.Renewal)})
	}
	for _, u := range g.upstreams.Status() {
		group := admin.Upstream{Name: u.Name, Balance: u.Balance, Lost: admin.LostRedirect(u.Lost)}
		for _, n := range u.Nodes {
			node := admin.Node{Name: n.Name, URL: n.URL, State: n.State, Tunnels: n.Tunnels, Dialing: n.Dialing, Dials: n.Dials, Failures: n.Failures}
			for _, a := range n.Addresses {
				if a.LastFail.After(node.LastFail) {
					node.LastFail, node.LastError, node.LastHint = a.LastFail, a.LastError, a.LastHint
				}
				node.LastDial = max(node.LastDial, a.LastDial)
				node.Ports = max(node.Ports, a.Ports)
				if a.PortsUsedUp.After(node.PortsUsedUp) {
					node.PortsUsedUp = a.PortsUsedUp
				}
			}
			if n.DNSError != "" {
				node.LastError, node.LastHint = n.DNSError, ""
			}
			group.Nodes = append(group.Nodes, node)
		}
		out.Upstreams = append(out.Upstreams, group)
	}
	if limit := g.server.LoginLimit(); limit.Count > 0 {
		out.Logins.Limit = config.Rate(limit).String()
	}
	for _, c := range g.server.Suspects() {
		out.Logins.Clients = append(out.Logins.Clients, adminSuspect(c))
	}
	d.mu.Lock()
	out.Missing = d.missing
	d.mu.Unlock()
	out.Denied = g.server.Bans()
	out.Unserved = g.server.Unserved(admin.MaxUnserved)
	out.ProxyHeader, out.ProxyUnexpected = g.server.ProxyTroubles()
	for _, h := range files.Hanging() {
		out.Hanging = append(out.Hanging, admin.Hang{What: h.What, Path: h.Path, Since: h.Since, Slow: h.Slow})
	}
	if d.lines != nil {
		s := d.lines.State()
		out.Log = admin.Log{Lost: s.Lost, Since: s.Since, Failing: s.Failed}
		if s.Err != nil {
			out.Log.Err = s.Err.Error()
		}
	}
	for _, p := range drains {
		out.Drains = append(out.Drains, p.describe(vhosts, out.Upstreams))
	}
	return out
}

// requestFor returns the request for a drain of target.
func requestFor(t proxy.Target) admin.DrainRequest {
	return admin.DrainRequest{All: t == proxy.Target{}, Vhost: t.Vhost, Upstream: t.Upstream, Node: t.Node}
}

// describe returns the progress of a drain.
func (p partialDrain) describe(vhosts []proxy.VhostCount, upstreams []admin.Upstream) admin.Drain {
	r := requestFor(p.target)
	out := admin.Drain{Scope: r.Scope(), Since: p.since, Begins: p.begins, Total: p.total}
	if r.All {
		out.Query = "all"
		for _, v := range vhosts {
			out.Left += int(v.Open)
		}
		return out
	}
	if r.Vhost != "" {
		out.Query = url.Values{"vhost": {r.Vhost}}.Encode()
		for _, v := range vhosts {
			if v.Name == r.Vhost {
				out.Left = int(v.Open)
			}
		}
		return out
	}
	out.Query = url.Values{"node": {r.Upstream + "/" + r.Node}}.Encode()
	for _, u := range upstreams {
		for _, n := range u.Nodes {
			if u.Name == r.Upstream && n.Name == r.Node {
				out.Left = n.Tunnels
			}
		}
	}
	return out
}

// adminVhosts lists the configured names in the order of the file. Each has the
// certificate that expires first of those that its clients get. Removed vhosts
// that still have tunnels follow.
func adminVhosts(c *config.Config, entries []certstore.Entry, counts []proxy.VhostCount) []admin.Vhost {
	var list []admin.Vhost
	index := map[string]int{}
	add := func(v admin.Vhost) {
		index[v.Name] = len(list)
		list = append(list, v)
	}
	for _, v := range c.Vhost {
		for _, name := range v.Names {
			add(admin.Vhost{Name: name, Upstream: v.Upstream, Node: v.Node})
		}
	}
	if len(c.Vhost) == 0 {
		for name := range c.Upstream { // the only upstream
			add(admin.Vhost{Name: "*", Upstream: name})
		}
	}
	for _, s := range c.Served(entries) {
		i, ok := index[s.Name]
		if !ok {
			if i, ok = index[config.WildcardFor(s.Name)]; !ok {
				continue
			}
		}
		for _, e := range s.Certificates {
			if v := &list[i]; v.Certificate == nil || e.NotAfter.Before(v.Certificate.NotAfter) {
				v.Certificate = new(adminCertificate(e))
			}
		}
	}
	for _, n := range counts {
		i, ok := index[n.Name]
		switch {
		case ok:
			list[i].Tunnels, list[i].Opened = n.Open, n.Opened
		case n.Open > 0:
			add(admin.Vhost{Name: n.Name, Gone: true, Tunnels: n.Open, Opened: n.Opened})
		}
	}
	return list
}

func adminCertificate(e certstore.Entry) admin.Certificate {
	return admin.Certificate{Name: e.Name, Source: e.Source, File: e.File, Issuer: e.Issuer, KeyType: e.KeyType,
		NotBefore: e.NotBefore, NotAfter: e.NotAfter}
}

// adminSuspect converts a Suspect to admin's type.
func adminSuspect(c proxy.Suspect) admin.Suspect {
	network := c.Network.String()
	if c.Network.IsSingleIP() {
		network = c.Network.Addr().String()
	}
	return admin.Suspect{Network: network, Failures: c.Failures, Total: c.Total, Last: c.Last, Refused: c.Refused, Until: c.Until}
}

// processStart is approximately when the process started.
var processStart = time.Now()

// withWarnings makes a log that also records warnings for the admin page.
func withWarnings(log *slog.Logger) (*slog.Logger, *admin.Warnings) {
	w := admin.NewWarnings(log.Handler())
	return slog.New(w), w
}

// adminIgnored returns the first entries, and the number of all.
func adminIgnored(list []certstore.Ignored, more int) (out admin.Ignored) {
	const most = 10
	out.Count = len(list) + more
	for _, i := range list[:min(most, len(list))] {
		out.First = append(out.First, admin.IgnoredFile{File: i.File, Why: i.Why})
	}
	return out
}

// adminRejected counts warnings by rule, in the order of the rules.
func adminRejected(list []certstore.Warning) (out []admin.Rejected) {
	of := map[string]int{} // by rule: its index in out
	for i, rule := range certstore.RuleNames() {
		of[rule] = i
		out = append(out, admin.Rejected{Rule: rule})
	}
	for _, w := range list {
		r := &out[of[w.Rule]]
		if r.Count++; r.Count == 1 {
			r.First, r.Hint = w.Text, w.Hint
		}
	}
	return out
}

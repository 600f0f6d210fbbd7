package proxy

import (
	"container/heap"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/xmpp"
)

// LoginFailures limits how many logins from one client address may fail: this many at
// once, and no more than that in each period. The zero value is no limit.
type LoginFailures struct {
	Count  int
	Period time.Duration
}

func (l LoginFailures) on() bool { return l.Count > 0 && l.Period > 0 }

// each is the time until one failure is forgotten.
func (l LoginFailures) each() time.Duration { return max(l.Period/time.Duration(max(l.Count, 1)), 1) }

const (
	// maxGuarded bounds the addresses that a guard remembers, each about 150 bytes. An
	// attacker with more addresses cannot be stopped this way anyway.
	maxGuarded = 4096

	// maxSlow bounds what a slowed client waits after a failure.
	maxSlow = 10 * time.Second
)

// A guard counts failed logins by client address, because the XMPP server behind the
// gate sees only the gate's.
//
// For each address it keeps the time when its failures are forgotten. Each failure
// moves it by Period/Count; once it is a whole Period away, the address is refused
// until then. After that it starts afresh. From half of Count on, each failure costs a
// wait, which doubles.
//
// Only time takes failures back. If a successful login did, the owner of one account
// could guess for ever.
//
// The addresses form a heap with the next one to be forgotten on top. When it is full,
// that one is dropped: it is the least bad, however many addresses an attacker has.
// Methods are safe for concurrent use.
type guard struct {
	failures atomic.Int64                   // that counted
	refused  [len(guardedWays)]atomic.Int64 // by guardedWays

	mu    sync.Mutex
	limit LoginFailures
	known map[clientKey]*suspect
	heap  ranking[suspect] // the next one to be forgotten first
	bans  int              // refused addresses in the heap
}

// What a guard refuses, in metrics.
const (
	guardedTunnel = iota // ended
	guardedUpgrade
	guardedBOSH
)

var guardedWays = [...]string{guardedTunnel: "tunnel", guardedUpgrade: "upgrade", guardedBOSH: "bosh"}

// A suspect is an address with failures.
type suspect struct {
	key    clientKey
	clear  time.Time // when all are forgotten
	slow   time.Time // end of the wait for its new tunnels
	last   time.Time // the last failure
	total  int       // failures since it became known
	banned bool      // refused until clear
	index  int       // in the heap
}

func newGuard() *guard {
	return &guard{known: map[clientKey]*suspect{}, heap: ranking[suspect]{
		before: func(a, b *suspect) bool { return a.clear.Before(b.clear) },
		place:  func(s *suspect) *int { return &s.index },
	}}
}

// configure changes the limit. Counts continue, and a refusal keeps its end. No limit
// forgets everything.
func (g *guard) configure(limit LoginFailures, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.limit
	g.limit = limit
	switch {
	case !limit.on():
		g.forgetAll()
	case before.on() && before != limit:
		for _, s := range g.heap.all {
			if left := s.clear.Sub(now); !s.banned && left > 0 {
				failures := float64(left) / float64(before.each())
				s.clear = now.Add(time.Duration(failures * float64(limit.each())))
			}
		}
		heap.Init(&g.heap)
	}
}

// A verdict is the consequence of a failure.
type verdict struct {
	slow   time.Duration // how long the client must wait
	banned time.Duration // how long its address is refused
	first  bool          // the refusal is new
	count  int           // failures that are not forgotten
}

// failed counts a failure.
func (g *guard) failed(key clientKey, now time.Time) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.limit.on() || !key.IsValid() {
		return verdict{}
	}
	g.failures.Add(1)
	g.forget(now)
	s, each := g.known[key], g.limit.each()
	switch {
	case s != nil && s.banned: // it has nothing to lose until then
		s.last = now
		s.total++
		return verdict{banned: s.clear.Sub(now), count: g.limit.Count}
	case s == nil:
		if g.heap.Len() >= maxGuarded {
			if now.Add(each).Before(g.heap.first().clear) {
				return verdict{} // all others are worse
			}
			g.drop(g.heap.first())
		}
		s = &suspect{key: key, clear: now}
		g.known[key] = s
		heap.Push(&g.heap, s)
	}
	s.last = now
	s.total++
	s.clear = s.clear.Add(each)
	v := verdict{count: s.count(now, each)}
	if v.count >= g.limit.Count {
		s.banned, s.clear = true, now.Add(g.limit.Period)
		g.bans++
		v.banned, v.first = g.limit.Period, true
	} else if over := v.count - (g.limit.Count+1)/2; over > 0 {
		v.slow = min(time.Second<<min(over-1, 10), maxSlow)
		s.slow = now.Add(v.slow)
	}
	heap.Fix(&g.heap, s.index)
	return v
}

// count is the number of its failures that are not forgotten.
func (s *suspect) count(now time.Time, each time.Duration) int {
	left := max(s.clear.Sub(now), 0)
	return int((left + each - 1) / each)
}

// state returns how long an address is refused, and how long its new tunnels wait.
func (g *guard) state(key clientKey, now time.Time) (banned, slow time.Duration) {
	if !key.IsValid() {
		return 0, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.known[key]
	switch {
	case s == nil || !s.clear.After(now):
		return 0, 0
	case s.banned:
		return s.clear.Sub(now), 0
	}
	return 0, max(s.slow.Sub(now), 0)
}

// pardon forgets an address, or all if key is zero, and returns their number.
func (g *guard) pardon(key clientKey) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !key.IsValid() {
		n = g.heap.Len()
		g.forgetAll()
	} else if s := g.known[key]; s != nil {
		g.drop(s)
		n = 1
	}
	return n
}

// forget drops expired addresses. The caller holds mu.
func (g *guard) forget(now time.Time) {
	for g.heap.Len() > 0 && !g.heap.first().clear.After(now) {
		g.drop(g.heap.first())
	}
}

// drop forgets one. The caller holds mu.
func (g *guard) drop(s *suspect) {
	heap.Remove(&g.heap, s.index)
	delete(g.known, s.key)
	if s.banned {
		g.bans--
	}
}

func (g *guard) forgetAll() {
	clear(g.known)
	g.heap.all, g.bans = nil, 0
}

// LoginCounts are the Server's counts of failed logins.
type LoginCounts struct {
	Failures   int64            `json:"failures"`    // that counted, since the start
	Refused    map[string]int64 `json:"refused"`     // for them, since the start: tunnels, requests for an upgrade, BOSH requests
	Known      int              `json:"known"`       // client addresses with failures that are not forgotten
	RefusedNow int              `json:"refused_now"` // of those, addresses that are refused now
}

func (g *guard) counts(now time.Time) LoginCounts {
	c := LoginCounts{Failures: g.failures.Load(), Refused: map[string]int64{}}
	for i, way := range guardedWays {
		c.Refused[way] = g.refused[i].Load()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(now)
	c.Known, c.RefusedNow = g.heap.Len(), g.bans
	return c
}

// A Suspect is a client address from which logins failed.
type Suspect struct {
	Network  netip.Prefix // an IPv4 address, or the /64 of an IPv6 one
	Failures int          // not forgotten yet
	Total    int          // since it became known
	Last     time.Time    // the last one
	Refused  bool         // until Until
	Until    time.Time    // when all of them are forgotten
}

// list returns the known addresses, worst first.
func (g *guard) list(now time.Time) []Suspect {
	g.mu.Lock()
	g.forget(now)
	out := make([]Suspect, 0, g.heap.Len())
	for _, s := range g.heap.all {
		out = append(out, Suspect{
			Network: s.key.network(), Failures: min(s.count(now, g.limit.each()), g.limit.Count), Total: s.total,
			Last: s.last, Refused: s.banned, Until: s.clear,
		})
	}
	g.mu.Unlock()
	slices.SortFunc(out, func(a, b Suspect) int {
		switch {
		case a.Refused != b.Refused && a.Refused:
			return -1
		case a.Refused != b.Refused:
			return 1
		}
		return b.Until.Compare(a.Until)
	})
	return out
}

// network is the network of the key.
func (k clientKey) network() netip.Prefix {
	bits := 32
	if k.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(k.Addr, bits)
}

// heardLogin follows the results of logins in a piece of an upstream's message. A login
// that ends while its address is refused ends the tunnel before its client learns the
// result, and heardLogin reports that; so an attacker learns nothing then, on any
// number of tunnels.
func (t *tunnel) heardLogin(p *piece) (refused bool) {
	if t.stream.loggedIn || p.control() || t.why != reasonNone || t.info == nil || !t.info.suspect.IsValid() || !t.info.vhost.XMPP() {
		return false
	}
	if p.begins() {
		t.stream.login = new(xmpp.LoginReader)
	}
	r := t.stream.login
	if r == nil {
		return false
	}
	before := r.Failed
	if r.Feed(p.payload); t.upstream.scan.betweenMessages() || r.Failing() {
		r.End()
	}
	if r.In || t.upstream.scan.betweenMessages() {
		t.stream.login = nil
	}
	t.stream.loggedIn = r.In
	failed := r.Failed - before
	if failed == 0 && !r.Succeeded {
		return false
	}
	s, now := t.info.server, t.client.sock.turn.now
	slow, banned := s.judgeLogin(t.info.suspect, failed, t.info.client, t.info.serverName)
	switch {
	case banned > 0:
		s.guard.refused[guardedTunnel].Add(1)
		t.withhold(p)
		if t.endFor(reasonLoginFailures, now+closeTimeout); t.closeWanted { // another message is incomplete
			t.cutOff()
		}
		return true
	case slow > 0:
		t.rest(now + slow)
	}
	return false
}

// withhold keeps a piece and the rest of its message from the client. If the client has
// received a part of the message, it gets nothing more at all, not even a Close frame.
func (t *tunnel) withhold(p *piece) {
	switch boundary, between := t.clientBefore(p); {
	case t.stage == stageAnswer && t.answering:
		t.greeting.answers = t.greeting.answers[:t.greeting.whole]
	case boundary && between:
		t.pend, t.answering = nil, true
	default:
		t.client.closeSent = true
		t.cutOff()
	}
}

// slowLogin makes a new tunnel wait because of failures on others: it is not read,
// except for data that came with its request.
func (t *tunnel) slowLogin(w *turn) {
	if t.info == nil || !t.info.suspect.IsValid() || t.info.elsewhere != "" {
		return
	}
	if _, slow := t.info.server.guard.state(t.info.suspect, time.Now()); slow > 0 {
		t.rest(w.now + slow)
		if t.greetBy != 0 {
			t.greetBy += slow
		}
	}
}

// judgeLogin counts failed logins, and returns how long the client must wait, or how
// long its address is refused.
func (s *Server) judgeLogin(key clientKey, failed int, client netip.AddrPort, serverName string) (slow, banned time.Duration) {
	now := time.Now()
	if failed == 0 {
		banned, _ = s.guard.state(key, now)
		return 0, banned
	}
	for range failed {
		v := s.guard.failed(key, now)
		slow, banned = v.slow, v.banned
		if v.first {
			// Programs match this line: docs/logins.md has its form.
			s.log.Warn("logins refused", "client", client, "network", key.network(), "failures", v.count, "refused_for", v.banned, "server_name", serverName)
		}
	}
	return slow, banned
}

// LoginsRefused returns how long to refuse a request for the Pages, because too many
// logins from its client's address failed; 0: do not refuse it.
func (s *Server) LoginsRefused(r *http.Request) time.Duration {
	_, key := whose(r)
	banned, _ := s.guard.state(key, time.Now())
	if banned > 0 {
		s.guard.refused[guardedBOSH].Add(1)
	}
	return banned
}

// LoginsEnded counts failed logins, and possibly a successful one, in the answer to a
// request for the Pages. The caller must delay the answer by slow. If banned is not 0,
// the client gets no answers for that time, including this one.
func (s *Server) LoginsEnded(r *http.Request, failed int) (slow, banned time.Duration) {
	client, key := whose(r)
	slow, banned = s.judgeLogin(key, failed, client, r.TLS.ServerName)
	if banned > 0 {
		s.guard.refused[guardedBOSH].Add(1)
	}
	return slow, banned
}

// whose returns the client of a request; its key is invalid if unknown.
func whose(r *http.Request) (netip.AddrPort, clientKey) {
	conn, ok := r.Context().Value(pageConnKey{}).(*pageConn)
	if !ok {
		return netip.AddrPort{}, clientKey{}
	}
	return conn.client.client, conn.client.suspect()
}

// Suspects returns the client addresses with failed logins, the worst first.
func (s *Server) Suspects() []Suspect { return s.guard.list(time.Now()) }

// LoginLimit is the current limit.
func (s *Server) LoginLimit() LoginFailures { return s.now.Load().LoginFailures }

// Pardon forgets the failed logins of a client address or its /64, and lets it in
// again; the zero Addr means all addresses. It returns the number of addresses that it
// forgot.
func (s *Server) Pardon(client netip.Addr) int {
	if !client.IsValid() {
		return s.guard.pardon(clientKey{})
	}
	return s.guard.pardon(keyOfAddr(client.Unmap()))
}

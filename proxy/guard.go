package proxy

import (
	"container/heap"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxGuarded is the maximum number of addresses in a guard, each about 150 bytes. A
	// guard can't stop an attacker with more addresses anyway.
	maxGuarded = 4096

	// maxSlow is the longest wait of a slowed client after a failure.
	maxSlow = 10 * time.Second
)

// A guard counts failed logins by client address, because the XMPP server behind the
// gate sees only the gate's address.
//
// For each address it keeps the time when all failures will be forgotten. Each failure
// moves that time by Period/Count; once it is a whole Period away, the address is
// refused until then. After that the address starts afresh. From half of Count on, each
// failure causes a wait, which doubles.
//
// Only time removes failures. If a successful login did, the owner of one account could
// guess forever.
//
// The addresses form a heap with the next one to be forgotten on top. When it is full,
// that one is dropped, because it has the fewest failures, however many addresses an
// attacker has. Methods are safe for concurrent use.
type guard struct {
	log *slog.Logger

	failures atomic.Int64                   // that counted
	refused  [len(guardedWays)]atomic.Int64 // by guardedWays

	mu    sync.Mutex
	limit LoginFailures
	known map[clientKey]*suspect
	heap  ranking[suspect] // the next one to be forgotten first
	bans  int              // refused addresses in the heap
}

// The ways in which a guard refuses, in metrics.
const (
	guardedTunnel = iota // ended
	guardedUpgrade
	guardedBOSH
)

var guardedWays = [...]string{guardedTunnel: "tunnel", guardedUpgrade: "upgrade", guardedBOSH: "bosh"}

// A suspect is an address with failed logins.
type suspect struct {
	key    clientKey
	clear  time.Time // when all failures are forgotten
	slow   time.Time // end of the wait for its new tunnels
	last   time.Time // the last failure
	total  int       // failures since it was added
	banned bool      // refused until clear
	index  int       // in the heap
}

func newGuard(log *slog.Logger) *guard {
	return &guard{log: log, known: map[clientKey]*suspect{}, heap: ranking[suspect]{
		before: func(a, b *suspect) bool { return a.clear.Before(b.clear) },
		place:  func(s *suspect) *int { return &s.index },
	}}
}

// configure changes the limit. Counts remain, and a refusal keeps its end. Without a
// limit everything is forgotten.
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
	count  int           // failures that are not forgotten yet
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
	case s != nil && s.banned: // further failures do not count until then
		s.last = now
		s.total++
		return verdict{banned: s.clear.Sub(now), count: g.limit.Count}
	case s == nil:
		if g.heap.Len() >= maxGuarded {
			if now.Add(each).Before(g.heap.first().clear) {
				return verdict{} // all others have more failures
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

// count returns the number of failures that are not forgotten.
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

// drop removes a suspect. The caller holds mu.
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

// LoginCounts has the Server's counts of failed logins.
type LoginCounts struct {
	Failures   int64            `json:"failures"`    // that counted, since the start
	Refused    map[string]int64 `json:"refused"`     // because of them, since the start: tunnels, requests for an upgrade, BOSH requests
	Known      int              `json:"known"`       // client addresses with failures that are not forgotten yet
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

// A Suspect is a client address with failed logins.
type Suspect struct {
	Network  netip.Prefix // an IPv4 address, or the /64 of an IPv6 one
	Failures int          // not forgotten yet
	Total    int          // since it was added
	Last     time.Time    // the last failure
	Refused  bool         // until Until
	Until    time.Time    // when all failures are forgotten
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

// judge counts failed logins, logs a new refusal, and returns how long the client must
// wait, or how long its address is refused.
func (g *guard) judge(key clientKey, failed int, client netip.AddrPort, serverName string) (slow, banned time.Duration) {
	now := time.Now()
	if failed == 0 {
		banned, _ = g.state(key, now)
		return 0, banned
	}
	for range failed {
		v := g.failed(key, now)
		slow, banned = v.slow, v.banned
		if v.first {
			// Programs match this line: docs/logins.md has its form.
			g.log.Warn("logins refused", "client", client, "network", key.network(), "failures", v.count, "refused_for", v.banned, "server_name", serverName)
		}
	}
	return slow, banned
}

// refuses returns how long an address is refused; 0: it is not. It counts a refusal under
// the given way.
func (g *guard) refuses(key clientKey, way int) time.Duration {
	banned, _ := g.state(key, time.Now())
	if banned > 0 {
		g.refused[way].Add(1)
	}
	return banned
}

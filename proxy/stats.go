package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// Counts are what a Server has done since it was made, and its current state. Words in
// it, which may become labels of metrics, are fixed or names of the configuration;
// clients cannot add any.
type Counts struct {
	Connections int              `json:"connections"`      // open now, from accept to close
	Limit       int              `json:"connection_limit"` // how many may be open; see Settings.Connections
	Accepted    int64            `json:"accepted"`         // connections that got a place
	Refused     map[string]int64 `json:"refused"`          // connections that got none, by the limit that they met

	Handshakes []HandshakeCount `json:"handshakes"`
	Refusals   map[int]int64    `json:"refusals"` // requests for an upgrade that got no 101, by HTTP status
	GaveUp     int64            `json:"gave_up"`  // clients that went away before their 101

	Logins LoginCounts `json:"logins"`

	Vhosts []VhostCount     `json:"vhosts"` // those that ever had a tunnel, by name
	Closed map[string]int64 `json:"closed"` // by reason
	Panics map[string]int64 `json:"panics"` // by where they were caught, in the process
	Dials  []DialCount      `json:"dials"`  // by upstream and node

	// In is from clients, Out is to them. Bytes are those of WebSocket, TLS
	// taken off. They are up to date but for the turns under way.
	BytesIn   int64 `json:"bytes_in"`
	BytesOut  int64 `json:"bytes_out"`
	FramesIn  int64 `json:"frames_in"`
	FramesOut int64 `json:"frames_out"`

	// Lag is how long an event loop was busy with one batch of events: what
	// came meanwhile waited at most that long. Its sum is the busy time of all
	// loops, of which there are at most Loops.
	Lag   Durations `json:"lag"`
	Loops int       `json:"loops"`

	// IOUring is "on", "off" by the configuration or the system, or why the kernel refused it.
	IOUring string `json:"io_uring"`
}

// Tunnels are those that are open now.
func (c Counts) Tunnels() (n int64) {
	for _, v := range c.Vhosts {
		n += v.Open
	}
	return n
}

// A HandshakeCount is how many TLS handshakes ended in one way.
type HandshakeCount struct {
	Result  string `json:"result"`  // a Handshake constant, or another word for why there was none
	Version string `json:"version"` // "1.2", "1.3"; empty where there was none
	N       int64  `json:"n"`
}

// Results of handshakes that have a meaning elsewhere; others are failures.
const (
	HandshakeFull      = "full"
	HandshakeResumed   = "resumed"
	HandshakeSilent    = "silent"
	HandshakeNoPlace   = "no_place"
	HandshakeChallenge = "challenge"
)

// A VhostCount is the tunnels of one vhost, by its configured name.
type VhostCount struct {
	Name   string `json:"name"`
	Open   int64  `json:"open"` // now
	Opened int64  `json:"opened"`
}

// A DialCount is how long upstreams took to give a 101, other nodes tried
// before included, by the node that gave it.
type DialCount struct {
	Upstream string    `json:"upstream"`
	Node     string    `json:"node"`
	Took     Durations `json:"took"`
}

// Durations is a histogram. Counts[i] are those of at most Bounds[i]; the
// last, which has no bound, are all others.
type Durations struct {
	Bounds []time.Duration `json:"bounds_ns"`
	Counts []uint64        `json:"counts"`
	Sum    time.Duration   `json:"sum_ns"`
}

// Counts returns the Server's counts as they are now.
func (s *Server) Counts() Counts {
	c := Counts{
		Connections: s.Connections(),
		Limit:       s.now.Load().connections,
		Accepted:    s.stats.accepted.Load(),
		Refused:     map[string]int64{},
		Refusals:    map[int]int64{},
		GaveUp:      s.stats.refusals[0].Load(),
		Closed:      map[string]int64{},
		Panics:      panics.Counts(),
		Loops:       runtime.GOMAXPROCS(0),
		IOUring:     s.loops.ring(),
		Logins:      s.guard.counts(time.Now()),
		Vhosts:      s.stats.vhostCounts(),
		Dials:       s.stats.dialCounts(),
	}
	for i, name := range limitNames {
		c.Refused[name] = s.stats.refused[i].Load()
	}
	for i, k := range handshakeKinds {
		c.Handshakes = append(c.Handshakes, HandshakeCount{k.result, k.version, s.stats.handshakes[i].Load()})
	}
	for status := 1; status < len(s.stats.refusals); status++ {
		if n := s.stats.refusals[status].Load(); n > 0 {
			c.Refusals[status] = n
		}
	}
	for why := reasonNone + 1; why < reasonCount; why++ {
		c.Closed[why.String()] = s.stats.closed[why].Load()
	}
	l := &s.loops.done
	c.BytesIn, c.BytesOut = l.bytesIn.Load(), l.bytesOut.Load()
	c.FramesIn, c.FramesOut = l.framesIn.Load(), l.framesOut.Load()
	c.Lag = l.lag.durations()
	return c
}

// stats are the Server's own counts; loops have theirs (load).
type stats struct {
	accepted   atomic.Int64
	refused    [len(limitNames)]atomic.Int64
	handshakes [len(handshakeKinds)]atomic.Int64
	refusals   [600]atomic.Int64 // by HTTP status; 0: the client was gone
	closed     [reasonCount]atomic.Int64
	vhosts     byName[string, *vhostCount]
	dials      byName[[2]string, *histogram] // by upstream and node
	unserved   unserved

	proxyHeader, proxyUnexpected balancerTrouble
}

// The limits that a connection can meet, as settings call them.
const (
	limitConnections = iota
	limitPerClient
	limitDrain
	limitAccess
	limitMemory
	limitHandshakes
)

var limitNames = [...]string{
	limitConnections: "connections", limitPerClient: "per_client", limitDrain: "drain",
	limitAccess: "access", limitMemory: "memory",
	limitHandshakes: "handshakes", // too many on their way in, of the same address above all
}

func (s *stats) refuse(status int) {
	if status >= 0 && status < len(s.refusals) {
		s.refusals[status].Add(1)
	}
}

// The ways in which a handshake ends.
const (
	handshakeFull12 = iota
	handshakeFull13
	handshakeResumed12
	handshakeResumed13
	handshakeSilent
	handshakeNoPlace
	handshakeNameless
	handshakeTimeout
	handshakeDrain
	handshakeFailed
	handshakeProxyHeader
	handshakeProxyUnexpected
	handshakeChallenge
)

var handshakeKinds = [...]struct{ result, version string }{
	handshakeFull12:          {HandshakeFull, "1.2"},
	handshakeFull13:          {HandshakeFull, "1.3"},
	handshakeResumed12:       {HandshakeResumed, "1.2"},
	handshakeResumed13:       {HandshakeResumed, "1.3"},
	handshakeSilent:          {HandshakeSilent, ""},  // not a byte came; an end is none
	handshakeNoPlace:         {HandshakeNoPlace, ""}, // too many at once, for too long
	handshakeNameless:        {"unknown_name", ""},   // no certificate for the server name
	handshakeTimeout:         {"timeout", ""},
	handshakeDrain:           {"drain", ""},
	handshakeFailed:          {"failed", ""},
	handshakeProxyHeader:     {"proxy_header", ""}, // missing or not valid
	handshakeProxyUnexpected: {"proxy_unexpected", ""},
	handshakeChallenge:       {HandshakeChallenge, ""}, // a CA's, for tls-alpn-01
}

// handshakeDone tells which kind of success a connection's is.
func handshakeDone(cs tls.ConnectionState) int {
	if cs.NegotiatedProtocol == alpnACME {
		return handshakeChallenge
	}
	kind := handshakeFull12
	if cs.DidResume {
		kind = handshakeResumed12
	}
	if cs.Version >= tls.VersionTLS13 {
		kind++
	}
	return kind
}

// failure tells which kind of failure an error of a handshake is.
func (e *earlyConn) failure(err error) int {
	switch {
	case e.nameless:
		return handshakeNameless
	case errors.Is(err, errClosing):
		return handshakeDrain
	case errors.Is(err, errNoPlace):
		return handshakeNoPlace
	case !e.heard:
		return handshakeSilent
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errGivenUp):
		return handshakeTimeout
	case beginsProxyHeader(err):
		return handshakeProxyUnexpected
	}
	if _, ok := errors.AsType[proxyHeaderError](err); ok {
		return handshakeProxyHeader
	}
	return handshakeFailed
}

type vhostCount struct{ open, opened atomic.Int64 }

// byName holds what is counted apart for each configured name. It only grows,
// by a reload's new names. The zero value is empty.
type byName[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

func (b *byName[K, V]) get(name K, made func() V) V {
	b.mu.RLock()
	v, ok := b.m[name]
	b.mu.RUnlock()
	if ok {
		return v
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, ok := b.m[name]; ok {
		return v
	}
	if b.m == nil {
		b.m = map[K]V{}
	}
	v = made()
	b.m[name] = v
	return v
}

func (b *byName[K, V]) all() map[K]V {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.m)
}

// vhostCounts lists the vhosts by name.
func (s *stats) vhostCounts() []VhostCount {
	var out []VhostCount
	for name, v := range s.vhosts.all() {
		out = append(out, VhostCount{name, v.open.Load(), v.opened.Load()})
	}
	slices.SortFunc(out, func(a, b VhostCount) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// dialCounts lists the nodes by upstream and name.
func (s *stats) dialCounts() []DialCount {
	var out []DialCount
	for node, h := range s.dials.all() {
		out = append(out, DialCount{node[0], node[1], h.durations()})
	}
	slices.SortFunc(out, func(a, b DialCount) int {
		return cmp.Or(strings.Compare(a.Upstream, b.Upstream), strings.Compare(a.Node, b.Node))
	})
	return out
}

// dialled notes how long it took to get a 101 out of a node.
func (s *stats) dialled(n *upstream.Node, took time.Duration) {
	s.dials.get([2]string{n.Upstream(), n.Name()}, newHistogram).add(took)
}

func (s *stats) vhost(v *upstream.Vhost) *vhostCount {
	return s.vhosts.get(v.Name(), func() *vhostCount { return new(vhostCount) })
}

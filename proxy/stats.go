package proxy

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"

	"wssgate/panics"
)

// Counts has a Server's counters since its start, and its current state. Its words, which
// may become labels of metrics, are fixed or names of the configuration; clients cannot
// add any.
type Counts struct {
	Connections int              `json:"connections"`      // open now, from accept to close
	Limit       int              `json:"connection_limit"` // the most that may be open; see Settings.Connections
	Accepted    int64            `json:"accepted"`         // connections that got a place
	Refused     map[string]int64 `json:"refused"`          // connections without a place, by the limit that was reached

	Handshakes []HandshakeCount `json:"handshakes"`
	ECH        map[string]int64 `json:"ech"`      // handshakes by what became of Encrypted Client Hello: "accepted", "rejected", "none"
	Refusals   map[int]int64    `json:"refusals"` // opening handshakes that were refused, by HTTP status
	GaveUp     int64            `json:"gave_up"`  // clients that disconnected before their 101

	Logins LoginCounts `json:"logins"`

	Vhosts []VhostCount     `json:"vhosts"` // those that have had a tunnel, ordered by name
	Closed map[string]int64 `json:"closed"` // by reason
	Panics map[string]int64 `json:"panics"` // in the process, by the place where they were caught
	Dials  []DialCount      `json:"dials"`  // by upstream and node

	// In is from clients, Out is to them. Bytes are those of WebSocket, without TLS. They
	// lack only the turns in progress.
	BytesIn   int64 `json:"bytes_in"`
	BytesOut  int64 `json:"bytes_out"`
	FramesIn  int64 `json:"frames_in"`
	FramesOut int64 `json:"frames_out"`

	// Lag is the time that an event loop was busy with one batch of events. Events that
	// arrived meanwhile waited at most that long. The sum is the busy time of all loops,
	// of which there are at most Loops.
	Lag   Durations `json:"lag"`
	Loops int       `json:"loops"`

	// IOUring is "on", "off" by the configuration or the system, or the reason why the
	// kernel refused it, to all event loops or to some.
	IOUring string `json:"io_uring"`
}

// Tunnels returns the number of open tunnels.
func (c Counts) Tunnels() (n int64) {
	for _, v := range c.Vhosts {
		n += v.Open
	}
	return n
}

// A HandshakeCount counts the TLS handshakes with one result.
type HandshakeCount struct {
	Result  string `json:"result"`  // a Handshake constant, or another word for a failure
	Version string `json:"version"` // "1.2", "1.3"; empty for a failure
	N       int64  `json:"n"`
}

// A VhostCount counts the tunnels of one vhost, by its configured name.
type VhostCount struct {
	Name   string `json:"name"`
	Open   int64  `json:"open"` // now
	Opened int64  `json:"opened"`
}

// A DialCount has the times until a node answered with 101. They include failed attempts
// at other nodes before.
type DialCount struct {
	Upstream string    `json:"upstream"`
	Node     string    `json:"node"`
	Took     Durations `json:"took"`
}

// Counts returns the Server's current counts. Counters may change while it reads them.
func (s *Server) Counts() Counts {
	c := Counts{
		Connections: s.Connections(),
		Limit:       s.now.Load().connections,
		Accepted:    s.door.entries(),
		Refused:     map[string]int64{},
		ECH:         map[string]int64{},
		Refusals:    map[int]int64{},
		GaveUp:      s.ingress.refusals[0].Load(),
		Closed:      map[string]int64{},
		Panics:      panics.Counts(),
		Loops:       runtime.GOMAXPROCS(0),
		IOUring:     s.loops.ring(),
		Logins:      s.guard.counts(time.Now()),
		Vhosts:      s.tunnels.vhostCounts(),
		Dials:       s.dialler.dialCounts(),
	}
	for i, name := range limitNames {
		c.Refused[name] = s.admission.refused[i].Load()
	}
	for i, k := range handshakeKinds {
		c.Handshakes = append(c.Handshakes, HandshakeCount{k.result, k.version, s.ingress.handshakes[i].Load()})
	}
	for i, word := range echWords {
		c.ECH[word] = s.ingress.ech[i].Load()
	}
	for status := 1; status < len(s.ingress.refusals); status++ {
		if n := s.ingress.refusals[status].Load(); n > 0 {
			c.Refusals[status] = n
		}
	}
	for why := reasonNone + 1; why < reasonCount; why++ {
		c.Closed[why.String()] = s.tunnels.closed[why].Load()
	}
	l := &s.loops.done
	c.BytesIn, c.BytesOut = l.bytesIn.Load(), l.bytesOut.Load()
	c.FramesIn, c.FramesOut = l.framesIn.Load(), l.framesOut.Load()
	c.Lag = l.lag.durations()
	return c
}

// vhostCounts returns the vhosts ordered by name.
func (s *tunnels) vhostCounts() []VhostCount {
	var out []VhostCount
	for name, v := range s.vhosts.all() {
		out = append(out, VhostCount{name, v.open.Load(), v.opened.Load()})
	}
	slices.SortFunc(out, func(a, b VhostCount) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// dialCounts returns the nodes ordered by upstream and name.
func (d *dialler) dialCounts() []DialCount {
	var out []DialCount
	for node, h := range d.took.all() {
		out = append(out, DialCount{node[0], node[1], h.durations()})
	}
	slices.SortFunc(out, func(a, b DialCount) int {
		return cmp.Or(strings.Compare(a.Upstream, b.Upstream), strings.Compare(a.Node, b.Node))
	})
	return out
}

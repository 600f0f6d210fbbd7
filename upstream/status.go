package upstream

import "time"

// States of a node or an address.
const (
	StateUp        = "up"
	StateWarming   = "warming"    // works again, and gets streams slowly
	StateOut       = "out"        // failed; tried last
	StateDraining  = "draining"   // takes no new streams
	StateNoAddress = "no address" // DNS has not returned an address
)

// A GroupStatus is the current state of one upstream.
type GroupStatus struct {
	Name    string
	Balance string
	Nodes   []NodeStatus
	Lost    LostRedirect // the latest; zero: none, or the configuration has been fixed
}

// A NodeStatus is the state of one node. Its numbers are sums over its addresses; its
// state is that of the best address.
type NodeStatus struct {
	Name      string
	URL       string
	PublicURL string
	Weight    int
	State     string
	Tunnels   int
	Dialing   int    // dials in progress, including those that wait for their turn
	Dials     uint64 // since start, including failures; without dials that the client cancelled or caused to fail
	Failures  uint64 // of dials and probes, since start
	DNSError  string // of the latest query; "" if it succeeded
	Addresses []AddressStatus
}

// An AddressStatus is one place where a node listens.
type AddressStatus struct {
	Address   string // IP address and port, or the path of a socket
	Target    string // of the SRV record; "": none
	State     string
	Tunnels   int
	Dialing   int
	Dials     uint64
	Failures  uint64
	LastError string        // of the latest failure, which may be long ago
	LastHint  string        // what to check about it, or ""
	LastFail  time.Time     // zero: never
	LastDial  time.Duration // from connect to 101, of the last success; 0: none

	// Ports is the share of the source ports for this address that tunnels and dials
	// use, including those of other nodes with the same address; 0 if it is unknown and
	// for a socket. It does not include other processes.
	Ports float64

	PortsUsedUp time.Time // when a dial last found none; zero: never
}

// Status returns the state of all upstreams, in the order of the configuration.
func (t *Table) Status() []GroupStatus {
	var out []GroupStatus
	now := time.Now()
	room := t.room()
	for _, g := range t.routes.Load().groups {
		gs := GroupStatus{Name: g.name, Balance: g.balance, Lost: g.lostNow()}
		for _, n := range g.nodes {
			gs.Nodes = append(gs.Nodes, n.status(now, room))
		}
		out = append(out, gs)
	}
	return out
}

func (n *Node) status(now time.Time, room *room) NodeStatus {
	s := NodeStatus{Name: n.name, URL: n.loc.url, PublicURL: n.publicURL, Weight: int(n.weight), State: StateNoAddress}
	rank := map[string]int{StateNoAddress: 0, StateOut: 1, StateWarming: 2, StateUp: 3}
	for _, e := range n.endpoints() {
		a := e.status(now)
		a.Ports = room.share(n.group, e.address)
		s.Addresses = append(s.Addresses, a)
		s.Tunnels += a.Tunnels
		s.Dialing += a.Dialing
		s.Dials += a.Dials
		s.Failures += a.Failures
		if rank[a.State] > rank[s.State] {
			s.State = a.State
		}
	}
	if n.Leaving() {
		s.State = StateDraining
	}
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	if n.server.dnsErr != nil {
		s.DNSError = n.server.dnsErr.Error()
	}
	return s
}

func (a *address) status(now time.Time) AddressStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := AddressStatus{Address: a.addr, Target: a.target, State: StateUp, Tunnels: a.tunnels, Dialing: a.dialing,
		Dials: a.dials, Failures: a.failed, LastFail: a.lastFail, LastDial: a.lastDial, PortsUsedUp: a.ports.UsedUp()}
	switch {
	case a.probeBad || !a.outUntil.IsZero():
		s.State = StateOut
	case a.warmth(now) < 1:
		s.State = StateWarming
	}
	if a.lastErr != nil {
		s.LastError, s.LastHint = a.lastErr.Error(), hintOf(a.lastErr)
	}
	return s
}

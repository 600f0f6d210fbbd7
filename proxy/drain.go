package proxy

import (
	"math/rand/v2"
	"slices"
	"time"

	"wssgate/upstream"
)

// A drainOrder closes the tunnels of a target, spread evenly, and later ones at once.
// Loops keep it until undrain.
type drainOrder struct {
	target  Target
	within  time.Duration // from the first close to the last; 0: all at once
	timeout time.Duration // for each closing handshake, if it is more than closeTimeout
}

// patience is how long a client has to answer its Close frame. Shutdown may allow less.
func (o *drainOrder) patience() time.Duration { return max(o.timeout, closeTimeout) }

func (o *drainOrder) matches(t *tunnel) bool {
	switch {
	case t.info != nil && t.info.elsewhere != "":
		return false // already closing
	case o.target == Target{}:
		return true
	case o.target.Vhost != "":
		return t.info.vhost.Name() == o.target.Vhost
	}
	up := t.info.upstream
	return up != nil && up.Node.Upstream() == o.target.Upstream && up.Node.Name() == o.target.Node
}

// moments gives each of n tunnels its time: even slots in random order, with a random
// moment in each slot, so that clients that reconnect after a fixed time return as
// evenly as they left. None is 0.
func (o *drainOrder) moments(n int, now time.Duration, random *rand.Rand) []time.Duration {
	at := spread(n, o.within, random)
	for i := range at {
		at[i] = max(now+at[i], 1)
	}
	random.Shuffle(n, func(i, j int) { at[i], at[j] = at[j], at[i] })
	return at
}

// spread returns n moments between 0 and within, in order.
func spread(n int, within time.Duration, random *rand.Rand) []time.Duration {
	at := make([]time.Duration, n)
	for i := range at {
		at[i] = time.Duration((float64(i) + random.Float64()) * float64(within) / float64(n))
	}
	return at
}

// Pacing says how fast a drain closes tunnels.
type Pacing struct {
	Timeout time.Duration // deadline of Shutdown; otherwise for each client's answer
	Pace    int           // closes per second; 0: all within half of Timeout, or at gentlePace

	// Redirect may return a URL for clients that come during the drain; they are then
	// redirected in XMPP. Other clients get 503. host is the host that the client
	// requested. Nil: 503 for all.
	Redirect func(v *upstream.Vhost, host string) string
}

// gentlePace is how many clients per second may reconnect anywhere without harm. A
// drain is never slower.
const gentlePace = 50

// within is the duration of n closes.
func (p Pacing) within(n int) time.Duration {
	if p.Pace > 0 {
		return time.Duration(n) * time.Second / time.Duration(p.Pace)
	}
	return min(p.Timeout/2, time.Duration(n)*time.Second/gentlePace)
}

// drainOrders are the orders that a loop carries out, the newest last.
type drainOrders []*drainOrder

// has reports whether an order matches t.
func (s drainOrders) has(t *tunnel) bool { return s.find(t) != nil }

// find returns the newest order that matches t, or nil.
func (s drainOrders) find(t *tunnel) *drainOrder {
	for _, o := range slices.Backward(s) {
		if o.matches(t) {
			return o
		}
	}
	return nil
}

// catch applies the orders to a tunnel that is new to a loop or to a node. A matching
// order ends it at once, unless the tunnel has a time already. Without a matching order,
// its time is void, because it is that of an order for its old node.
func (s drainOrders) catch(t *tunnel, w *turn) {
	switch o := s.find(t); {
	case t.done:
	case o == nil:
		t.drainAt = 0
	case t.drainAt == 0:
		t.end(w, reasonDrain, w.now+o.patience())
	}
}

// without returns the orders except o.
func (s drainOrders) without(o *drainOrder) drainOrders {
	return slices.DeleteFunc(slices.Clone(s), func(x *drainOrder) bool { return x == o })
}

// chosen returns the tunnels that o matches.
func (o *drainOrder) chosen(all []*tunnel) []*tunnel {
	var out []*tunnel
	for _, t := range all {
		if o.matches(t) {
			out = append(out, t)
		}
	}
	return out
}

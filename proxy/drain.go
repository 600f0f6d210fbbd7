package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"wssgate/upstream"
)

// A Target selects the tunnels to drain: those of a vhost, by its configured name,
// those on one node, or, with the zero value, all.
type Target struct {
	Vhost          string
	Upstream, Node string
}

// A drainOrder closes the tunnels of a target, spread evenly, and later ones at once.
// Loops keep it until it is revoked.
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

// StartDrain closes the tunnels of a target at a pace, and turns its new clients away,
// until stop is called. Tunnels that are still open then stay open, unless another
// drain applies to them. StartDrain returns the number of tunnels to close. If several
// drains apply to the same tunnels or clients, the newest one decides. A second call of
// stop does nothing.
func (s *Server) StartDrain(target Target, p Pacing) (tunnels int, stop func()) {
	o := &drainOrder{target: target, timeout: p.Timeout}
	s.loops.visit(func(t *tunnel, _ *turn) {
		if o.matches(t) {
			tunnels++
		}
	})
	o.within = p.within(tunnels)
	s.mu.Lock()
	s.orders = append([]activeDrain{{o, p.Redirect}}, s.orders...)
	s.mu.Unlock()
	s.loops.drain(o)
	return tunnels, func() { s.stopDrain(o) }
}

func (s *Server) stopDrain(o *drainOrder) {
	s.mu.Lock()
	s.orders = slices.DeleteFunc(slices.Clone(s.orders), func(a activeDrain) bool { return a.drainOrder == o })
	s.mu.Unlock()
	s.loops.undrain(o)
}

type activeDrain struct {
	*drainOrder
	redirect func(v *upstream.Vhost, host string) string
}

// admits reports whether a new client of a vhost is let in: no drain and no memory
// shortage turns it away. If one does, elsewhere is the URL to redirect it to, if any;
// host is the host that the client requested. The drain of a node turns nobody away:
// the upstream chooses another node.
//
// An admitted client counts until left, without a gap in which Shutdown could miss it.
func (s *Server) admits(vhost *upstream.Vhost, host string) (admitted bool, elsewhere string) {
	if s.short.Load() {
		return false, ""
	}
	s.mu.Lock()
	a := s.turnedAway(vhost)
	if a == nil {
		s.admitted++
	}
	s.mu.Unlock()
	if a != nil && a.redirect != nil {
		elsewhere = a.redirect(vhost, host)
	}
	return a == nil, elsewhere
}

// TurnsAway reports whether a drain or a shortage of memory turns away new clients of a
// vhost.
func (s *Server) TurnsAway(vhost *upstream.Vhost) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.short.Load() || s.turnedAway(vhost) != nil
}

// turnedAway returns the drain that refuses new clients of a vhost, or nil. The caller
// holds s.mu.
func (s *Server) turnedAway(vhost *upstream.Vhost) *activeDrain {
	for i, a := range s.orders {
		if a.target == (Target{}) || a.target.Vhost == vhost.Name() {
			return &s.orders[i]
		}
	}
	return nil
}

// ErrDrainDeadline is returned by Shutdown if connections were still open at its
// deadline.
var ErrDrainDeadline = errors.New("drain deadline passed")

// Shutdown drains all tunnels and ends the Server. It stops accepting at once or, if it
// redirects new clients, when the last tunnel has ended; clients that keep reconnecting
// do not delay it. It cancels requests that wait in Pages. It sends each tunnel's
// client, at the pace, a Close frame with status code 1001 between two frames, and
// waits for the closing handshakes. What is still open after p.Timeout, or when ctx
// ends, is closed without a handshake, and the error is then ErrDrainDeadline. When
// Shutdown returns, all goroutines of the Server have ended. Call it once.
func (s *Server) Shutdown(ctx context.Context, p Pacing) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()

	total := s.Connections()
	if p.Redirect == nil {
		s.stopAccepting()
	}
	s.StartDrain(Target{}, p)
	s.pages.drain()
	s.mu.Lock()
	s.draining = true
	s.door.drain()
	s.endIfIdle()
	s.mu.Unlock()

	select {
	case <-s.emptied:
	case <-ctx.Done():
	}
	s.stopAccepting()
	var err error
	select {
	case <-s.idle:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %d of %d connections open after %v; closed them", ErrDrainDeadline, s.Connections(), total, p.Timeout)
	}
	s.cancel()
	s.door.closeAll()
	s.loops.close()
	s.jobs.Wait()
	s.pages.close()
	<-s.idle
	return err
}

// stopAccepting closes the listeners, and refuses connections that wait for a slot.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	close(s.stop)
	for ln := range s.listeners {
		ln.Close()
	}
	s.door.stop()
}

// endIfIdle is called with s.mu held, after each end of a connection or a tunnel.
func (s *Server) endIfIdle() {
	if !s.draining {
		return
	}
	if s.admitted == 0 && !s.empty {
		s.empty = true
		close(s.emptied)
	}
	if s.door.connections() == 0 && !s.ended {
		s.ended = true
		close(s.idle)
	}
}

// Arriving returns the number of connections between accept and a tunnel or an answer.
func (s *Server) Arriving() int { return s.door.arriving() }

package upstream

import (
	"context"
	"time"

	"wssgate/panics"
)

// probesToFail is how many consecutive probes must fail before an address is out. The
// second follows soon after the first.
const (
	probesToFail = 2
	probeAgain   = time.Second
)

// syncProbes starts a probe for each address without one, and stops those of removed
// addresses. The caller holds s.mu.
func (s *server) syncProbes(t *Table) {
	places := *s.endpoints.Load()
	want := make(map[*address]bool, len(places))
	if s.health.Interval > 0 {
		for _, e := range places {
			want[e.address] = true
		}
	}
	for a, end := range s.probes {
		if !want[a] {
			end()
			delete(s.probes, a)
			a.forgetProbes()
		}
	}
	for a := range want {
		if s.probes[a] == nil {
			var probing context.Context
			probing, s.probes[a] = context.WithCancel(s.ctx)
			t.jobs.Go(func() {
				panics.Keep(probing.Done(), panics.Probe, func() { s.watchHealth(probing, a) })
			})
		}
	}
}

// watchHealth probes a until ctx ends. The first probe comes within a second; jitter
// keeps gates from probing in step.
func (s *server) watchHealth(ctx context.Context, a *address) {
	every := s.node.Load().group.health.Interval
	wait := min(every, probeAgain)
	unable := false // the last probe was not possible
	for random := s.node.Load().group.env.random; ; {
		wait = time.Duration(float64(wait) * (0.9 + 0.2*random()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		n := s.node.Load()
		err := n.probe(ctx, a)
		if ctx.Err() != nil {
			return
		}
		wait = every
		log := n.group.env.log.With("upstream", n.group.name, "node", n.name, "address", a.addr)
		if isOurs(err) { // it says nothing about the address
			if !unable {
				log.Warn("health probe was not possible", "err", err, hintAttr(err))
			}
			unable = true
			continue
		}
		unable = false
		change, again := a.probed(time.Now(), err)
		if again {
			wait = min(every, probeAgain)
		}
		switch {
		case change && err != nil:
			log.Warn("upstream address is out of service: probes fail", "err", err, hintAttr(err))
		case change:
			log.Info("upstream address is back in service")
		}
		if err != nil {
			s.askAgain()
		}
	}
}

// probed records the result of a probe. change is true if the address goes out or comes
// back; again is true if one more probe should follow soon.
//
// A successful probe also returns an address after a failed dial, but keeps the count
// of consecutive failures: only the dial of a client resets that.
func (a *address) probed(now time.Time, err error) (change, again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.probeFails = 0
		failures := a.failures
		change = a.up(now)
		a.failures = failures
		return change, false
	}
	a.probeFails++
	a.failed++
	a.lastErr, a.lastFail = err, now
	if a.probeFails < probesToFail {
		return false, true
	}
	change = !a.probeBad && a.outUntil.IsZero()
	a.probeBad = true
	return change, false
}

// forgetProbes resets an address that is no longer probed.
func (a *address) forgetProbes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeBad, a.probeFails = false, 0
}

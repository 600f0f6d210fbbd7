package upstream

import (
	"context"
	"time"

	"wssgate/panics"
)

// probesToFail is how many probes in a row must fail before an address is out;
// the second comes soon after the first.
const (
	probesToFail = 2
	probeAgain   = time.Second
)

// syncProbes starts a probe for each place that has none, and ends those of
// places that are gone. The caller holds s.mu.
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

// watchHealth probes a until ctx ends. The first probe comes within a second,
// and no two gates keep step.
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

// probed takes a probe's result in. Change is true where the address goes out
// or comes back; again, where one more probe is to tell soon.
//
// A probe that works ends the time out after a failed dial as well, but does
// not forget how many failed in a row: only a client's dial knows that.
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

// forgetProbes is for an address that is probed no longer.
func (a *address) forgetProbes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probeBad, a.probeFails = false, 0
}

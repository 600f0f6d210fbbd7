package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"wssgate/files"
	"wssgate/ports"
)

// limits of each address; zero: no limit.
type limits struct {
	connections int // tunnels and dials in progress
	rate        int // new connections per second
}

// How long an address stays out after a failure, and how it returns.
const (
	outAtFirst = time.Second // doubles with each consecutive failure
	outAtMost  = 30 * time.Second
	slowStart  = 30 * time.Second // until a returned address has its full share
	slowFloor  = 0.05             // the share at the start
)

// An address is one place to dial. It lives as long as DNS or the configuration
// contains it, across reloads. Tunnels may outlive it.
type address struct {
	network string       // "tcp" or "unix"
	addr    string       // IP:port, or a path
	target  string       // host:port of the SRV target, or ""
	place   *files.Place // of a path; nil for others
	ports   ports.Memory // of the sources of its connections

	mu       sync.Mutex // never held across I/O
	tunnels  int
	dialing  int       // including dials that wait for their turn
	nextTurn time.Time // allowed by limits.rate

	failures   int       // consecutive
	outUntil   time.Time // after a failure; zero: it has worked since
	trial      bool      // a dial is testing whether it works again
	probeBad   bool      // the latest probes failed
	probeFails int       // consecutive
	warmFrom   time.Time // start of slow start; zero: full share

	dials    uint64 // since start
	failed   uint64
	lastErr  error
	lastFail time.Time
	lastDial time.Duration // of the latest dial that worked
}

func newAddress(network, addr, target string, late bool) *address {
	a := &address{network: network, addr: addr, target: target}
	if late {
		a.warmFrom = time.Now()
	}
	return a
}

// dial opens the plain connection. Connecting to a path may hang, like a call that
// opens a file: only one such call runs at a time, and while it hangs others fail.
func (a *address) dial(ctx context.Context, g *group) (net.Conn, error) {
	env := g.env
	if a.place == nil {
		return a.ports.Dial(ctx, env.dial, g.sources, a.network, a.addr)
	}
	wanted, cancel := context.WithCancel(ctx)
	defer cancel()
	type dialled struct {
		net.Conn
		late func() bool // stops the close of Conn at the end of wanted
	}
	d, err := files.Do(ctx, a.place, func() (d dialled, err error) {
		if err = ctx.Err(); err != nil {
			return d, err
		}
		err = a.place.Call(a.addr, func() (err error) {
			d.Conn, err = env.dial(ctx, a.network, a.addr)
			return err
		})
		if err == nil {
			d.late = context.AfterFunc(wanted, func() { d.Conn.Close() })
		}
		return d, err
	})
	if err != nil {
		return nil, err
	}
	if !d.late() {
		return nil, context.Cause(ctx)
	}
	return d.Conn, nil
}

// balanceState is the state of an address for balance.
type balanceState struct {
	out    bool    // use it only if all are out
	load   int     // tunnels and dials
	warmth float64 // slowFloor to 1
}

func (a *address) balanceState(now time.Time) balanceState {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := balanceState{load: a.tunnels + a.dialing, warmth: a.warmth(now)}
	s.out = a.probeBad || now.Before(a.outUntil) || !a.outUntil.IsZero() && a.trial
	return s
}

// warmth grows from slowFloor to 1. An address that is due for its trial counts in
// full; otherwise `least` would never choose it. The caller holds a.mu.
func (a *address) warmth(now time.Time) float64 {
	if a.warmFrom.IsZero() || !a.outUntil.IsZero() {
		return 1
	}
	return min(1, max(slowFloor, float64(now.Sub(a.warmFrom))/float64(slowStart)))
}

var errFull = errors.New("is at its limit")

// reserve reserves one dial and returns how long to wait before it may begin. Follow
// each reserve by one of worked, broke or dropped.
func (a *address) reserve(now time.Time, l limits, patience time.Duration) (wait time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.connections > 0 && a.tunnels+a.dialing >= l.connections {
		return 0, fmt.Errorf("%w of %d connections", errFull, l.connections)
	}
	if l.rate > 0 {
		if wait = max(0, a.nextTurn.Sub(now)); wait > patience {
			return wait, fmt.Errorf("%w of %d new connections per second, %d are waiting", errFull, l.rate, a.dialing)
		}
		a.nextTurn = now.Add(wait + time.Second/time.Duration(l.rate))
	}
	a.dialing++
	if !a.outUntil.IsZero() {
		a.trial = true
	}
	return wait, nil
}

// dropped ends a reserve whose result says nothing about the address.
func (a *address) dropped() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dialing--
	a.trial = false
}

// worked ends a reserve with a tunnel.
func (a *address) worked(now time.Time, took time.Duration) (back bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dialing--
	a.tunnels++
	a.dials++
	a.lastDial = took
	return a.up(now)
}

// broke ends a reserve with a failure of the address itself.
func (a *address) broke(now time.Time, cause error, jitter float64) (first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dialing--
	a.dials++
	return a.down(now, cause, jitter)
}

// up records that the address works. The caller holds a.mu.
func (a *address) up(now time.Time) (back bool) {
	back = !a.outUntil.IsZero() || a.probeBad
	if back && (a.failures > 1 || a.probeBad) { // a single failure may be an accident
		a.warmFrom = now
	}
	a.failures, a.outUntil, a.trial, a.probeBad, a.probeFails = 0, time.Time{}, false, false, 0
	return back
}

// down records that it does not work, with jitter in [0,1). The caller holds a.mu.
func (a *address) down(now time.Time, cause error, jitter float64) (first bool) {
	first = a.outUntil.IsZero() && !a.probeBad
	a.trial = false
	a.failed++
	a.lastErr, a.lastFail = cause, now
	if now.Before(a.outUntil) {
		return false // concurrent dials count once
	}
	a.failures++
	out := min(outAtMost, outAtFirst<<min(a.failures-1, 10))
	a.outUntil = now.Add(time.Duration(float64(out) * (0.8 + 0.4*jitter)))
	return first
}

// release ends a tunnel.
func (a *address) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tunnels--
}

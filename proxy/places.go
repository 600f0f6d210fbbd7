package proxy

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

const (
	// waitingFactor bounds the handshakes that wait for their client, for each
	// one that may run.
	waitingFactor = 8

	// comingFactor bounds the newcomers that wait for a place, likewise.
	comingFactor = 8

	// patience is how long one may wait for its client while others want in.
	patience = 3 * time.Second
)

var (
	errNoPlace = errors.New("no place for a handshake in time")
	errClosing = errors.New("shutting down")
)

// places bounds TLS handshakes. One that computes needs a place; one that
// waits for its client's next message needs none, or a few slow clients would
// keep everybody else out. But it does hold memory, so that there may be at
// most waitingFactor times as many under way as there are places.
//
// Newcomers are served in order. Those under way go before them. Where newcomers
// wait and all places are taken by handshakes that wait for their clients, the
// ones that have waited longest, for more than patience, are given up: whoever
// begins handshakes and does not go on keeps nobody out.
//
// When there are many newcomers, no more are accepted: in a storm of thousands
// they wait in the kernel's queue, where they cost this process neither a
// goroutine nor a descriptor. A client that said nothing yet is no newcomer, or
// a few dozen of them would close the door to everybody else.
type places struct {
	mu      sync.Mutex
	max     int
	coming  int           // newcomers: arrived, neither silent nor started
	room    chan struct{} // closed when there is room for newcomers; nil: nobody waits for that
	running int
	started int       // under way: running or waiting for the client
	back    list.List // of chan bool: under way, want their place back
	fresh   list.List // of chan bool: newcomers
	paused  list.List // of *pausedHandshake, oldest first
	closed  bool
}

// A pausedHandshake waits for its client since then; giveUp ends that.
type pausedHandshake struct {
	since  time.Time
	giveUp func()
}

func newPlaces() *places { return &places{max: 1} }

// limit sets how many may run at once.
func (p *places) limit(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max(n, 1)
	p.admit()
}

// awaitRoom waits until a newcomer may be accepted, or until stop is closed.
func (p *places) awaitRoom(stop <-chan struct{}) {
	for {
		p.mu.Lock()
		if p.coming < p.max*comingFactor {
			p.mu.Unlock()
			return
		}
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return
		}
	}
}

// arrive counts a newcomer. silent or start follows.
func (p *places) arrive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.coming++
}

// silent takes back an arrival: the client has said nothing yet.
func (p *places) silent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.coming--
	if p.room != nil && p.coming < p.max*comingFactor {
		close(p.room)
		p.room = nil
	}
}

// start waits for a newcomer's place until the deadline.
func (p *places) start(deadline time.Time) error {
	defer p.silent()
	return p.wait(&p.fresh, deadline)
}

// pause gives the place back while the client is waited for. The wait must end
// soon after giveUp is called.
func (p *places) pause(giveUp func()) *list.Element {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	e := p.paused.PushBack(&pausedHandshake{time.Now(), giveUp})
	p.admit()
	return e
}

// resume follows pause, and gets what that returned. On an error the place is
// not held; finish is to be called all the same, with running false.
func (p *places) resume(e *list.Element, deadline time.Time) error {
	p.mu.Lock()
	p.paused.Remove(e)
	p.mu.Unlock()
	return p.wait(&p.back, deadline)
}

// evict gives up paused handshakes in favour of newcomers; p.mu is held.
func (p *places) evict(now time.Time) {
	wanted := min(p.fresh.Len(), p.max) - (p.max*waitingFactor - p.started)
	for e := p.paused.Front(); e != nil && wanted > 0; wanted-- {
		h, next := e.Value.(*pausedHandshake), e.Next()
		if now.Sub(h.since) < patience {
			return
		}
		p.paused.Remove(e) // resume's Remove does nothing then
		h.giveUp()
		e = next
	}
}

// finish ends a handshake that start let in.
func (p *places) finish(running bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if running {
		p.running--
	}
	p.started--
	p.admit()
}

// close turns away all newcomers, those that wait already too.
func (p *places) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for e := p.fresh.Front(); e != nil; e = p.fresh.Front() {
		p.fresh.Remove(e).(chan bool) <- false
	}
}

func (p *places) wait(queue *list.List, deadline time.Time) error {
	p.mu.Lock()
	if p.closed && queue == &p.fresh {
		p.mu.Unlock()
		return errClosing
	}
	ch := make(chan bool, 1)
	e := queue.PushBack(ch)
	p.admit()
	p.mu.Unlock()

	select { // most of the time there is a place at once
	case ok := <-ch:
		return closingUnless(ok)
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case ok := <-ch:
			return closingUnless(ok)
		case now := <-tick.C:
			p.mu.Lock()
			p.evict(now)
			p.mu.Unlock()
		case <-timer.C:
			waiting = false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case ok := <-ch: // the place came with the deadline
		return closingUnless(ok)
	default:
	}
	queue.Remove(e)
	return errNoPlace
}

func closingUnless(ok bool) error {
	if !ok {
		return errClosing
	}
	return nil
}

// admit lets in who can come in; p.mu is held.
func (p *places) admit() {
	for p.running < p.max {
		switch {
		case p.back.Len() > 0:
			p.back.Remove(p.back.Front()).(chan bool) <- true
		case p.fresh.Len() > 0 && p.started < p.max*waitingFactor:
			p.fresh.Remove(p.fresh.Front()).(chan bool) <- true
			p.started++
		default:
			return
		}
		p.running++
	}
}

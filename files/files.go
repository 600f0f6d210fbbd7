// Package files reads and writes files for a program that must not wait for a
// disk.
//
// A file system may hang: a network mount whose server is gone, a volume whose
// driver sleeps. A system call on it does not return, cannot be given up, and
// keeps its goroutine and a thread until the file system is back. So nothing that
// serves calls the file functions of package os (a test of package main looks for
// them). It names a Place, gives it a job, and waits for the job only as long as
// the file system answers.
//
// # States and owners
//
//	free ──Do──► busy ──a call takes longer than Patience──► hangs
//	  ▲           │ ▲                                           │
//	  └──job ends─┘ └────────────────the call ends──────────────┘
//
// A Place has one job at a time, which runs in a goroutine of its own. What the
// job touches belongs to the job, also when nobody waits for it any more: when its
// file system is back it goes on where it was, and its end is its own to tell.
// Others wait for their turn while the job makes progress. Once it hangs they are
// told so at once, by a *HangError with the path and the time; thus a Place that
// hangs costs one goroutine and one thread, however many want something of it. A
// slow file system does not hang: each call has Patience of its own.
//
// Hangs and their ends are logged once each, and Hanging lists them, for people.
//
// # Rules for files
//
// A file is opened without blocking and looked at after that, not before: a pipe
// that was put in its place in between is refused like one that was there. Only
// regular files are read, and no more of them than the caller allows.
package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Patience is how long one call may take before its Place counts as hanging. A
// disk that is merely busy answers sooner, and what is misjudged costs no more than
// a line in the log: the job goes on.
const Patience = 2 * time.Second

// A Place is a part of the file system that hangs as a whole: a directory with
// what is below it. All methods are safe for concurrent use, but those that call
// the system are for the Place's job. Outside a job they work too, for programs
// that may wait; nobody notices then that they hang.
type Place struct {
	what string // for the log
	log  func() *slog.Logger
	turn chan struct{} // has an entry while there is a job

	mu    sync.Mutex
	watch *time.Timer   // calls check; nil: there is no job
	path  string        // of the call under way; empty: none
	began time.Time     // of the call
	last  HangError     // of the call that hangs or hung last
	hangs chan struct{} // closed while the call hangs; another one after that
	back  chan struct{} // closed while it does not; another one while it does
}

// New makes a Place. What is what the log calls it, such as "certificates". A nil
// log is slog.Default() of the time.
func New(what string, log *slog.Logger) *Place {
	p := &Place{what: what, log: slog.Default, turn: make(chan struct{}, 1), hangs: make(chan struct{}), back: make(chan struct{})}
	if log != nil {
		p.log = func() *slog.Logger { return log }
	}
	close(p.back)
	return p
}

// A HangError says that a file system does not answer. It is an ErrHangs.
type HangError struct {
	Path  string
	Since time.Time
}

// ErrHangs is what every *HangError is, for errors.Is.
var ErrHangs = errors.New("the file system does not answer")

// IsHang reports whether an error is a HangError, or one of several.
func IsHang(err error) bool { return errors.Is(err, ErrHangs) }

func (e *HangError) Error() string {
	return fmt.Sprintf("%q: the file system does not answer since %s", e.Path, e.Since.UTC().Format(time.RFC3339))
}

// Is makes it an ErrHangs.
func (e *HangError) Is(target error) bool { return target == ErrHangs }

// Do has the place do a job, and returns its results. Where the place hangs, in
// this job or in one before it, the error is a *HangError; where ctx ends first, it
// is ctx's cause. In both cases the job may not have begun, or may still be under
// way: it shares nothing with the caller but its results and what has a lock.
func Do[T any](ctx context.Context, p *Place, job func() (T, error)) (T, error) {
	return do(ctx, p, false, job)
}

// Await is Do for somebody who has nothing else to do: it waits also for a place
// that hangs, until ctx ends.
func Await[T any](ctx context.Context, p *Place, job func() (T, error)) (T, error) {
	return do(ctx, p, true, job)
}

func do[T any](ctx context.Context, p *Place, await bool, job func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := p.take(ctx, await); err != nil {
		return none, err
	}
	hangs := p.begin()
	if await {
		hangs = nil
	}
	done := make(chan result, 1)
	go func() {
		defer p.end()
		value, err := job()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-hangs:
		return none, p.lastHang()
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// take waits for the place's turn.
func (p *Place) take(ctx context.Context, await bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	hangs := p.hangs
	p.mu.Unlock()
	if await {
		hangs = nil
	}
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-hangs:
		return p.lastHang()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin and end stand around a job. The channel that begin returns is closed when
// the job hangs.
func (p *Place) begin() (hangs <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = time.AfterFunc(Patience, p.check)
	return p.hangs
}

func (p *Place) end() {
	p.mu.Lock()
	p.watch.Stop()
	p.watch = nil
	p.mu.Unlock()
	<-p.turn
}

// check looks whether the call under way has had its time.
func (p *Place) check() {
	p.mu.Lock()
	if p.watch == nil || isClosed(p.hangs) { // the job has ended, or it is known
		p.mu.Unlock()
		return
	}
	left := Patience
	if p.path != "" {
		left -= time.Since(p.began)
	}
	if left > 0 {
		p.watch.Reset(left)
		p.mu.Unlock()
		return
	}
	p.last = HangError{p.path, p.began}
	p.back = make(chan struct{})
	note(p, true)
	close(p.hangs)
	last := p.last
	p.mu.Unlock()
	log := p.log()
	log.Warn(p.what+": the file system does not answer", "file", last.Path, "since", last.Since,
		"hint", "is its mount there? or is it a pipe that nobody writes to? it is taken up again when it answers")
}

// enter and leave stand around each call.
func (p *Place) enter(path string) {
	p.mu.Lock()
	p.path, p.began = path, time.Now()
	p.mu.Unlock()
	waitForStalls(path)
}

func (p *Place) leave() {
	p.mu.Lock()
	p.path = ""
	hung, last := isClosed(p.hangs), p.last
	if hung {
		p.hangs = make(chan struct{})
		note(p, false)
		close(p.back)
		p.watch.Reset(Patience)
	}
	p.mu.Unlock()
	if hung {
		log := p.log()
		log.Info(p.what+": the file system answers again", "file", last.Path, "duration", time.Since(last.Since).Round(time.Millisecond))
	}
}

// Back returns a channel that is closed when the place does not hang: at once, or
// when it is back.
func (p *Place) Back() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.back
}

// Hangs returns what the place hangs at; nil where it does not.
func (p *Place) Hangs() *HangError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !isClosed(p.hangs) {
		return nil
	}
	return &HangError{p.last.Path, p.last.Since}
}

// lastHang is for somebody who saw the place hang. It may be back by now.
func (p *Place) lastHang() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &HangError{p.last.Path, p.last.Since}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

var hanging struct {
	mu     sync.Mutex
	places []*Place // in the order in which they began to
}

func note(p *Place, hangs bool) {
	hanging.mu.Lock()
	defer hanging.mu.Unlock()
	hanging.places = slices.DeleteFunc(hanging.places, func(o *Place) bool { return o == p })
	if hangs {
		hanging.places = append(hanging.places, p)
	}
}

// A Hang is a Place of this process that hangs.
type Hang struct {
	What string // as given to New
	HangError
}

// Hanging lists the places of the process that hang now, the one that has for
// longest first.
func Hanging() (list []Hang) {
	hanging.mu.Lock()
	places := slices.Clone(hanging.places)
	hanging.mu.Unlock()
	for _, p := range places {
		if e := p.Hangs(); e != nil {
			list = append(list, Hang{p.what, *e})
		}
	}
	return list
}

// stalls are for tests; nil elsewhere.
var stalls atomic.Pointer[[]stall]

type stall struct {
	prefix string
	over   chan struct{}
}

func waitForStalls(path string) {
	if list := stalls.Load(); list != nil {
		for _, s := range *list {
			if strings.HasPrefix(path, s.prefix) {
				<-s.over
			}
		}
	}
}

// Stall makes all calls for paths that begin with prefix hang until resume is
// called. It is for tests of what uses this package.
func Stall(prefix string) (resume func()) {
	s := stall{prefix, make(chan struct{})}
	change := func(f func([]stall) []stall) {
		for {
			old := stalls.Load()
			var list []stall
			if old != nil {
				list = slices.Clone(*old)
			}
			if list = f(list); stalls.CompareAndSwap(old, &list) {
				return
			}
		}
	}
	change(func(list []stall) []stall { return append(list, s) })
	return sync.OnceFunc(func() {
		change(func(list []stall) []stall { return slices.DeleteFunc(list, func(o stall) bool { return o == s }) })
		close(s.over)
	})
}

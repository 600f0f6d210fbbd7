// Package files reads and writes files for a program that must not wait for a
// disk.
//
// A file system may hang: the server of a network mount is down, or the driver
// of a volume has stalled. A system call on it does not return and cannot be
// cancelled. It occupies its goroutine and a thread until the file system
// answers. So code that serves clients does not call the file functions of
// package os (a test of package main checks this). It runs a job on a Place,
// and waits for the job only as long as the file system answers.
//
// # States and owners
//
//	free ──Do──► busy ──a call takes longer than Patience──► hangs
//	  ▲           │ ▲                                           │
//	  ├──job ends─┤ └────────────────the call ends──────────────┘
//	  │           └──its calls take longer than JobPatience──► slow
//	  └───────────────────────job ends───────────────────────────┘
//
// A Place runs one job at a time, in its own goroutine. A job's data belongs to
// the job, even after its caller has stopped waiting: when the file system
// answers again, the job continues. Other callers wait for their turn while the
// job makes progress. Once it hangs, they get a *HangError with the path and
// the time at once. So a Place that hangs costs one goroutine and one thread,
// however many callers it has. The same holds for a slow job: all of its calls
// together may take JobPatience. A job can publish partial results (DoInParts)
// for callers that continue without it.
//
// Hangs and their ends are logged once each; repeated ones are logged less
// often (report.go). Hanging lists the current ones for the admin page.
//
// At returns the shared Place of a path from the configuration; Leave releases
// it. Because Places are shared, a path that hangs costs one thread, however
// often it is tried.
//
// # Rules for files
//
// A file is opened without blocking and checked afterwards, so a pipe that has
// replaced the file in between is refused, too. Only regular files are read, up
// to the caller's limit.
package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/panics"
)

// Patience is how long one call may take before its Place counts as hanging. A
// busy disk answers sooner. A wrong guess costs one log line: the job
// continues.
const Patience = 2 * time.Second

// JobPatience is how long all calls of a job together may take before its Place
// counts as slow. Time between calls does not count.
const JobPatience = 5 * time.Second

// A Place is a part of the file system that hangs as a whole: a directory and
// everything below it. All methods are safe for concurrent use, except the
// system calls, which only the Place's job may make. Programs that may block
// can also make them outside a job, but then hangs go unnoticed.
type Place struct {
	what string // for the log
	at   key    // in places; zero: not shared
	log  func() *slog.Logger
	turn chan struct{} // full while a job runs

	users int // guarded by places.mu

	// still is held while part runs, so that no call ends during it. Lock it
	// before mu.
	still sync.Mutex

	mu    sync.Mutex
	part  func()        // of the job; may be nil
	watch *time.Timer   // calls check; nil: no job
	path  string        // of the current call; empty: none
	began time.Time     // when the call began
	since time.Time     // when the job began, or its last hang ended
	spent time.Duration // time in calls since then
	last  HangError     // of the latest call that hangs or hung
	hangs chan struct{} // closed while the call hangs or the job is slow, then replaced
	back  chan struct{} // closed while the Place answers; replaced when it hangs
	free  chan struct{} // closed while there is no job; replaced for each job
	where panics.Place  // counts the panics of jobs
	news  report        // what has been logged
}

// New returns a Place that is not shared. The log calls it what, such as
// "certificates". If log is nil, slog.Default() at the time of logging is used.
func New(what string, log *slog.Logger) *Place {
	p := &Place{what: what, where: panics.Files, log: slog.Default, users: 1, turn: make(chan struct{}, 1), hangs: make(chan struct{}), back: make(chan struct{})}
	if log != nil {
		p.log = func() *slog.Logger { return log }
	}
	close(p.back)
	p.free = p.back
	return p
}

// CountedBy makes where count the panics of p's jobs, instead of panics.Files.
// It returns p.
func (p *Place) CountedBy(where panics.Place) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.where = where
	return p
}

func (p *Place) countedBy() panics.Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.where
}

// places are the shared Places.
var places struct {
	mu  sync.Mutex
	all map[key]*Place
}

type key struct{ what, path string }

// At returns the shared Place for the file system at a path. Callers with the
// same path share one Place; each must release it with Leave. The log is that
// of the first caller.
func At(what, path string, log *slog.Logger) *Place {
	k := key{what, path}
	sweep(k)
	places.mu.Lock()
	defer places.mu.Unlock()
	p := places.all[k]
	if p == nil {
		p = New(what, log)
		p.at, p.users = k, 0
		if places.all == nil {
			places.all = map[key]*Place{}
		}
		places.all[k] = p
	}
	p.users++
	return p
}

// Leave releases a Place that At returned. A Place without users no longer
// appears in Hanging, and is dropped when its job has ended.
func (p *Place) Leave() {
	places.mu.Lock()
	p.users--
	p.forget()
	places.mu.Unlock()
	p.sayIfOver()
}

// forget drops a Place without users or a job, unless it had trouble recently:
// what was logged about it must not be logged again. The caller must hold
// places.mu.
func (p *Place) forget() {
	if p.users > 0 || len(p.turn) > 0 || places.all[p.at] != p {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.news.quiet(time.Now()) {
		delete(places.all, p.at)
	}
}

// sweep drops the Places that were kept because of recent trouble, except that
// of k.
func sweep(k key) {
	var idle []*Place
	places.mu.Lock()
	for at, p := range places.all {
		if at != k && p.users <= 0 {
			p.forget()
			idle = append(idle, p)
		}
	}
	places.mu.Unlock()
	for _, p := range idle {
		p.sayIfOver()
	}
}

func (p *Place) used() bool {
	places.mu.Lock()
	defer places.mu.Unlock()
	return p.users > 0
}

// A HangError reports that a file system does not answer or is too slow.
// errors.Is matches it with ErrHangs.
type HangError struct {
	Path  string
	Since time.Time
	Slow  bool // it answers, but too slowly to wait for everything
	place *Place
}

// FreeAfter returns a channel that is closed when the Place of the HangError in
// err has finished the job that hung or was slow. A later job then need not
// wait for it. It returns nil if err contains no HangError.
func FreeAfter(err error) <-chan struct{} {
	hang, ok := errors.AsType[*HangError](err)
	if !ok || hang.place == nil {
		return nil
	}
	hang.place.mu.Lock()
	defer hang.place.mu.Unlock()
	return hang.place.free
}

// ErrHangs matches every *HangError in errors.Is.
var ErrHangs = errors.New("the file system does not answer")

// IsHang reports whether err is a HangError or wraps one.
func IsHang(err error) bool { return errors.Is(err, ErrHangs) }

func (e *HangError) Error() string {
	what := "has not answered"
	if e.Slow {
		what = "has been slow and is partly unread"
	}
	return fmt.Sprintf("%q: the file system %s since %s", e.Path, what, e.Since.UTC().Format(time.RFC3339))
}

// Is matches ErrHangs.
func (e *HangError) Is(target error) bool { return target == ErrHangs }

// Do runs a job on p and returns its results. If p hangs or is slow, in this
// job or an earlier one, the error is a *HangError. If ctx ends first, the
// error is its cause. In both cases the job may not have begun, or may still be
// running: apart from its results, it may share only data under a lock with the
// caller.
func Do[T any](ctx context.Context, p *Place, job func() (T, error)) (T, error) {
	return do(ctx, p, false, job, nil)
}

// DoInParts is Do for a job of many calls. If the job hangs or is slow,
// DoInParts calls part before it returns. The job is suspended while part runs,
// so part may use all of the job's data. It must not call methods of the Place.
func DoInParts[T any](ctx context.Context, p *Place, job func() (T, error), part func()) (T, error) {
	return do(ctx, p, false, job, part)
}

// Await is Do for callers with nothing else to do: while the Place hangs, it
// waits until ctx ends.
func Await[T any](ctx context.Context, p *Place, job func() (T, error)) (T, error) {
	return do(ctx, p, true, job, nil)
}

// AwaitUntil is Await, but if ctx ends first, the error is a *HangError.
func AwaitUntil[T any](ctx context.Context, p *Place, job func() (T, error)) (T, error) {
	began := time.Now()
	v, err := Await(ctx, p, job)
	if err == nil || ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)) {
		return v, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	late := HangError{p.path, began, true, p}
	if isClosed(p.hangs) {
		late = p.last
	}
	return v, &late
}

func do[T any](ctx context.Context, p *Place, await bool, job func() (T, error), part func()) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := p.take(ctx, await); err != nil {
		return none, err
	}
	hangs := p.begin(part)
	if await {
		hangs = nil
	}
	done := make(chan result, 1)
	go func() {
		defer p.end()
		value, err := panics.Do(p.countedBy(), job)
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

// take waits for the caller's turn.
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

// begin starts a job; end ends it. begin returns a channel that is closed when
// the job hangs or is slow.
func (p *Place) begin(part func()) (hangs <-chan struct{}) {
	p.mu.Lock()
	p.part, p.since, p.spent, p.free = part, time.Now(), 0, make(chan struct{})
	p.watch = time.AfterFunc(Patience, func() { panics.Catch(p.countedBy(), p.check) })
	hangs = p.hangs
	p.mu.Unlock()
	p.sayIfOver()
	return hangs
}

func (p *Place) end() {
	p.mu.Lock()
	p.watch.Stop()
	p.watch, p.part = nil, nil
	tell := p.answers()
	free := p.free
	p.mu.Unlock()
	tell()
	places.mu.Lock()
	<-p.turn
	close(free)
	p.forget()
	places.mu.Unlock()
}

// check runs when the call or the job may have used its time.
func (p *Place) check() {
	p.still.Lock()
	defer p.still.Unlock()
	p.mu.Lock()
	if p.watch == nil || isClosed(p.hangs) { // the job has ended, or its trouble has been reported
		p.mu.Unlock()
		return
	}
	left := Patience
	slow := false
	if p.path != "" {
		took := time.Since(p.began)
		left = min(Patience-took, JobPatience-p.spent-took)
		slow = took < Patience
	}
	if left > 0 {
		p.watch.Reset(left)
		p.mu.Unlock()
		return
	}
	p.giveUp(slow)
}

// giveUp lets the callers continue with partial results. The caller must hold
// still and mu; giveUp releases mu. The job is suspended: it is in a call, or
// it is the caller.
func (p *Place) giveUp(slow bool) {
	p.last = HangError{p.path, p.began, slow, p}
	if slow {
		p.last.Since = p.since
	}
	part := p.part
	p.mu.Unlock()
	if part != nil {
		part()
	}
	p.mu.Lock()
	p.back = make(chan struct{})
	note(p, true)
	close(p.hangs)
	last := p.last
	say, repeated := p.news.begins(time.Now(), last.Since)
	p.mu.Unlock()
	if say {
		p.sayTrouble(last, repeated)
	}
}

// answers records that the Place answers again. The caller must hold mu, and
// call tell after releasing it.
func (p *Place) answers() (tell func()) {
	if !isClosed(p.hangs) {
		return func() {}
	}
	last := p.last
	p.hangs = make(chan struct{})
	note(p, false)
	close(p.back)
	if !p.news.ends(time.Now()) {
		return func() {}
	}
	text := answersAgain
	if last.Slow {
		text = isRead
	}
	return func() { p.sayOver(text, last.Path, last.Since) }
}

// enter starts a call; left ends it.
func (p *Place) enter(path string) { p.enterAs(path, true) }

// enterAs is enter. follow tells whether the call follows links.
func (p *Place) enterAs(path string, follow bool) {
	p.mu.Lock()
	p.path, p.began = path, time.Now()
	p.mu.Unlock()
	waitForStalls(path, follow)
}

func (p *Place) leave() {
	p.still.Lock()
	defer p.still.Unlock()
	p.mu.Lock()
	p.left()
}

// left ends a call. The caller must hold still and mu; left releases mu.
func (p *Place) left() {
	p.spent += time.Since(p.began)
	hung := isClosed(p.hangs)
	if p.watch != nil && !hung && p.spent >= JobPatience {
		p.giveUp(true)
		p.mu.Lock()
		hung = true
	}
	p.path = ""
	tell := func() {}
	if hung && !p.last.Slow {
		tell = p.answers()
		p.since, p.spent = time.Now(), 0
		p.watch.Reset(Patience)
	}
	p.mu.Unlock()
	tell()
}

// Beside runs a job of another Place within a job of p. It waits as Do does,
// and its time counts for the job of p.
func Beside[T any](p, other *Place, path string, job func() (T, error)) (T, error) {
	began := time.Now()
	v, err := Do(context.Background(), other, job)
	p.still.Lock() // otherwise check could take a call of other for one of p
	defer p.still.Unlock()
	p.mu.Lock()
	p.path, p.began = path, began
	p.left()
	return v, err
}

// Back returns a channel that is closed when the Place neither hangs nor is slow.
func (p *Place) Back() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.back
}

// Hangs returns an error while the Place hangs or is slow. Otherwise it returns
// nil.
func (p *Place) Hangs() *HangError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !isClosed(p.hangs) {
		return nil
	}
	last := p.last
	return &last
}

// lastHang returns the error for a caller that saw the Place hang. The Place
// may have answered since.
func (p *Place) lastHang() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last
	return &last
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
	places []*Place // oldest hang first
	late   []*lateness
}

type lateness struct {
	place *Place
	HangError
}

func note(p *Place, hangs bool) {
	hanging.mu.Lock()
	defer hanging.mu.Unlock()
	hanging.places = slices.DeleteFunc(hanging.places, func(o *Place) bool { return o == p })
	if hangs {
		hanging.places = append(hanging.places, p)
	}
}

// GoneOnWithout reports that the caller no longer waits for jobs that together
// are slow. It logs this, and lists the Place in Hanging until done is closed.
// A Place that hangs has already been reported.
func (p *Place) GoneOnWithout(path string, since time.Time, done <-chan struct{}) {
	if p.Hangs() != nil {
		return
	}
	l := &lateness{p, HangError{path, since, true, p}}
	hanging.mu.Lock()
	hanging.late = append(hanging.late, l)
	hanging.mu.Unlock()
	p.sayTrouble(l.HangError, false)
	go func() {
		<-done
		hanging.mu.Lock()
		hanging.late = slices.DeleteFunc(hanging.late, func(o *lateness) bool { return o == l })
		hanging.mu.Unlock()
		p.sayOver(isRead, path, since)
	}()
}

// A Hang is a Place of this process that hangs or is slow.
type Hang struct {
	What string // as given to New
	HangError
}

// Hanging lists the Places that are in use and hang or are slow, longest first.
func Hanging() (list []Hang) {
	hanging.mu.Lock()
	places, late := slices.Clone(hanging.places), slices.Clone(hanging.late)
	hanging.mu.Unlock()
	for _, p := range places {
		if e := p.Hangs(); e != nil && p.used() {
			list = append(list, Hang{p.what, *e})
		}
	}
	for _, l := range late {
		hangs := func(h Hang) bool { return h.place == l.place } // the Place now reports itself
		if l.place.used() && !slices.ContainsFunc(list, hangs) {
			list = append(list, Hang{l.place.what, l.HangError})
		}
	}
	return list
}

// stalls simulate hanging file systems in tests; otherwise nil.
var stalls atomic.Pointer[[]stall]

type stall struct {
	prefix string
	delay  time.Duration
	over   chan struct{} // nil: a delay
}

// waitForStalls waits for stalls on the way to path. Without follow, it ignores
// a link in the last element.
func waitForStalls(path string, follow bool) {
	if list := stalls.Load(); list != nil {
		real, err := filepath.EvalSymlinks(path)
		if !follow {
			real, err = filepath.EvalSymlinks(filepath.Dir(path))
			real = filepath.Join(real, filepath.Base(path))
		}
		if err != nil {
			real = path
		}
		for _, s := range *list {
			switch {
			case !strings.HasPrefix(path, s.prefix) && !strings.HasPrefix(real, s.prefix):
			case s.over != nil:
				<-s.over
			default:
				time.Sleep(s.delay)
			}
		}
	}
}

// Stall makes all calls for paths that begin with prefix hang until resume is
// called. It is only for tests.
func Stall(prefix string) (resume func()) {
	over := make(chan struct{})
	end := addStall(stall{prefix: prefix, over: over})
	return sync.OnceFunc(func() {
		end()
		close(over)
	})
}

// Delay adds the delay each to all calls for paths that begin with prefix,
// until end is called. It is only for tests.
func Delay(prefix string, each time.Duration) (end func()) {
	return addStall(stall{prefix: prefix, delay: each})
}

func addStall(s stall) (end func()) {
	change := func(f func([]stall) []stall) {
		for {
			old := stalls.Load()
			var list []stall
			if old != nil {
				list = slices.Clone(*old)
			}
			next := &list
			if list = f(list); len(list) == 0 {
				next = nil
			}
			if stalls.CompareAndSwap(old, next) {
				return
			}
		}
	}
	change(func(list []stall) []stall { return append(list, s) })
	return func() {
		change(func(list []stall) []stall { return slices.DeleteFunc(list, func(o stall) bool { return o == s }) })
	}
}

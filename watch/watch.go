// Package watch tells when the files in some folders have to be looked at again:
// soon after the system has told of a change, and from time to time whatever it
// tells, for some file systems tell nothing. What is in the files it does not look
// at, and so it does not know what is a change to whoever reads them.
//
// It watches folders, not files: a file that is replaced takes its watch with it.
//
// Add, Forget, Begin and End may be called by any goroutine, and before Start.
// They call the system, which may hang for a folder that does; nothing else here
// waits for them.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"wssgate/panics"
)

const (
	// A change is often one of several: a key and its chain, a temporary file
	// and its renaming, the halves of a file. They are gathered until there was
	// nothing for Quiet, but for no longer than Patience: the folder may hold
	// busier files.
	Quiet    = 200 * time.Millisecond
	Patience = 2 * time.Second

	maxGathered = 4096 // changes; beyond it all files are looked at

	closePatience = time.Second // for a system call that hangs
)

// Options say what a Watcher does. Look, Poll and Panics are needed.
type Options struct {
	// Look is called in the Watcher's goroutine, one call at a time. It returns in how long everything
	// has to be looked at; zero: as Poll says. ctx ends with Close.
	Look func(ctx context.Context, c Changes) (next time.Duration)
	// Failed, where set, is told once why Poll has to do: of the system, which
	// then has path "", or of a folder.
	Failed func(path string, err error)
	// Lost, where set, is told that the system has told of fewer changes than
	// there were.
	Lost func(err error)

	Now        bool          // look at everything at Start
	Poll       time.Duration // how often everything is looked at
	PollFailed time.Duration // the same once Failed was told; 0: Poll
	Share      int           // a look at everything takes one in Share of the time at most; 0: any
	Recheck    time.Duration // how long after a look at changes there is another one; 0: none
	Quiet      time.Duration // 0: Quiet
	Panics     panics.Place  // what counts a panic; the Watcher goes on after it
}

// Changes are what has to be looked at.
type Changes struct {
	All     bool            // everything: it is time, or not all changes are known
	Names   map[string]bool // clean paths that the system told of
	Recheck bool            // what was unusable at the last look, too: it is no longer being written
}

// A Watcher watches folders. New makes one, Start starts it, and Close ends it.
type Watcher struct {
	o      Options
	folder folders // nil: only Poll
	events <-chan fsnotify.Event
	errors <-chan error
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ran    bool // of Start's goroutine: what was gathered before is lost

	mu      sync.Mutex    // guards what follows; never held while the system is called
	done    chan struct{} // closed when Start's goroutine has ended; nil: not started
	watched map[string]int
	round   int
	failed  bool
}

// folders is the part of fsnotify.Watcher that takes orders.
type folders interface {
	Add(path string) error
	Remove(path string) error
	Close() error
}

// New makes a Watcher of no folders. Where the system has none to give, polling has
// to do.
func New(o Options) *Watcher {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w := newWatcher(o, nil, nil, nil)
		w.fail("", err)
		return w
	}
	return newWatcher(o, notify, notify.Events, notify.Errors)
}

func newWatcher(o Options, f folders, events <-chan fsnotify.Event, errs <-chan error) *Watcher {
	if o.Quiet == 0 {
		o.Quiet = Quiet
	}
	if o.PollFailed == 0 {
		o.PollFailed = o.Poll
	}
	w := &Watcher{o: o, folder: f, events: events, errors: errs, watched: map[string]int{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Add has a folder watched from now on. It comes before the folder is looked at, so
// that no change falls between the two. It asks the system each time, also for a path
// that is watched: another folder may be there by now, though nothing told of it. For
// the same folder that changes nothing.
func (w *Watcher) Add(path string) {
	if w.folder == nil {
		return
	}
	w.mu.Lock()
	w.watched[path] = w.round
	w.mu.Unlock()
	err := w.folder.Add(path)
	if err == nil || errors.Is(err, fsnotify.ErrClosed) {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) { // whoever looks at the folder says so
		w.fail(path, err)
	}
}

// Forget is for a folder that nobody looks at by this path any more.
func (w *Watcher) Forget(path string) {
	w.mu.Lock()
	_, have := w.watched[path]
	delete(w.watched, path)
	w.mu.Unlock()
	if have {
		w.folder.Remove(path) // fails where the system has forgotten it already
	}
}

func (w *Watcher) forget(which func(path string) bool) {
	var old []string
	w.mu.Lock()
	for path := range w.watched {
		if which(path) {
			old = append(old, path)
			delete(w.watched, path)
		}
	}
	w.mu.Unlock()
	for _, path := range old {
		w.folder.Remove(path) // fails where the system has forgotten it already
	}
}

// forgetGone forgets the folders that went away, and those below them: another of the
// same name has to be watched anew. A folder that moves with the one above it gets no
// event, and its watch goes with it. Moved says that there was such a folder.
func (w *Watcher) forgetGone(gone map[string]bool) (moved bool) {
	w.forget(func(path string) bool {
		if gone[path] {
			return true
		}
		for p := filepath.Dir(path); p != path; path, p = p, filepath.Dir(p) {
			if gone[p] {
				moved = true
				return true
			}
		}
		return false
	})
	return moved
}

// Begin and End stand around a look at everything; what nobody added between them
// is no longer watched.
func (w *Watcher) Begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round++
}

// End is explained at Begin.
func (w *Watcher) End() {
	w.mu.Lock()
	now := w.round
	w.mu.Unlock()
	w.forget(func(path string) bool { return w.watched[path] != now })
}

// fail tells once that polling has to do.
func (w *Watcher) fail(path string, err error) {
	w.mu.Lock()
	first := !w.failed
	w.failed = true
	w.mu.Unlock()
	if first && w.o.Failed != nil {
		w.o.Failed(path, err)
	}
}

func (w *Watcher) pollInterval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		return w.o.PollFailed
	}
	return w.o.Poll
}

// Start has changes gathered and looked at, until Close; after Close it does nothing.
// It is called once at most.
func (w *Watcher) Start() {
	done := make(chan struct{})
	w.mu.Lock()
	w.done = done
	w.mu.Unlock()
	go func() {
		defer close(done)
		panics.Keep(w.ctx.Done(), w.o.Panics, w.run)
	}()
}

func (w *Watcher) run() {
	var (
		next    Changes
		gone    map[string]bool // of next.Names: removed or renamed
		first   time.Time       // of the changes gathered
		settle  = stoppedTimer()
		recheck = stoppedTimer()
		poll    = time.NewTimer(w.pollInterval())
	)
	if w.o.Now || w.ran {
		settle.Reset(1)
		next.All = true
	}
	w.ran = true
	for _, timer := range []*time.Timer{settle, recheck, poll} {
		defer timer.Stop()
	}
	gather := func() {
		if first.IsZero() {
			first = time.Now()
		}
		settle.Reset(max(1, min(w.o.Quiet, Patience-time.Since(first))))
	}
	look := func(c Changes) (again bool) {
		next := w.o.Look(w.ctx, c)
		if next > 0 {
			poll.Reset(next)
		}
		return next > 0
	}
	for {
		select {
		case <-w.ctx.Done():
			return
		case ev, ok := <-w.events:
			if !ok {
				w.events = nil
				continue
			}
			if ev.Name == "" { // about a watch that is no more
				continue
			}
			name := filepath.Clean(ev.Name)
			if next.Names == nil {
				next.Names, gone = map[string]bool{}, map[string]bool{}
			}
			if len(next.Names) < maxGathered {
				next.Names[name] = true
				if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
					gone[name] = true
				}
			} else {
				next.All = true
			}
			gather()
		case err, ok := <-w.errors:
			if !ok {
				w.errors = nil
				continue
			}
			if w.o.Lost != nil {
				w.o.Lost(err)
			}
			next.All = true
			gather()
		case <-settle.C:
			if len(gone) > 0 && w.forgetGone(gone) {
				next.All = true
			}
			c := next
			next, gone, first = Changes{}, nil, time.Time{}
			look(c)
			if w.o.Recheck > 0 {
				recheck.Reset(w.o.Recheck)
			}
		case <-recheck.C:
			look(Changes{Recheck: true})
		case <-poll.C:
			start := time.Now()
			if !look(Changes{All: true, Recheck: true}) {
				poll.Reset(max(w.pollInterval(), time.Duration(w.o.Share)*time.Since(start)))
			}
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// Close returns when the Watcher has ended, or hangs: then its end is left to itself.
// Start need not have been called.
func (w *Watcher) Close() error {
	w.cancel()
	ended := make(chan error, 1)
	go panics.Catch(w.o.Panics, func() {
		defer close(ended)
		w.mu.Lock()
		done := w.done
		w.mu.Unlock()
		if done != nil {
			<-done
		}
		if w.folder != nil {
			ended <- w.folder.Close()
		}
	})
	select {
	case err := <-ended:
		return err
	case <-time.After(closePatience):
		return nil
	}
}

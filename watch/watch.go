// Package watch reports when the files in some folders must be read again: soon after
// the system has reported a change, and periodically, because some file systems report
// nothing. It does not read the files, so it does not know whether their contents
// changed.
//
// It watches folders, not files, because replacing a file ends its watch.
//
// Add, Forget, Begin and End may be called by any goroutine, and before Start. They
// make system calls, which may hang if the folder's file system does; nothing else
// here waits for them.
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
	// A change is often one of several: a key and its chain, a temporary file and its
	// renaming, the halves of a file. Changes are gathered until none occurs for Quiet,
	// but at most for Patience: the folder may have busier files.
	Quiet    = 200 * time.Millisecond
	Patience = 2 * time.Second

	maxGathered = 4096 // changes; above that, all files are read

	closePatience = time.Second // for a system call that hangs
)

// Options configure a Watcher. Look, Poll and Panics are required.
type Options struct {
	// Look is called in the Watcher's goroutine, one call at a time. It returns when
	// everything must be read again; zero: after Poll. ctx ends with Close.
	Look func(ctx context.Context, c Changes) (next time.Duration)
	// Failed, if set, is called once with the reason why only polling works: of the
	// system, with an empty path, or of a folder.
	Failed func(path string, err error)
	// Lost, if set, is called when the system has not reported all changes.
	Lost func(err error)

	Now        bool          // read everything at Start
	Poll       time.Duration // interval of reading everything
	PollFailed time.Duration // the same after a call of Failed; 0: Poll
	Share      int           // reading everything takes at most 1/Share of the time; 0: no limit
	Recheck    time.Duration // time from reading changes to reading them once more; 0: never
	Quiet      time.Duration // 0: Quiet
	Panics     panics.Place  // the counter of panics; the Watcher continues after one
}

// Changes are what must be read again.
type Changes struct {
	All     bool            // everything: it is time, or some changes are unknown
	Names   map[string]bool // clean paths that the system reported
	Recheck bool            // also what was unusable the last time: it is no longer being written
}

// A Watcher watches folders. Create one with New, start it with Start, end it with
// Close. Its methods are safe for concurrent use.
type Watcher struct {
	o      Options
	folder folders // nil: only polling
	events <-chan fsnotify.Event
	errors <-chan error
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ran    bool // belongs to Start's goroutine: earlier gathered changes are lost

	mu      sync.Mutex    // guards what follows; never held while the system is called
	done    chan struct{} // closed when Start's goroutine has ended; nil: not started
	watched map[string]int
	round   int
	failed  bool
}

// folders is the part of fsnotify.Watcher that changes its set.
type folders interface {
	Add(path string) error
	Remove(path string) error
	Close() error
}

// New returns a Watcher without folders. If the system can't watch any, the Watcher
// polls.
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

// Add starts watching a folder. Call it before reading the folder, so that no change
// is missed in between. It makes the system call each time, also for a watched path:
// another folder may be there by now without an event. For the same folder, that
// changes nothing.
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
	if !errors.Is(err, fs.ErrNotExist) { // the reader of the folder reports that
		w.fail(path, err)
	}
}

// Forget stops watching a folder that is no longer read by this path.
func (w *Watcher) Forget(path string) {
	w.mu.Lock()
	_, have := w.watched[path]
	delete(w.watched, path)
	w.mu.Unlock()
	if have {
		w.folder.Remove(path) // fails if the system has already removed it
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
		w.folder.Remove(path) // fails if the system has already removed it
	}
}

// forgetGone forgets the folders that disappeared, and those below them: another one
// of the same name must be watched anew. A folder that moves with its parent gets no
// event, and its watch moves with it. moved reports whether there was such a folder.
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

// Begin and End enclose reading everything. Folders that were not added in between are
// no longer watched.
func (w *Watcher) Begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round++
}

// End ends the reading that Begin began, and forgets folders that were not added since.
func (w *Watcher) End() {
	w.mu.Lock()
	now := w.round
	w.mu.Unlock()
	w.forget(func(path string) bool { return w.watched[path] != now })
}

// fail reports once that only polling works.
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

// Start begins to gather changes and to call Look, until Close. After Close it does
// nothing. Call it at most once.
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
			if ev.Name == "" { // about a watch that no longer exists
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

// Close returns when the Watcher has ended. If it hangs, Close returns after
// closePatience. Start need not have been called.
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

// Package watch reports when the files in some folders must be read again: soon after
// the system has reported a change, and periodically, because some file systems report
// nothing. It does not read the files, so it does not know whether their contents
// changed.
//
// It watches folders, not files, because replacing a file ends its watch.
//
// A watch is one of an inode, not of a path. So the folders above must be watched too, for
// the one entry that the path leads through (Guard), and on Linux the table of mounts.
//
// Add, Guard, Forget, Begin and End may be called by any goroutine, and before Start. They
// make system calls, which may hang if the folder's file system does; nothing else
// here waits for them.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
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
	// Failed, if set, is called with the reason when only polling works from now on: of the
	// system, with an empty path, or of a folder. It is called with a nil error when
	// everything is watched again.
	Failed func(path string, err error)
	// Lost, if set, is called when the system has not reported all changes.
	Lost func(err error)

	Now        bool          // read everything at Start
	Poll       time.Duration // interval of reading everything
	PollFailed time.Duration // the same while only polling works; 0: Poll
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
	open   func() (folders, <-chan fsnotify.Event, <-chan error, error) // nil: only the ones at hand
	ctx    context.Context                                              // ends with Close
	cancel context.CancelFunc

	// These belong to Start's goroutine.
	events <-chan fsnotify.Event
	errors <-chan error
	mounts *mounts // nil: not known
	ran    bool    // earlier gathered changes are lost

	mu      sync.Mutex    // guards what follows; never held while the system is called
	folder  folders       // nil: only polling
	done    chan struct{} // closed when Start's goroutine has ended; nil: not started
	watched map[string]seen
	guarded map[string]int // by path: the last round with a Guard
	round   int
	trouble *Trouble
	failed  int // the last round in which something could not be watched
}

// seen is when a folder was last asked for, as a round: at all, and for all of its
// entries.
type seen struct{ any, all int }

// Trouble is why changes are noticed only by polling.
type Trouble struct {
	Path  string // the folder; empty: the system watches none
	Err   error
	Hint  string
	Since time.Time
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
	w := newWatcher(o, nil, nil, nil)
	w.open = func() (folders, <-chan fsnotify.Event, <-chan error, error) {
		notify, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, nil, nil, err
		}
		return notify, notify.Events, notify.Errors, nil
	}
	w.mounts = openMounts()
	w.reopen()
	return w
}

// reopen has the system watch, if it does not.
func (w *Watcher) reopen() {
	if w.open == nil || w.folders() != nil {
		return
	}
	f, events, errs, err := w.open()
	if err != nil {
		w.fail("", err)
		return
	}
	w.events, w.errors = events, errs
	w.mu.Lock()
	w.folder = f
	clear(w.watched)
	w.mu.Unlock()
}

// lose ends the use of a watch that reports nothing any more.
func (w *Watcher) lose() {
	f := w.folders()
	w.mu.Lock()
	w.folder = nil
	w.mu.Unlock()
	w.events, w.errors = nil, nil
	w.fail("", errDead)
	if f != nil {
		f.Close()
	}
}

var errDead = errors.New("the system has ended the watch")

func (w *Watcher) folders() folders {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.folder
}

// Trouble returns why changes are noticed only by polling, or nil.
func (w *Watcher) Trouble() *Trouble {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

// Hint returns what to do about an error of Options.Failed.
func Hint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "raise fs.inotify.max_user_watches"
	case errors.Is(err, syscall.EMFILE):
		return "raise fs.inotify.max_user_instances, or the limit of open files"
	case errors.Is(err, syscall.ENFILE):
		return "raise fs.file-max"
	case errors.Is(err, fs.ErrPermission):
		return "let the gate's user list the folder"
	case errors.Is(err, syscall.ENOSYS):
		return "the system has no inotify; nothing is lost but time"
	}
	return "the watch is tried again with each look"
}

func newWatcher(o Options, f folders, events <-chan fsnotify.Event, errs <-chan error) *Watcher {
	if o.Quiet == 0 {
		o.Quiet = Quiet
	}
	if o.PollFailed == 0 {
		o.PollFailed = o.Poll
	}
	w := &Watcher{o: o, folder: f, events: events, errors: errs, watched: map[string]seen{}, guarded: map[string]int{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Add starts watching a folder. Call it before reading the folder, so that no change
// is missed in between. It makes the system call each time, also for a watched path:
// another folder may be there by now without an event. For the same folder, that
// changes nothing.
func (w *Watcher) Add(path string) {
	w.mu.Lock()
	f := w.folder
	w.watched[path] = seen{w.round, w.round}
	w.mu.Unlock()
	if f == nil {
		return
	}
	err := f.Add(path)
	if err == nil || errors.Is(err, fsnotify.ErrClosed) {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) { // the reader of the folder reports that
		w.fail(path, err)
	}
}

// Guard starts watching the folder above path for what happens to path: whether that is
// replaced, disappears or comes. Call it as Add. A folder that the process may not read is
// not watched, and that is not a failure: many above the one in question are so.
func (w *Watcher) Guard(path string) {
	above := filepath.Dir(path)
	w.mu.Lock()
	f := w.folder
	s, known := w.watched[above]
	if !known {
		s.all = -1
	}
	s.any = w.round
	w.watched[above], w.guarded[path] = s, w.round
	w.mu.Unlock()
	if f == nil {
		return
	}
	err := f.Add(above)
	if err != nil && !errors.Is(err, fsnotify.ErrClosed) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		w.fail(above, err)
	}
}

// isOurs reports whether an event of this name is of interest: in a folder that is only
// guarded, few are.
func (w *Watcher) isOurs(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, known := w.watched[filepath.Dir(name)]
	_, guarded := w.guarded[name]
	_, folder := w.watched[name]
	return !known || s.all >= 0 || guarded || folder
}

// Forget stops watching a folder that is no longer read by this path.
func (w *Watcher) Forget(path string) {
	w.forget(func(p string) bool { return p == path && !w.isGuardedIn(p) })
}

// isGuardedIn reports whether an entry of the folder is guarded. The caller holds mu.
func (w *Watcher) isGuardedIn(folder string) bool {
	for path := range w.guarded {
		if filepath.Dir(path) == folder {
			return true
		}
	}
	return false
}

func (w *Watcher) forget(which func(path string) bool) {
	var old []string
	w.mu.Lock()
	f := w.folder
	for path := range w.watched {
		if which(path) {
			old = append(old, path)
			delete(w.watched, path)
		}
	}
	w.mu.Unlock()
	for _, path := range old {
		if f == nil {
			return
		}
		f.Remove(path) // fails where the system has forgotten it already
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
	w.forget(func(path string) bool { return w.watched[path].any != w.round })
	w.mu.Lock()
	for path, s := range w.watched {
		if s.all != w.round {
			w.watched[path] = seen{s.any, -1}
		}
	}
	for path, round := range w.guarded {
		if round != w.round {
			delete(w.guarded, path)
		}
	}
	mended := w.trouble != nil && w.folder != nil && w.failed != w.round
	if mended {
		w.trouble = nil
	}
	w.mu.Unlock()
	if mended && w.o.Failed != nil {
		w.o.Failed("", nil)
	}
}

// fail notes that only polling works, and reports it unless that is known.
func (w *Watcher) fail(path string, err error) {
	w.mu.Lock()
	first := w.trouble == nil
	if first {
		w.trouble = &Trouble{path, err, Hint(err), time.Now()}
	}
	w.failed = w.round
	w.mu.Unlock()
	if first && w.o.Failed != nil {
		w.o.Failed(path, err)
	}
}

func (w *Watcher) pollInterval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trouble != nil {
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
	w.mounts.concern(w.paths())
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
		well := w.Trouble() == nil
		next := w.o.Look(w.ctx, c)
		if next > 0 {
			poll.Reset(next)
		} else if well && w.Trouble() != nil {
			poll.Reset(w.pollInterval())
		}
		return next > 0
	}
	for {
		select {
		case <-w.ctx.Done():
			return
		case ev, ok := <-w.events:
			if !ok {
				w.lose()
				poll.Reset(max(1, w.pollInterval()))
				continue
			}
			if ev.Name == "" { // about a watch that no longer exists
				continue
			}
			name := filepath.Clean(ev.Name)
			if !w.isOurs(name) {
				continue
			}
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
		case <-w.mounts.changed():
			if !w.mounts.concern(w.paths()) {
				continue
			}
			// A watch stays with what is below the mount, or what was in it.
			w.forget(func(string) bool { return true })
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
			w.reopen()
			if !look(Changes{All: true, Recheck: true}) {
				poll.Reset(max(w.pollInterval(), time.Duration(w.o.Share)*time.Since(start)))
			}
		}
	}
}

// paths returns the folders that are watched for all of their entries, and the paths that
// are guarded.
func (w *Watcher) paths() (folders, guarded []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, s := range w.watched {
		if s.all >= 0 {
			folders = append(folders, path)
		}
	}
	return folders, slices.Collect(maps.Keys(w.guarded))
}

// A Mount is where a file system of some type is mounted.
type Mount struct {
	Point, Type string
	line        string
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
		w.mounts.close()
		if f := w.folders(); f != nil {
			ended <- f.Close()
		}
	})
	select {
	case err := <-ended:
		return err
	case <-time.After(closePatience):
		return nil
	}
}

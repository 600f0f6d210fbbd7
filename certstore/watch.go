package certstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"wssgate/files"
	"wssgate/panics"
)

const (
	// A change is often one of several: a key and its chain, a temporary file
	// and its renaming. They are gathered until there was nothing for quiet,
	// but for no longer than patience.
	quiet    = 200 * time.Millisecond
	patience = 2 * time.Second

	// grace is how long a file that was changed may stay bad before that is
	// logged: it may have been read in the middle of its writing.
	grace = 2 * time.Second

	// Everything is looked at again this often, for file systems that tell
	// nothing and for what no event tells.
	pollAll = time.Minute
	// The same where a folder could not be watched.
	pollUnwatched = 10 * time.Second

	// Where one look takes long, looks are rarer: they take no more than this
	// part of the time.
	pollShare = 500

	maxGathered = 4096 // changes; beyond it all files are looked at
)

// A watcher tells a Store when to look at its files again. It watches folders,
// not files: a file that is replaced takes its watch with it.
type watcher struct {
	log    *slog.Logger
	look   func(context.Context, *watcher, looking) error // reads and publishes; called by watchFiles alone
	events <-chan fsnotify.Event
	errors <-chan error
	folder folderWatcher
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards what follows; the reload adds, watchFiles reads
	watched map[string]int
	round   int
	failed  bool // a folder could not be watched
}

// A folderWatcher is the part of fsnotify.Watcher that takes orders.
type folderWatcher interface {
	Add(path string) error
	Remove(path string) error
	Close() error
}

// looking is what has to be looked at.
type looking struct {
	all   bool
	names map[string]bool // paths that an event was about
	again bool            // after grace: what is bad now is not being written
}

// newWatcher watches with what the system has, and with polling alone where
// that is nothing.
//
// It does nothing by itself before start.
func newWatcher(log *slog.Logger, look func(context.Context, *watcher, looking) error) *watcher {
	w := &watcher{
		log:     log,
		look:    look,
		done:    make(chan struct{}),
		watched: map[string]int{},
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.fail("", err)
		return w
	}
	w.folder, w.events, w.errors = notify, notify.Events, notify.Errors
	return w
}

// add watches a folder from now on. It comes before the folder is listed, so
// that no change falls between the two.
func (w *watcher) add(path string) {
	if w.folder == nil {
		return
	}
	w.mu.Lock()
	_, have := w.watched[path]
	w.watched[path] = w.round
	w.mu.Unlock()
	if have {
		return
	}
	err := w.folder.Add(path) // without the lock: it may hang
	if err == nil || errors.Is(err, fsnotify.ErrClosed) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watched, path)
	w.fail(path, err)
}

// forget is for a folder that went away, or may have: another of the same name
// has to be watched anew.
func (w *watcher) forget(path string) {
	w.mu.Lock()
	_, have := w.watched[path]
	delete(w.watched, path)
	w.mu.Unlock()
	if have {
		w.folder.Remove(path) // fails where the system has forgotten it already
	}
}

// begin and end stand around a look at the whole tree; what nobody added
// between them is no longer watched.
func (w *watcher) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round++
}

func (w *watcher) end() {
	var old []string
	w.mu.Lock()
	for path, round := range w.watched {
		if round != w.round {
			old = append(old, path)
			delete(w.watched, path)
		}
	}
	w.mu.Unlock()
	for _, path := range old {
		w.folder.Remove(path)
	}
}

// fail says once that polling has to do.
func (w *watcher) fail(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return // whoever reads the folder says so
	}
	if !w.failed {
		w.failed = true
		w.log.Warn("certificates: cannot watch all folders; checking them every "+pollUnwatched.String(),
			"file", path, "err", err, "hint", "is fs.inotify.max_user_watches or max_user_instances too low?")
	}
}

func (w *watcher) pollInterval() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed {
		return pollUnwatched
	}
	return pollAll
}

// start starts watchFiles.
func (w *watcher) start() {
	go func() {
		defer close(w.done)
		panics.Keep(w.ctx.Done(), panics.Certificates, w.watchFiles)
	}()
}

// watchFiles gathers changes and has them looked at, until close.
func (w *watcher) watchFiles() {
	var (
		next    looking
		first   time.Time // of the changes gathered
		settle  = stoppedTimer()
		recheck = stoppedTimer()
		poll    = time.NewTimer(w.pollInterval())
	)
	for _, timer := range []*time.Timer{settle, recheck, poll} {
		defer timer.Stop()
	}
	// What hangs is looked at again when it is back, or soon.
	look := func(what looking) (done bool) {
		if err := w.look(w.ctx, w, what); errors.Is(err, files.ErrHangs) {
			poll.Reset(pollUnwatched)
			return false
		}
		return true
	}
	gather := func() {
		if first.IsZero() {
			first = time.Now()
		}
		settle.Reset(max(1, min(quiet, patience-time.Since(first))))
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
			if next.names == nil {
				next.names = map[string]bool{}
			}
			if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
				w.forget(filepath.Clean(ev.Name))
			}
			if len(next.names) < maxGathered {
				next.names[filepath.Clean(ev.Name)] = true
			} else {
				next.all = true
			}
			gather()
		case err, ok := <-w.errors:
			if !ok {
				w.errors = nil
				continue
			}
			w.log.Debug("certificates: events lost; checking all files", "err", err)
			next.all = true
			gather()
		case <-settle.C:
			look(next)
			next, first = looking{}, time.Time{}
			recheck.Reset(grace)
		case <-recheck.C:
			look(looking{again: true})
		case <-poll.C:
			start := time.Now()
			if look(looking{all: true, again: true}) {
				poll.Reset(max(w.pollInterval(), pollShare*time.Since(start)))
			}
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// closePatience is how long close waits for a system call that hangs.
const closePatience = time.Second

// close returns when watchFiles has ended, or hangs: then its end is left to
// itself.
func (w *watcher) close() error {
	w.cancel()
	ended := make(chan error, 1)
	go func() {
		<-w.done
		if w.folder != nil {
			ended <- w.folder.Close()
		}
		close(ended)
	}()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("certificates: watching: %w", err)
		}
	case <-time.After(closePatience):
	}
	return nil
}

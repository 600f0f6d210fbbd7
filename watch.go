package main

import (
	"crypto/sha256"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// A file that is being written, or moved away and back, is left alone until
	// nothing has happened in its folder for configQuiet; but for no longer
	// than configPatience, for the folder may hold busier files.
	configQuiet    = 200 * time.Millisecond
	configPatience = 2 * time.Second

	// The file is looked at this often whatever the system tells: some file
	// systems tell nothing.
	configPoll = 10 * time.Second

	maxSymlinks = 40 // what Linux follows in one path
)

// A configWatch tells when the configuration file is another one than was read
// last. It looks at contents, so that a touch or a copy of the same is no
// change, and at folders rather than the file, so that a file that is replaced
// and a symlink that is moved (Kubernetes' ..data) are one. Files that the
// configuration names are not watched.
//
// Its methods belong to one goroutine, the gate's.
type configWatch struct {
	changed chan struct{} // has an entry when the file is to be read again
	file    string
	log     *slog.Logger
	stop    chan struct{} // nil: not watching
	done    chan struct{}

	mu   sync.Mutex
	last [sha256.Size]byte // of what was read last
}

// newConfigWatch makes a watch that is off. Read is the sum of what the file held
// when it was read: it may have changed since.
func newConfigWatch(file string, read [sha256.Size]byte, log *slog.Logger) *configWatch {
	return &configWatch{changed: make(chan struct{}, 1), file: file, log: log, last: read}
}

// set turns the watch on or off.
func (w *configWatch) set(on bool) {
	switch {
	case on && w.stop == nil:
		w.stop, w.done = make(chan struct{}), make(chan struct{})
		go w.watchFolders(w.stop, w.done)
	case !on && w.stop != nil:
		close(w.stop)
		<-w.done
		w.stop = nil
	}
}

// reading is called before the file is read for another reason: what is in it
// now need not be told any more.
func (w *configWatch) reading() {
	w.isNew()
	select {
	case <-w.changed:
	default:
	}
}

// isNew reports whether the file is another one than the last time it was
// called. A file that cannot be read is one that is empty.
func (w *configWatch) isNew() bool {
	data, _ := readRegular(w.file)
	sum := sha256.Sum256(data)
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.last
	w.last = sum
	return was != sum
}

func (w *configWatch) watchFolders(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	var events chan fsnotify.Event // nil where the system has none to give
	var lost chan error
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer notify.Close()
		events, lost = notify.Events, notify.Errors
	} else {
		w.log.Warn("watch_config: looking at the file every "+configPoll.String(), "err", err,
			"hint", "is fs.inotify.max_user_instances too low?")
	}
	watched := map[string]bool{}
	look := func() {
		if notify != nil {
			watched = w.follow(notify, watched)
		}
		if w.isNew() {
			select {
			case w.changed <- struct{}{}:
			default: // told already
			}
		}
	}
	poll := time.NewTicker(configPoll)
	defer poll.Stop()
	settle := time.NewTimer(1) // the first look is for what happened before
	defer settle.Stop()
	var first time.Time // of the events gathered
	gather := func() {
		if first.IsZero() {
			first = time.Now()
		}
		settle.Reset(max(1, min(configQuiet, configPatience-time.Since(first))))
	}
	for {
		select {
		case <-stop:
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			gather()
		case _, ok := <-lost:
			if !ok {
				lost = nil
				continue
			}
			gather()
		case <-settle.C:
			first = time.Time{}
			look()
		case <-poll.C:
			look()
		}
	}
}

// follow has the folders watched that matter now, and returns them. One that
// can't be is polled.
func (w *configWatch) follow(notify *fsnotify.Watcher, watched map[string]bool) map[string]bool {
	now := map[string]bool{}
	for _, folder := range foldersOn(w.file) {
		// Again even where it is watched: it may be another one by that name.
		if err := notify.Add(folder); err == nil {
			now[folder] = true
		} else if !maps.Equal(watched, now) {
			w.log.Debug("watch_config: cannot watch a folder", "file", folder, "err", err)
		}
	}
	for folder := range watched {
		if !now[folder] {
			notify.Remove(folder) // fails where the system has forgotten it already
		}
	}
	return now
}

// foldersOn returns the folders on the way to a file in which a change can make
// its name mean another file: the file's own, and that of each symlink.
func foldersOn(file string) []string {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil
	}
	var folders []string
	for range maxSymlinks {
		link, target := firstSymlink(path)
		if link == "" {
			break
		}
		folders = append(folders, filepath.Dir(link))
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, path[len(link):])
	}
	return append(folders, filepath.Dir(path))
}

// firstSymlink returns the shortest beginning of path that is a symlink, and
// where it leads; "" for none.
func firstSymlink(path string) (link, target string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		if target, err := os.Readlink(path[:i]); err == nil {
			return path[:i], target
		}
	}
	return "", ""
}

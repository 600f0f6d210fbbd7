package main

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"wssgate/files"
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
// It reads in jobs of configFiles, so that a file system that hangs holds up neither
// a reload nor the end. set belongs to one goroutine, the gate's; seen is for all.
type configWatch struct {
	changed chan struct{} // has an entry when the file is to be read again
	file    string
	log     *slog.Logger
	stop    context.CancelFunc // nil: not watching
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
		ctx, cancel := context.WithCancel(context.Background())
		w.stop, w.done = cancel, make(chan struct{})
		go w.watchFolders(ctx, w.done)
	case !on && w.stop != nil:
		w.stop()
		<-w.done
		w.stop = nil
	}
}

// seen notes what was read for another reason: that need not be told any more.
func (w *configWatch) seen(sum [sha256.Size]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == sum {
		select {
		case <-w.changed:
		default:
		}
	}
	w.last = sum
}

// look tells that the file is another one than was seen last. A file that cannot be
// read is one that is empty.
func (w *configWatch) look() {
	data, _ := configFiles.Read(w.file, maxConfigFile)
	sum := sha256.Sum256(data)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == sum {
		return
	}
	w.last = sum
	select {
	case w.changed <- struct{}{}:
	default: // told already
	}
}

func (w *configWatch) watchFolders(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	var events chan fsnotify.Event // nil where the system has none to give
	var lost chan error
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { go notify.Close() }() // which waits for an Add that hangs
		events, lost = notify.Events, notify.Errors
	} else {
		w.log.Warn("watch_config: looking at the file every "+configPoll.String(), "err", err,
			"hint", "is fs.inotify.max_user_instances too low?")
	}
	watched := map[string]bool{}
	look := func() {
		now, err := files.Await(ctx, configFiles, func() (map[string]bool, error) {
			now := watched
			if notify != nil {
				now = w.follow(notify, watched)
			}
			w.look()
			return now, nil
		})
		if err == nil { // else it was stopped
			watched = now
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
		case <-ctx.Done():
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
		if err := configFiles.Call(folder, func() error { return notify.Add(folder) }); err == nil {
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
		if target, err := configFiles.Readlink(path[:i]); err == nil {
			return path[:i], target
		}
	}
	return "", ""
}

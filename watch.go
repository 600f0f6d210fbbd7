package main

import (
	"crypto/sha256"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
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

// A fileWatch tells when a file, the configuration's or one with an access list,
// is another one than was read last. It looks at contents, so that a touch or a
// copy of the same is no change, and at folders rather than the file, so that a
// file that is replaced and a symlink that is moved (Kubernetes' ..data) are one.
//
// Its methods belong to one goroutine, the gate's.
type fileWatch struct {
	changed chan struct{} // has an entry when a file is to be read again
	key     string        // of the configuration, for the log
	files   []string
	log     *slog.Logger
	stop    chan struct{} // nil: not watching
	done    chan struct{}

	mu   sync.Mutex
	last map[string][sha256.Size]byte // by file, of what was read last
}

// newFileWatch makes a watch that is off. Read are the sums of what the files held
// when they were read: they may have changed since.
func newFileWatch(key string, read map[string][sha256.Size]byte, log *slog.Logger) *fileWatch {
	return &fileWatch{changed: make(chan struct{}, 1), key: key, files: slices.Sorted(maps.Keys(read)), log: log, last: read}
}

// newConfigWatch is for the configuration file. Files that it names are not watched.
func newConfigWatch(file string, read [sha256.Size]byte, log *slog.Logger) *fileWatch {
	return newFileWatch("watch_config", map[string][sha256.Size]byte{file: read}, log)
}

// set turns the watch on or off.
func (w *fileWatch) set(on bool) {
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

// reading is called before the files are read for another reason: what is in them
// now need not be told any more.
func (w *fileWatch) reading() {
	w.isNew()
	select {
	case <-w.changed:
	default:
	}
}

// isNew reports whether a file is another one than the last time it was called. A
// file that cannot be read is one that is empty.
func (w *fileWatch) isNew() (is bool) {
	for _, file := range w.files {
		data, _ := readRegular(file)
		sum := sha256.Sum256(data)
		w.mu.Lock()
		is = is || w.last[file] != sum
		w.last[file] = sum
		w.mu.Unlock()
	}
	return is
}

func (w *fileWatch) watchFolders(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	var events chan fsnotify.Event // nil where the system has none to give
	var lost chan error
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer notify.Close()
		events, lost = notify.Events, notify.Errors
	} else {
		w.log.Warn(w.key+": looking at the file every "+configPoll.String(), "err", err,
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
func (w *fileWatch) follow(notify *fsnotify.Watcher, watched map[string]bool) map[string]bool {
	now := map[string]bool{}
	for _, file := range w.files {
		for _, folder := range foldersOn(file) {
			if now[folder] {
				continue
			}
			// Again even where it is watched: it may be another one by that name.
			if err := notify.Add(folder); err == nil {
				now[folder] = true
			} else if !maps.Equal(watched, now) {
				w.log.Debug(w.key+": cannot watch a folder", "file", folder, "err", err)
			}
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

package config

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"wssgate/files"
	"wssgate/panics"
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

// A Watch tells when a file, the configuration's or one with an access list,
// is another one than was read last. It looks at contents, so that a touch or a
// copy of the same is no change, and at folders rather than the file, so that a
// file that is replaced and a symlink that is moved (Kubernetes' ..data) are one.
//
// It reads in jobs of its Place, so that a file system that hangs holds up neither
// a reload nor the end. set belongs to one goroutine, the gate's; seen is for all.
type Watch struct {
	Changed chan struct{} // has an entry when a file is to be read again
	key     string        // of the configuration, for the log
	place   *files.Place
	files   []string
	log     *slog.Logger
	stop    context.CancelFunc // nil: not watching
	done    chan struct{}

	mu   sync.Mutex
	last map[string][sha256.Size]byte // by file, of what was read last
}

// NewFileWatch makes a watch that is off. Read are the sums of what the files held
// when they were read: they may have changed since.
func NewFileWatch(key string, place *files.Place, read map[string][sha256.Size]byte, log *slog.Logger) *Watch {
	return &Watch{Changed: make(chan struct{}, 1), key: key, place: place, files: slices.Sorted(maps.Keys(read)), log: log, last: read}
}

// NewWatch is for the configuration file. Files that it names are not watched.
func NewWatch(file string, read [sha256.Size]byte, log *slog.Logger) *Watch {
	return NewFileWatch("watch_config", Place, map[string][sha256.Size]byte{file: read}, log)
}

// Set turns the watch on or off.
func (w *Watch) Set(on bool) {
	switch {
	case on && w.stop == nil:
		ctx, cancel := context.WithCancel(context.Background())
		w.stop, w.done = cancel, make(chan struct{})
		done := w.done
		go func() {
			defer close(done)
			panics.Keep(ctx.Done(), panics.Config, func() { w.watchFolders(ctx) })
		}()
	case !on && w.stop != nil:
		w.stop()
		<-w.done
		w.stop = nil
	}
}

// Seen notes what was read of a file for another reason: that need not be told any
// more.
func (w *Watch) Seen(file string, sum [sha256.Size]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last[file] == sum {
		select {
		case <-w.Changed:
		default:
		}
	}
	w.last[file] = sum
}

// Note is seen of one file of several: what was told of the others stays.
func (w *Watch) Note(file string, sum [sha256.Size]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[file] = sum
}

// look tells that a file is another one than was seen last.
func (w *Watch) look() {
	for _, file := range w.files {
		w.lookAt(file, Sum(w.place.Read(file, MaxFile)))
	}
}

// Sum is the sum of what reading a file gave. All that can't be read have one,
// which is not that of an empty file.
func Sum(data []byte, err error) [sha256.Size]byte {
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(data)
}

func (w *Watch) lookAt(file string, sum [sha256.Size]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last[file] == sum {
		return
	}
	w.last[file] = sum
	select {
	case w.Changed <- struct{}{}:
	default: // told already
	}
}

func (w *Watch) watchFolders(ctx context.Context) {
	var events chan fsnotify.Event // nil where the system has none to give
	var lost chan error
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { go notify.Close() }() // which waits for an Add that hangs
		events, lost = notify.Events, notify.Errors
	} else {
		w.log.Warn(w.key+": looking at the file every "+configPoll.String(), "err", err,
			"hint", "is fs.inotify.max_user_instances too low?")
	}
	watched := map[string]bool{}
	look := func() {
		now, err := files.Await(ctx, w.place, func() (map[string]bool, error) {
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
func (w *Watch) follow(notify *fsnotify.Watcher, watched map[string]bool) map[string]bool {
	now := map[string]bool{}
	for _, file := range w.files {
		for _, folder := range foldersOn(w.place, file) {
			if now[folder] {
				continue
			}
			// Again even where it is watched: it may be another one by that name.
			if err := w.place.Call(folder, func() error { return notify.Add(folder) }); err == nil {
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
func foldersOn(place *files.Place, file string) []string {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil
	}
	var folders []string
	for range maxSymlinks {
		link, target := firstSymlink(place, path)
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
func firstSymlink(place *files.Place, path string) (link, target string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		if target, err := place.Readlink(path[:i]); err == nil {
			return path[:i], target
		}
	}
	return "", ""
}

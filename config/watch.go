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

	"wssgate/files"
	"wssgate/panics"
	"wssgate/watch"
)

const (
	// interval of polling, in addition to the system's events
	configPoll = 10 * time.Second

	maxSymlinks = 40 // as in Linux, for one path
)

// A Watch reports when the contents of files, such as the configuration or
// access lists, differ from those read last. It compares contents, so touching
// a file is not a change. It watches folders, so it notices both a replaced
// file and a moved symlink (Kubernetes' ..data).
//
// It reads in jobs of its Place, so a file system that hangs delays neither a
// reload nor the exit. Set must be called from one goroutine at a time. Seen
// and Note are safe for concurrent use.
type Watch struct {
	Changed chan struct{} // receives a value when a file must be read again
	key     string        // of the configuration, for the log
	place   *files.Place
	files   []string
	log     *slog.Logger
	watcher *watch.Watcher // nil: not watching
	quiet   time.Duration  // for tests: as in watch.Options

	mu   sync.Mutex
	last map[string][sha256.Size]byte // of the latest contents read, by file
}

// NewFileWatch returns a Watch that is off. read has the sums of the files as
// they were read; the files may have changed since.
func NewFileWatch(key string, place *files.Place, read map[string][sha256.Size]byte, log *slog.Logger) *Watch {
	return &Watch{Changed: make(chan struct{}, 1), key: key, place: place, files: slices.Sorted(maps.Keys(read)), log: log, last: read}
}

// NewWatch returns a Watch for the configuration file. It does not watch the
// files that the configuration names.
func NewWatch(file string, read [sha256.Size]byte, log *slog.Logger) *Watch {
	return NewFileWatch("watch_config", Place, map[string][sha256.Size]byte{file: read}, log)
}

// Set turns the watch on or off.
func (w *Watch) Set(on bool) {
	switch {
	case on && w.watcher == nil:
		w.watcher = w.newWatcher()
		w.watcher.Start()
	case !on && w.watcher != nil:
		old := w.watcher
		go panics.Catch(panics.Config, func() { old.Close() }) // this may wait for a folder that hangs
		w.watcher = nil
	}
}

func (w *Watch) newWatcher() (folders *watch.Watcher) {
	folders = watch.New(watch.Options{
		Now: true, // for earlier changes
		Look: func(ctx context.Context, _ watch.Changes) time.Duration {
			files.Await(ctx, w.place, func() (struct{}, error) {
				w.follow(folders)
				w.look()
				return struct{}{}, nil
			})
			return 0
		},
		Failed: func(path string, err error) {
			if err == nil {
				w.log.Debug(w.key + ": all folders are watched again")
				return
			}
			if path != "" {
				w.log.Debug(w.key+": cannot watch a folder", "file", path, "err", err)
				return
			}
			w.log.Warn(w.key+": looking at the file every "+configPoll.String(), "err", err,
				"hint", watch.Hint(err))
		},
		Poll: configPoll, Quiet: w.quiet, Panics: panics.Config,
	})
	return folders
}

// Seen records that a file was read for another reason, with this sum. It
// withdraws a pending report of these contents.
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

// Note is Seen for one of several files: it keeps pending reports.
func (w *Watch) Note(file string, sum [sha256.Size]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[file] = sum
}

// look reports a file that differs from its last known contents.
func (w *Watch) look() {
	for _, file := range w.files {
		w.lookAt(file, Sum(w.place.Read(file, MaxFile)))
	}
}

// Sum returns the checksum of the result of reading a file. All errors have the
// same sum, which differs from that of an empty file.
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
	default: // already reported
	}
}

// follow watches the folders that matter now. A folder that cannot be watched
// is polled.
func (w *Watch) follow(folders *watch.Watcher) {
	folders.Begin()
	defer folders.End()
	for _, file := range w.files {
		for _, folder := range foldersOn(w.place, file) {
			w.place.Call(folder, func() error { folders.Add(folder); return nil })
		}
	}
}

// foldersOn returns the folders where a change can make the path lead to
// another file: the file's own folder, and that of each symlink.
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

// firstSymlink returns the shortest prefix of path that is a symlink, and its
// target, or "".
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

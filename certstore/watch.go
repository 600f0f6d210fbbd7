package certstore

import (
	"context"
	"errors"
	"time"

	"wssgate/files"
	"wssgate/panics"
	"wssgate/watch"
)

const (
	// grace is how long a changed file may stay bad before that is logged. It
	// may have been read while it was being written.
	grace = 2 * time.Second

	pollAll       = time.Minute      // interval of full readings
	pollUnwatched = 10 * time.Second // the same if a folder cannot be watched, or hangs
	pollShare     = 500              // full readings are rarer if they take long
)

// newWatcher returns a watcher for the tree in use.
func (s *Store) newWatcher() (w *watch.Watcher) {
	var pause time.Duration // before the next attempt, after a failure
	w = watch.New(watch.Options{
		Look: func(ctx context.Context, c watch.Changes) time.Duration {
			err := s.look(ctx, w, c)
			switch {
			case err == nil:
				pause = 0
			case errors.Is(err, files.ErrHangs):
				pause = pollUnwatched
			default: // a panic: the changes in c must not be lost
				pause = min(max(grace, 2*pause), pollAll)
			}
			return pause
		},
		Failed: func(path string, err error) {
			if err == nil {
				s.log.Info("certificates: all folders are watched again")
				return
			}
			s.log.Warn("certificates: cannot watch all folders; checking them every "+pollUnwatched.String(),
				"file", path, "err", err, "hint", watch.Hint(err))
		},
		Lost: func(err error) {
			s.log.Debug("certificates: events lost; checking all files", "err", err)
		},
		Poll: pollAll, PollFailed: pollUnwatched, Share: pollShare, Recheck: grace, Quiet: s.quiet, Panics: panics.Certificates,
	})
	return w
}

// Watched reports whether the directory is watched. trouble explains why
// changes are noticed only by polling; if it is nil, they are noticed at once.
func (s *Store) Watched() (on bool, trouble *watch.Trouble) {
	_, w := s.inUse()
	if w == nil {
		return false, nil
	}
	return true, w.Trouble()
}

// look reads what may have changed and publishes the result.
func (s *Store) look(ctx context.Context, w *watch.Watcher, c watch.Changes) error {
	t, now := s.inUse()
	if now != w || t == nil { // closed or replaced in the meantime
		return nil
	}
	return t.do(ctx, func() error {
		if c.All {
			t.scan() // if the root cannot be listed, that becomes a problem
		} else {
			t.changed(c.Names)
		}
		if c.Recheck {
			t.bad()
		}
		return nil
	}, func() { s.publish(t, !c.Recheck) })
}

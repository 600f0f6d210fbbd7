package watch

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"wssgate/internal/leaktest"
	"wssgate/panics"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A fakeFolders replaces the system's part of watching.
type fakeFolders struct {
	mu      sync.Mutex
	watched []string
	asked   int // successful calls of Add
	err     error
}

func (f *fakeFolders) Add(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if f.asked++; !slices.Contains(f.watched, path) {
		f.watched = append(f.watched, path)
	}
	return nil
}

func (f *fakeFolders) Remove(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched = slices.DeleteFunc(f.watched, func(w string) bool { return w == path })
	return nil
}

func (f *fakeFolders) Close() error { return nil }

// A look is one call by a watcher, with the time since the start.
type look struct {
	at    time.Duration
	names int
	all   bool
	again bool
}

type looksTaken struct {
	takes, next time.Duration // of each call

	mu   sync.Mutex
	list []look
}

const (
	pollAll       = time.Minute
	pollUnwatched = 10 * time.Second
	grace         = 2 * time.Second
)

// startWatcher runs a watcher on events of the test, inside a bubble.
func startWatcher(f folders) (w *Watcher, events chan fsnotify.Event, errs chan error, looks *looksTaken) {
	w, events, errs, looks = idleWatcher(f)
	w.Start()
	return w, events, errs, looks
}

// idleWatcher returns a watcher that is not started.
func idleWatcher(f folders) (w *Watcher, events chan fsnotify.Event, errs chan error, looks *looksTaken) {
	events, errs, looks = make(chan fsnotify.Event), make(chan error), new(looksTaken)
	start := time.Now()
	w = newWatcher(Options{
		Poll: pollAll, PollFailed: pollUnwatched, Share: 500, Recheck: grace,
		Look: func(_ context.Context, c Changes) time.Duration {
			looks.mu.Lock()
			looks.list = append(looks.list, look{time.Since(start), len(c.Names), c.All, c.Recheck})
			takes, next := looks.takes, looks.next
			looks.mu.Unlock()
			time.Sleep(takes)
			return next
		},
	}, f, events, errs)
	return w, events, errs, looks
}

// take returns the looks since its last call.
func (l *looksTaken) take() []look {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

func wantLooks(t *testing.T, looks *looksTaken, want ...look) {
	t.Helper()
	if got := looks.take(); !slices.Equal(got, want) {
		t.Errorf("looks = %v\n want %v", got, want)
	}
}

// Changes that occur together are read together after Quiet; bad ones are then checked
// once more.
func TestWatcherGathersChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _, looks := startWatcher(&fakeFolders{})
		for _, name := range []string{"/d/a.pem", "/d/b.pem", "/d/a.pem", "/d/./a.pem"} {
			events <- fsnotify.Event{Name: name, Op: fsnotify.Write}
			time.Sleep(Quiet / 2)
		}
		wantLooks(t, looks)
		time.Sleep(Quiet)
		wantLooks(t, looks, look{at: 3*Quiet/2 + Quiet, names: 2})
		time.Sleep(grace)
		wantLooks(t, looks, look{at: 3*Quiet/2 + Quiet + grace, again: true})
		w.Close()
	})
}

// A file that is written continuously is read nevertheless, after Patience.
func TestWatcherDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _, looks := startWatcher(&fakeFolders{})
		for range 2*Patience/Quiet*2 + 1 {
			events <- fsnotify.Event{Name: "/d/a.pem", Op: fsnotify.Write}
			time.Sleep(Quiet / 2)
		}
		if got := looks.take(); len(got) < 2 || got[0].at != Patience {
			t.Errorf("looks = %v, want the first after %v", got, Patience)
		}
		w.Close()
	})
}

// After lost events everything is read; otherwise every minute.
func TestWatcherLooksAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, errs, looks := startWatcher(&fakeFolders{})
		errs <- fsnotify.ErrEventOverflow
		time.Sleep(Quiet + grace)
		wantLooks(t, looks, look{at: Quiet, all: true}, look{at: Quiet + grace, again: true})
		time.Sleep(2 * pollAll)
		wantLooks(t, looks, look{at: pollAll, all: true, again: true}, look{at: 2 * pollAll, all: true, again: true})
		w.Close()
	})
}

// Above a number of names everything is read, so that memory is bounded.
func TestWatcherBoundsWhatItGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _, looks := startWatcher(&fakeFolders{})
		for i := range maxGathered + 10 {
			events <- fsnotify.Event{Name: "/d/" + strings.Repeat("a", i%200) + string(rune('a'+i/200)) + ".pem", Op: fsnotify.Create}
		}
		time.Sleep(Quiet)
		wantLooks(t, looks, look{at: Quiet, names: maxGathered, all: true})
		w.Close()
	})
}

// A folder that cannot be watched causes more frequent polls, and is reported once.
func TestWatcherWithoutEnoughWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed []string
		w, _, _, looks := idleWatcher(&fakeFolders{err: errors.New("no space left on device")})
		w.o.Failed = func(path string, err error) { failed = append(failed, path+": "+err.Error()) }
		w.Add("/d")
		w.Add("/d/e")
		w.Start()
		if want := []string{"/d: no space left on device"}; !slices.Equal(failed, want) {
			t.Errorf("failed = %q, want %q", failed, want)
		}
		time.Sleep(2 * pollUnwatched)
		wantLooks(t, looks, look{at: pollUnwatched, all: true, again: true}, look{at: 2 * pollUnwatched, all: true, again: true})
		w.Close()
	})
}

// Where watching works again, the Watcher says so and polls as seldom as before.
func TestWatcherRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folders := &fakeFolders{err: syscall.ENOSPC}
		var failed []error
		w, _, _, looks := idleWatcher(folders)
		w.o.Failed = func(_ string, err error) { failed = append(failed, err) }
		look := w.o.Look
		w.o.Look = func(ctx context.Context, c Changes) time.Duration {
			if c.All {
				w.Begin()
				defer w.End()
				w.Guard("/d")
				w.Add("/d")
			}
			return look(ctx, c)
		}
		w.o.Now = true
		w.Start()
		time.Sleep(2 * pollUnwatched)
		synctest.Wait()
		if got := w.Trouble(); got == nil || got.Path != "/" || !errors.Is(got.Err, syscall.ENOSPC) || got.Hint != "raise fs.inotify.max_user_watches" || len(failed) != 1 {
			t.Fatalf("trouble = %+v, failed = %v", got, failed)
		}
		folders.mu.Lock()
		folders.err = nil
		folders.mu.Unlock()
		time.Sleep(pollUnwatched)
		synctest.Wait()
		if got := w.Trouble(); got != nil || len(failed) != 2 || failed[1] != nil {
			t.Errorf("trouble = %+v, failed = %v; want none, and a nil", got, failed)
		}
		looks.take()
		time.Sleep(2 * pollUnwatched)
		if got := looks.take(); len(got) > 0 {
			t.Errorf("looks = %v within %v after that", got, 2*pollUnwatched)
		}
		w.Close()
	})
}

// A watch that the system ends is made anew.
func TestWatcherReopens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _, looks := idleWatcher(&fakeFolders{})
		look := w.o.Look
		w.o.Look = func(ctx context.Context, c Changes) time.Duration {
			if c.All {
				w.Begin()
				defer w.End()
				w.Add("/d")
			}
			return look(ctx, c)
		}
		next, asked := make(chan fsnotify.Event), 0
		w.open = func() (folders, <-chan fsnotify.Event, <-chan error, error) {
			if asked++; asked < 3 {
				return nil, nil, nil, syscall.EMFILE
			}
			return &fakeFolders{}, next, nil, nil
		}
		w.Start()
		close(events)
		synctest.Wait()
		if got := w.Trouble(); got == nil || got.Err != errDead {
			t.Fatalf("trouble = %+v; want that the watch has ended", got)
		}
		time.Sleep(3 * pollUnwatched)
		synctest.Wait()
		if got := w.Trouble(); got != nil || asked != 3 {
			t.Fatalf("trouble = %+v after %d attempts; want none after 3", got, asked)
		}
		looks.take()
		next <- fsnotify.Event{Name: "/d/a", Op: fsnotify.Write}
		time.Sleep(Quiet)
		if got := looks.take(); len(got) != 1 || got[0].names != 1 {
			t.Errorf("looks = %v; want one at the change", got)
		}
		w.Close()
	})
}

// In a folder that is guarded, only the guarded entry counts; one that may not be read is
// no trouble, and it remains watched when it is no longer read.
func TestWatcherGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folders := &fakeFolders{}
		w, events, _, looks := startWatcher(folders)
		w.Begin()
		w.Guard("/a/b")
		w.Add("/a/b")
		w.End()
		for _, row := range []struct {
			name  string
			looks int
		}{{"/a/x", 0}, {"/a/bb", 0}, {"/a/b", 2}, {"/a/b/x", 2}, {"/a", 2}} {
			events <- fsnotify.Event{Name: row.name, Op: fsnotify.Write}
			time.Sleep(Quiet + grace)
			if got := looks.take(); len(got) != row.looks {
				t.Errorf("%s: looks = %v; want %d", row.name, got, row.looks)
			}
		}
		w.Add("/a")
		w.Forget("/a")
		if !slices.Contains(folders.watched, "/a") {
			t.Errorf("watched = %q; want /a, which is guarded", folders.watched)
		}
		folders.mu.Lock()
		folders.err = fs.ErrPermission
		folders.mu.Unlock()
		w.Guard("/a/b")
		if got := w.Trouble(); got != nil {
			t.Errorf("trouble = %+v", got)
		}
		w.Add("/a/b")
		if got := w.Trouble(); got == nil || got.Hint != "let the gate's user list the folder" {
			t.Errorf("trouble = %+v", got)
		}
		w.Close()
	})
}

// A folder that was made anew is another folder and is watched again.
func TestWatcherForgetsAFolderThatWentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folders := &fakeFolders{}
		w, events, _, _ := startWatcher(folders)
		w.Add("/d/e")
		events <- fsnotify.Event{Name: "/d/e", Op: fsnotify.Remove}
		time.Sleep(Quiet)
		synctest.Wait()
		if len(folders.watched) > 0 {
			t.Errorf("watched = %q, want nothing", folders.watched)
		}
		w.Add("/d/e")
		if !slices.Equal(folders.watched, []string{"/d/e"}) {
			t.Errorf("watched = %q, want it anew", folders.watched)
		}
		w.Begin()
		w.Add("/d/f")
		w.End()
		if !slices.Equal(folders.watched, []string{"/d/f"}) {
			t.Errorf("watched = %q, want only what the last round named", folders.watched)
		}
		w.Close()
	})
}

// Reading everything takes at most its share of the time. A look that requests another
// soon gets it. With Now the first one is immediate.
func TestWatcherPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _, looks := idleWatcher(&fakeFolders{})
		w.o.Now, looks.takes = true, time.Second
		w.Start()
		time.Sleep(10 * time.Minute)
		wantLooks(t, looks, look{at: 1, all: true}, look{at: 1 + time.Second + grace, again: true},
			look{at: pollAll, all: true, again: true}, look{at: pollAll + 501*time.Second, all: true, again: true})
		looks.mu.Lock()
		looks.takes, looks.next = 0, pollUnwatched // of the next look
		looks.mu.Unlock()
		at := pollAll + 2*501*time.Second
		time.Sleep(at + pollUnwatched - 10*time.Minute)
		wantLooks(t, looks, look{at: at, all: true, again: true}, look{at: at + pollUnwatched, all: true, again: true})
		w.Close()
	})
}

// A panic in a look does not end the watcher: after a pause everything is read.
func TestWatcherPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, events, _, looks := idleWatcher(&fakeFolders{})
		look, first := w.o.Look, true
		w.o.Look = func(ctx context.Context, c Changes) time.Duration {
			if first {
				first = false
				panic("an injected fault")
			}
			return look(ctx, c)
		}
		w.o.Panics = panics.Config
		w.Start()
		events <- fsnotify.Event{Name: "/d/a", Op: fsnotify.Write}
		time.Sleep(10 * time.Second)
		if got := looks.take(); len(got) == 0 || !got[0].all {
			t.Errorf("looks = %v; want one at everything", got)
		}
		w.Close()
	})
}

// A watcher that was not started, or is started after Close, ends.
func TestWatcherEnds(t *testing.T) {
	w := New(Options{Poll: pollAll, Look: func(context.Context, Changes) time.Duration { return 0 }})
	w.Add(t.TempDir())
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.Start()
	w.Add(t.TempDir())
	w.Begin()
	w.End()
}

// If the system has no watches, everything else works, and the watcher polls.
func TestWatcherWithoutASystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _, looks := startWatcher(nil)
		w.Add("/d")
		w.Forget("/d")
		time.Sleep(pollAll)
		wantLooks(t, looks, look{at: pollAll, all: true, again: true})
		w.Close()
	})
}

// A folder may be replaced without an event.
func TestWatcherAddsAgain(t *testing.T) {
	folders := &fakeFolders{}
	w, _, _, _ := idleWatcher(folders)
	w.Add("/d")
	w.Add("/d")
	if folders.asked != 2 {
		t.Errorf("asked %d times, want 2", folders.asked)
	}
	w.Close()
}

// Folders below a moved folder have moved too, without an event; then everything is
// read. If each has an event, as with rm, only the reported names are read.
func TestWatcherForgetsWhatMovedAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folders := &fakeFolders{}
		w, events, _, looks := startWatcher(folders)
		for _, path := range []string{"/d", "/d/e", "/d/e/.f/g", "/d/ee"} {
			w.Add(path)
		}
		events <- fsnotify.Event{Name: "/d/e", Op: fsnotify.Rename}
		time.Sleep(Quiet)
		wantLooks(t, looks, look{at: Quiet, names: 1, all: true})
		if !slices.Equal(folders.watched, []string{"/d", "/d/ee"}) {
			t.Errorf("watched = %q, want what did not move", folders.watched)
		}
		w.Add("/d/e")
		w.Add("/d/e/f")
		events <- fsnotify.Event{Name: "/d/e/f", Op: fsnotify.Remove}
		events <- fsnotify.Event{Name: "/d/e", Op: fsnotify.Remove}
		time.Sleep(Quiet)
		wantLooks(t, looks, look{at: 2 * Quiet, names: 2})
		if !slices.Equal(folders.watched, []string{"/d", "/d/ee"}) {
			t.Errorf("watched = %q, want what was not removed", folders.watched)
		}
		w.Close()
	})
}

package certstore

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// A directory that hangs holds up neither the start nor a reload nor the end, and
// is taken up when it is back.
func TestDirectoryHangs(t *testing.T) {
	d, other := newDir(t), newDir(t)
	first, second := ca.Issue("example1.com"), ca.Issue("example2.com")
	d.put(t, "a.pem", first.PEM())
	other.put(t, "b.pem", second.PEM())
	synctest.Test(t, func(t *testing.T) {
		resume := files.Stall(string(d))
		began := time.Now()
		lasts := func(what string, want time.Duration) {
			t.Helper()
			if took := time.Since(began); took != want {
				t.Errorf("%s took %v; want %v", what, took, want)
			}
			began = time.Now()
		}
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		lasts("the start", files.Patience)
		if h := s.Reading(); h == nil || h.Path != string(d) || !s.Empty() {
			t.Errorf("Reading = %v, empty %t; want that %q hangs", h, s.Empty(), d)
		}
		if err := s.Reload(); !errors.Is(err, files.ErrHangs) {
			t.Errorf("Reload = %v", err)
		}
		c, err := s.Prepare(string(d), false) // a configuration does not wait for it
		if err != nil {
			t.Fatal(err)
		}
		c.Commit()
		lasts("what came after", 0)
		resume()
		synctest.Wait()
		wantNames(t, "back", s, map[string]bool{"example1.com": true})
		if s.Reading() != nil {
			t.Error("it still hangs")
		}

		// Later its certificates stay.
		resume = files.Stall(string(d))
		began = time.Now()
		if c, err = s.Prepare(string(d), false); err != nil {
			t.Fatal(err)
		}
		c.Commit()
		lasts("a reload", files.Patience)
		wantNames(t, "kept", s, map[string]bool{"example1.com": true})
		if s.Reading() != nil {
			t.Error("it was read before")
		}
		// To another one the way is free, and what hung does not come back.
		if c, err = s.Prepare(string(other), false); err != nil {
			t.Fatal(err)
		}
		c.Commit()
		resume()
		synctest.Wait()
		wantNames(t, "another", s, map[string]bool{"example1.com": false, "example2.com": true})

		// And what hangs is nowhere to go to.
		resume = files.Stall(string(d))
		if _, err := s.Prepare(string(d), false); !errors.Is(err, files.ErrHangs) {
			t.Errorf("Prepare of a directory that hangs = %v", err)
		}
		resume()
		synctest.Wait()
		wantNames(t, "after all", s, map[string]bool{"example1.com": false, "example2.com": true})
	})
}

// A file that hangs in the middle of a directory is named, and others are served
// when it is back.
func TestFileHangs(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	d.put(t, "b.pem", ca.Issue("example2.com").PEM())
	synctest.Test(t, func(t *testing.T) {
		resume := files.Stall(string(d) + "/b.pem")
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		list := files.Hanging()
		if len(list) != 1 || list[0].Path != string(d)+"/b.pem" || time.Since(list[0].Since) != files.Patience {
			t.Errorf("hanging: %+v", list)
		}
		resume()
		synctest.Wait()
		wantNames(t, "back", s, map[string]bool{"example1.com": true, "example2.com": true})
		if list := files.Hanging(); len(list) > 0 {
			t.Errorf("hanging: %+v", list)
		}
	})
}

// A watcher of a directory that hangs ends all the same.
func TestWatcherEndsWhileDirectoryHangs(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	s, _ := watching(t, d)
	resume := files.Stall(string(d))
	defer resume()
	d.put(t, "b.pem", ca.Issue("example2.com").PEM())
	s.Close()
	if _, w := s.inUse(); w != nil {
		t.Error("it watches")
	}
}

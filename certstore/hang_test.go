package certstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// A directory that hangs delays neither the start nor a reload nor Close. It is
// read when it answers again.
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
		c, err := s.Prepare(string(d), false) // a new configuration does not wait for it
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

		// If it hangs later, its certificates stay.
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
		// A Change to another directory is possible, and the one that hung does
		// not return.
		if c, err = s.Prepare(string(other), false); err != nil {
			t.Fatal(err)
		}
		c.Commit()
		resume()
		synctest.Wait()
		wantNames(t, "another", s, map[string]bool{"example1.com": false, "example2.com": true})

		// A Change to a directory that hangs fails.
		resume = files.Stall(string(d))
		if _, err := s.Prepare(string(d), false); !errors.Is(err, files.ErrHangs) {
			t.Errorf("Prepare of a directory that hangs = %v", err)
		}
		resume()
		synctest.Wait()
		wantNames(t, "after all", s, map[string]bool{"example1.com": false, "example2.com": true})
	})
}

// Where a single file may hang, for example on a network file system, it is
// reported and all others are served: at the start, later, behind a link, and
// in a folder that hangs. Such files cost a bounded number of threads. They are
// read when they answer again.
func TestFileHangsAlone(t *testing.T) {
	defer func() { mounted = mountPoints }()
	mounted = func() map[string]string { return map[string]string{"/": "fuse.sshfs"} }
	for name, hangs := range map[string]string{"a file": "/b.pem", "what a link leads to": "/.there", "a folder": "/b"} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			put := func(file, host string) { d.put(t, file, ca.Issue(host).PEM()) }
			put("a.pem", "example1.com")
			put("c.pem", "example3.com")
			switch hangs {
			case "/b.pem":
				put("b.pem", "example2.com")
			case "/b":
				put("b/b.pem", "example2.com")
			default:
				put(".there", "example2.com")
				if err := os.Symlink(".there", string(d)+"/b.pem"); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				resume := files.Stall(string(d) + hangs)
				s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				wantNames(t, "while it hangs", s, map[string]bool{"example1.com": true, "example2.com": false, "example3.com": true})
				list := files.Hanging()
				if len(list) != 1 || !strings.HasPrefix(list[0].Path, string(d)+hangs) || time.Since(list[0].Since) != files.Patience {
					t.Errorf("hanging: %+v", list)
				}
				put("d.pem", "example4.com")
				if err := s.Reload(); err != nil && !files.IsHang(err) {
					t.Error(err)
				}
				wantNames(t, "a reload", s, map[string]bool{"example1.com": true, "example2.com": false, "example4.com": true})
				resume()
				synctest.Wait()
				wantNames(t, "back", s, map[string]bool{"example1.com": true, "example2.com": true, "example3.com": true})
				resume = files.Stall(string(d) + hangs)
				s.Reload()
				wantNames(t, "it hangs again", s, map[string]bool{"example1.com": true, "example2.com": true, "example3.com": true})
				resume()
				synctest.Wait()
				if list := files.Hanging(); len(list) > 0 {
					t.Errorf("hanging: %+v", list)
				}
			})
		})
	}
}

// A file that is always slower than the callers' patience is served, too.
func TestSlowFileAlone(t *testing.T) {
	defer func() { mounted = mountPoints }()
	mounted = func() map[string]string { return map[string]string{"/": "nfs4"} }
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	d.put(t, "b.pem", ca.Issue("example2.com").PEM())
	if err := os.Symlink("b.pem", string(d)+"/c.pem"); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		defer files.Delay(string(d)+"/b.pem", 2*files.Patience)()
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wantNames(t, "at first", s, map[string]bool{"example1.com": true, "example2.com": false})
		time.Sleep(time.Hour)
		wantNames(t, "after an hour", s, map[string]bool{"example1.com": true, "example2.com": true})
		s.Close()
		time.Sleep(time.Minute) // the current call
	})
}

// However many files hang, they cost at most maxAlone threads and one for the
// directory.
func TestManyFilesHang(t *testing.T) {
	defer func() { mounted = mountPoints }()
	mounted = func() map[string]string { return map[string]string{"/": "nfs4"} }
	d := newDir(t)
	names := map[string]bool{"example1.com": true, "example2.com": false}
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	d.put(t, "c.pem", ca.Issue("example2.com").PEM())
	for i := range 3 * maxAlone {
		name := fmt.Sprintf("there%d.example.org", i)
		d.put(t, fmt.Sprintf("b%d.pem", i), ca.Issue(name).PEM())
		names[name] = false
	}
	synctest.Test(t, func(t *testing.T) {
		resume := files.Stall(string(d) + "/b")
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		time.Sleep(time.Hour)
		if n := len(files.Hanging()); n != maxAlone+1 {
			t.Errorf("%d hang; want %d", n, maxAlone+1)
		}
		wantNames(t, "while they hang", s, names)
		resume()
		synctest.Wait()
		for name := range names {
			names[name] = true
		}
		wantNames(t, "back", s, names)
	})
}

// If a file hangs in the middle of a directory, it is reported and the files
// before it are served. The others follow when it answers again.
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
		wantNames(t, "while it hangs", s, map[string]bool{"example1.com": true, "example2.com": false})
		resume()
		synctest.Wait()
		wantNames(t, "back", s, map[string]bool{"example1.com": true, "example2.com": true})
		if list := files.Hanging(); len(list) > 0 {
			t.Errorf("hanging: %+v", list)
		}
	})
}

// Links to another file system that hangs, of files and of folders, and mounts
// in the directory only affect their own files, at the start and later.
// Certificates that were read before stay, and are read again when the file
// system answers.
func TestOtherMountHangs(t *testing.T) {
	d, other := newDir(t), newDir(t)
	inside := string(d) + "/k-mount"
	defer func() { mounted = mountPoints }()
	mounted = func() map[string]string {
		return map[string]string{"/": "ext4", string(other): "nfs4", inside: "tmpfs"}
	}
	names := map[string]bool{}
	for i, file := range []string{"a.pem", "c.pem", "x/z.pem", "k-mount/k.pem"} {
		name := fmt.Sprintf("here%d.example.org", i)
		d.put(t, file, ca.Issue(name).PEM())
		names[name] = true
	}
	for i, file := range []string{"b.pem", "sub/y.pem"} {
		name := fmt.Sprintf("there%d.example.org", i)
		other.put(t, file, ca.Issue(name).PEM())
		names[name] = true
	}
	for from, to := range map[string]string{"b.pem": "/b.pem", "j": "/sub", "hop": ""} {
		if err := os.Symlink(string(other)+to, string(d)+"/"+from); err != nil {
			t.Fatal(err)
		}
	}
	d.put(t, "l/x", nil)
	if err := os.Symlink("../hop/b.pem", string(d)+"/l/b.pem"); err != nil { // by a link in the directory
		t.Fatal(err)
	}
	away := map[string]bool{}
	for name, there := range names {
		away[name] = there && strings.HasPrefix(name, "here") && name != "here3.example.org"
	}
	synctest.Test(t, func(t *testing.T) {
		resumes := []func(){files.Stall(string(other)), files.Stall(inside)}
		began := time.Now()
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if took := time.Since(began); took > files.JobPatience {
			t.Errorf("the start took %v", took)
		}
		wantNames(t, "at the start", s, away)
		if list := files.Hanging(); len(list) != 2 || !strings.HasPrefix(list[0].Path+list[1].Path, string(d)) && !strings.HasPrefix(list[1].Path, string(d)) {
			t.Errorf("hanging: %+v", list)
		}
		for range 3 {
			began = time.Now()
			if err := s.Reload(); err != nil || time.Since(began) != 0 {
				t.Errorf("a reload took %v: %v", time.Since(began), err)
			}
		}
		d.put(t, "new.pem", ca.Issue("new.example.org").PEM())
		away["new.example.org"], names["new.example.org"] = true, true
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
		wantNames(t, "a new one", s, away)
		for _, resume := range resumes {
			resume()
		}
		synctest.Wait()
		wantNames(t, "back", s, names)

		resumes = []func(){files.Stall(string(other)), files.Stall(inside)}
		for range 3 {
			if err := s.Reload(); err != nil {
				t.Error(err)
			}
		}
		wantNames(t, "later", s, names)
		hangs := func(p Problem) bool { return files.IsHang(p.Err) }
		if !slices.ContainsFunc(s.Problems(), hangs) {
			t.Error("no problem is known")
		}
		for _, resume := range resumes {
			resume()
		}
		synctest.Wait()
		if p := s.Problems(); slices.ContainsFunc(p, hangs) || len(files.Hanging()) > 0 {
			t.Errorf("in the end: %+v, %+v", p, files.Hanging())
		}
	})
}

// If each call in a directory is slow, part of it is read at the start, within
// files.JobPatience, and the rest a while later.
func TestSlowDirectory(t *testing.T) {
	d := newDir(t)
	for i := range 40 {
		d.put(t, fmt.Sprintf("n%02d.pem", i), ca.Issue(fmt.Sprintf("n%d.example.org", i)).PEM())
	}
	synctest.Test(t, func(t *testing.T) {
		end := files.Delay(string(d), 150*time.Millisecond)
		defer end()
		began := time.Now()
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if took := time.Since(began); took > files.JobPatience+time.Second {
			t.Errorf("the start took %v", took)
		}
		if n := s.Names(); n == 0 || n >= 40 {
			t.Errorf("%d of 40 names after %v", n, files.JobPatience)
		}
		if list := files.Hanging(); len(list) != 1 || !list[0].Slow || s.Reading() == nil {
			t.Errorf("hanging: %+v, reading: %v", list, s.Reading())
		}
		time.Sleep(time.Minute)
		if n := s.Names(); n != 40 || s.Reading() != nil || len(files.Hanging()) > 0 {
			t.Errorf("%d of 40 names after a minute", n)
		}
	})
}

// A reload that names a directory that hangs fails each time, and leaves
// nothing behind.
func TestFailedPreparesLeaveNothing(t *testing.T) {
	d, other := newDir(t), newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Directory: string(d), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		resume := files.Stall(string(other))
		before := runtime.NumGoroutine()
		for range 20 {
			if _, err := s.Prepare(string(other), false); !files.IsHang(err) {
				t.Errorf("err = %v", err)
			}
		}
		if n := runtime.NumGoroutine() - before; n > 2 {
			t.Errorf("%d goroutines more", n)
		}
		if list := files.Hanging(); len(list) > 0 {
			t.Errorf("hanging, and nobody uses it: %+v", list)
		}
		resume()
		synctest.Wait()
		wantNames(t, "as before", s, map[string]bool{"example1.com": true})
	})
}

// A watcher can be closed while its directory hangs.
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

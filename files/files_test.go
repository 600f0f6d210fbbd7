package files

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

func newTestPlace() (*Place, *lockedBuffer) {
	log := new(lockedBuffer)
	return New("certificates", slog.New(slog.NewTextHandler(log, nil))), log
}

// The first caller waits for Patience and all later ones not at all, until the
// call returns. The job then continues.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := newTestPlace()
		resume := Stall("/hang")
		look := func() error {
			_, err := Do(t.Context(), p, func() (int, error) { _, err := p.Stat("/hang/x"); return 1, err })
			return err
		}
		began := time.Now()
		finished := false
		_, err := Do(t.Context(), p, func() (int, error) {
			p.Stat("/hang/a")
			finished = true
			return 1, nil
		})
		var hang *HangError
		if !errors.As(err, &hang) || hang.Path != "/hang/a" || !hang.Since.Equal(began) || !IsHang(err) {
			t.Errorf("err = %v; want that /hang/a hangs", err)
		}
		if took := time.Since(began); took != Patience {
			t.Errorf("it took %v; want %v", took, Patience)
		}
		for range 1000 {
			if err := look(); !IsHang(err) {
				t.Fatalf("err = %v", err)
			}
		}
		if took := time.Since(began); took != Patience {
			t.Errorf("the others took %v; want nothing", took-Patience)
		}
		if list := Hanging(); len(list) != 1 || list[0].What != "certificates" || list[0].Path != "/hang/a" {
			t.Errorf("hanging: %+v", list)
		}
		back := p.Back()
		time.Sleep(time.Hour)
		if isClosed(back) || finished {
			t.Error("it is back")
		}
		resume()
		<-back
		synctest.Wait()
		if err := look(); IsHang(err) || !errors.Is(err, fs.ErrNotExist) || !finished || p.Hangs() != nil || len(Hanging()) > 0 {
			t.Errorf("back: %v, finished %t, %v", err, finished, Hanging())
		}
		if lines := log.lines(); len(lines) != 2 || !strings.Contains(lines[0], "does not answer\" file=/hang/a since=") || !strings.Contains(lines[1], "answers again\" file=/hang/a duration=1h0m2s") {
			t.Errorf("the log has\n%s", strings.Join(lines, "\n"))
		}
	})
}

// A job with many fast calls does not hang, however long it computes, if all
// calls together are fast enough. Waiting behind it is not a hang either.
func TestSlowIsNoHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := newTestPlace()
		slow := func() (int, error) {
			for range 50 {
				p.Call("/slow", func() error { time.Sleep(JobPatience / 51); return nil })
				time.Sleep(2 * Patience) // computes
			}
			return 7, nil
		}
		second := make(chan int)
		go func() {
			time.Sleep(time.Second)
			n, err := Do(t.Context(), p, slow)
			if err != nil {
				t.Error(err)
			}
			second <- n
		}()
		if n, err := Do(t.Context(), p, slow); n != 7 || err != nil {
			t.Errorf("Do = %d, %v", n, err)
		}
		if n := <-second; n != 7 {
			t.Errorf("the second got %d", n)
		}
		if log.Len() > 0 {
			t.Errorf("it logged %s", log.lines())
		}
	})
}

// When a job's calls together take too long, the caller continues with partial
// results. The job is slow until it ends. A hang in it has the same effect.
func TestSlowJob(t *testing.T) {
	for _, each := range []time.Duration{150 * time.Millisecond, Patience - 1, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			p, log := newTestPlace()
			began, calls, parts := time.Now(), 0, []int{}
			_, err := DoInParts(t.Context(), p, func() (int, error) {
				for range 40 {
					p.Call("/slow", func() error { time.Sleep(each); return nil })
					calls++
				}
				return 7, nil
			}, func() { parts = append(parts, calls) })
			hang, ok := errors.AsType[*HangError](err)
			if !ok || hang.Slow != (each < Patience) {
				t.Errorf("err = %v", err)
			}
			want := JobPatience
			if each > Patience {
				want = Patience
			}
			if took := time.Since(began); took < want || took >= want+each && took != want {
				t.Errorf("it took %v; want %v", took, want)
			}
			if len(parts) != 1 || parts[0] != int(min(want, JobPatience)/each) && parts[0] != int(want/each) {
				t.Errorf("parts: %v", parts)
			}
			if len(Hanging()) != 1 {
				t.Errorf("hanging: %+v", Hanging())
			}
			if _, err := Do(t.Context(), p, func() (int, error) { return 0, nil }); !IsHang(err) {
				t.Errorf("the next: %v", err)
			}
			time.Sleep(40 * each)
			if each < Patience {
				if lines := log.lines(); calls != 40 || len(Hanging()) > 0 || len(lines) != 2 || !strings.Contains(lines[0], "is slow") || !strings.Contains(lines[1], "everything is read") {
					t.Errorf("%d calls; the log has\n%s", calls, strings.Join(lines, "\n"))
				}
			}
		})
	}
}

// Callers with the same path share one Place while it hangs, so that it costs
// one goroutine. Without users, it is not listed.
func TestAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resume := Stall("/hang")
		look := func() *Place {
			p := At("certificates", "/hang", slog.New(slog.DiscardHandler))
			if _, err := Do(t.Context(), p, func() (int, error) { _, err := p.Stat("/hang/x"); return 0, err }); !IsHang(err) {
				t.Errorf("err = %v", err)
			}
			return p
		}
		first := look()
		if len(Hanging()) != 1 {
			t.Errorf("hanging: %+v", Hanging())
		}
		first.Leave()
		if list := Hanging(); len(list) > 0 {
			t.Errorf("hanging, and nobody uses it: %+v", list)
		}
		for range 10 {
			if p := look(); p != first {
				t.Fatal("it is another one")
			} else {
				p.Leave()
			}
		}
		resume()
		synctest.Wait()
		At("certificates", "/other", nil).Leave()
		if n := len(places.all); n != 1 {
			t.Errorf("%d places are left; want the one that had trouble just now", n)
		}
		time.Sleep(calm)
		At("certificates", "/other", nil).Leave()
		if n := len(places.all); n > 0 {
			t.Errorf("%d places are left", n)
		}
	})
}

// A repeated hang does not end because a caller leaves, however long it takes.
func TestRepeatedHangLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named, log := newTestPlace()
		for range 2 {
			resume := Stall("/bad")
			p := At("certificates", "/bad", named.log())
			Do(t.Context(), p, func() (int, error) { p.Stat("/bad/x"); return 0, nil })
			time.Sleep(2 * calm / 3)
			p.Leave()
			lines := len(log.lines())
			time.Sleep(calm / 2)
			At("certificates", "/bad", nil).Leave()
			if n := len(log.lines()); n != lines {
				t.Errorf("it hangs, and the log has\n%s", strings.Join(log.lines(), "\n"))
			}
			resume()
			synctest.Wait()
		}
		time.Sleep(calm)
		At("certificates", "/other", nil).Leave()
		if lines := log.lines(); len(lines) != 4 || !strings.Contains(lines[3], "answers again") {
			t.Errorf("in the end the log has\n%s", strings.Join(lines, "\n"))
		}
	})
}

// A Place that is slow or hangs at every look is logged twice, and again after
// a calm period. Trouble after that is news. This also holds for a Place that
// is forgotten between two looks.
func TestRepeatedTrouble(t *testing.T) {
	for _, hang := range []bool{false, true} {
		for _, shared := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p, log := newTestPlace()
				look := func(each time.Duration) {
					if shared {
						p = At("certificates", "/bad", p.log())
						defer p.Leave()
					}
					Do(t.Context(), p, func() (int, error) {
						for range 4 {
							p.Call("/bad/x", func() error { time.Sleep(each); return nil })
						}
						return 0, nil
					})
					time.Sleep(30 * time.Second)
				}
				each := Patience - time.Millisecond
				trouble, end := "is slow", "everything is read"
				if hang {
					each, trouble, end = Patience+time.Second, "does not answer", "answers again"
				}
				for range 20 {
					look(each)
				}
				for range 20 {
					look(0)
				}
				look(each)
				want := []string{trouble, end, "repeatedly", "answers again", trouble, end}
				if hang { // each of the four calls hangs
					want = append(want, "repeatedly")
				}
				lines := log.lines()
				if len(lines) != len(want) {
					t.Fatalf("hang %t, shared %t: the log has\n%s", hang, shared, strings.Join(lines, "\n"))
				}
				for i, line := range lines {
					if !strings.Contains(line, want[i]) {
						t.Errorf("hang %t, shared %t: line %d is %s; want %q", hang, shared, i, line, want[i])
					}
				}
				time.Sleep(calm)
				At("certificates", "/other", nil).Leave()
			})
		}
	}
}

// A context ends both kinds of waiting, for the turn and for the job. Await
// waits for a Place that hangs.
func TestContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newTestPlace()
		resume := Stall("/hang")
		job := func() (int, error) { p.Stat("/hang"); return 3, nil }
		gone := errors.New("gone")
		for range 2 { // the first has the job, the second waits for its turn
			ctx, cancel := context.WithCancelCause(t.Context())
			began := time.Now()
			time.AfterFunc(time.Minute, func() { cancel(gone) })
			if _, err := Await(ctx, p, job); err != gone || time.Since(began) != time.Minute {
				t.Errorf("Await = %v after %v", err, time.Since(began))
			}
			if _, err := Do(ctx, p, job); err != gone {
				t.Errorf("Do with a context that has ended = %v", err)
			}
		}
		time.AfterFunc(time.Minute, resume)
		if n, err := Await(t.Context(), p, job); n != 3 || err != nil {
			t.Errorf("Await = %d, %v", n, err)
		}
	})
}

// Read refuses anything but a regular file at once, whenever it took the file's
// place.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	pipe, link, long := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "long")
	if err := errors.Join(exec.Command("mkfifo", pipe).Run(), os.Symlink(pipe, link), os.WriteFile(long, make([]byte, 11), 0o600)); err != nil {
		t.Fatal(err)
	}
	p, _ := newTestPlace()
	for path, want := range map[string]error{pipe: ErrNotRegular, link: ErrNotRegular, "/dev/zero": ErrNotRegular, dir: ErrDirectory, dir + "/none": fs.ErrNotExist} {
		if _, err := p.Read(path, 10); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Read(%q) = %v; want %v", path, err, want)
		}
	}
	if _, err := p.Read(long, 10); err == nil || !strings.Contains(err.Error(), "larger than 10 bytes") {
		t.Errorf("a long file: %v", err)
	}
	if data, err := p.Read(long, 11); len(data) != 11 || err != nil {
		t.Errorf("%d bytes, %v; want 11", len(data), err)
	}
}

// A file is replaced as a whole or not at all, and not after the caller has
// left.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	p, _ := newTestPlace()
	yes, no := func() bool { return true }, func() bool { return false }
	for _, test := range []struct {
		data string
		ok   func() bool
		want string
	}{{"one", yes, "one"}, {"two", no, "one"}, {"three", yes, "three"}} {
		if err := p.Replace(path, ".tmp-", []byte(test.data), test.data == "one", test.ok); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); string(data) != test.want || err != nil {
			t.Errorf("after %q it has %q, %v; want %q", test.data, data, err, test.want)
		}
	}
	if err := p.Create(path, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create = %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// If a job of another Place hangs, the Place that waits for it does not hang,
// even if both check at the same moment.
func TestBesideHangs(t *testing.T) {
	dir := t.TempDir()
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			resume := Stall(dir)
			p, other := New("p", slog.New(slog.DiscardHandler)), New("other", slog.New(slog.DiscardHandler))
			_, err := Do(t.Context(), p, func() (struct{}, error) {
				return Beside(p, other, dir, func() (struct{}, error) {
					_, err := other.Stat(dir)
					return struct{}{}, err
				})
			})
			if hang, ok := errors.AsType[*HangError](err); !ok || hang.place != other || p.Hangs() != nil {
				t.Errorf("err = %v, and the Place hangs: %v; want only the other to", err, p.Hangs())
			}
			resume()
		})
	}
}

package memory

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const mb = 1 << 20

// A world simulates the memory of a process with a Guard.
type world struct {
	sync.Mutex
	idle      int64 // of tunnels that can't be shed
	backlogs  int64 // of tunnels that can be shed
	garbage   int64
	peak      int64
	short     []Shortage // arguments of Short
	sheds     []bool     // atOnce of each call of Shed
	collected int
	takes     time.Duration // duration of a collection
	log       bytes.Buffer
}

// told returns the arguments of Short, including brief shortages.
func (w *world) told() (out []Shortage) {
	for _, s := range w.short {
		out = append(out, min(s, Short))
	}
	return slices.Compact(out)
}

func (w *world) used() int64 { return w.idle + w.backlogs + w.garbage }

// guard starts a Guard of a world in a bubble; the bubble ends it.
func (w *world) guard(t *testing.T, limit int64) *Guard {
	g := newGuard(Options{
		Limit: limit,
		Short: func(s Shortage) { w.short = append(w.short, s) },
		Shed: func(bytes int64, _, atOnce bool) Shed {
			w.Lock()
			defer w.Unlock()
			w.sheds = append(w.sheds, atOnce)
			n := min(bytes, w.backlogs)
			w.backlogs -= n
			w.garbage += n
			return Shed{Tunnels: int((n + mb - 1) / mb), Bytes: n}
		},
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	g.measure = func() (int64, bool) {
		w.Lock()
		defer w.Unlock()
		w.peak = max(w.peak, w.used())
		return w.used(), false
	}
	g.collect = func() {
		time.Sleep(w.takes)
		w.Lock()
		defer w.Unlock()
		w.garbage = 0
		w.collected++
	}
	g.start()
	t.Cleanup(g.Close)
	return g
}

// pass lets time pass, and calls f in each millisecond. Nothing else runs when it
// returns.
func (w *world) pass(d time.Duration, f func()) {
	for range d / time.Millisecond {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		w.Lock()
		f()
		w.Unlock()
	}
}

// flood lets backlogs grow by 200 MB a second, unless growth is stopped.
func (w *world) flood(d time.Duration) {
	w.pass(d, func() {
		if len(w.short) == 0 || w.short[len(w.short)-1] != Dire {
			w.backlogs += 200 << 10
		}
	})
}

func (w *world) lines() []string { return strings.Split(strings.TrimSpace(w.log.String()), "\n") }

// Garbage is collected, and causes no refusals.
func TestGuardCollectsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{idle: 50 * mb}
		w.guard(t, 100*mb)
		w.pass(time.Minute, func() { w.garbage += 10 << 10 }) // 10 MB a second
		if len(w.short) > 0 || w.log.Len() > 0 {
			t.Errorf("told %v, logged %q; want nothing", w.short, w.log.String())
		}
		if w.peak > 101*mb || w.collected > 15 {
			t.Errorf("%d MB at the most, %d collections; want 100 and a few", w.peak/mb, w.collected)
		}
	})
}

// Growing backlogs are shed as they grow. That is one episode, with one line at its
// beginning and one at its end, and memory stays near the limit throughout.
func TestGuardSheds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{idle: 50 * mb}
		g := w.guard(t, 100*mb)
		w.flood(time.Minute)
		if !slices.Equal(w.told(), []Shortage{Short}) {
			t.Fatalf("told %v while memory is short; want it once", w.short)
		}
		if s := g.State(); !s.Short || s.Since.IsZero() || !s.Until.IsZero() || s.Shed.Tunnels == 0 || s.Limit != 100*mb || s.Used != w.used() {
			t.Errorf("the state is %+v", s)
		}
		if w.peak > 115*mb {
			t.Errorf("%d MB at the most; want about 105", w.peak/mb)
		}
		w.pass(10*time.Second, func() { w.backlogs, w.garbage = 0, 0 })
		if s := g.State(); !slices.Equal(w.told(), []Shortage{Short, Enough}) || s.Short || s.Until.IsZero() {
			t.Errorf("told %v in the end, the state is %+v; want that it is over", w.short, s)
		}
		lines := w.lines()
		if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "limit=104857600") ||
			!strings.Contains(lines[1], "level=INFO") || !strings.Contains(lines[1], "peak=") || strings.Contains(lines[1], "tunnels=0") {
			t.Errorf("logged\n%s\nwant a warning and its end", strings.Join(lines, "\n"))
		}
	})
}

// Use that oscillates around the limit is one episode.
func TestGuardDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{idle: 100 * mb}
		w.guard(t, 100*mb)
		up := false
		w.pass(time.Minute, func() {
			if w.idle = 95 * mb; up {
				w.idle = 101 * mb
			}
			up = !up
		})
		if !slices.Equal(w.told(), []Shortage{Short}) {
			t.Errorf("told %v; want one episode that lasts", w.short)
		}
		w.pass(calm-time.Second, func() { w.idle = 93 * mb })
		if len(w.told()) != 1 {
			t.Errorf("told %v with a sixteenth free for a moment; want nothing yet", w.told())
		}
		w.pass(2*time.Second, func() {})
		if !slices.Equal(w.told(), []Shortage{Short, Enough}) {
			t.Errorf("told %v with a sixteenth free; want its end", w.short)
		}
	})
}

// Memory that can't be shed keeps newcomers out, and does not cause one collection
// after the other.
func TestGuardNothingToShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{idle: 120 * mb, takes: 100 * time.Millisecond}
		w.guard(t, 100*mb)
		w.pass(time.Second, func() {})
		before := w.collected
		w.pass(time.Minute, func() {})
		if n := w.collected - before; time.Duration(n)*w.takes > time.Minute/collectRest+w.takes {
			t.Errorf("%d collections in a minute", n)
		}
		if !slices.Equal(w.told(), []Shortage{Short}) {
			t.Errorf("told %v; want that memory is short", w.short)
		}
	})
}

// A large jump above the limit is shed at once; a small excess gives clients time to
// read.
func TestGuardHurries(t *testing.T) {
	for jump, atOnce := range map[int64]bool{102 * mb: false, 104 * mb: true} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.guard(t, 100*mb)
			w.pass(time.Millisecond, func() { w.backlogs = jump })
			w.pass(2*time.Second, func() {})
			if len(w.sheds) == 0 || w.sheds[0] != atOnce {
				t.Errorf("%d MB: shed %v; want first %v", jump/mb, w.sheds, atOnce)
			}
		})
	}
}

// Without a limit nothing happens. A limit may be added and removed later.
func TestGuardLimitChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{idle: 200 * mb}
		g := w.guard(t, 0)
		w.pass(time.Minute, func() {})
		if len(w.short) > 0 || w.collected > 0 {
			t.Errorf("without a limit: told %v, %d collections", w.short, w.collected)
		}
		g.SetLimit(100 * mb)
		synctest.Wait()
		if !slices.Equal(w.told(), []Shortage{Short}) {
			t.Errorf("told %v with a limit below what is in use; want that memory is short", w.short)
		}
		g.SetLimit(0)
		synctest.Wait()
		if !slices.Equal(w.told(), []Shortage{Short, Enough}) {
			t.Errorf("told %v without a limit again", w.short)
		}
	})
}

// The Guard measures more often near the limit, and never too late: in between, memory
// can't grow beyond the limit.
func TestGuardPause(t *testing.T) {
	for left, want := range map[int64]time.Duration{
		1: lookMin, 20 * mb: lookMin, 100 * mb: 97656250, 512 * mb: 500 * time.Millisecond, 64 << 30: lookMax,
	} {
		if got := pause(left); got != want {
			t.Errorf("pause(%d MB) = %v; want %v", left/mb, got, want)
		}
	}
}

package panics

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// capture redirects the log to a buffer for a test.
func capture(t *testing.T) *bytes.Buffer {
	log := new(bytes.Buffer)
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { slog.SetDefault(was) })
	return log
}

func TestCatch(t *testing.T) {
	log := capture(t)
	before := Counts()[string(DNS)]
	if err := Catch(DNS, func() {}); err != nil || log.Len() > 0 {
		t.Errorf("Catch = %v; the log has %q", err, log)
	}
	if err := Catch(DNS, func() { panic("odd") }); err == nil || err.Error() != "panic: odd" {
		t.Errorf("Catch = %v; want the panic", err)
	}
	if n := Counts()[string(DNS)] - before; n != 1 {
		t.Errorf("%d panics are counted; want 1", n)
	}
	if s := log.String(); strings.Count(s, "level=ERROR msg=panic where=dns err=odd stack=") != 1 || !strings.Contains(s, "TestCatch") {
		t.Errorf("the log has %q", s)
	}
}

// Keep restarts what panics at growing intervals, until it returns.
func TestKeep(t *testing.T) {
	capture(t)
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		Keep(nil, DNS, func() {
			at = append(at, time.Since(began))
			switch len(at) {
			case 9: // works for a while
				time.Sleep(time.Hour)
			case 11:
				return
			}
			panic("odd")
		})
		var pauses []time.Duration
		for i := range at[1:] {
			pauses = append(pauses, (at[i+1]-at[i])/time.Second)
		}
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 3601, 2}
		for i, p := range pauses {
			if p != want[i] {
				t.Fatalf("pauses of %v s; want %v", pauses, want)
			}
		}
	})
}

func TestKeepEnds(t *testing.T) {
	capture(t)
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		time.AfterFunc(3500*time.Millisecond, func() { close(stop) })
		began, calls := time.Now(), 0
		Keep(stop, DNS, func() { calls++; panic("odd") })
		if took := time.Since(began); took != 3500*time.Millisecond || calls != 3 {
			t.Errorf("Keep took %v for %d calls", took, calls)
		}
	})
}

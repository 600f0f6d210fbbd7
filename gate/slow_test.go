package gate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A start that hangs is left to itself a moment after its context ends, and not
// before.
func TestAwaitGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		hang := make(chan struct{})
		began := time.Now()
		g, err := awaitGate(ctx, func() (*gate, error) { <-hang; return nil, nil })
		if took := time.Since(began); g != nil || err != nil || took != time.Hour+startPatience {
			t.Errorf("awaitGate = %v, %v after %v", g, err, took)
		}
		close(hang)
		began, bad := time.Now(), errors.New("bad")
		if _, err := awaitGate(ctx, func() (*gate, error) { time.Sleep(startPatience / 2); return nil, bad }); err != bad || time.Since(began) != startPatience/2 {
			t.Errorf("a start that ends after its context: %v after %v", err, time.Since(began))
		}
	})
}

// The gate lives as long as its loop turns; a drain has a deadline of its own.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newConsole(nil, nil)
		if err := d.alive(); err != nil {
			t.Errorf("before the first turn: %v", err)
		}
		d.turned()
		time.Sleep(loopPatience)
		if err := d.alive(); err != nil {
			t.Errorf("after %v: %v", loopPatience, err)
		}
		time.Sleep(time.Second)
		if err := d.alive(); err == nil || !strings.Contains(err.Error(), "has been stuck for 31s") {
			t.Errorf("after 31 s: %v", err)
		}
		d.leaves(0, time.Hour)
		if err := d.alive(); err != nil {
			t.Errorf("in a drain: %v", err)
		}
	})
}

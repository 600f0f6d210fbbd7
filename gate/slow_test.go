package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/config"
	"wssgate/files"
	"wssgate/listen"
)

// A start that hangs is abandoned shortly after its context ends, and not
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

// The gate is alive while its loop runs. A drain has its own deadline.
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

// A listener is missing if its folder hangs, and is opened when the folder
// answers again. The others serve in the meantime. All missing ones are shown.
func TestMissingListeners(t *testing.T) {
	dir := t.TempDir()
	hangs := filepath.Join(dir, "hangs")
	file := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[listen]\nwss = [\"127.0.0.1:0\", \"unix:%[1]s/a/wss\", \"unix:%[1]s/b/wss\"]\nadmin = \"unix:%[1]s/a/admin\"\n[upstream.a]\nnodes = [\"ws://127.0.0.1:1/\"]\n[certificates]\ndirectory = %[2]q\n", hangs, dir)
	if err := errors.Join(os.MkdirAll(hangs+"/a", 0o700), os.MkdirAll(hangs+"/b", 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	back := files.Stall(hangs)
	defer back()
	g, err := start(cfg, slog.New(slog.DiscardHandler), new(slog.LevelVar), Serving{Sockets: new(listen.Sockets)}, newConsole(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.stop() })
	if n := len(g.listeners); n != 1 || len(g.missing) != 3 {
		t.Errorf("%d listeners, missing %v; want 1 and 3", n, g.missing)
	}
	shown := g.console.describe().Missing
	if len(shown) != 3 || shown[0].Since.IsZero() || !strings.Contains(shown[0].Err, hangs) {
		t.Errorf("the page shows %+v", shown)
	}
	// A reload continues without them, too.
	var told error
	g.reload(func(err error) { told = err })
	g.reloaded(<-g.gathered)
	if told != nil || len(g.missing) != 3 || !g.missing[0].since.Equal(shown[0].Since) {
		t.Errorf("a reload: %v, missing %v", told, g.missing)
	}
	back()
	for len(g.missing) > 0 { // the jobs that hung come first
		g.openMissing()
		reloads := 0
		g.reload(func(err error) { // waits for its turn
			if reloads++; err != nil {
				t.Error(err)
			}
		})
		g.openedLate(<-g.late)
		for reloads == 0 { // one that fails takes two steps
			g.reloaded(<-g.gathered)
		}
	}
	if len(g.listeners) != 3 || g.console.ln == nil || len(g.console.describe().Missing) > 0 {
		t.Errorf("listeners %v", g.listeners)
	}
}

// A reload that failed because DNS did not answer is retried. One that failed
// because a name does not exist is not.
func TestReloadTriesAgain(t *testing.T) {
	g, _ := startSmall(t)
	for want, err := range map[bool]error{
		true:  fmt.Errorf("listen.wss: host name %q: %w", "x", &net.DNSError{IsTimeout: true}),
		false: fmt.Errorf("listen.wss: host name %q: %w", "x", &net.DNSError{IsNotFound: true}),
	} {
		g.reloading = []func(error){}
		g.reloaded(&gathered{err: err})
		if g.retry != want {
			t.Errorf("after %v: tried again %t; want %t", err, g.retry, want)
		}
	}
	g.tryReloadAgain()
	if g.retry {
		t.Error("it is tried twice")
	}
	g.reloaded(<-g.gathered)
	if g.retry || !g.console.lastReload() {
		t.Error("it is not taken")
	}
}

// A reload that is retried on each turn does not keep a missing listener from
// being opened, and comes after it.
func TestMissingBesideRetry(t *testing.T) {
	g, _ := startSmall(t)
	g.missing = []missing{{listen.Address{Key: "http", Addr: "127.0.0.1:0"}, errors.New("DNS"), time.Now()}}
	g.reloading = []func(error){}
	g.reloaded(&gathered{err: &net.DNSError{IsTimeout: true}})
	g.turned()
	g.turned() // DNS is slow
	if !g.opening || g.reloading != nil {
		t.Fatalf("opening %t, reloading %t", g.opening, g.reloading != nil)
	}
	g.openedLate(<-g.late)
	if len(g.missing) > 0 || g.reloading == nil {
		t.Fatalf("missing %v, reloading %t", g.missing, g.reloading != nil)
	}
	g.reloaded(<-g.gathered)
	if g.retry || g.reloading != nil || !g.console.lastReload() {
		t.Error("the reload is not taken")
	}
}

// A retried reload logs a repeated error once a minute and a new one at once.
// It logs all errors if someone requested the reload.
func TestRetryLogs(t *testing.T) {
	g, _ := startSmall(t)
	log := new(strings.Builder)
	synctest.Test(t, func(t *testing.T) {
		refused := func(port int) error {
			return fmt.Errorf("read udp 127.0.0.1:%d->127.0.0.1:53: read: connection refused", port)
		}
		gate := &gate{log: slog.New(slog.NewTextHandler(log, nil)), console: g.console, store: g.store}
		fails := func(want int, asked []func(error), errs ...error) {
			t.Helper()
			log.Reset()
			gate.reloading = asked
			gate.reloaded(&gathered{err: errors.Join(errs...)})
			if lines := strings.Count(log.String(), "msg=reload "); lines != want || strings.Count(log.String(), "nothing was changed") != min(want, 1) {
				t.Errorf("%v: logged %d times; want %d:\n%s", errs, lines, want, log)
			}
		}
		again := []func(error){}
		fails(1, again, refused(4711))
		time.Sleep(loopTurn)
		fails(0, again, refused(4712))
		fails(1, []func(error){func(error) {}}, refused(4713))
		fails(1, again, refused(4714), errors.New("another"))
		time.Sleep(repeatAfter)
		fails(2, again, refused(4715), errors.New("another"))
	})
}

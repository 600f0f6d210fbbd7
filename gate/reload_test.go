package gate

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/config"
	"wssgate/files"
	"wssgate/listen"
)

// startSmall starts a gate with the smallest configuration. It stops when the
// test ends.
func startSmall(t *testing.T) (g *gate, file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "config.toml")
	if err := os.Mkdir(filepath.Join(dir, "certs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("[upstream.a]\nnodes = \"ws://127.0.0.1:1/\"\n[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	g, err = start(cfg, log, new(slog.LevelVar), Serving{Sockets: new(listen.Sockets)}, newConsole(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.stop() })
	return g, file
}

// A panic while a reload reads becomes that reload's error, and does not affect
// the next reload.
func TestReloadPanics(t *testing.T) {
	g, _ := startSmall(t)
	reload := func() (err error) {
		g.reload(func(told error) { err = told })
		r := <-g.gathered
		g.reloaded(r)
		return err
	}
	acme := g.acme
	g.acme = nil // used when the certificates are prepared
	err := reload()
	g.acme = acme
	if err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("a reload that panics: %v", err)
	}
	if err := reload(); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// Requests during a reload are merged into one more reload, and all callers get
// its result.
func TestReloadsMerge(t *testing.T) {
	g, file := startSmall(t)
	answer := files.Stall(file)
	told := 0
	for range 50 {
		g.reload(func(err error) {
			if told++; err != nil {
				t.Error(err)
			}
		})
	}
	answer()
	reloads := 0
	for g.reloading != nil {
		g.reloaded(<-g.gathered)
		reloads++
	}
	if reloads != 2 || told != 50 {
		t.Errorf("%d reloads, of which %d were told; want 2 and 50", reloads, told)
	}
}

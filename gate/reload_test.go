package gate

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"wssgate/config"
	"wssgate/files"
	"wssgate/listen"
)

// However often a reload is asked for while one is under way, there is one more, and all
// are told.
func TestReloadsMerge(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
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
	g, err := start(cfg, log, new(slog.LevelVar), Serving{Sockets: new(listen.Sockets)}, newDesk(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
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

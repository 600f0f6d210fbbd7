package config

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// isNew lets the watch look, and returns whether it reports a change.
func isNew(w *Watch) bool {
	w.look()
	select {
	case <-w.Changed:
		return true
	default:
		return false
	}
}

// Every way of replacing the file's contents is reported once. Changes that
// leave the contents alone are not reported.
func TestConfigWatch(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	// This writes in place, without shortening the file: os.WriteFile first
	// empties the file, which is a separate change to an observer.
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(in(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(in(name), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(content)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(in(from), in(to)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) { // as Kubernetes does: create it aside, then rename it
		t.Helper()
		if err := os.Symlink(to, in(name+".tmp")); err != nil {
			t.Fatal(err)
		}
		move(name+".tmp", name)
	}
	// etc/config.toml → ..data/config.toml, ..data → ..1, and etc is a symlink too.
	write("real/..1/config.toml", "one")
	link("..1", "real/..data")
	link("..data/config.toml", "real/config.toml")
	link("real", "etc")

	w := NewWatch(in("etc/config.toml"), sha256.Sum256([]byte("one")), slog.New(slog.DiscardHandler))
	w.quiet = 10 * time.Millisecond
	w.Set(true)
	defer w.Set(false)
	told := func(what string) {
		t.Helper()
		select {
		case <-w.Changed:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s was not told", what)
		}
	}

	write("real/..1/config.toml", "two")
	told("a file written in place")

	write("real/..2/config.toml", "three")
	link("..2", "real/..data")
	told("a symlink on the way to the file that was moved")

	write("other/config.toml", "four")
	link("other", "etc")
	told("a folder's symlink that was moved")

	write("other/new", "five")
	move("other/new", "other/config.toml")
	told("a file renamed over the old one")

	write("another/config.toml", "six")
	if err := unix.Renameat2(unix.AT_FDCWD, in("another"), unix.AT_FDCWD, in("other"), unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	told("a folder that took the place of another")

	// The changes that are not reported come before those that are.
	write("other/config.toml", "six")
	if err := os.Chtimes(in("other/config.toml"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	write("other/beside", "x")
	write("other/config.toml", "seven")
	told("one more change")
	select {
	case <-w.Changed:
		t.Error("one change was told twice")
	default:
	}

	// A reload for another reason has read the contents.
	write("other/config.toml", "eight")
	w.Seen(w.files[0], sha256.Sum256([]byte("eight")))
	write("other/config.toml", "a tenth")
	told("what came after it")
	if isNew(w) {
		t.Error("a change was told, and is still new")
	}
}

// A watch that was turned off watches nothing, and can be turned on again.
func TestConfigWatchOffAndOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	w := NewWatch(file, sha256.Sum256(nil), slog.New(slog.DiscardHandler))
	for range 3 {
		w.Set(true)
		w.Set(true)
		w.Set(false)
		w.Set(false)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Set(true)
	defer w.Set(false)
	select {
	case <-w.Changed:
	case <-time.After(30 * time.Second):
		t.Fatal("what happened before it was turned on was not told")
	}
}

// A change between the reading of the file and the start of the watch is
// reported.
func TestConfigWatchChangedBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("watch_config = true\n[upstream.a]\nnodes = \"ws://127.0.0.1:1/\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWatch(cfg.File, cfg.Sum, slog.New(slog.DiscardHandler))
	if isNew(w) {
		t.Error("the file that was read is new")
	}
	w = NewWatch(cfg.File, cfg.Sum, slog.New(slog.DiscardHandler))
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !isNew(w) {
		t.Error("another file than the one that was read is not new")
	}
}

// A cycle of symlinks ends.
func TestFoldersOnACircle(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.Symlink(a, b); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b, a); err != nil {
		t.Fatal(err)
	}
	if got := slices.Compact(foldersOn(Place, a)); len(got) == 0 || len(got) > maxSymlinks+1 {
		t.Errorf("foldersOn of a circle = %q", got)
	}
}

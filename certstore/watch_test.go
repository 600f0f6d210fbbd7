package certstore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"wssgate/demo/minica"
	"wssgate/files"
	"wssgate/panics"
)

// watching opens a Store that watches d. It returns a function that waits until
// a condition holds; it checks the condition after each new table, without a
// clock.
func watching(t *testing.T, d dir) (*Store, func(what string, ok func() bool)) {
	t.Helper()
	published := make(chan struct{}, 1)
	handler := &tellingHandler{published}
	s, err := Open(Options{Directory: string(d), Watch: true, Log: slog.New(handler), quiet: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, func(what string, ok func() bool) {
		t.Helper()
		late := time.After(30 * time.Second)
		for !ok() {
			select {
			case <-published:
			case <-late:
				t.Fatalf("%s: not seen; problems %v", what, s.Problems())
			}
		}
	}
}

// A tellingHandler signals each log message: every new table is logged.
type tellingHandler struct{ published chan struct{} }

func (h *tellingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *tellingHandler) Handle(context.Context, slog.Record) error {
	select {
	case h.published <- struct{}{}:
	default:
	}
	return nil
}
func (h *tellingHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *tellingHandler) WithGroup(string) slog.Handler      { return h }

// The watcher notices what operators and their tools do to files, with the
// system's own events.
func TestWatchRealFiles(t *testing.T) {
	issue := func(name string) *minica.Pair { return ca.Issue(name) }
	serves := func(s *Store, name string, p *minica.Pair) func() bool {
		return func() bool {
			cert, err := s.GetCertificate(hello(name))
			return err == nil && cert != nil && string(cert.Certificate[0]) == string(p.Cert.Raw)
		}
	}
	parallel := func(name string, f func(t *testing.T, d dir)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait for the watcher
			f(t, newDir(t))
		})
	}
	parallel("new, changed, removed", func(t *testing.T, d dir) {
		s, await := watching(t, d)
		one, two := issue("example1.com"), issue("example1.com")
		d.put(t, "a.pem", one.PEM())
		await("new file", serves(s, "example1.com", one))
		d.put(t, "a.pem", two.PEM())
		await("changed file", serves(s, "example1.com", two))
		d.remove(t, "a.pem")
		await("removed file", func() bool { return !s.Has("example1.com") })
	})
	parallel("half written", func(t *testing.T, d dir) {
		one, two := issue("example1.com"), issue("example1.com")
		path := d.put(t, "a.pem", one.PEM())
		s, await := watching(t, d)
		data := two.PEM()
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		for _, part := range [][]byte{data[:0], data[:400], data[400:1000]} {
			out.Write(part)
			await("half of it", func() bool { return len(s.Problems()) == 1 && s.Problems()[0].Kept })
			if !serves(s, "example1.com", one)() {
				t.Error("the old one is gone while the new one is written")
			}
		}
		out.Write(data[1000:])
		await("the whole", serves(s, "example1.com", two))
		await("no problem any more", func() bool { return len(s.Problems()) == 0 })
	})
	parallel("Kubernetes", func(t *testing.T, d dir) {
		write := func(version string, p *minica.Pair) {
			d.put(t, "vhost1/.."+version+"/tls.crt", p.ChainPEM())
			d.put(t, "vhost1/.."+version+"/tls.key", p.KeyPEM())
			d.link(t, ".."+version, "vhost1/..data")
		}
		one, two, three := issue("example1.com"), issue("example1.com"), issue("example1.com")
		write("v1", one)
		d.link(t, "..data/tls.crt", "vhost1/tls.crt")
		d.link(t, "..data/tls.key", "vhost1/tls.key")
		s, await := watching(t, d)
		write("v2", two)
		d.remove(t, "vhost1/..v1")
		await("..data moved", serves(s, "example1.com", two))
		write("v3", three) // the old folder stays: only the link changes
		await("..data moved again", serves(s, "example1.com", three))
		if len(s.Problems()) > 0 {
			t.Errorf("problems: %v", s.Problems())
		}
	})
	parallel("projected volume", func(t *testing.T, d dir) {
		write := func(version string, p *minica.Pair) {
			d.put(t, ".."+version+"/vhost1/tls.crt", p.ChainPEM())
			d.put(t, ".."+version+"/vhost1/tls.key", p.KeyPEM())
			d.link(t, ".."+version, "..data")
		}
		one, two := issue("example1.com"), issue("example1.com")
		write("v1", one)
		d.link(t, "..data/vhost1", "vhost1")
		s, await := watching(t, d)
		write("v2", two) // the old folder stays: only the link changes
		await("..data moved", serves(s, "example1.com", two))
		d.remove(t, "..v1")
		write("v3", one)
		d.remove(t, "..v2")
		await("..data moved again", serves(s, "example1.com", one))
	})
	parallel("certbot", func(t *testing.T, d dir) {
		renew := func(n string, p *minica.Pair) {
			d.put(t, "archive/example1.com/fullchain"+n+".pem", p.ChainPEM())
			d.put(t, "archive/example1.com/privkey"+n+".pem", p.KeyPEM())
			d.link(t, "../../archive/example1.com/privkey"+n+".pem", "live/example1.com/privkey.pem")
			d.link(t, "../../archive/example1.com/fullchain"+n+".pem", "live/example1.com/fullchain.pem")
		}
		one, two, three := issue("example1.com"), issue("example1.com"), issue("example1.com")
		renew("1", one)
		s, await := watching(t, d)
		renew("2", two)
		await("links moved", serves(s, "example1.com", two))
		d.put(t, "archive/example1.com/fullchain2.pem", three.ChainPEM())
		d.put(t, "archive/example1.com/privkey2.pem", three.KeyPEM())
		await("what the links lead to changed", serves(s, "example1.com", three))
	})
	parallel("folders come and go", func(t *testing.T, d dir) {
		s, await := watching(t, d)
		one, two := issue("example1.com"), issue("example1.com")
		d.put(t, "a/b/x.pem", one.PEM())
		await("new folders", serves(s, "example1.com", one))
		d.remove(t, "a")
		await("folders removed", func() bool { return !s.Has("example1.com") })
		d.put(t, "a/b/x.pem", two.PEM())
		await("the same folders anew", serves(s, "example1.com", two))
		d.put(t, "a/b/x.pem", one.PEM())
		await("a change in them", serves(s, "example1.com", one))
		d.remove(t, "a") // and back before the next look
		d.put(t, "a/b/x.pem", two.PEM())
		await("the same folders, made anew at once", serves(s, "example1.com", two))
		d.put(t, "a/b/x.pem", one.PEM())
		await("a change in those", serves(s, "example1.com", one))
	})
	parallel("two links to one folder", func(t *testing.T, d dir) {
		one, two := issue("example1.com"), issue("example1.com")
		d.put(t, ".shared/x.pem", one.PEM())
		d.link(t, "../.shared", "a/link")
		d.link(t, "../.shared", "b/link")
		d.link(t, "../..", "b/c/round") // and one that forms a cycle
		s, await := watching(t, d)
		d.put(t, "b/c/y.pem", issue("example2.com").PEM())
		await("a change beside the round one", func() bool { return s.Has("example2.com") })
		if n := len(slices.Collect(s.Certificates())); n != 2 {
			t.Errorf("%d rows, want 2: %v", n, slices.Collect(s.Certificates()))
		}
		d.remove(t, "a")
		d.put(t, ".shared/x.pem", two.PEM())
		await("the other link", serves(s, "example1.com", two))
	})
	parallel("the directory itself is replaced", func(t *testing.T, d dir) {
		one, two, three := issue("example1.com"), issue("example1.com"), issue("example1.com")
		d.put(t, "v1/x.pem", one.PEM())
		d.put(t, "v2/x.pem", two.PEM())
		d.link(t, "v1", "certs")
		s, await := watching(t, dir(filepath.Join(string(d), "certs")))
		d.link(t, "v2", "certs")
		await("the link moved", serves(s, "example1.com", two))
		d.put(t, "v2/x.pem", three.PEM())
		await("a change where it leads", serves(s, "example1.com", three))
		d.remove(t, "certs")
		await("the link is gone", func() bool { return len(s.Problems()) == 1 })
		if !serves(s, "example1.com", three)() {
			t.Error("the certificates went with the directory")
		}
		d.link(t, "v1", "certs")
		await("it is back", serves(s, "example1.com", one))
	})
	parallel("folders are replaced as a whole", func(t *testing.T, d dir) {
		root := dir(filepath.Join(string(d), "top/above/certs"))
		const file = "a/b/x.pem"
		one, two := issue("example1.com"), issue("example1.com")
		root.put(t, file, one.PEM())
		s, await := watching(t, root)
		for _, what := range []string{"top/above/certs/a/b", "top/above/certs/a", "top/above/certs", "top/above", "top"} {
			rest, err := filepath.Rel(filepath.Join(string(d), what), filepath.Join(string(root), file))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(string(d), what)
			d.put(t, filepath.Join("new", rest), two.PEM())
			if err := errors.Join(os.Rename(path, filepath.Join(string(d), "gone")), os.Rename(filepath.Join(string(d), "new"), path)); err != nil {
				t.Fatal(err)
			}
			await(what+" is replaced", serves(s, "example1.com", two))
			root.put(t, file, one.PEM())
			await("a change in the new "+what, serves(s, "example1.com", one))
			d.remove(t, "gone")
			root.put(t, file, two.PEM())
			await("a change after the old "+what+" is removed", serves(s, "example1.com", two))
			one, two = two, one
		}
	})
	parallel("the folders above go and come back", func(t *testing.T, d dir) {
		root := dir(filepath.Join(string(d), "top/above/certs"))
		one, two := issue("example1.com"), issue("example1.com")
		root.put(t, "x.pem", one.PEM())
		s, await := watching(t, root)
		top, away := filepath.Join(string(d), "top"), filepath.Join(string(d), "away")
		if err := os.Rename(top, away); err != nil {
			t.Fatal(err)
		}
		await("the folder is gone", func() bool { return len(s.Problems()) == 1 })
		if !serves(s, "example1.com", one)() {
			t.Error("the certificates went with the directory")
		}
		dir(away).put(t, "above/certs/x.pem", two.PEM())
		if err := os.Rename(away, top); err != nil {
			t.Fatal(err)
		}
		await("it is back, with another certificate", serves(s, "example1.com", two))
		root.put(t, "x.pem", one.PEM())
		await("a change in it", serves(s, "example1.com", one))
		d.remove(t, "top")
		await("the folder is removed", func() bool { return len(s.Problems()) == 1 })
		if err := os.Mkdir(top, 0o700); err != nil { // one after the other
			t.Fatal(err)
		}
		root.put(t, "x.pem", two.PEM())
		await("it is made anew", serves(s, "example1.com", two))
	})
	parallel("links in the path are moved", func(t *testing.T, d dir) {
		one, two, three := issue("example1.com"), issue("example1.com"), issue("example1.com")
		d.put(t, "v1/above/certs/x.pem", one.PEM())
		d.put(t, "v2/above/certs/x.pem", two.PEM())
		d.link(t, "v1", "current")
		d.link(t, "../current/above", "etc/link")
		s, await := watching(t, dir(filepath.Join(string(d), "etc/link/certs")))
		d.link(t, "v2", "current")
		await("the link in the middle", serves(s, "example1.com", two))
		d.link(t, "../v1/above", "etc/link")
		await("the link at the top", serves(s, "example1.com", one))
		d.put(t, "v1/above/certs/x.pem", three.PEM())
		await("a change where it leads", serves(s, "example1.com", three))
	})
	parallel("another directory", func(t *testing.T, d dir) {
		s, await := watching(t, d)
		one, two := issue("example1.com"), issue("example1.com")
		next := newDir(t)
		if err := setDirectory(s, string(next), true); err != nil {
			t.Fatal(err)
		}
		next.put(t, "a.pem", one.PEM())
		await("a file in the new one", serves(s, "example1.com", one))
		d.put(t, "a.pem", two.PEM())
		if err := setDirectory(s, string(next), false); err != nil {
			t.Fatal(err)
		}
		if !serves(s, "example1.com", one)() {
			t.Error("the old directory still counts")
		}
		if err := setDirectory(s, string(next)+"/missing", true); err == nil {
			t.Error("a directory that is not there was taken")
		}
		if err := setDirectory(s, string(next), true); err != nil {
			t.Fatal(err)
		}
		next.put(t, "a.pem", two.PEM())
		await("watched again", serves(s, "example1.com", two))
	})
	parallel("closed", func(t *testing.T, d dir) {
		one := issue("example1.com")
		d.put(t, "a.pem", one.PEM())
		s, _ := watching(t, d)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !serves(s, "example1.com", one)() {
			t.Error("a closed Store does not answer")
		}
		if err := setDirectory(s, string(d), true); err != nil || s.watcher != nil {
			t.Errorf("setDirectory after Close: %v, watching %t", err, s.watcher != nil)
		}
	})
}

// A directory may be relative, and may be the working directory.
func TestWatchRelativeDirectory(t *testing.T) {
	d := newDir(t)
	t.Chdir(string(d))
	for _, relative := range []dir{".", "./certs"} {
		relative.put(t, "a.pem", ca.Issue("example1.com").PEM())
		s, await := watching(t, relative)
		next := ca.Issue("example1.com")
		relative.put(t, "a.pem", next.PEM())
		await(string(relative), func() bool {
			cert, err := s.GetCertificate(hello("example1.com"))
			return err == nil && string(cert.Certificate[0]) == string(next.Cert.Raw)
		})
		s.Close()
	}
}

// A panic while a change is read is counted as one of certificates. Everything
// is read again soon, and not only with the next poll.
func TestWatchPanics(t *testing.T) {
	d := newDir(t)
	one, two := ca.Issue("example1.com"), ca.Issue("example1.com")
	d.put(t, "a.pem", one.PEM())
	s, await := watching(t, d)
	was := slog.Default()
	slog.SetDefault(s.log) // panics are logged there
	defer slog.SetDefault(was)
	tree, _ := s.inUse()
	var reader *reader
	job := func(f func()) {
		t.Helper()
		if _, err := files.Do(t.Context(), tree.place, func() (struct{}, error) { f(); return struct{}{}, nil }); err != nil {
			t.Fatal(err)
		}
	}
	job(func() { reader, tree.reader = tree.reader, nil })
	before := panics.Counts()
	d.put(t, "a.pem", two.PEM())
	await("a panic", func() bool { return panics.Counts()["certificates"] > before["certificates"] })
	job(func() { tree.reader = reader })
	await("the change", func() bool {
		cert, err := s.GetCertificate(hello("example1.com"))
		return err == nil && string(cert.Certificate[0]) == string(two.Cert.Raw)
	})
	if n := panics.Counts()["files"] - before["files"]; n > 0 {
		t.Errorf("%d panics are counted as files'", n)
	}
}

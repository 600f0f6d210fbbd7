package certstore

import (
	"errors"
	"os"
	"testing"
)

// setDirectory calls Prepare and Commit.
func setDirectory(s *Store, dir string, watch bool) error {
	c, err := s.Prepare(dir, watch)
	if err == nil {
		c.Commit()
	}
	return err
}

func wantNames(t *testing.T, when string, v interface{ Has(string) bool }, want map[string]bool) {
	t.Helper()
	for name, want := range want {
		if got := v.Has(name); got != want {
			t.Errorf("%s: Has(%q) = %t; want %t", when, name, got, want)
		}
	}
}

// A Change takes effect as a whole for those who take its View. It includes all
// certificates installed while it was prepared. The previous View sees nothing
// of it, and nothing that follows.
func TestChange(t *testing.T) {
	first, second := newDir(t), newDir(t)
	first.put(t, "a.pem", ca.Issue("example1.com").PEM())
	second.put(t, "b.pem", ca.Issue("example2.com").PEM())
	s := first.open(t)
	before := s.View()

	c, err := s.Prepare(string(second), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(SourceACME, "acme1.test", ca.Issue("acme1.test").TLS()); err != nil {
		t.Fatal(err)
	}
	first.put(t, "c.pem", ca.Issue("example3.com").PEM())
	reload(t, s)
	if s.View() != before {
		t.Error("the View is another one before Commit")
	}
	wantNames(t, "prepared", before, map[string]bool{"example1.com": true, "example2.com": false, "example3.com": true, "acme1.test": true})

	after := c.Commit()
	if s.View() != after {
		t.Error("Commit's View is not the Store's")
	}
	if err := s.Install(SourceACME, "acme2.test", ca.Issue("acme2.test").TLS()); err != nil {
		t.Fatal(err)
	}
	s.Remove(SourceACME, "acme1.test")
	wantNames(t, "the View of before", before, map[string]bool{"example1.com": true, "example2.com": false, "acme1.test": true, "acme2.test": false})
	wantNames(t, "the View of after", after, map[string]bool{"example1.com": false, "example2.com": true, "acme1.test": false, "acme2.test": true})
	wantNames(t, "the Store", s, map[string]bool{"example1.com": false, "example2.com": true, "acme1.test": false, "acme2.test": true})
}

// New files in the current directory are part of a Change, too, if the
// directory is not watched.
func TestChangeSameDirectory(t *testing.T) {
	d := newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	s := d.open(t)
	d.put(t, "b.pem", ca.Issue("example2.com").PEM())

	c, err := s.Prepare(string(d), false)
	if err != nil {
		t.Fatal(err)
	}
	wantNames(t, "prepared", s, map[string]bool{"example1.com": true, "example2.com": false})
	c.Abandon()
	wantNames(t, "abandoned", s, map[string]bool{"example1.com": true, "example2.com": false})

	if c, err = s.Prepare(string(d), false); err != nil {
		t.Fatal(err)
	}
	before := s.View()
	after := c.Commit()
	wantNames(t, "the View of before", before, map[string]bool{"example1.com": true, "example2.com": false})
	wantNames(t, "the View of after", after, map[string]bool{"example1.com": true, "example2.com": true})
}

// A Change that is abandoned or fails leaves everything as it was, including
// the watcher.
func TestAbandon(t *testing.T) {
	d, other := newDir(t), newDir(t)
	d.put(t, "a.pem", ca.Issue("example1.com").PEM())
	other.put(t, "b.pem", ca.Issue("example2.com").PEM())
	s, await := watching(t, d)
	w := s.watcher
	for _, next := range []dir{other, d} {
		for _, watch := range []bool{true, false} {
			c, err := s.Prepare(string(next), watch)
			if err != nil {
				t.Fatal(err)
			}
			c.Abandon()
		}
	}
	if _, err := s.Prepare(string(other)+"/missing", true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Prepare = %v, want that it does not exist", err)
	}
	if s.watcher != w || s.tree.watcher.Load() != w {
		t.Error("another watcher is in use")
	}
	wantNames(t, "abandoned", s, map[string]bool{"example1.com": true, "example2.com": false})
	d.put(t, "c.pem", ca.Issue("example3.com").PEM())
	await("a new file", func() bool { return s.Has("example3.com") })
}

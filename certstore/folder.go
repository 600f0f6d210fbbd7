package certstore

import (
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"wssgate/files"
)

// folder lists the folder at path, and reads the changes in it and below it.
func (t *tree) folder(path string, link bool, depth int, deep bool) {
	f := t.folders[path]
	if f == nil {
		f = &folder{path: path, real: path, dirty: true}
		t.folders[path] = f
		t.aliases = nil
	}
	if f.place = t.place; path != t.root && len(t.points) > 0 {
		f.place = t.where(path)
	}
	f.busy = true
	defer func() { f.busy = false }()
	real, entries, err := t.entries(f, link)
	if real != "" && real != f.real {
		f.real = real
		t.aliases = nil
	}
	if err != nil {
		f.fail(err)
		return // its certificates stay: an unreadable folder does not show that they are gone
	}
	if err := t.emptied(f, len(entries)); err != nil {
		f.fail(err)
		return // like one that cannot be read
	}
	f.fail(nil)
	if t.seen[f.real] {
		entries = nil
	}
	t.seen[f.real] = true
	known := folder{subs: f.subs}
	f.subs = nil
	f.foreign, f.stray, f.more, f.tried, t.idleness = f.foreign[:0], 0, 0, 0, true
	t.wanted = t.wanted[:0]
	var links map[string]bool // those in f.subs that are links; few are
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") { // Kubernetes' ..data, and temporary files of editors and tools
			if e.IsDir() && !strings.HasPrefix(e.Name(), "..") {
				f.pass(passed{e.Name(), whyHidden, ""})
			}
			continue
		}
		if e.Name() == "lost+found" {
			f.pass(passed{e.Name(), whyLost, ""})
			continue // often only root may list it
		}
		link := e.Type()&fs.ModeSymlink != 0
		if t.isFolder(path, e) {
			sub := filepath.Join(path, e.Name())
			if have := t.folders[sub]; have != nil {
				sub = have.path // the same string
			}
			f.subs = append(f.subs, sub)
			if link {
				if links == nil {
					links = map[string]bool{}
				}
				links[sub] = true
			}
		} else if isWanted(e.Name()) || isNamedFreely(e.Name()) {
			t.wanted = append(t.wanted, e.Name()) // in the order of entries
			if link {
				t.file(f, e.Name(), &t.way)
			} else {
				t.file(f, e.Name(), nil)
			}
		} else {
			f.pass(passed{name: e.Name()})
		}
	}
	before := len(f.files)
	f.files = slices.DeleteFunc(f.files, func(have file) bool {
		_, listed := slices.BinarySearch(t.wanted, have.name)
		return !listed
	})
	f.dirty = f.dirty || len(f.files) < before
	slices.Sort(f.subs)
	if live := filepath.Join(path, "live"); f.has(live) && f.has(filepath.Join(path, "archive")) {
		f.passSubs(whyCertbot, live)
		f.subs = []string{live} // the others hold the targets of its links, and older certificates
	}
	if depth == 0 {
		f.passSubs(whyDeep, "")
		f.subs = nil
	}
	for i, sub := range f.subs {
		if t.folders[sub] == nil && len(t.folders) >= t.limit {
			f.subs, t.full = f.subs[:i:i], true
			return
		}
		if deep || !known.has(sub) {
			t.folder(sub, links[sub], depth-1, true)
		}
	}
}

// errEmptied is the error of a folder that has become another one without anything in it.
var errEmptied = advice{
	errors.New("is empty, and is not the folder that was read before"),
	"is a volume not mounted? Mount it or put the files there. If there should be none, remove the folder or restart wssgate",
}

// emptied is suddenlyEmpty for a folder below the root, which has n entries.
func (t *tree) emptied(f *folder, n int) error {
	if f.path == t.root {
		return nil
	}
	info, err := in(t, f.place, f.path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(f.path) })
	if err != nil {
		return err
	}
	switch is := identityOf(info); {
	case n > 0:
		f.filled = is
	case f.filled != identity{} && f.filled != is:
		return errEmptied
	}
	return nil
}

// entries watches a folder and lists it. real is its path without symlinks, or
// empty if that is unknown.
func (t *tree) entries(f *folder, link bool) (real string, entries []fs.DirEntry, err error) {
	if f.place == t.place {
		if real, err = t.resolve(f.path, link); err != nil {
			real = ""
		}
		w, path, watched := t.watcher.Load(), f.path, cmp.Or(real, f.real)
		entries, err = in(t, t.place, path, func(p *files.Place) ([]fs.DirEntry, error) {
			if w != nil {
				p.Call(watched, func() error { w.Add(watched); return nil })
			}
			return p.ReadDir(path)
		})
		return real, entries, err
	}
	type listing struct {
		real    string
		entries []fs.DirEntry
	}
	w := t.watcher.Load()
	path := f.path
	l, err := in(t, f.place, path, func(p *files.Place) (l listing, err error) {
		if l.real, err = p.EvalSymlinks(path); err == nil && w != nil {
			p.Call(l.real, func() error { w.Add(l.real); return nil })
		}
		l.entries, err = p.ReadDir(path)
		return l, err
	})
	return l.real, l.entries, err
}

// resolve returns the path of a folder without symlinks. If only the last part
// of the path is a link, the folder above is enough to find it.
func (t *tree) resolve(path string, link bool) (string, error) {
	if above := t.folders[filepath.Dir(path)]; above != nil && !link && path != t.root {
		return filepath.Join(above.real, filepath.Base(path)), nil
	}
	return t.evalSymlinks(path)
}

func (t *tree) isFolder(path string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	if isWanted(e.Name()) {
		return false
	}
	path = filepath.Join(path, e.Name())
	info, err := in(t, t.where(path), path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(path) })
	if errors.Is(err, files.ErrHangs) {
		return true // its error reports that it cannot be listed
	}
	if err != nil {
		return t.folders[path] != nil // as above, and its certificates stay
	}
	return info.IsDir()
}

// passSubs records that the folders in f are not read, except for one.
func (f *folder) passSubs(why, except string) {
	for _, sub := range f.subs {
		if sub != except {
			f.pass(passed{filepath.Base(sub), why, ""})
		}
	}
}

func (t *tree) isSymlink(path string) bool {
	info, err := t.lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func (t *tree) isDir(path string) bool {
	info, err := in(t, t.where(path), path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(path) })
	return err == nil && info.IsDir()
}

package certstore

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unique"

	"wssgate/files"
)

// all reads everything that has changed, and everything bad.
func (t *tree) all() error {
	err := t.scan()
	t.bad()
	clear(t.late) // entries of vanished files
	return err
}

// scan reads everything in the tree that has changed. It fails only if the root
// cannot be listed; the tree then provides the same as before.
func (t *tree) scan() error {
	if w := t.watcher.Load(); w != nil {
		w.Begin()
		defer w.End()
		t.guarded = map[string]bool{}
		for _, entry := range t.ancestry() { // from the top, so that no new entry is missed
			t.guarded[entry] = true
			t.place.Call(entry, func() error { w.Guard(entry); return nil })
		}
	}
	t.reader.issuers = map[string]unique.Handle[issuer]{}
	t.full = false
	before := t.tried
	t.tried = map[string]tried{}
	t.triedBefore = before
	defer func() { t.triedBefore = nil }()
	t.mapOut()
	t.list(t.root, true)
	t.orphaned = false // all of them have just been read
	return t.folders[t.root].err
}

// changed reads the files and folders that events for these paths may concern.
// The paths are without symlinks, because folders are watched by such paths;
// the tree's own paths may contain links.
func (t *tree) changed(paths map[string]bool) error {
	relist := map[string]bool{} // by folder; true: including all below it
	t.leads = map[string]*files.Place{}
	for path := range paths {
		if path == t.root || path == t.folders[t.root].real || t.guarded[path] {
			return t.scan()
		}
		dir, name := filepath.Split(path)
		for _, f := range t.at(filepath.Clean(dir)) {
			switch {
			case f.place != t.place:
				relist[f.path] = true
			case isWanted(name):
				t.entry(f, name)
			case strings.HasPrefix(name, "."):
				// Kubernetes swaps the link ..data, which all others lead
				// through.
				if t.isSymlink(path) {
					relist[f.path] = true
				}
			case f.has(filepath.Join(f.path, name)) || t.isDir(path):
				if !relist[f.path] {
					relist[f.path] = false
				}
				relist[filepath.Join(f.path, name)] = true // it may have been created again
			case isNamedFreely(name):
				t.entry(f, name)
			}
		}
	}
	t.linked(paths)
	for _, path := range slices.Sorted(maps.Keys(relist)) { // a folder comes before its subfolders
		if t.folders[path] != nil {
			t.list(path, relist[path])
		}
	}
	if t.orphaned {
		return t.scan()
	}
	return nil
}

// linked reads the links into the folders of the paths, such as certbot's
// archive.
func (t *tree) linked(paths map[string]bool) {
	dirs := make(map[string]bool, len(paths))
	for path := range paths {
		dirs[filepath.Dir(path)] = true
	}
	for _, f := range t.folders {
		if !f.links {
			continue
		}
		var names []string // entry may remove files
		for i := range f.files {
			if dirs[f.files[i].target] {
				names = append(names, f.files[i].name)
			}
		}
		for _, name := range names {
			t.entry(f, name)
		}
	}
}

// bad reads the files again that could not be used.
func (t *tree) bad() {
	for _, f := range t.folders {
		if f.err != nil || len(f.faults) > 0 && f.place != t.place {
			t.list(f.path, false)
			continue
		}
		for _, fault := range f.faults {
			name := filepath.Base(fault.path)
			if !f.known(name).fresh { // otherwise it was read just now
				t.entry(f, name)
			}
		}
	}
}

// entry reads one name of a folder. The name may have become a folder itself.
func (t *tree) entry(f *folder, name string) {
	if f.place != t.place {
		t.list(f.path, false)
		return
	}
	path := filepath.Join(f.path, name)
	info, err := t.lstat(path)
	if errors.Is(err, files.ErrHangs) {
		t.settle(f, name, sight{}, err)
		return
	}
	if err != nil {
		if t.isDir(f.path) { // a vanished folder says nothing about its files
			f.drop(name)
		}
		return
	}
	if info.IsDir() {
		t.list(f.path, false)
		return
	}
	var last *way
	if info.Mode()&fs.ModeSymlink != 0 {
		last = new(way)
	}
	t.file(f, name, last)
}

// list reads what has changed in a folder. With deep, it includes all folders
// below, not only new ones.
func (t *tree) list(path string, deep bool) {
	t.seen, t.way = map[string]bool{}, way{}
	for _, f := range t.folders {
		if path != t.root && f.path != path && !strings.HasPrefix(f.path, path+string(filepath.Separator)) {
			t.seen[f.real] = true
		}
	}
	depth := maxDepth
	for p := path; p != t.root && depth > 0; p = filepath.Dir(p) {
		depth--
	}
	t.folder(path, true, depth, deep)
	t.seen = nil
	t.prune()
}

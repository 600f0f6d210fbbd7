package certstore

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"wssgate/files"
)

// changed reads again what the events named by paths may have been about, and
// nothing else. Paths are of the file system, without symlinks, as the folders
// are watched; the tree's own may lead there by links.
func (t *tree) changed(paths map[string]bool) error {
	relist := map[string]bool{} // by folder; true: and all below it
	t.leads = map[string]*files.Place{}
	for path := range paths {
		if path == t.root || path == t.folders[t.root].real {
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
				// Kubernetes swaps a link ..data that all others lead through.
				if t.isSymlink(path) {
					relist[f.path] = true
				}
			case f.has(filepath.Join(f.path, name)) || t.isDir(path):
				if !relist[f.path] {
					relist[f.path] = false
				}
				relist[filepath.Join(f.path, name)] = true // it may have been made anew
			}
		}
	}
	t.linked(paths)
	for _, path := range slices.Sorted(maps.Keys(relist)) { // a folder before those in it
		if t.folders[path] != nil {
			t.list(path, relist[path])
		}
	}
	if t.orphaned {
		return t.scan()
	}
	return nil
}

// at returns the folders that really are at a path: links may lead several to
// one place.
func (t *tree) at(real string) []*folder {
	if t.aliases == nil {
		t.aliases = map[string][]*folder{}
		for _, f := range t.folders {
			if f.real != f.path {
				t.aliases[f.real] = append(t.aliases[f.real], f)
			}
		}
	}
	if f := t.folders[real]; f != nil && f.real == real {
		return append([]*folder{f}, t.aliases[real]...)
	}
	return t.aliases[real]
}

// entry reads one name of a folder, which may have become a folder itself.
func (t *tree) entry(f *folder, name string) {
	if f.place != t.place {
		t.list(f.path, false)
		return
	}
	path := filepath.Join(f.path, name)
	info, err := t.place.Lstat(path)
	if err != nil {
		if t.isDir(f.path) { // a folder that went away proves nothing about its files
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

// linked reads again the files that are links to somewhere in the folders of
// the paths, such as certbot's archive.
func (t *tree) linked(paths map[string]bool) {
	dirs := make(map[string]bool, len(paths))
	for path := range paths {
		dirs[filepath.Dir(path)] = true
	}
	for _, f := range t.folders {
		if !f.links {
			continue
		}
		var names []string // entry may drop files
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

// bad reads again what could not be used.
func (t *tree) bad() {
	for _, f := range t.folders {
		if f.err != nil || len(f.faults) > 0 && f.place != t.place {
			t.list(f.path, false)
			continue
		}
		for _, fault := range f.faults {
			t.entry(f, filepath.Base(fault.path))
		}
	}
}

func (t *tree) isSymlink(path string) bool {
	info, err := t.place.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func (t *tree) isDir(path string) bool {
	info, err := in(t, t.where(path), path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(path) })
	return err == nil && info.IsDir()
}

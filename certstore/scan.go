package certstore

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxDepth   = 8               // folders below the directory
	maxFolders = 1 << 16         // in all; a directory such as "/" would not end
	settled    = 2 * time.Second // a file changed since may change again without a new stamp: clocks of file systems are coarse
)

// A tree is the directory as it was last read. It is not safe for concurrent
// use; Store.scan guards it.
type tree struct {
	root     string
	folders  map[string]*folder // by path
	limit    int                // of folders
	full     bool               // there are more than that
	reader   *reader
	buf      bytes.Buffer
	seen     map[string]bool      // resolved folders of this scan: links may go round
	orphaned bool                 // a folder went away that others were links to: those have to be read now
	pruned   bool                 // folders went away since the last collect
	byReal   map[string][]*folder // see folderIndex; nil when folders have changed
	watcher  *watcher             // told of each folder before it is listed; may be nil
}

// A folder is the unit in which leaves meet their keys.
type folder struct {
	path   string
	real   string           // path without symlinks: what has to be watched
	files  map[string]*file // by base name
	subs   []string         // paths of the folders in it, sorted
	err    error            // why it could not be listed; the rest is then as it was
	links  bool             // some file is a link to another folder
	dirty  bool             // out is older than files
	out    []*certificate   // what it gives
	faults []fault
}

// A file is what was last read from one name in a folder.
type file struct {
	stamp   stamp
	young   bool   // so fresh when it was read that the stamp is not to be trusted
	sum     uint64 // of its bytes
	target  string // where the symlink led when it last led anywhere; else empty
	content *content
	err     error // instead of content; does not name the file
}

// A stamp tells without reading that a file is not as it was.
type stamp struct {
	modified, changed, size int64
	inode                   uint64
	mode                    fs.FileMode
}

var seed = maphash.MakeSeed()

func newTree(root string) *tree {
	return &tree{root: filepath.Clean(root), folders: map[string]*folder{}, limit: maxFolders, reader: newReader()}
}

// scan reads what changed anywhere in the tree. It fails only where the root
// itself cannot be listed; what the tree gives is as before then.
func (t *tree) scan() error {
	if t.watcher != nil {
		t.watcher.begin()
		defer t.watcher.end()
		t.watcher.add(filepath.Dir(t.root)) // where the root itself may be replaced
	}
	t.reader.issuers = map[string]*issuer{}
	t.full = false
	t.list(t.root, true)
	t.orphaned = false // all were read just now
	return t.folders[t.root].err
}

// list reads what changed in a folder; deep says whether in all folders below
// it as well, or only in those that are new.
func (t *tree) list(path string, deep bool) {
	t.seen = map[string]bool{}
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
	t.prune()
}

// prune forgets the folders that no other lists any more.
func (t *tree) prune() {
	index := t.folderIndex()
	for path, f := range t.folders {
		if !t.reachable(path) {
			if t.watcher != nil {
				t.watcher.forget(f.real)
			}
			if len(index[f.real]) > 1 {
				t.orphaned = true
			}
			delete(t.folders, path)
			t.pruned, t.byReal = true, nil
		}
	}
}

// reachable reports whether the folder is still listed by the one above it.
func (t *tree) reachable(path string) bool {
	for path != t.root {
		above := t.folders[filepath.Dir(path)]
		if above == nil || !above.has(path) {
			return false
		}
		path = above.path
	}
	return true
}

// has reports whether the folder at path is one of those in f.
func (f *folder) has(path string) bool {
	_, ok := slices.BinarySearch(f.subs, path)
	return ok
}

// folder lists the folder at path and reads what changed in it and below.
func (t *tree) folder(path string, link bool, depth int, deep bool) {
	f := t.folders[path]
	if f == nil {
		f = &folder{path: path, real: path, files: map[string]*file{}, dirty: true}
		t.folders[path] = f
		t.byReal = nil
	}
	if real, err := t.resolve(path, link); err == nil && real != f.real {
		f.real = real
		t.byReal = nil
	}
	if t.watcher != nil {
		t.watcher.add(f.real)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		f.fail(err)
		return // what it gave stays: a folder that cannot be read proves nothing
	}
	f.fail(nil)
	if t.seen[f.real] {
		entries = nil
	}
	t.seen[f.real] = true
	known := folder{subs: f.subs}
	f.subs = nil
	listed := make(map[string]bool, len(entries))
	links := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // Kubernetes' ..data, editors' and tools' temporary files
		}
		link := e.Type()&fs.ModeSymlink != 0
		if t.isFolder(path, e) {
			sub := filepath.Join(path, e.Name())
			f.subs = append(f.subs, sub)
			links[sub] = link
		} else if isWanted(e.Name()) {
			listed[e.Name()] = true
			t.file(f, e.Name(), link)
		}
	}
	for name := range f.files {
		if !listed[name] {
			f.drop(name)
		}
	}
	f.subs = withoutArchive(path, f.subs)
	slices.Sort(f.subs)
	if depth == 0 {
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

// resolve returns the path of a folder without symlinks. Only where its last
// part is a link does that take more than the folder above.
func (t *tree) resolve(path string, link bool) (string, error) {
	if above := t.folders[filepath.Dir(path)]; above != nil && !link && path != t.root {
		return filepath.Join(above.real, filepath.Base(path)), nil
	}
	return filepath.EvalSymlinks(path)
}

func (f *folder) fail(err error) {
	if (err == nil) != (f.err == nil) {
		f.dirty = true
	}
	f.err = err
}

func (f *folder) drop(name string) {
	if f.files[name] != nil {
		delete(f.files, name)
		f.dirty = true
	}
}

func (t *tree) isFolder(path string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	if isWanted(e.Name()) {
		return false
	}
	info, err := os.Stat(filepath.Join(path, e.Name()))
	return err == nil && info.IsDir()
}

// withoutArchive leaves only live of the folders that certbot has: the others
// hold what live links to, and what it has served before.
func withoutArchive(path string, subs []string) []string {
	live := filepath.Join(path, "live")
	if slices.Contains(subs, live) && slices.Contains(subs, filepath.Join(path, "archive")) {
		return []string{live}
	}
	return subs
}

// isWanted goes by the end of a name.
func isWanted(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".pem", ".crt", ".cer", ".cert", ".key", ".ocsp":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// fileKind is what a message calls a file of this name.
func fileKind(name string) string {
	switch {
	case strings.HasSuffix(name, ".key"), strings.HasPrefix(name, "privkey"):
		return "private key"
	case strings.HasSuffix(name, ".ocsp"):
		return "OCSP response"
	}
	return "certificate"
}

// file reads one file of f where it is not as it was.
func (t *tree) file(f *folder, name string, link bool) {
	path := filepath.Join(f.path, name)
	target := ""
	if link {
		target, _ = filepath.EvalSymlinks(path)
		if dir := filepath.Dir(target); target != "" && t.watcher != nil {
			t.watcher.add(dir)
		}
		f.links = true
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err != nil { // not even a link that leads nowhere
			f.drop(name)
			return
		}
	}
	have := f.files[name]
	if have == nil {
		have = &file{}
		f.files[name] = have
		f.dirty = true
	}
	if target != "" {
		have.target = target
	}
	if err != nil {
		have.set(f, nil, plainError(err))
		have.stamp = stamp{}
		return
	}
	now := stampOf(info)
	if now == have.stamp && !have.young {
		return
	}
	have.stamp = now
	have.young = time.Since(time.Unix(0, max(now.modified, now.changed))) < settled
	if !info.Mode().IsRegular() {
		have.set(f, nil, errors.New("is no regular file"))
		return
	}
	if err := t.read(path); err != nil {
		have.set(f, nil, plainError(err))
		have.stamp = stamp{}
		return
	}
	sum := maphash.Bytes(seed, t.buf.Bytes())
	if sum == have.sum && have.content != nil {
		return
	}
	have.sum = sum
	if filepath.Ext(name) == ".ocsp" {
		have.set(f, &content{ocsp: bytes.Clone(t.buf.Bytes())}, nil)
		return
	}
	c, err := t.reader.parse(path, t.buf.Bytes())
	have.set(f, c, err)
}

func (have *file) set(f *folder, c *content, err error) {
	if err != nil && have.err != nil && err.Error() == have.err.Error() {
		return
	}
	have.content, have.err = c, err
	f.dirty = true
}

// read fills t.buf with the file, whatever size it claims to have.
func (t *tree) read(path string) error {
	t.buf.Reset()
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := t.buf.ReadFrom(io.LimitReader(in, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return err
}

// plainError drops the path, which every message names once already.
func plainError(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// collect pairs the folders that changed and returns what the whole tree
// gives, and whether that may be something else than before.
func (t *tree) collect(now time.Time) (all []*certificate, faults []fault, changed bool) {
	n := 0
	changed, t.pruned = t.pruned, false
	for _, f := range t.folders {
		if f.dirty || f.hasKept() {
			f.pair(now)
			f.dirty, changed = false, true
		}
		n += len(f.out)
	}
	all = make([]*certificate, 0, n)
	for _, f := range t.folders {
		all = append(all, f.out...)
		faults = append(faults, f.faults...)
		if f.err != nil {
			faults = append(faults, fault{f.path, fmt.Errorf("folder %q: %w", f.path, plainError(f.err)), len(f.out) > 0})
		}
	}
	if t.full {
		faults = append(faults, fault{t.root, fmt.Errorf("folder %q: more than %d folders in it, the rest is not read; is it the right one?", t.root, t.limit), false})
	}
	return all, faults, changed
}

func (f *folder) hasKept() bool {
	for _, fault := range f.faults {
		if fault.kept {
			return true
		}
	}
	return false
}

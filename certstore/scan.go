package certstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"wssgate/files"
	"wssgate/watch"
)

const (
	maxDepth   = 8       // folders below the directory
	maxFolders = 1 << 16 // in all; a directory such as "/" would not end
	maxNames   = 64      // of files that many folders have, such as fullchain.pem
)

// A tree is the directory as it was last read. It belongs to the job that its
// place does, but for what is said to be anybody's.
type tree struct {
	root     string                        // anybody's
	place    *files.Place                  // anybody's
	have     atomic.Pointer[harvest]       // anybody's: what the last job that came to its end has left
	done     atomic.Bool                   // anybody's: a job has come to its end
	watcher  atomic.Pointer[watch.Watcher] // anybody's: told of each folder before it is listed; may be nil
	folders  map[string]*folder            // by path
	limit    int                           // of folders
	full     bool                          // there are more than that
	reader   *reader
	names    map[string]string // see sameName
	buf      bytes.Buffer
	way      way                  // of the last link that list has seen
	wanted   []string             // for folder, which uses it again and again
	seen     map[string]bool      // resolved folders of this scan: links may go round
	orphaned bool                 // a folder went away that others were links to: those have to be read now
	pruned   bool                 // folders went away since the last collect
	aliases  map[string][]*folder // see at; nil when folders have changed

	// See elsewhere.go.
	log      *slog.Logger
	ctx      context.Context // anybody's: ends with leave
	cancel   context.CancelFunc
	again    func(job func() error)  // anybody's: has a job done later, and its results published
	realRoot string                  // root without links
	mount    string                  // that root is in
	points   map[string]bool         // mount points
	leads    map[string]*files.Place // by path; of this scan
	mu       sync.Mutex
	others   map[string]*files.Place // anybody's, with mu: by mount point
	left     bool                    // anybody's, with mu
	awaited  map[*files.Place]bool
}

// A folder is the unit in which leaves meet their keys.
type folder struct {
	path   string
	real   string // path without symlinks: what has to be watched
	place  *files.Place
	busy   bool // it is being listed
	files  fileList
	subs   []string       // paths of the folders in it, sorted
	err    error          // why it could not be listed; the rest is then as it was
	links  bool           // some file is a link to another folder
	dirty  bool           // out is older than files
	out    []*certificate // what it gives
	faults []fault
}

// A harvest is what a tree gives. It never changes.
type harvest struct {
	all    []*certificate
	faults []fault
}

func newTree(root string, log *slog.Logger) *tree {
	root = filepath.Clean(root)
	t := &tree{root: root, place: files.At("certificates", root, log), folders: map[string]*folder{}, limit: maxFolders,
		reader: newReader(), names: map[string]string{}, log: log, others: map[string]*files.Place{}, awaited: map[*files.Place]bool{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.have.Store(new(harvest))
	return t
}

// do has the tree's place do a job on it, and puts what the tree gives then where
// everybody finds it; where the job hangs or is slow, what the tree gives until there.
// Then, which may be nil, comes after both. The job's error comes back; files.Do has the
// others.
func (t *tree) do(ctx context.Context, job func() error, then func()) error {
	whole, part := t.job(job, then)
	_, err := files.DoInParts(ctx, t.place, whole, part)
	return err
}

// doLater is do for whom nobody waits.
func (t *tree) doLater(job func() error, then func()) {
	whole, _ := t.job(job, then)
	files.Await(t.ctx, t.place, whole)
}

func (t *tree) job(job func() error, then func()) (whole func() (struct{}, error), part func()) {
	part = func() {
		if all, faults, changed := t.collect(time.Now()); changed {
			t.have.Store(&harvest{all, faults})
		}
		if then != nil {
			then()
		}
	}
	return func() (struct{}, error) {
		err := job()
		t.done.Store(true)
		part()
		return struct{}{}, err
	}, part
}

// watch has a folder watched from now on.
func (t *tree) watch(path string) {
	if w := t.watcher.Load(); w != nil {
		t.place.Call(path, func() error { w.Add(path); return nil })
	}
}

// all reads what changed anywhere, and what is bad whether it changed or not.
func (t *tree) all() error {
	err := t.scan()
	t.bad()
	return err
}

// scan reads what changed anywhere in the tree. It fails only where the root
// itself cannot be listed; what the tree gives is as before then.
func (t *tree) scan() error {
	if w := t.watcher.Load(); w != nil {
		w.Begin()
		defer w.End()
		t.watch(filepath.Dir(t.root)) // where the root itself may be replaced
	}
	t.reader.issuers = map[string]unique.Handle[issuer]{}
	t.full = false
	t.mapOut()
	t.list(t.root, true)
	t.orphaned = false // all were read just now
	return t.folders[t.root].err
}

// list reads what changed in a folder; deep says whether in all folders below
// it as well, or only in those that are new.
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

// prune forgets the folders that no other lists any more.
func (t *tree) prune() {
	before := len(t.folders)
	for path, f := range t.folders {
		if !t.reachable(path) {
			if w := t.watcher.Load(); w != nil {
				w.Forget(f.real)
			}
			if len(t.at(f.real)) > 1 {
				t.orphaned = true
			}
			delete(t.folders, path)
		}
	}
	if len(t.folders) < before {
		t.pruned, t.aliases = true, nil
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
		return // what it gave stays: a folder that cannot be read proves nothing
	}
	f.fail(nil)
	if t.seen[f.real] {
		entries = nil
	}
	t.seen[f.real] = true
	known := folder{subs: f.subs}
	f.subs = nil
	t.wanted = t.wanted[:0]
	var links map[string]bool // of f.subs; few folders are
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // Kubernetes' ..data, editors' and tools' temporary files
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
		} else if isWanted(e.Name()) {
			t.wanted = append(t.wanted, e.Name()) // in order, as entries are
			if link {
				t.file(f, e.Name(), &t.way)
			} else {
				t.file(f, e.Name(), nil)
			}
		}
	}
	before := len(f.files)
	f.files = slices.DeleteFunc(f.files, func(have file) bool {
		_, listed := slices.BinarySearch(t.wanted, have.name)
		return !listed
	})
	f.dirty = f.dirty || len(f.files) < before
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

// entries has a folder watched, and lists it. Real is where it is without symlinks;
// empty: that is not known.
func (t *tree) entries(f *folder, link bool) (real string, entries []fs.DirEntry, err error) {
	if f.place == t.place {
		if real, err = t.resolve(f.path, link); err != nil {
			real = ""
		}
		t.watch(cmp.Or(real, f.real))
		entries, err = t.place.ReadDir(f.path)
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

// resolve returns the path of a folder without symlinks. Only where its last
// part is a link does that take more than the folder above.
func (t *tree) resolve(path string, link bool) (string, error) {
	if above := t.folders[filepath.Dir(path)]; above != nil && !link && path != t.root {
		return filepath.Join(above.real, filepath.Base(path)), nil
	}
	return t.place.EvalSymlinks(path)
}

func (f *folder) fail(err error) {
	if (err == nil) != (f.err == nil) {
		f.dirty = true
	}
	f.err = err
}

func (f *folder) drop(name string) {
	if i, ok := f.files.find(name); ok {
		f.files = slices.Delete(f.files, i, i+1)
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
	path = filepath.Join(path, e.Name())
	info, err := in(t, t.where(path), path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(path) })
	if errors.Is(err, files.ErrHangs) {
		return true // it says that it can't be listed
	}
	if err != nil {
		return t.folders[path] != nil // it says why it can't be listed, and keeps what it gave
	}
	return info.IsDir()
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

// collect pairs the folders that changed and returns what the whole tree
// gives, and whether that may be something else than before.
func (t *tree) collect(now time.Time) (all []*certificate, faults []fault, changed bool) {
	n := 0
	changed, t.pruned = t.pruned, false
	for _, f := range t.folders {
		if f.dirty || f.hasKept() { // what is kept may have ended meanwhile
			before := f.out
			f.pair(now)
			changed = changed || f.dirty || !sameSet(before, f.out)
			f.dirty = false
			if f.busy { // what seems to be missing may be there
				f.faults, f.dirty = nil, true
			}
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
		faults = append(faults, fault{t.root, fmt.Errorf("folder %q: contains more than %d folders, and the rest is not read; is it the right one?", t.root, t.limit), false})
	}
	return all, faults, changed
}

// sameSet reports whether two lists have the same certificates, in any order.
func sameSet(a, b []*certificate) bool {
	if len(a) != len(b) {
		return false
	}
	in := make(map[*certificate]bool, len(a))
	for _, c := range a {
		in[c] = true
	}
	return !slices.ContainsFunc(b, func(c *certificate) bool { return !in[c] })
}

func (f *folder) hasKept() bool {
	for _, fault := range f.faults {
		if fault.kept {
			return true
		}
	}
	return false
}

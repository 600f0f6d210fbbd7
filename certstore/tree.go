package certstore

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/files"
	"wssgate/panics"
	"wssgate/watch"
)

const (
	maxDepth   = 8       // folders below the directory
	maxFolders = 1 << 16 // in all; a directory such as "/" would take too long
	maxVerify  = 256     // leaves verified without a particular reason; 50 to 500 µs each
	maxNames   = 64      // file names that many folders share, such as fullchain.pem
)

// A tree is the directory as it was last read. Only the job that its Place runs
// may use it, except for fields marked "shared", which any goroutine may use.
type tree struct {
	root        string                        // shared
	place       *files.Place                  // shared
	have        atomic.Pointer[harvest]       // shared: the result of the last job that ended
	done        atomic.Bool                   // shared: one job has ended
	ignored     atomic.Pointer[ignored]       // shared: of the last job; nil: nothing
	watcher     atomic.Pointer[watch.Watcher] // shared: receives each folder before it is listed; may be nil
	folders     map[string]*folder            // by path
	limit       int                           // of folders
	full        bool                          // the limit has been exceeded
	verify      int                           // see judge
	round       uint32                        // of judge
	opened      bool                          // the result of the first job has been collected
	seenAs      fs.FileInfo                   // the root when it was last read
	filled      fs.FileInfo                   // the root when it last held certificates; see suddenlyEmpty
	reader      *reader
	names       map[string]string    // see sameName
	buf         *bytes.Buffer        // for one file at a time
	tried       map[string]tried     // files that have no extension and are not PEM, by path
	ring        map[publicID]located // see keyring; nil: not needed yet
	way         way                  // of the last link that list has seen
	wanted      []string             // reused by folder
	seen        map[string]bool      // resolved folders of this scan: links may form a cycle
	triedBefore map[string]tried     // tried as it was before the current scan
	orphaned    bool                 // the target of other folders' links disappeared: read those folders now
	pruned      bool                 // folders disappeared since the last collect
	idleness    bool                 // what is ignored may have changed since the last gather
	aliases     map[string][]*folder // see at; nil when folders have changed

	// See elsewhere.go.
	log      *slog.Logger
	ctx      context.Context // shared: done after leave
	cancel   context.CancelFunc
	again    func(first func())      // shared: reads everything again, after first, and publishes it
	realRoot string                  // root without links
	mount    string                  // the mount point that contains root
	points   map[string]string       // mount points, and the types of what is there
	remote   bool                    // single files in the root may hang
	guarded  map[string]bool         // see ancestry; of the previous scan
	leads    map[string]*files.Place // by path; of this scan
	mu       sync.Mutex
	others   map[string]*files.Place // shared, guarded by mu: by mount point
	left     bool                    // shared, guarded by mu
	awaited  map[*files.Place]bool
	late     map[any]any          // see alone
	hung     map[string]time.Time // when the paths that had hung were read again
}

// A folder is the unit for pairing leaves with keys.
type folder struct {
	path   string
	real   string // path without symlinks, which is watched
	place  *files.Place
	busy   bool // being listed now
	files  fileList
	subs   []string       // paths of the folders in it, sorted
	err    error          // why it could not be listed; the other fields are then unchanged
	filled identity       // when it had entries last; see emptied
	links  bool           // some file is a link to another folder
	dirty  bool           // files have changed since out was computed
	asked  bool           // its leaves need keys from other folders
	due    int64          // Unix seconds: expiry of a chain that may have an alternative
	out    []*certificate // its certificates
	faults []fault

	foreign []passed // entries that are not read; see maxIgnoredFolder
	stray   int      // how many of them are stray; see maxStray
	more    int      // how many more there are
	tried   int      // its files in tree.tried since it was listed
	idle    []passed // files that were read but are not used
}

// A file is the last reading of one name in a folder.
type file struct {
	name   string
	stamp  uint64 // sum of its last stamp; 0: it must be read again
	sum    uint64 // of its bytes
	target string // folder that the symlink last led to, one string for all links to it; empty: not a link
	parts  []part // nil until read
	err    error  // instead of parts; does not name the file
	open   bool   // every user can read it
	young  bool   // its last change was too recent for a reliable stamp
	fresh  bool   // parts are newer than the last pairing
}

// A fileList is ordered by name.
type fileList []file

func (fs fileList) find(name string) (int, bool) {
	return slices.BinarySearchFunc(fs, name, func(f file, name string) int { return strings.Compare(f.name, name) })
}

// get returns the file of this name, or nil. The result is valid until files
// are added or removed.
func (fs fileList) get(name string) *file {
	if i, ok := fs.find(name); ok {
		return &fs[i]
	}
	return nil
}

func newTree(root string, log *slog.Logger) *tree {
	root = filepath.Clean(root)
	t := &tree{root: root, place: files.At("certificates", root, log).CountedBy(panics.Certificates), folders: map[string]*folder{}, limit: maxFolders, verify: maxVerify,
		reader: newReader(), names: map[string]string{}, tried: map[string]tried{}, buf: new(bytes.Buffer), log: log, others: map[string]*files.Place{}, awaited: map[*files.Place]bool{}, late: map[any]any{}, hung: map[string]time.Time{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.have.Store(new(harvest))
	return t
}

// watch starts watching a folder.
func (t *tree) watch(path string) {
	if w := t.watcher.Load(); w != nil {
		t.place.Call(path, func() error { w.Add(path); return nil })
	}
}

// at returns the folders whose real path is path. Links may lead several
// folders to one path.
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

// prune forgets the folders that no other folder lists.
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
		t.pruned, t.idleness, t.aliases = true, true, nil
	}
}

// reachable reports whether the parent folder still lists the folder.
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

// has reports whether the folder at path is one of the folders in f.
func (f *folder) has(path string) bool {
	_, ok := slices.BinarySearch(f.subs, path)
	return ok
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

// known returns the file of this name, adding it if necessary.
func (t *tree) known(f *folder, name, target string) *file {
	i, known := f.files.find(name)
	if !known {
		f.files = slices.Insert(f.files, i, file{name: t.sameName(name)})
		f.dirty = true
	}
	have := &f.files[i]
	if target != "" && target != have.target {
		have.target = target
	}
	return have
}

// sameName returns one shared string for a file name that many folders use.
func (t *tree) sameName(name string) string {
	if same, ok := t.names[name]; ok {
		return same
	}
	if len(t.names) < maxNames {
		t.names[name] = name
	}
	return name
}

func (have *file) set(f *folder, parts []part, err error) {
	if err != nil && have.err != nil && err.Error() == have.err.Error() {
		return
	}
	have.parts, have.err, have.fresh = parts, err, true
	f.dirty = true
}

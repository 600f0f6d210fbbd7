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
	maxFolders = 1 << 16 // in all; a directory such as "/" would not end
	maxVerify  = 256     // leaves that are verified without a cause; 50 to 500 µs for each
	maxNames   = 64      // of files that many folders have, such as fullchain.pem
)

// A tree is the directory as it was last read. It belongs to the job that its Place
// runs, except for fields marked "shared", which any goroutine may use.
type tree struct {
	root        string                        // shared
	place       *files.Place                  // shared
	have        atomic.Pointer[harvest]       // shared: the result of the last job that ended
	done        atomic.Bool                   // shared: a job has ended
	ignored     atomic.Pointer[ignored]       // shared: of the last job; nil: nothing
	watcher     atomic.Pointer[watch.Watcher] // shared: gets each folder before it is listed; may be nil
	folders     map[string]*folder            // by path
	limit       int                           // of folders
	full        bool                          // there are more than that
	verify      int                           // see judge
	round       uint32                        // of judge
	opened      bool                          // what the first job found has been collected
	seenAs      fs.FileInfo                   // the root, when it was read last
	filled      fs.FileInfo                   // the same when it had certificates last; see suddenlyEmpty
	reader      *reader
	names       map[string]string    // see sameName
	buf         *bytes.Buffer        // for one file at a time
	tried       map[string]tried     // files that are named freely and not PEM, by path
	ring        map[publicID]located // see keyring; nil: nobody has asked
	way         way                  // of the last link that list has seen
	wanted      []string             // reused by folder
	seen        map[string]bool      // resolved folders of this scan: links may form a circle
	triedBefore map[string]tried     // the same before the scan under way
	orphaned    bool                 // the target of other folders' links disappeared: read those now
	pruned      bool                 // folders disappeared since the last collect
	idleness    bool                 // what is ignored may have changed since the last gather
	aliases     map[string][]*folder // see at; nil when folders have changed

	// See elsewhere.go.
	log      *slog.Logger
	ctx      context.Context // shared: ends with leave
	cancel   context.CancelFunc
	again    func(first func())      // shared: reads everything again, after first, and publishes it
	realRoot string                  // root without links
	mount    string                  // that root is in
	points   map[string]string       // mount points, and the types of what is there
	remote   bool                    // a file of the root may hang alone
	guarded  map[string]bool         // see ancestry; of the last scan
	leads    map[string]*files.Place // by path; of this scan
	mu       sync.Mutex
	others   map[string]*files.Place // shared, guarded by mu: by mount point
	left     bool                    // shared, guarded by mu
	awaited  map[*files.Place]bool
	late     map[any]any          // see alone
	hung     map[string]time.Time // when paths that had hung alone were read again
}

// A folder is the unit in which leaves are paired with keys.
type folder struct {
	path   string
	real   string // path without symlinks, which is watched
	place  *files.Place
	busy   bool // it is being listed
	files  fileList
	subs   []string       // paths of the folders in it, sorted
	err    error          // why it could not be listed; the rest is then unchanged
	links  bool           // some file is a link to another folder
	dirty  bool           // out is older than files
	asked  bool           // for a key in other folders
	due    int64          // Unix seconds: when a chain expires, for which there may be another
	out    []*certificate // its certificates
	faults []fault

	foreign []passed // entries that are not read; see maxIgnoredFolder
	stray   int      // of them; see maxStray
	more    int      // further ones
	tried   int      // files of it in tree.tried, since it was listed
	idle    []passed // files that were read and are not used
}

// A file is the last reading of one name in a folder.
type file struct {
	name   string
	stamp  uint64 // sum of its last stamp; 0: read it again
	sum    uint64 // of its bytes
	target string // folder of the symlink's last target, one string for all links to it; empty: not a link
	parts  []part // nil until read
	err    error  // instead of parts; does not name the file
	open   bool   // anybody can read it
	young  bool   // so recently changed when it was read that the stamp is not reliable
	fresh  bool   // parts are newer than the last pairing
}

// A fileList is ordered by name.
type fileList []file

func (fs fileList) find(name string) (int, bool) {
	return slices.BinarySearchFunc(fs, name, func(f file, name string) int { return strings.Compare(f.name, name) })
}

// get returns the file of a name, or nil. The result is valid until files are added or
// removed.
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

// at returns the folders whose real path is path: links may lead several to one.
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

// prune forgets the folders that no other folder lists any more.
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

// reachable reports whether its parent folder still lists the folder.
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

// known returns the file of a name, and adds it if necessary.
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

// sameName returns one string for a file name that many folders have.
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

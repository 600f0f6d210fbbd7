package certstore

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wssgate/files"
	"wssgate/panics"
	"wssgate/watch"
)

// Links and mounts may lead from a tree to other file systems. Each file system
// has its own Place, so that one that hangs affects only its own files. A job
// in that Place reads them, and the tree's job waits while the Place answers.
// When a Place that hung answers again, its files are read again.
//
// On a network file system, or one in user space, a single file or folder may
// hang. There each call gets a Place of its own, with the same rules.

// mounted is replaced by tests.
var mounted = mountPoints

// mountPoints returns the mount points with the types of their file systems. It
// is empty on a system that does not list them.
func mountPoints() map[string]string {
	points := map[string]string{}
	for _, m := range watch.Mounts() {
		points[m.Point] = m.Type
	}
	return points
}

// localTypes are file systems on which a single file cannot hang, because the
// kernel reads a local disk or memory. A Place for each call would cost more
// than reading the file.
var localTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "overlay", "tmpfs", "ramfs", "rootfs", "vfat", "squashfs", "erofs"}

// maxLinks bounds the links in one path, as Linux does.
const maxLinks = 40

// mapOut starts a new map from paths to file systems.
func (t *tree) mapOut() {
	t.leads = map[string]*files.Place{}
	t.points = mounted()
	t.realRoot = t.root
	if real, err := t.place.EvalSymlinks(t.root); err == nil {
		t.realRoot = real
	}
	if abs, err := filepath.Abs(t.realRoot); err == nil {
		t.realRoot = abs
	}
	t.mount = t.mountOf(t.realRoot)
	kind, known := t.points[t.mount]
	t.remote = known && !slices.Contains(localTypes, kind)
}

// mountOf returns the mount point of a path without links, or the root, which
// on Windows has the name of the drive.
func (t *tree) mountOf(path string) string {
	for path != filepath.Dir(path) && t.points[path] == "" {
		path = filepath.Dir(path)
	}
	return path
}

// maxGuarded bounds the entries that a path leads through.
const maxGuarded = 64

// ancestry returns the entries on the way to the root of the tree, each as a
// path without symlinks. The last one is the root itself.
func (t *tree) ancestry() (entries []string) {
	dir, rest := "/", t.root
	if !filepath.IsAbs(rest) { // then the tree's other paths are relative, too
		dir = "."
		if here, err := filepath.Abs("."); err == nil {
			entries = t.through("/", here, nil)
		}
	}
	return t.through(dir, rest, entries)
}

// through appends the entries that a path leads through, starting at dir, which
// has no symlinks.
func (t *tree) through(dir, path string, entries []string) []string {
	parts := strings.Split(filepath.Clean(path), string(filepath.Separator))
	for links := 0; len(parts) > 0 && len(entries) < maxGuarded; {
		part := parts[0]
		parts = parts[1:]
		entry := filepath.Join(dir, part)
		if part == "" || part == "." || part == ".." {
			dir = entry
			continue
		}
		entries = append(entries, entry)
		link, err := t.place.Readlink(entry)
		if err != nil || links >= maxLinks {
			dir = entry
			continue
		}
		links++
		if filepath.IsAbs(link) {
			dir = "/"
		}
		parts = append(strings.Split(filepath.Clean(link), string(filepath.Separator)), parts...)
	}
	return entries
}

// where returns the Place of a path: t.place or another. It makes no call to
// any other Place.
func (t *tree) where(path string) *files.Place {
	if len(t.points) == 0 {
		return t.place
	}
	if rest, below := strings.CutPrefix(path, t.root+string(filepath.Separator)); below {
		path = filepath.Join(t.realRoot, rest)
	} else if path == t.root {
		return t.place
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return t.place
	}
	return t.lead(path, maxLinks)
}

func (t *tree) lead(path string, links int) *files.Place {
	if path == t.realRoot {
		return t.place
	}
	if p := t.leads[path]; p != nil {
		return p
	}
	p := t.placeOf(t.mountOf(path))
	if path != "/" {
		if above := t.lead(filepath.Dir(path), links); above != t.place && t.points[path] == "" {
			p = above
		}
	}
	if p == t.place && links > 0 && path != "/" {
		if link, err := t.readlink(path); err == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(filepath.Dir(path), link)
			}
			p = t.lead(filepath.Clean(link), links-1)
		}
	}
	t.leads[path] = p
	return p
}

// These are the target of a link, and the kind of a name itself, link or not.
// They are types of their own so that a late result of another call is never
// taken for one.
type (
	linkText string
	ownInfo  struct{ fs.FileInfo }
)

func (t *tree) readlink(path string) (string, error) {
	link, err := in(t, t.place, path, func(p *files.Place) (linkText, error) {
		link, err := p.Readlink(path)
		return linkText(link), err
	})
	return string(link), err
}

func (t *tree) evalSymlinks(path string) (string, error) {
	return in(t, t.place, path, func(p *files.Place) (string, error) { return p.EvalSymlinks(path) })
}

func (t *tree) lstat(path string) (ownInfo, error) {
	return in(t, t.place, path, func(p *files.Place) (ownInfo, error) {
		info, err := p.Lstat(path)
		return ownInfo{info}, err
	})
}

// placeOf returns the Place of a mount point.
func (t *tree) placeOf(mount string) *files.Place {
	if mount == t.mount {
		return t.place
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.others[mount]
	switch {
	case p != nil:
	case t.left:
		p = files.New("certificates", t.log).CountedBy(panics.Certificates)
	default:
		p = files.At("certificates", mount, t.log).CountedBy(panics.Certificates)
		t.others[mount] = p
	}
	return p
}

// in makes a call for a path in its Place. If the Place hangs, the error is
// files.ErrHangs. call must share nothing with the tree: it may still run after
// such an error.
func in[T any](t *tree, p *files.Place, path string, call func(p *files.Place) (T, error)) (T, error) {
	if p == t.place {
		return alone(t, path, call)
	}
	v, err := files.Beside(t.place, p, path, func() (T, error) { return call(p) })
	if errors.Is(err, files.ErrHangs) {
		t.takeUp(p, p.Back(), 0, func() {}, func() {})
		err = files.ErrHangs // the same error every time
	}
	return v, err
}

// maxAlone bounds the hanging Places of a tree, because each costs a thread.
// One more file that hangs makes the whole tree hang.
const maxAlone = 16

// againAfter is the pause before files that hang every time are read again.
const againAfter = time.Minute

type (
	lateKey[T any] struct{ path string }
	result[T any]  struct {
		value T
		err   error
	}
)

// alone is in for t.place. Where a single file may hang, a call that was too
// slow leaves its result for the next one. Otherwise a file that is always slow
// would never be read.
func alone[T any](t *tree, path string, call func(p *files.Place) (T, error)) (T, error) {
	key := lateKey[T]{path}
	if late, ok := t.late[key].(result[T]); ok {
		delete(t.late, key)
		return late.value, late.err
	}
	if !t.remote || path == t.root || len(t.awaited) >= maxAlone {
		return call(t.place)
	}
	own := files.At("certificate", path, t.log).CountedBy(panics.Certificates)
	done := make(chan result[T], 1)
	v, err := files.Beside(t.place, own, path, func() (T, error) {
		v, err := call(own)
		done <- result[T]{v, err}
		return v, err
	})
	if !errors.Is(err, files.ErrHangs) {
		delete(t.hung, path)
		own.Leave()
		return v, err
	}
	pause := time.Duration(0)
	if time.Since(t.hung[path]) < 5*againAfter {
		pause = againAfter
	}
	t.takeUp(own, files.FreeAfter(err), pause, own.Leave, func() {
		t.hung[path] = time.Now()
		select {
		case t.late[key] = <-done:
		default: // another tree's call hung, or the call panicked
		}
	})
	return v, files.ErrHangs
}

// takeUp reads the tree again, after first, when p has answered again and a
// pause has passed. It calls leave when the tree no longer uses p.
func (t *tree) takeUp(p *files.Place, back <-chan struct{}, pause time.Duration, leave, first func()) {
	if t.awaited[p] || t.again == nil {
		leave()
		return
	}
	t.awaited[p] = true
	go panics.Catch(panics.Certificates, func() {
		defer leave()
		select {
		case <-back:
		case <-t.ctx.Done():
			return
		}
		select {
		case <-time.After(pause):
		case <-t.ctx.Done():
			return
		}
		t.again(func() {
			delete(t.awaited, p)
			first()
		})
	})
}

// leave releases the tree and its Places; the tree may be nil. Running jobs
// continue to their end.
func (t *tree) leave() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	t.cancel()
	t.place.Leave()
	for _, p := range t.others {
		p.Leave()
	}
}

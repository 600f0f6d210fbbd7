package certstore

import (
	"errors"
	"path/filepath"
	"strings"

	"wssgate/files"
	"wssgate/panics"
)

// A tree may lead to other file systems: by links, and by what is mounted in it. Each
// of those has a Place of its own, so that one that hangs keeps away what is there and
// nothing else. Its files and folders are read in jobs of that Place, for which the
// tree's own job waits as long as that Place answers. When it is back they are read
// again.

// mounted is mountPoints; tests have others.
var mounted = mountPoints

// maxLinks is how many links one path may lead through, as on Linux.
const maxLinks = 40

// mapOut begins to find out anew what is where.
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
}

// mountOf returns the mount point that a path without links is below.
func (t *tree) mountOf(path string) string {
	for path != "/" && path != "." && !t.points[path] {
		path = filepath.Dir(path)
	}
	return path
}

// where returns the Place of what a path leads to: t.place, or another. It makes no
// call to any other.
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
		if above := t.lead(filepath.Dir(path), links); above != t.place && !t.points[path] {
			p = above
		}
	}
	if p == t.place && links > 0 && path != "/" {
		if link, err := t.place.Readlink(path); err == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(filepath.Dir(path), link)
			}
			p = t.lead(filepath.Clean(link), links-1)
		}
	}
	t.leads[path] = p
	return p
}

// placeOf is the Place of a mount point.
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
		p = files.New("certificates", t.log)
	default:
		p = files.At("certificates", mount, t.log)
		t.others[mount] = p
	}
	return p
}

// in makes a call for a path in its Place. One that hangs is files.ErrHangs.
func in[T any](t *tree, p *files.Place, path string, call func(p *files.Place) (T, error)) (T, error) {
	if p == t.place {
		return call(p)
	}
	v, err := files.Beside(t.place, p, path, func() (T, error) { return call(p) })
	if errors.Is(err, files.ErrHangs) {
		t.takeUp(p)
		err = files.ErrHangs // it is the same one each time
	}
	return v, err
}

// takeUp has what is in p read again when it answers.
func (t *tree) takeUp(p *files.Place) {
	if t.awaited[p] || t.again == nil {
		return
	}
	t.awaited[p] = true
	back := p.Back()
	go panics.Catch(panics.Certificates, func() {
		select {
		case <-back:
		case <-t.ctx.Done():
			return
		}
		t.again(func() { delete(t.awaited, p) })
	})
}

// leave gives up the tree and its Places; a nil tree has none. What is being read goes
// on to its end.
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

package certstore

import (
	"errors"
	"path/filepath"
	"strings"

	"wssgate/files"
	"wssgate/panics"
)

// A tree may lead to other file systems, through links and mounts. Each of them has its
// own Place, so that one that hangs affects only its own files. They are read in jobs
// of that Place; the tree's job waits while that Place answers. When a Place is back,
// its files are read again.

// mounted is mountPoints; tests replace it.
var mounted = mountPoints

// maxLinks is the most links in one path, as on Linux.
const maxLinks = 40

// mapOut starts to map paths to file systems anew.
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

// mountOf returns the mount point of a path without links.
func (t *tree) mountOf(path string) string {
	for path != "/" && path != "." && !t.points[path] {
		path = filepath.Dir(path)
	}
	return path
}

// where returns the Place that a path leads to: t.place, or another. It makes no call
// to any other Place.
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

// in makes a call for a path in its Place. If that hangs, the error is files.ErrHangs.
func in[T any](t *tree, p *files.Place, path string, call func(p *files.Place) (T, error)) (T, error) {
	if p == t.place {
		return call(p)
	}
	v, err := files.Beside(t.place, p, path, func() (T, error) { return call(p) })
	if errors.Is(err, files.ErrHangs) {
		t.takeUp(p)
		err = files.ErrHangs // the same error each time
	}
	return v, err
}

// takeUp rereads what is in p when it answers again.
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

// leave releases the tree and its Places; the tree may be nil. Running jobs go on to
// their end.
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

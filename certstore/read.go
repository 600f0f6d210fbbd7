package certstore

import (
	"bytes"
	"cmp"
	"errors"
	"hash/maphash"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"wssgate/files"
	"wssgate/panics"
)

// settled is how long a file may still change without a new stamp: the clocks
// of file systems are coarse.
const settled = 2 * time.Second

// A stamp shows, without reading it, that a file has changed.
type stamp struct {
	modified, changed, size int64
	inode                   uint64
	mode                    fs.FileMode
}

// An identity tells a folder from another one at the same path. Zero: not known.
type identity struct{ device, inode uint64 }

func (s stamp) sum() uint64 { return max(1, maphash.Comparable(seed, s)) }

var seed = maphash.MakeSeed()

// isWanted reports whether a file is read whatever it holds. It looks at the
// end of the name. HAProxy's bundles end in the kind of the key (NAME.pem.rsa),
// and its issuers in ".issuer".
func isWanted(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch ext := filepath.Ext(name); strings.ToLower(ext) {
	case ".pem", ".crt", ".cer", ".cert", ".key", ".ocsp", ".issuer":
		return true
	case ".rsa", ".ecdsa":
		return isWanted(strings.TrimSuffix(name, ext))
	}
	return false
}

// isNamedFreely reports whether the name says nothing about the file, as in the
// layouts of Plesk, cPanel and acmetool. Such a file is read if it is PEM.
func isNamedFreely(name string) bool { return !strings.Contains(name, ".") }

// fileKind returns the word for a file of this name in messages.
func fileKind(name string) string {
	switch {
	case strings.HasSuffix(name, ".key"), strings.HasPrefix(name, "privkey"):
		return "private key"
	case strings.HasSuffix(name, ".ocsp"):
		return "OCSP response"
	}
	return "certificate"
}

// file reads one file of f if it has changed. last is nil if the file is not a
// link.
func (t *tree) file(f *folder, name string, last *way) {
	path := filepath.Join(f.path, name)
	place := f.place
	if last != nil && place == t.place && len(t.points) > 0 {
		if link, err := t.readlink(path); err == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(f.real, link)
			}
			place = t.where(filepath.Dir(link))
		}
	}
	if place != t.place {
		f.links = f.links || last != nil
		t.fileElsewhere(f, name, place)
		return
	}
	target, free := "", t.isUnread(f, name)
	if free && !t.mayTry(f, path) {
		return
	}
	if last != nil {
		if t.hasMoreOf(f, name, last) {
			f.drop(name)
			return
		}
		f.links = true
		real, err := t.target(f, name, last)
		switch {
		case err == nil:
			target = real
			if !free { // then it may lead anywhere
				t.watch(target)
			}
		case errors.Is(err, files.ErrHangs):
			t.settle(f, name, sight{}, err)
			return
		}
	}
	known, buf := f.known(name), t.buf
	if free {
		known = t.tried[path].file()
	}
	s, err := in(t, t.place, path, func(p *files.Place) (sight, error) { return look(p, path, known, buf, free), nil })
	if errors.Is(err, files.ErrHangs) {
		t.buf = new(bytes.Buffer) // the call keeps the other buffer
	}
	s.target = target
	if free {
		if err == nil && t.isForeign(f, name, path, s) {
			return
		}
		if target != "" {
			t.watch(target)
		}
	}
	t.settle(f, name, s, err)
}

// fileElsewhere is file for a file in another Place.
func (t *tree) fileElsewhere(f *folder, name string, place *files.Place) {
	path, known := filepath.Join(f.path, name), f.known(name)
	w := t.watcher.Load()
	free := t.isUnread(f, name)
	if free {
		if !t.mayTry(f, path) {
			return
		}
		known, w = t.tried[path].file(), nil
	}
	s, err := in(t, place, path, func(p *files.Place) (sight, error) {
		target := ""
		if real, err := p.EvalSymlinks(path); err == nil {
			target = filepath.Dir(real)
			if w != nil {
				p.Call(target, func() error { w.Add(target); return nil })
			}
		}
		s := look(p, path, known, new(bytes.Buffer), free)
		s.target = target
		return s, nil
	})
	if free && err == nil && t.isForeign(f, name, path, s) {
		return
	}
	t.settle(f, name, s, err)
}

// known returns what was read of a file; the zero value means nothing.
func (f *folder) known(name string) file {
	if have := f.files.get(name); have != nil {
		return *have
	}
	return file{}
}

// settle records the result of looking at a file. err means that the file's
// Place hangs: the file then has an error, and its former contents stay.
func (t *tree) settle(f *folder, name string, s sight, err error) {
	if err == nil && s.gone {
		f.drop(name)
		return
	}
	have := t.known(f, name, s.target)
	switch {
	case err != nil:
		have.set(f, nil, err)
		have.stamp = 0
	case s.info == nil:
		have.set(f, nil, s.err)
		have.stamp = 0
	case !have.isNew(s.info):
	case s.err != nil:
		have.set(f, nil, s.err)
		if s.info.Mode().IsRegular() {
			have.stamp = 0
		}
	default:
		t.take(f, have, s.data, s.info.Mode())
	}
}

// A sight is the result of looking at a file.
type sight struct {
	target string      // see file
	info   fs.FileInfo // nil: err
	data   []byte      // nil if the file has not changed
	gone   bool        // not even a link exists
	err    error
}

// look examines a file, and reads it into buf if it differs from known. free
// means that the file has no extension and was not PEM before.
func look(p *files.Place, path string, known file, buf *bytes.Buffer, free bool) (s sight) {
	info, err := p.Stat(path)
	if err != nil {
		s.err = plainError(err)
		if errors.Is(err, fs.ErrNotExist) {
			_, err = p.Lstat(path)
			s.gone = err != nil
		}
		return s
	}
	s.info = info
	if stampOf(info).sum() == known.stamp && !known.young {
		return s
	}
	if !info.Mode().IsRegular() {
		s.err = files.ErrNotRegular
		return s
	}
	if free && info.Size() > maxFree {
		return s
	}
	if err := p.ReadInto(buf, path, maxFile); err != nil {
		s.err = plainError(err)
	}
	s.data = buf.Bytes()
	return s
}

// isNew records the stamp of a file and reports whether the file must be read.
func (have *file) isNew(info fs.FileInfo) bool {
	now := stampOf(info)
	if now.sum() == have.stamp && !have.young {
		return false
	}
	have.stamp = now.sum()
	have.young = time.Since(time.Unix(0, max(now.modified, now.changed))) < settled
	return true
}

// take parses the bytes of a file. It does not keep them.
func (t *tree) take(f *folder, have *file, data []byte, mode fs.FileMode) {
	sum := maphash.Bytes(seed, data)
	open := mode&0o004 != 0 && bytes.Contains(data, []byte("PRIVATE KEY-----")) && t.isOpen(f, cmp.Or(have.target, f.real))
	if sum == have.sum && have.parts != nil && open == have.open {
		return
	}
	have.sum, have.open = sum, open
	if strings.EqualFold(filepath.Ext(have.name), ".ocsp") {
		have.set(f, []part{ocspPart(bytes.Clone(data))}, nil)
		return
	}
	parts, err := panics.Do(panics.Certificates, func() ([]part, error) { return t.reader.parse(f.path, have.name, data) })
	for _, p := range parts {
		switch p := p.(type) {
		case *certificate:
			p.readable = open
		case *keyPart:
			p.readable = open
		}
	}
	have.set(f, parts, err)
}

// isOpen reports whether every user can reach the files in a folder. In a
// Kubernetes volume the modes allow it by default, but only the container can
// reach them.
func (t *tree) isOpen(f *folder, dir string) bool {
	if runtime.GOOS == "windows" || // modes mean nothing there
		f.place != t.place || strings.Contains(dir, string(filepath.Separator)+"..") {
		return false
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := t.place.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// plainError removes the path, which every message already contains once.
func plainError(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// A way is the resolved path of the previous link. The links in a folder often
// share it, and those of the next folder differ only at the end. Resolving it
// takes a dozen system calls.
type way struct {
	dir, real       string // as the link gives it, and without symlinks
	above, aboveEnd string // the same of the folder above
	whole           string // target of the link at wholePath, for hasMoreOf
	wholePath       string
}

// target returns the folder that the link name in f leads to. last is the way
// of the link before.
func (t *tree) target(f *folder, name string, last *way) (string, error) {
	path := filepath.Join(f.path, name)
	link, err := t.readlink(path)
	if err != nil {
		return "", err
	}
	dir, base := filepath.Split(link)
	if !filepath.IsAbs(link) {
		from := f.real // it has no symlinks: ".." is the folder above
		for rest, up := strings.CutPrefix(dir, "../"); up; rest, up = strings.CutPrefix(dir, "../") {
			from, dir = filepath.Dir(from), rest
		}
		dir = from + string(filepath.Separator) + dir // not Join: ".." applies to the target of any link before it
	}
	if dir != last.dir {
		real, err := last.follow(t.place, dir)
		if err != nil {
			return "", err
		}
		last.dir, last.real = dir, real
	}
	end := filepath.Join(last.real, base)
	info, err := t.lstat(end)
	if err != nil || info.Mode().IsRegular() {
		return last.real, err
	}
	real, err := t.evalSymlinks(path) // a link to a link
	return filepath.Dir(real), err
}

// follow is filepath.EvalSymlinks for a folder.
func (w *way) follow(place *files.Place, dir string) (string, error) {
	if strings.Contains(dir, "..") {
		return place.EvalSymlinks(dir)
	}
	above, base := filepath.Split(filepath.Clean(dir))
	if above != w.above {
		end, err := place.EvalSymlinks(above)
		if err != nil {
			return "", err
		}
		w.above, w.aboveEnd = above, end
	}
	real := filepath.Join(w.aboveEnd, base)
	if info, err := place.Lstat(real); err == nil && info.IsDir() {
		return real, nil
	}
	return place.EvalSymlinks(dir)
}

// hasMoreOf reports whether fullchain.pem contains everything that the link
// name leads to. This holds if certbot's cert.pem, chain.pem and fullchain.pem
// are of one version. Reading all three would take twice the time and 50
// percent more memory.
func (t *tree) hasMoreOf(f *folder, name string, last *way) bool {
	stem := strings.TrimSuffix(name, ".pem")
	if stem != "cert" && stem != "chain" {
		return false
	}
	if path := filepath.Join(f.path, "fullchain.pem"); path != last.wholePath {
		last.wholePath, last.whole = path, ""
		if link, err := t.readlink(path); err == nil {
			if _, err := in(t, t.place, path, func(p *files.Place) (fs.FileInfo, error) { return p.Stat(path) }); err == nil {
				last.whole = link
			}
		}
	}
	if last.whole == "" {
		return false
	}
	part, err := t.readlink(filepath.Join(f.path, name))
	dir, base := filepath.Split(part)
	version, ok := strings.CutPrefix(base, stem)
	return err == nil && ok && last.whole == dir+"fullchain"+version
}

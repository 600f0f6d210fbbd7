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

// settled is how long after its last change a file may still change without a
// new stamp: the clocks of file systems are coarse.
const settled = 2 * time.Second

// A stamp tells without reading that a file is not as it was.
type stamp struct {
	modified, changed, size int64
	inode                   uint64
	mode                    fs.FileMode
}

func (s stamp) sum() uint64 { return max(1, maphash.Comparable(seed, s)) }

var seed = maphash.MakeSeed()

// isWanted reports whether a file is read whatever it holds. It goes by the end of its
// name: that of HAProxy's bundles has the kind of the key (NAME.pem.rsa), and what
// HAProxy calls .issuer is one.
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

// isNamedFreely reports whether a name says nothing about the file, as those of Plesk,
// cPanel and acmetool. Such a file is read if it is PEM.
func isNamedFreely(name string) bool { return !strings.Contains(name, ".") }

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

// file reads one file of f where it is not as it was. last is nil for what is no
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
			if !free { // it may lead anywhere
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
		t.buf = new(bytes.Buffer) // the other one is the call's
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

// fileElsewhere is file for what is in another Place.
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

// known returns what was read of a file; zero: nothing yet.
func (f *folder) known(name string) file {
	if have := f.files.get(name); have != nil {
		return *have
	}
	return file{}
}

// settle notes what was found of a file. An err is that its Place hangs: then it is an
// error of the file, and what it held before stays.
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

// A sight is what was found of a file.
type sight struct {
	target string      // see file
	info   fs.FileInfo // nil: err
	data   []byte      // of a file that is not as it was
	gone   bool        // not even a link is there
	err    error
}

// look looks at a file of which known was read, and reads it into buf where it is not as
// it was. free says that the file is named freely, and was not PEM before.
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

// isNew notes the stamp of a file, and reports whether it has to be read.
func (have *file) isNew(info fs.FileInfo) bool {
	now := stampOf(info)
	if now.sum() == have.stamp && !have.young {
		return false
	}
	have.stamp = now.sum()
	have.young = time.Since(time.Unix(0, max(now.modified, now.changed))) < settled
	return true
}

// take takes the bytes of a file, which it does not keep.
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

// isOpen reports whether every user can reach the files in a folder. Those of a volume
// of Kubernetes, which are so by default, only the container can.
func (t *tree) isOpen(f *folder, dir string) bool {
	if runtime.GOOS == "windows" || // where modes say nothing
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

// plainError drops the path, which every message names once already.
func plainError(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// A way is where the links that were looked at last lead to. Those in a folder
// often go the same one, those in the folder beside it one that parts at the end;
// and to find it takes a dozen system calls.
type way struct {
	dir, real       string // as the link has it, and without symlinks
	above, aboveEnd string // the same of the folder above
	whole           string // what the link at wholePath says, for hasMoreOf
	wholePath       string
}

// target returns the folder where the link name in f ends. last is the way of the
// link before.
func (t *tree) target(f *folder, name string, last *way) (string, error) {
	path := filepath.Join(f.path, name)
	link, err := t.readlink(path)
	if err != nil {
		return "", err
	}
	dir, base := filepath.Split(link)
	if !filepath.IsAbs(link) {
		from := f.real // which has no symlinks: ".." is the folder above
		for rest, up := strings.CutPrefix(dir, "../"); up; rest, up = strings.CutPrefix(dir, "../") {
			from, dir = filepath.Dir(from), rest
		}
		dir = from + string(filepath.Separator) + dir // no Join: ".." is of what a link before it leads to
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

// hasMoreOf reports whether fullchain.pem has all that the link name leads to. So
// it is where certbot's cert.pem, chain.pem and fullchain.pem are of one version;
// to read all three would take twice the time and half as much memory again.
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

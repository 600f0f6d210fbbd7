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
	"unique"
)

// settled is how long after its last change a file may still change without a
// new stamp: the clocks of file systems are coarse.
const settled = 2 * time.Second

// A file is what was last read from one name in a folder.
type file struct {
	name   string
	stamp  uint64                // sum of the stamp that it had; 0: read it again
	sum    uint64                // of its bytes
	target unique.Handle[string] // folder where the symlink led when it last led anywhere; else zero
	parts  []part                // nil until it was read
	err    error                 // instead of parts; does not name the file
	young  bool                  // so fresh when it was read that the stamp is not to be trusted
}

// A stamp tells without reading that a file is not as it was.
type stamp struct {
	modified, changed, size int64
	inode                   uint64
	mode                    fs.FileMode
}

func (s stamp) sum() uint64 { return max(1, maphash.Comparable(seed, s)) }

// files are ordered by name.
type files []file

func (fs files) find(name string) (int, bool) {
	return slices.BinarySearchFunc(fs, name, func(f file, name string) int { return strings.Compare(f.name, name) })
}

// get returns nil where there is none of that name. What it returns is good
// until files are added or dropped.
func (fs files) get(name string) *file {
	if i, ok := fs.find(name); ok {
		return &fs[i]
	}
	return nil
}

var seed = maphash.MakeSeed()

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

// A way is where the folder that a link names really is. The links in a folder
// often go the same one, and to find it takes a dozen system calls.
type way struct{ dir, real string }

// target returns the folder where the link name in f ends. last is the way of the
// link before.
func (f *folder) target(name string, last *way) (string, error) {
	path := filepath.Join(f.path, name)
	link, err := os.Readlink(path)
	if err != nil {
		return "", err
	}
	dir, base := filepath.Split(link)
	if !filepath.IsAbs(link) {
		dir = f.real + string(filepath.Separator) + dir // no Join: ".." is of what a link before it leads to
	}
	if dir != last.dir {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", err
		}
		*last = way{dir, real}
	}
	info, err := os.Lstat(filepath.Join(last.real, base))
	if err != nil || info.Mode().IsRegular() {
		return last.real, err
	}
	real, err := filepath.EvalSymlinks(path) // a link to a link
	return filepath.Dir(real), err
}

// file reads one file of f where it is not as it was. last is nil for what is no
// link.
func (t *tree) file(f *folder, name string, last *way) {
	path := filepath.Join(f.path, name)
	target := ""
	if last != nil {
		if real, err := f.target(name, last); err == nil {
			target = real
			if t.watcher != nil {
				t.watcher.add(target)
			}
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
	i, known := f.files.find(name)
	if !known {
		f.files = slices.Insert(f.files, i, file{name: t.sameName(name)})
		f.dirty = true
	}
	have := &f.files[i]
	if target != "" {
		have.target = unique.Make(target)
	}
	if err != nil {
		have.set(f, nil, plainError(err))
		have.stamp = 0
		return
	}
	now := stampOf(info)
	if now.sum() == have.stamp && !have.young {
		return
	}
	have.stamp = now.sum()
	have.young = time.Since(time.Unix(0, max(now.modified, now.changed))) < settled
	if !info.Mode().IsRegular() {
		have.set(f, nil, errors.New("is no regular file"))
		return
	}
	if err := t.read(path); err != nil {
		have.set(f, nil, plainError(err))
		have.stamp = 0
		return
	}
	sum := maphash.Bytes(seed, t.buf.Bytes())
	if sum == have.sum && have.parts != nil {
		return
	}
	have.sum = sum
	if filepath.Ext(name) == ".ocsp" {
		have.set(f, []part{ocspPart(bytes.Clone(t.buf.Bytes()))}, nil)
		return
	}
	parts, err := t.reader.parse(f.path, have.name, t.buf.Bytes())
	have.set(f, parts, err)
}

func (have *file) set(f *folder, parts []part, err error) {
	if err != nil && have.err != nil && err.Error() == have.err.Error() {
		return
	}
	have.parts, have.err = parts, err
	f.dirty = true
}

// sameName returns one string for a name that many folders have a file of.
func (t *tree) sameName(name string) string {
	if same, ok := t.names[name]; ok {
		return same
	}
	if len(t.names) < maxNames {
		t.names[name] = name
	}
	return name
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

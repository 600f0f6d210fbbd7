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
	"strings"
	"time"
)

// settled is how long after its last change a file may still change without a
// new stamp: the clocks of file systems are coarse.
const settled = 2 * time.Second

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

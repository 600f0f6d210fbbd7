package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNotRegular is the error for a pipe, a socket or a device.
var ErrNotRegular = errors.New("is a pipe or a device, not a file")

// ErrDirectory is the error for a directory.
var ErrDirectory = errors.New("is a directory, not a file")

// Call runs f as a call of the job that may hang at path. It is for system
// calls without a method here.
func (p *Place) Call(path string, f func() error) error {
	p.enter(path)
	defer p.leave()
	return f()
}

func call[T any](p *Place, path string, f func(string) (T, error)) (T, error) {
	p.enter(path)
	defer p.leave()
	return f(path)
}

// callOnLink is Call for functions that do not follow path if it is a link.
func callOnLink[T any](p *Place, path string, f func(string) (T, error)) (T, error) {
	p.enterAs(path, false)
	defer p.leave()
	return f(path)
}

// Read returns the contents of a regular file of at most limit bytes. It
// follows links. Errors name the path. They are ErrNotRegular, ErrDirectory,
// the error for a file larger than limit, or the system's error.
func (p *Place) Read(path string, limit int64) ([]byte, error) {
	var b bytes.Buffer
	err := p.ReadInto(&b, path, limit)
	return b.Bytes(), err
}

// ReadInto is Read into b, which it empties first.
func (p *Place) ReadInto(b *bytes.Buffer, path string, limit int64) error {
	p.enter(path)
	defer p.leave()
	b.Reset()
	// Opening a pipe without a writer would block. Check the type after opening: before
	// that, the file could still be replaced.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return &fs.PathError{Op: "read", Path: path, Err: ErrDirectory}
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	return readBounded(b, f, limit)
}

// ReadStream is Read for a file that may be a pipe. It waits for a writer.
func (p *Place) ReadStream(path string, limit int64) ([]byte, error) {
	p.enter(path)
	defer p.leave()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrDirectory}
	}
	var b bytes.Buffer
	err = readBounded(&b, f, limit)
	return b.Bytes(), err
}

// readBounded reads at most limit bytes, whatever size the file reports.
func readBounded(b *bytes.Buffer, f *os.File, limit int64) error {
	n, err := b.ReadFrom(io.LimitReader(f, limit+1))
	if err == nil && n > limit {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("larger than %d bytes", limit)}
	}
	return err
}

// These are the counterparts of functions in os and path/filepath.

func (p *Place) ReadDir(path string) ([]fs.DirEntry, error) { return call(p, path, os.ReadDir) }
func (p *Place) Stat(path string) (fs.FileInfo, error)      { return call(p, path, os.Stat) }
func (p *Place) Lstat(path string) (fs.FileInfo, error)     { return callOnLink(p, path, os.Lstat) }
func (p *Place) Readlink(path string) (string, error)       { return callOnLink(p, path, os.Readlink) }
func (p *Place) EvalSymlinks(path string) (string, error) {
	return call(p, path, filepath.EvalSymlinks)
}
func (p *Place) MkdirAll(path string, mode fs.FileMode) error {
	return p.Call(path, func() error { return os.MkdirAll(path, mode) })
}
func (p *Place) Chmod(path string, mode fs.FileMode) error {
	return p.Call(path, func() error { return os.Chmod(path, mode) })
}
func (p *Place) Remove(path string) error {
	return p.Call(path, func() error { return os.Remove(path) })
}
func (p *Place) Rename(from, to string) error {
	return p.Call(to, func() error { return os.Rename(from, to) })
}

// Create creates a file with these contents and mode 0600. If the file exists,
// the error is fs.ErrExist. A file that could not be written completely is
// removed.
func (p *Place) Create(path string, data []byte) error {
	return p.Call(path, func() error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return finish(f, data, false)
	})
}

// Replace atomically replaces path with a file of mode 0600. It first writes a
// temporary file in the same folder, whose name begins with temp. With sync,
// the new file also survives a power failure. Replace calls ok just before the
// rename; if ok returns false, Replace leaves the old file and returns nil.
func (p *Place) Replace(path, temp string, data []byte, sync bool, ok func() bool) error {
	return p.Call(path, func() error {
		dir := filepath.Dir(path)
		f, err := os.CreateTemp(dir, temp)
		if err != nil {
			return err
		}
		if err := finish(f, data, sync); err != nil {
			return err
		}
		if !ok() {
			return os.Remove(f.Name())
		}
		if err := os.Rename(f.Name(), path); err != nil {
			os.Remove(f.Name())
			return err
		}
		if !sync {
			return nil
		}
		// Not every file system can sync a folder. The file is complete in any case.
		if d, err := os.Open(dir); err == nil {
			d.Sync()
			d.Close()
		}
		return nil
	})
}

// finish writes and closes a new file. On an error it removes the file.
func finish(f *os.File, data []byte, sync bool) error {
	_, err := f.Write(data)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
	}
	return err
}

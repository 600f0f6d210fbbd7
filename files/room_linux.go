package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Writable returns the reason why this process cannot create files in a folder,
// or nil: missing permissions, or a file system that is read-only or full. It
// writes nothing.
func (p *Place) Writable(dir string) error {
	return p.Call(dir, func() error {
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return owned(&fs.PathError{Op: "write to", Path: dir, Err: err})
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && (st.Blocks > 0 && st.Bavail == 0 || st.Files > 0 && st.Ffree == 0) {
			return &fs.PathError{Op: "write to", Path: dir, Err: unix.ENOSPC}
		}
		return nil
	})
}

// Readable returns the reason why this process cannot read an existing file. It
// returns nil if it can, or if the file does not exist.
func (p *Place) Readable(path string) error {
	return p.Call(path, func() error {
		err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return owned(&fs.PathError{Op: "read", Path: path, Err: err})
	})
}

// owned adds the owner to an error about permissions.
func owned(err *fs.PathError) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	info, serr := os.Stat(err.Path)
	if serr != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() {
		return fmt.Errorf("%w; its mode is %v", err, info.Mode().Perm())
	}
	return fmt.Errorf("%w; it belongs to user %d, this process runs as %d", err, st.Uid, os.Geteuid())
}

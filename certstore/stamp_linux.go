package certstore

import (
	"io/fs"
	"syscall"
)

func identityOf(info fs.FileInfo) (id identity) {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		id = identity{uint64(sys.Dev), sys.Ino}
	}
	return id
}

// stampOf includes the change time and the inode. They differ if a file was
// replaced by another one of the same size and modification time.
func stampOf(info fs.FileInfo) stamp {
	s := stamp{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed = sys.Ctim.Nano()
		s.inode = sys.Ino
	}
	return s
}

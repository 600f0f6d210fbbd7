package certstore

import (
	"io/fs"
	"syscall"
)

// stampOf takes the change time and the inode as well: they tell a file that
// was replaced by another of the same size and modification time.
func stampOf(info fs.FileInfo) stamp {
	s := stamp{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed = sys.Ctim.Nano()
		s.inode = sys.Ino
	}
	return s
}

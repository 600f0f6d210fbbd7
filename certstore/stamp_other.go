//go:build !linux

package certstore

import "io/fs"

// stampOf has to do with what every system tells.
func stampOf(info fs.FileInfo) stamp {
	return stamp{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
}

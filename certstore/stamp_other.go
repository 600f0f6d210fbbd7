//go:build !linux

package certstore

import "io/fs"

// stampOf uses only what every system provides.
func stampOf(info fs.FileInfo) stamp {
	return stamp{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
}

func identityOf(fs.FileInfo) identity { return identity{} }

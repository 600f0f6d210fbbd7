//go:build !linux

package certstore

func newChunk(size int) *chunk { return &chunk{make([]byte, size)} }

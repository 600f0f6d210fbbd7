//go:build !linux

package files

// Writable returns nil: here only an attempt to write shows errors.
func (p *Place) Writable(string) error { return nil }

// Readable returns nil: here only an attempt to read shows errors.
func (p *Place) Readable(string) error { return nil }

//go:build !linux

package files

// Writable returns nil: on this system, only writing shows errors.
func (p *Place) Writable(string) error { return nil }

// Readable returns nil: on this system, only reading shows errors.
func (p *Place) Readable(string) error { return nil }

//go:build !linux

package files

// Writable is nil: only an attempt to write tells.
func (p *Place) Writable(string) error { return nil }

// Readable is nil: only an attempt to read tells.
func (p *Place) Readable(string) error { return nil }

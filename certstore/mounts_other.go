//go:build !linux

package certstore

func mountPoints() map[string]bool { return nil }

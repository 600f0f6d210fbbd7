//go:build !linux

package certstore

func mountPoints() map[string]string { return nil }

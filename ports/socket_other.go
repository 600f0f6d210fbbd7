//go:build !linux

package ports

import "syscall"

// loopbackNet: other systems have 127.0.0.1 alone by default.
const loopbackNet = false

// chooseLate does nothing; the system chooses.
func chooseLate(syscall.RawConn) error { return nil }

//go:build !linux

package ports

import "syscall"

// loopbackNet: other systems have 127.0.0.1 alone by default.
const loopbackNet = false

// chooseLate leaves it to the system.
func chooseLate(syscall.RawConn) error { return nil }

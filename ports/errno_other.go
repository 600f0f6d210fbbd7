//go:build !windows

package ports

import (
	"errors"
	"syscall"
)

// IsErrno reports whether err is errno, an error of a socket, on each system.
func IsErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }

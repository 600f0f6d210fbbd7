//go:build !linux

package listen

import (
	"errors"
	"net"
)

// listenConfig returns Go's default: on other systems SO_REUSEPORT does not distribute
// clients.
func listenConfig(bool) *net.ListenConfig { return new(net.ListenConfig) }

// LeaveToOthers fails: on other systems no other process can listen on the same
// address.
func LeaveToOthers(net.Listener) error { return errors.ErrUnsupported }

// Waiting returns 0, because the number is unknown.
func Waiting(net.Listener) int { return 0 }

// IsShared returns false; see listenConfig.
func IsShared(net.Listener, []net.Listener) bool { return false }

//go:build !linux

package listen

import (
	"errors"
	"net"
)

// CanShare is false: SO_REUSEPORT does not distribute clients.
const CanShare = false

// listenConfig is Go's default, see CanShare.
func listenConfig(bool) *net.ListenConfig { return new(net.ListenConfig) }

// LeaveToOthers fails: on other systems no other process can listen on the same
// address.
func LeaveToOthers(net.Listener) error { return errors.ErrUnsupported }

// Waiting returns 0, because the number is unknown.
func Waiting(net.Listener) int { return 0 }

// IsShared returns false; see listenConfig.
func IsShared(net.Listener, []net.Listener) bool { return false }

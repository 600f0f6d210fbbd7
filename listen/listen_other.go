//go:build !linux

package listen

import (
	"errors"
	"net"
)

// listenConfig is Go's own: elsewhere SO_REUSEPORT does not mean that clients
// are shared out.
func listenConfig(bool) *net.ListenConfig { return new(net.ListenConfig) }

// LeaveToOthers fails: elsewhere nobody else can listen on the same address.
func LeaveToOthers(net.Listener) error { return errors.ErrUnsupported }

// Waiting is 0: the system does not tell.
func Waiting(net.Listener) int { return 0 }

// IsShared is false: see listenConfig.
func IsShared(net.Listener, []net.Listener) bool { return false }

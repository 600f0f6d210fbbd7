//go:build !linux

package main

import (
	"errors"
	"net"
)

// listenConfig is Go's own: elsewhere SO_REUSEPORT does not mean that clients
// are shared out.
func listenConfig(bool) *net.ListenConfig { return new(net.ListenConfig) }

func leaveToOthers(net.Listener) error { return errors.ErrUnsupported }

func waiting(net.Listener) int { return 0 }

func isShared(net.Listener, []net.Listener) bool { return false }

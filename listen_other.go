//go:build !linux

package main

import (
	"context"
	"errors"
	"net"
)

// Elsewhere SO_REUSEPORT does not mean the same.
const canShare = false

var nowhere = context.Background()

func listenConfig() *net.ListenConfig { return new(net.ListenConfig) }

func leaveToOthers(net.Listener) error { return errors.ErrUnsupported }

func waiting(net.Listener) int { return 0 }

func isShared(net.Listener) bool { return false }

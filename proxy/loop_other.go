//go:build !linux

package proxy

import (
	"errors"
	"net"
)

// osConn has no use without an event loop.
type osConn struct{}

func hasDescriptor(net.Conn) bool { return false }

func newDriver() (driver, error) { return nil, errors.ErrUnsupported }

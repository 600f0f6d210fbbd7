//go:build !linux

package proxy

import (
	"errors"
	"net"
)

// osConn has no use without a poller for descriptors.
type osConn struct {
	rawConn
	fd int
}

func (*osConn) join(poller, *tunnel, *leg) {}

func (*osConn) leave() {}

func newSystemPoller(func(error, bool)) (poller, error) { return nil, errors.ErrUnsupported }

func duplicate(net.Conn) (int, error) { return -1, errors.ErrUnsupported }

func closeDescriptor(int) {}

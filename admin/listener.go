package admin

import (
	"net"
	"slices"
	"sync"
)

// maxConns bounds the connections of one listener: Prometheus, a few probes
// and a few people.
const maxConns = 64

// A boundedListener has no more than maxConns connections at a time, so that
// whoever reaches it can't take the descriptors that the gate's clients need. When
// they are all taken the oldest is closed: that may be one which is kept for later,
// or one on which nobody asks anything, and a probe must not wait for it.
type boundedListener struct {
	net.Listener

	mu   sync.Mutex
	open []*boundedConn // the oldest first
}

func (l *boundedListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &boundedConn{accepted, l}
	l.mu.Lock()
	var oldest *boundedConn
	if len(l.open) >= maxConns {
		oldest = l.open[0]
	}
	l.open = append(l.open, conn)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	return conn, nil
}

// A boundedConn is one of a listener's.
type boundedConn struct {
	net.Conn
	listener *boundedListener
}

func (c *boundedConn) Close() error {
	l := c.listener
	l.mu.Lock()
	l.open = slices.DeleteFunc(l.open, func(o *boundedConn) bool { return o == c })
	l.mu.Unlock()
	return c.Conn.Close()
}

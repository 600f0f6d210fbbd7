package admin

import (
	"net"
	"sync"
)

// maxConns bounds the connections of one listener: Prometheus, a few probes
// and a few people. More have to wait.
const maxConns = 64

// A boundedListener accepts no more than maxConns at a time, so that whoever
// reaches it can't take the descriptors that the gate's clients need.
type boundedListener struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBoundedListener(ln net.Listener) *boundedListener {
	return &boundedListener{Listener: ln, places: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

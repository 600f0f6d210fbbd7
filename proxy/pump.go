package proxy

import (
	"net"
	"sync"
	"time"

	"wssgate/panics"
)

// A pumpedConn is the rawConn of a connection without a poller. Two goroutines read and
// write it, and notify the loop through its inbox. The loop calls the methods of
// rawConn.
type pumpedConn struct {
	loop   *loop
	tunnel *tunnel
	leg    *leg
	conn   net.Conn

	mu      sync.Mutex
	changed sync.Cond // of any of these
	in      []byte    // read, not yet taken by the tunnel
	inErr   error     // follows in
	out     []byte    // being written; empty: write takes more
	outErr  error
	want    interest
	fin     bool // closeWrite was called
	told    bool // a look at this connection is already in the inbox
	closed  bool
}

// pump starts the goroutines that read and write a connection for l until its close.
func pump(l *loop, t *tunnel, leg *leg) rawConn {
	c := &pumpedConn{loop: l, tunnel: t, leg: leg, conn: leg.sock.conn}
	c.changed.L = &c.mu
	l.group.pumps.Add(2)
	go c.keep(c.readFrom)
	go c.keep(c.writeTo)
	return c
}

// ready returns the readiness that the loop waits for. The caller holds c.mu.
func (c *pumpedConn) ready() (is readiness) {
	if c.want&forInput != 0 && (len(c.in) > 0 || c.inErr != nil) {
		is |= inputReady
	}
	if c.want&forRoom != 0 && len(c.out) == 0 {
		is |= roomReady
	}
	if c.want&forEnd != 0 && c.inErr != nil {
		is |= endReady
	}
	if c.want&forFailure != 0 && c.outErr != nil {
		is |= failed
	}
	return is
}

// tell makes the loop look at the connection if it is ready. The caller holds c.mu.
func (c *pumpedConn) tell() {
	if !c.told && c.ready() != 0 {
		c.told = c.loop.post(c.look)
	}
}

// look tells the tunnel of the readiness. It runs in the loop.
func (c *pumpedConn) look() {
	c.mu.Lock()
	c.told = false
	is := c.ready()
	c.mu.Unlock()
	if is != 0 && !c.tunnel.done {
		c.loop.tell(c.tunnel, c.leg, is)
	}
	c.mu.Lock()
	c.tell()
	c.mu.Unlock()
}

func (c *pumpedConn) read(b []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.in) == 0 {
		if c.inErr != nil {
			return 0, c.inErr
		}
		return 0, errAgain
	}
	n = copy(b, c.in)
	c.in = c.in[n:]
	c.changed.Broadcast()
	return n, nil
}

func (c *pumpedConn) write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.outErr != nil:
		return 0, c.outErr
	case len(c.out) > 0:
		return 0, errAgain
	}
	n := min(len(b), blockSize)
	c.out = append(c.out, b[:n]...)
	c.changed.Broadcast()
	if n < len(b) {
		return n, errAgain
	}
	return n, nil
}

// unacknowledged returns the bytes being written: those in the kernel are unknown.
func (c *pumpedConn) unacknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out)
}

// closeWrite sends FIN after a write in progress. It returns false if the connection has
// no CloseWrite.
func (c *pumpedConn) closeWrite() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fin = true
	return c.sendFIN()
}

// sendFIN reports whether the connection has a CloseWrite. The caller holds c.mu.
func (c *pumpedConn) sendFIN() bool {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if ok && c.fin && len(c.out) == 0 {
		half.CloseWrite()
	}
	return ok
}

func (c *pumpedConn) watch(want interest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = want
	c.tell()
}

// close lets a write in progress finish, for at most closeTimeout. With reset it does
// not wait.
func (c *pumpedConn) close(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.want = true, 0
	c.conn.SetReadDeadline(time.Unix(1, 0))
	c.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	if reset {
		if tcp, ok := c.conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.conn.Close()
	}
	c.changed.Broadcast()
}

// keep runs one of the two goroutines. A panic ends the connection, like a failed read
// and write.
func (c *pumpedConn) keep(pump func()) {
	defer c.loop.group.pumps.Done()
	if err := panics.Catch(panics.Tunnel, pump); err != nil {
		c.conn.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inErr, c.outErr = err, err
		c.tell()
		c.changed.Broadcast()
	}
}

// readFrom reads ahead of the tunnel by one buffer.
func (c *pumpedConn) readFrom() {
	buf := make([]byte, 16<<10)
	for {
		n, err := c.conn.Read(buf)
		c.mu.Lock()
		c.in, c.inErr = buf[:n], err
		c.tell()
		for len(c.in) > 0 && !c.closed {
			c.changed.Wait()
		}
		over := c.closed || err != nil
		c.mu.Unlock()
		if over {
			return
		}
	}
}

// writeTo writes the bytes of the tunnel, and closes the connection at the end.
func (c *pumpedConn) writeTo() {
	defer c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.out) == 0 && !c.closed {
			c.changed.Wait()
		}
		if len(c.out) == 0 {
			return
		}
		b := c.out
		c.mu.Unlock()
		_, err := c.conn.Write(b)
		c.mu.Lock()
		c.out, c.outErr = c.out[:0], err
		c.sendFIN()
		c.tell()
		if err != nil && c.closed {
			return
		}
	}
}

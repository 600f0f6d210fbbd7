package proxy

import (
	"io"
	"net"
	"time"
)

// A sock is one socket of a tunnel, and the net.Conn below its crypto/tls.
//
// It lives through two phases. In the first a goroutine does the handshakes,
// and all calls go to the connection as it was accepted or dialled: they
// block, and obey deadlines. attach ends that phase for good. In the second a
// driver owns the socket: Read gives what the kernel has, once a turn, and
// errAgain where it has nothing more; Write never fails and never blocks, for
// crypto/tls remembers a failed write for ever. What the kernel does not take
// waits in out.
//
// crypto/tls allows this use: an error with Temporary() == true is not kept by
// tls.Conn.Read, which can be called again and goes on where it was.
type sock struct {
	conn net.Conn // first phase only
	raw  rawConn  // second phase; nil in the first
	os   osConn   // what raw points to, where an event loop is the driver
	turn *turn    // the turn that is under way, nil between turns
	out  queue    // bytes that the kernel did not take
	err  error    // what ended the socket: io.EOF after a FIN; Read repeats it

	fin      bool // FIN is to follow what waits, or has
	drained  bool // this turn: the kernel has nothing more for us
	wantRead bool // what the driver was last told
	wantOut  bool
	wantEnd  bool
}

// rawConn is a socket that never blocks, as a driver gives it to sock.
type rawConn interface {
	// read returns errAgain where the kernel has nothing, io.EOF after a FIN.
	read(b []byte) (int, error)
	// write takes as much as the kernel does, and errAgain with less than all.
	write(b []byte) (int, error)
	// unacknowledged is how many bytes the kernel holds that the peer's kernel
	// has not confirmed; 0 where that is not known.
	unacknowledged() int
	// closeWrite sends FIN behind what was written.
	closeWrite()
	// watch says what the driver is to wait for: readiness, or the peer's end
	// while nothing is read.
	watch(read, write, end bool)
	close()
}

// errAgain is what a read or write that would block returns. It is a net.Error
// whose Temporary is true, the one kind that tls.Conn.Read does not remember.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

func (s *sock) Read(b []byte) (int, error) {
	if s.raw == nil {
		return s.conn.Read(b)
	}
	if s.err != nil {
		return 0, s.err
	}
	if s.drained || s.turn == nil {
		return 0, errAgain
	}
	n, err := s.raw.read(b)
	s.turn.budget -= n
	// A short read means an empty socket, and the event that tells of more
	// comes by itself, so the read that would find nothing is left out.
	if n < len(b) || s.turn.budget <= 0 {
		s.drained = true
	}
	if err != nil && err != errAgain {
		s.err = err
	}
	return n, err
}

func (s *sock) Write(b []byte) (int, error) {
	if s.raw == nil {
		return s.conn.Write(b)
	}
	if s.turn != nil {
		s.turn.gather(s, b)
	} else {
		s.send(b)
	}
	return len(b), nil
}

// send hands bytes to the kernel, behind those that wait already.
func (s *sock) send(b []byte) {
	if s.broken() {
		return
	}
	if s.out.size == 0 {
		n, err := s.raw.write(b)
		if err != nil && err != errAgain {
			s.err = err
			return
		}
		b = b[n:]
	}
	s.out.add(b)
}

// flush sends what waits, as far as the kernel takes it, and reports whether
// it took anything.
func (s *sock) flush() (progress bool) {
	for s.out.size > 0 && !s.broken() {
		n, err := s.raw.write(s.out.head())
		if n > 0 {
			progress = true
			s.out.drop(n)
		}
		if err == errAgain {
			break
		}
		if err != nil {
			s.err = err
		}
	}
	return progress
}

// shutdown asks for FIN behind everything that was written; finish, at the end
// of a turn, sends it when its time has come.
func (s *sock) shutdown() { s.fin = true }

func (s *sock) finish() {
	if s.fin && s.out.size == 0 && !s.broken() {
		s.raw.closeWrite()
	}
}

// watch tells the driver what to wait for, where that has changed.
func (s *sock) watch(read, write, end bool) {
	if s.closed() || read == s.wantRead && write == s.wantOut && end == s.wantEnd {
		return
	}
	s.wantRead, s.wantOut, s.wantEnd = read, write, end
	s.raw.watch(read, write, end)
}

// close closes the socket in its second phase. What waits in out is lost.
func (s *sock) close() {
	if s.closed() {
		return
	}
	s.raw.close()
	s.err = net.ErrClosed
	s.out = queue{}
}

func (s *sock) closed() bool { return s.err == net.ErrClosed }

// broken reports whether the socket can't be written to any more. A peer's FIN
// alone does not break it.
func (s *sock) broken() bool { return s.err != nil && s.err != io.EOF }

// Close closes the connection in the first phase. In the second the tunnel
// does that, and crypto/tls has no business to.
func (s *sock) Close() error {
	if s.raw == nil {
		return s.conn.Close()
	}
	return nil
}

func (s *sock) LocalAddr() net.Addr  { return s.conn.LocalAddr() }
func (s *sock) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

func (s *sock) SetDeadline(t time.Time) error {
	if s.raw == nil {
		return s.conn.SetDeadline(t)
	}
	return nil
}

func (s *sock) SetReadDeadline(t time.Time) error {
	if s.raw == nil {
		return s.conn.SetReadDeadline(t)
	}
	return nil
}

func (s *sock) SetWriteDeadline(t time.Time) error {
	if s.raw == nil {
		return s.conn.SetWriteDeadline(t)
	}
	return nil
}

// blockSize is what a queue grows by: two TLS records' worth for a client that
// is really behind, while the small rest of one write gets a block its size.
const blockSize = 32 << 10 // bytes

// A queue holds bytes that wait for a socket, in blocks, oldest first. An
// empty queue holds no memory.
type queue struct {
	blocks [][]byte
	size   int // bytes in all blocks
}

func (q *queue) add(b []byte) {
	q.size += len(b)
	for len(b) > 0 {
		if last := len(q.blocks) - 1; last >= 0 {
			if free := cap(q.blocks[last]) - len(q.blocks[last]); free > 0 {
				n := min(free, len(b))
				q.blocks[last] = append(q.blocks[last], b[:n]...)
				b = b[n:]
				continue
			}
		}
		size := blockSize
		if len(q.blocks) == 0 {
			size = min(len(b), blockSize)
		}
		q.blocks = append(q.blocks, make([]byte, 0, size))
	}
}

// head returns the oldest bytes; never empty while size is above zero.
func (q *queue) head() []byte { return q.blocks[0] }

// drop forgets the n oldest bytes; n is at most len(head()).
func (q *queue) drop(n int) {
	q.size -= n
	q.blocks[0] = q.blocks[0][n:]
	if len(q.blocks[0]) > 0 {
		return
	}
	q.blocks[0] = nil
	if q.blocks = q.blocks[1:]; len(q.blocks) == 0 {
		q.blocks = nil
	}
}

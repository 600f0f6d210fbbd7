package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// A sock is one socket of a tunnel, and the net.Conn below its crypto/tls.
//
// It has two phases. In the first a goroutine does the handshakes, and all calls go to
// the connection that was accepted or dialled: they block, and obey deadlines. A loop
// ends this phase when it sets raw. In the second the loop owns the socket. Read
// returns the bytes that the kernel has, once a turn, and then errAgain. Write never
// fails and never blocks, because crypto/tls remembers a failed write forever. Bytes
// that the kernel does not accept wait in out.
//
// crypto/tls allows this use: tls.Conn.Read does not keep an error whose Temporary() is
// true, and the next call continues.
//
// The state of a socket determines everything that can still be done with it. The
// events that the loop waits for follow from the state, so the loop never waits for a
// dead socket, even if bytes are left in its queue.
type sock struct {
	conn net.Conn // first phase only
	raw  rawConn  // second phase; nil in the first
	os   osConn   // raw points to it if the loop has a poller for descriptors
	turn *turn    // the current turn, nil between turns
	err  error    // what ended the socket: io.EOF after a FIN; Read repeats it
	out  queue    // bytes that the kernel did not take
	max  int      // maximum size of out in bytes; more fails the socket

	records recordCounter

	state   sockState
	fin     finState
	lost    bool     // a write met the peer's reset, which is err; earlier bytes may still be readable
	drained bool     // this turn: the kernel has nothing more for us
	ahead   uint8    // 1 + the batch's slot with input that was read ahead; 0: none
	pending bool     // the batch has a write that is not made yet; out is empty
	want    interest // last passed to raw.watch
}

// A sockState says what can be done with a socket. It only advances, by end, fail and
// close:
//
//	open ──end──▶ ended ──fail──▶ failed ──close──▶ closed
//	  └────────────fail─────────────▲
//
// close leads to closed from everywhere.
type sockState uint8

const (
	sockOpen   sockState = iota
	sockEnded            // the peer sends nothing more; it can still be written to
	sockFailed           // neither is possible: it was reset, or the queue is full. Queued bytes are lost
	sockClosed           // the descriptor is closed
)

// A finState says whether FIN was sent.
type finState uint8

const (
	finNone   finState = iota
	finWanted          // after the waiting bytes
	finSent
	finNever // only close can send it
)

// An interest is the set of events that a loop waits for on a socket. While a socket is
// neither failed nor closed, the loop also waits for its failure.
type interest uint8

const (
	forFailure interest = 1 << iota // always set while the loop waits for anything
	forInput
	forRoom
	forEnd // for the peer's FIN, without forInput
)

// rawConn is a socket that never blocks. A loop gives it to sock.
type rawConn interface {
	// read returns errAgain if the kernel has no bytes, and io.EOF after a FIN.
	read(b []byte) (int, error)
	// write takes as many bytes as the kernel does; errAgain if those are not all.
	write(b []byte) (int, error)
	// unacknowledged returns how many bytes the kernel holds that the peer has not
	// acknowledged; 0 if that is unknown.
	unacknowledged() int
	// closeWrite sends FIN after all written bytes. It returns false if only close can.
	closeWrite() bool
	// watch sets the events that the loop waits for; 0: none.
	watch(interest)
	// close closes the descriptor. With reset the peer gets RST, and the kernel drops the
	// bytes that it still holds for the peer.
	close(reset bool)
}

// A polled socket is a rawConn with a loop's poller. It can move to another loop.
type polled interface {
	rawConn
	join(p poller, t *tunnel, leg *leg) // events follow with watch
	leave()
}

// errQueueFull is the error of a socket whose peer takes too few bytes.
var errQueueFull = errors.New("the backlog for the peer exceeds its limit")

// errAgain is the error of a read or write that would block. It is a net.Error whose
// Temporary is true, the only kind that tls.Conn.Read does not remember.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read now" }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

func (s *sock) Read(b []byte) (int, error) {
	switch {
	case s.raw == nil:
		return s.conn.Read(b)
	case s.state != sockOpen:
		return 0, s.err
	case s.drained || s.turn == nil:
		return 0, errAgain
	}
	b = b[:min(len(b), s.turn.budget)]
	var n int
	var err error
	if s.ahead != 0 {
		n, err = s.turn.batch.take(s, b)
	} else {
		n, err = s.raw.read(b)
	}
	s.turn.budget -= n
	s.records.count(b[:n])
	// A short read means that the socket is empty. The next event reports more bytes,
	// so a read that would find nothing is skipped.
	if n < len(b) || s.turn.budget <= 0 {
		s.drained = true
	}
	if err == io.EOF && s.lost {
		err = s.err // the write consumed the error, which a socket reports once
	}
	switch err {
	case nil, errAgain:
	case io.EOF:
		s.end(err)
	default:
		s.fail(err)
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

// send passes bytes to the kernel, after those that are queued.
func (s *sock) send(b []byte) {
	if s.land(); s.lost || s.state >= sockFailed {
		return
	}
	if s.out.size == 0 {
		if s.turn != nil && s.turn.batch.add(s, b) {
			return
		}
		n, err := s.raw.write(b)
		s.unsent(b[n:], err)
		return
	}
	s.unsent(b, errAgain)
}

// unsent handles the rest and the error of a write.
func (s *sock) unsent(b []byte, err error) {
	if err != nil && err != errAgain {
		s.refused(err)
		return
	}
	if s.max > 0 && len(b) > s.max-s.out.size {
		s.fail(errQueueFull)
		return
	}
	s.out.add(b)
}

// land makes a pending write now, and reports whether that changed anything.
func (s *sock) land() bool {
	if !s.pending || s.turn == nil {
		return false
	}
	s.turn.batch.flush()
	return s.out.size > 0 || s.state >= sockFailed
}

// flush sends queued bytes until the kernel accepts no more, and reports whether it
// accepted any.
func (s *sock) flush() (progress bool) {
	for s.out.size > 0 {
		n, err := s.raw.write(s.out.head())
		if n > 0 {
			progress = true
			s.out.drop(n)
		}
		if err == errAgain {
			break
		}
		if err != nil {
			s.refused(err)
		}
	}
	return progress
}

// refused handles a failed write. After a reset, earlier bytes of the peer may still be
// readable, such as a server's last words that crossed a client's message. The socket
// therefore stays open until Read reaches the end, and nothing is written any more.
func (s *sock) refused(err error) {
	if s.state != sockOpen || !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		s.fail(err)
		return
	}
	s.lost, s.err, s.out = true, err, queue{}
}

// shutdown requests FIN after all written bytes. finish, at the end of a turn, sends it
// once none of them wait.
func (s *sock) shutdown() {
	if s.fin == finNone {
		s.fin = finWanted
	}
}

func (s *sock) finish() {
	if s.fin == finWanted && s.out.size == 0 && s.state < sockFailed {
		s.fin = finSent
		if !s.raw.closeWrite() {
			s.fin = finNever
		}
	}
}

// end records that the peer sends no more bytes, or that they are useless.
func (s *sock) end(err error) {
	if s.state == sockOpen {
		s.state, s.err = sockEnded, err
	}
}

// fail gives the socket up. Queued bytes are lost.
func (s *sock) fail(err error) {
	if s.state < sockFailed {
		s.state, s.err, s.out = sockFailed, err, queue{}
	}
}

// stuck reports whether bytes are queued that the peer has not acknowledged.
func (s *sock) stuck() bool {
	return s.out.size > 0 || s.state < sockFailed && s.raw.unacknowledged() > 0
}

// movable reports whether another loop may take the socket over.
func (s *sock) movable() bool {
	_, can := s.raw.(polled)
	return (can || s.raw == nil) && s.ahead == 0 && !s.pending
}

// close closes the descriptor. Bytes in out are lost, and with reset those in the
// kernel as well.
func (s *sock) close(reset bool) {
	if s.state == sockClosed {
		return
	}
	s.land()
	s.raw.close(reset)
	s.state, s.err, s.out, s.want = sockClosed, net.ErrClosed, queue{}, 0
}

// abandon closes a socket in either phase.
func (s *sock) abandon() {
	switch {
	case s.raw != nil:
		s.close(true)
	case s.conn != nil:
		s.conn.Close()
	}
}

// watch tells the loop the events to wait for, if they have changed. With read the tunnel
// wants the peer's bytes, and with end only their end.
func (s *sock) watch(read, end bool) {
	want := interest(0)
	if s.state < sockFailed {
		want = forFailure
		if s.out.size > 0 {
			want |= forRoom
		}
	}
	if s.state == sockOpen && read {
		want |= forInput
	}
	if s.state == sockOpen && end {
		want |= forEnd
	}
	if want != s.want && s.state != sockClosed {
		s.want = want
		s.raw.watch(want)
	}
}

// Close closes the connection in the first phase. In the second it does nothing for
// crypto/tls, because the tunnel closes the socket.
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

// blockSize is the step by which a queue grows: two TLS records. The first block has only
// the size of its bytes, because the rest of one write is usually small.
const blockSize = 32 << 10 // bytes

// A queue has the bytes that wait for a socket, in blocks, oldest first. An empty queue
// has no memory.
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

// drop removes the n oldest bytes; n is at most len(head()).
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

// A recordCounter counts the TLS records in a stream by their headers (RFC 8446, section
// 5.1). crypto/tls does not report their number, and records without data are the
// cheapest thing that a client can send.
type recordCounter struct {
	on     bool
	have   uint8   // bytes in head
	head   [5]byte // an incomplete record header
	left   int32   // missing bytes of the current record
	number int     // complete records since the last reset to 0
}

func (c *recordCounter) count(b []byte) {
	for c.on && len(b) > 0 {
		if c.left == 0 {
			n := copy(c.head[c.have:], b)
			c.have += uint8(n)
			b = b[n:]
			if int(c.have) < len(c.head) {
				return
			}
			c.have, c.left = 0, int32(binary.BigEndian.Uint16(c.head[3:]))
		}
		n := min(int32(len(b)), c.left)
		c.left -= n
		b = b[n:]
		if c.left == 0 {
			c.number++
		}
	}
}

package proxy

import (
	"io"
	"slices"
	"testing"
	"time"
)

// A fakeSocket is a rawConn that a test fills and empties by hand, without a loop, a
// clock or a goroutine.
type fakeSocket struct {
	in     [][]byte // the result of each read
	fin    bool     // after in
	broken error    // the error of writes, and of reads after in
	room   int      // bytes that writes accept; negative: all
	out    []byte
	writes int
	unread int // bytes that the kernel holds for the peer
	want   interest
	closed bool
	reset  bool
}

func (s *fakeSocket) read(b []byte) (int, error) {
	switch {
	case len(s.in) > 0:
		n := copy(b, s.in[0])
		if s.in[0] = s.in[0][n:]; len(s.in[0]) == 0 {
			s.in = s.in[1:]
		}
		return n, nil
	case s.broken != nil:
		return 0, s.broken
	case s.fin:
		return 0, io.EOF
	}
	return 0, errAgain
}

func (s *fakeSocket) write(b []byte) (int, error) {
	if s.broken != nil {
		return 0, s.broken
	}
	n := len(b)
	if s.room >= 0 {
		n = min(n, s.room)
		s.room -= n
	}
	s.out = append(s.out, b[:n]...)
	s.writes++
	if n < len(b) {
		return n, errAgain
	}
	return n, nil
}

func (s *fakeSocket) unacknowledged() int   { return s.unread }
func (s *fakeSocket) closeWrite() bool      { return false }
func (s *fakeSocket) watch(want interest)   { s.want = want }
func (s *fakeSocket) close(reset bool)      { s.closed, s.reset, s.want = true, reset, 0 }
func (s *fakeSocket) give(chunks ...[]byte) { s.in = append(s.in, chunks...) }

// A tunnelRig is a tunnel of two fake sockets. The test gives it its turns.
type tunnelRig struct {
	*tunnel
	w                *turn
	client, upstream *fakeSocket
}

// newTunnelRig creates a tunnel of a vhost that does not require XMPP. edit may change
// it before its first turn.
func newTunnelRig(t testing.TB, edit func(*tunnel)) *tunnelRig {
	d := &tunnelRig{w: newTurn(), client: &fakeSocket{room: -1}, upstream: &fakeSocket{room: -1}}
	d.w.now = time.Hour
	d.tunnel = &tunnel{
		settings: &tunnelSettings{backlog: 1 << 20},
		info:     &tunnelInfo{vhost: someVhost(t)},
		client:   leg{sock: &sock{raw: d.client}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
		upstream: leg{sock: &sock{raw: d.upstream}, scan: scanner{keep: maxKeep}},
	}
	if edit != nil {
		edit(d.tunnel)
	}
	d.start(d.w)
	return d
}

// turns gives the tunnel events while it awaits any that the sockets have.
func (d *tunnelRig) turns() {
	for n := 0; !d.done; n++ {
		if n > 10_000 {
			panic("the tunnel spins")
		}
		switch {
		case d.client.want&forInput != 0 && (len(d.client.in) > 0 || d.client.fin):
			d.event(d.w, &d.tunnel.client, inputReady)
		case d.upstream.want&forInput != 0 && (len(d.upstream.in) > 0 || d.upstream.fin):
			d.event(d.w, &d.tunnel.upstream, inputReady)
		case d.client.want&forRoom != 0 && d.client.room != 0:
			d.event(d.w, &d.tunnel.client, roomReady)
		case d.upstream.want&forRoom != 0 && d.upstream.room != 0:
			d.event(d.w, &d.tunnel.upstream, roomReady)
		default:
			return
		}
	}
}

// pass lets time pass, and calls expire when it is due.
func (d *tunnelRig) pass(how time.Duration) {
	end := d.w.now + how
	for !d.done && d.due <= end {
		d.w.now = max(d.due, d.w.now)
		d.expire(d.w)
		d.turns()
	}
	d.w.now = end
}

// text returns the data frames that the peer received.
func (s *fakeSocket) text() (frames []string) {
	for b := s.out; len(b) > 0; {
		h, err := parseHeader(b)
		if err != nil || h.size == 0 {
			return append(frames, "?")
		}
		end := h.size + int(h.length)
		if end > len(b) {
			return append(frames, "half a frame")
		}
		payload := slices.Clone(b[h.size:end])
		if h.masked {
			applyMask(payload, h.key, 0)
		}
		if !h.control() {
			frames = append(frames, string(payload))
		}
		b = b[end:]
	}
	return frames
}

// closes returns the status code of the Close frame that the peer received; 0: none.
func (s *fakeSocket) closes() uint16 {
	for b := s.out; len(b) > 0; {
		h, err := parseHeader(b)
		end := h.size + int(h.length)
		if err != nil || h.size == 0 || end > len(b) {
			return 0
		}
		if h.opcode == opClose {
			return closeCode(h, b[h.size:end])
		}
		b = b[end:]
	}
	return 0
}

package proxy

import "errors"

// A batch makes the reads and the writes of many turns together, if the system has a
// cheap way to do that (ring_linux.go). A loop with several ready sockets reads them
// all with one call, lends each tunnel its turn, and writes their output with another
// call. It belongs to the loop. The methods of a nil batch do nothing, and sockets then
// read and write by themselves.
//
// Reads therefore happen before a turn and writes after it. A sock has two more states
// for this:
//
//	                  batch.read                     sock.Read, to the last byte
//	nothing ahead ───────────────▶ ahead: a slot ───────────────────────────────▶ nothing ahead
//	                  batch.add                      batch.flush
//	nothing pending ─────────────▶ pending: a write ─────────────────────────────▶ nothing pending
//
// Ahead is input that the kernel has already delivered: bytes, an end or an error, in
// this order. A turn may leave some of it, because the tunnel does not read its client
// for a while. The slot then outlives the batch, and the loop reports the input itself,
// since no event will. While no slot is free, sockets are read one by one.
//
// Pending is a write that the tunnel considers done. Bytes that the kernel does not
// accept go into the sock's queue, or the sock fails; the tunnel gets another turn to
// see that. Therefore:
//
//   - A sock's queue is empty while a write is pending, and a second write forces the
//     first one. Nothing is sent out of order.
//   - A closing tunnel has nothing pending when it decides what is left to do, because
//     FIN and the end depend on the accepted bytes (tunnel.land).
//   - A socket is closed with nothing pending, because its descriptor may be reused at once.
//   - A tunnel changes its loop between two batches, and with nothing ahead.
//   - A panic in a turn drops the pending writes of that tunnel only. A panic in
//     do fails the sockets of its calls, because it is unknown which of them were made.
//   - A socket without a descriptor is not in batches.
type batch struct {
	do    func(calls []call) // makes the calls; waits for none of them
	on    bool               // turns are in progress: writes may be gathered
	doing []call             // the calls being made, also after a panic
	turn  *tunnel            // the tunnel that has the turn
	slots []slot
	taken int       // slots in use
	reads []call    // for begin
	write []call    // for flush
	arena []byte    // the bytes of write
	late  []*tunnel // tunnels with incomplete or failed writes
}

// A call is a non-blocking read or write of a socket.
type call struct {
	s     *sock
	t     *tunnel
	b     []byte // buffer to read into, or bytes to write
	write bool
	made  bool  // for do
	n     int   // bytes read or written
	err   error // errAgain or io.EOF, as for rawConn; an incomplete write may have none
}

// A slot holds the input that one sock has ahead.
type slot struct {
	s    *sock // nil: free
	t    *tunnel
	leg  *leg
	rest []byte // of room
	full bool   // the kernel may have more input
	err  error  // follows rest
	room []byte
}

const (
	batchSlots = 128       // reads in a batch
	slotSize   = 4 << 10   // bytes; a longer read continues in the turn
	arenaSize  = 256 << 10 // bytes of pending writes
)

func newBatch(do func([]call)) *batch { return &batch{do: do} }

// read is called for sockets with input, before begin.
func (b *batch) read(t *tunnel, l *leg) {
	s := l.sock
	if b == nil || s.ahead != 0 || s.state != sockOpen || s.want&forInput == 0 || b.taken == batchSlots {
		return
	}
	if b.slots == nil {
		b.slots = make([]slot, batchSlots)
		room := make([]byte, batchSlots*slotSize)
		for i := range b.slots {
			b.slots[i].room = room[i*slotSize : (i+1)*slotSize : (i+1)*slotSize]
		}
		b.arena = make([]byte, 0, arenaSize)
	}
	i := b.taken // usually free: few slots outlive a batch
	for b.slots[i].s != nil {
		i = (i + 1) % batchSlots
	}
	b.slots[i].s, b.slots[i].t, b.slots[i].leg = s, t, l
	b.taken++
	s.ahead = uint8(i + 1)
	b.reads = append(b.reads, call{s: s, t: t, b: b.slots[i].room})
}

// begin makes the reads. Until end, turns gather their writes.
func (b *batch) begin() {
	if b == nil {
		return
	}
	if b.doing = b.reads; len(b.reads) > 0 {
		b.do(b.reads)
	}
	for i := range b.reads {
		c := &b.reads[i]
		a := &b.slots[c.s.ahead-1]
		switch {
		case c.err == errAgain:
			b.free(a)
		default:
			a.rest, a.full, a.err = a.room[:c.n], c.n == slotSize, c.err
		}
	}
	clear(b.reads)
	b.doing, b.reads, b.on = nil, b.reads[:0], true
}

// spoil fails the sockets of calls that a panic interrupted.
func (b *batch) spoil() {
	for i := range b.doing {
		c := &b.doing[i]
		c.s.pending = false
		c.s.fail(errBatch)
		b.late = append(b.late, c.t)
	}
	b.doing = nil
}

var errBatch = errors.New("a panic in a batch of reads or writes")

// take reads from the input that s has ahead.
func (b *batch) take(s *sock, p []byte) (int, error) {
	a := &b.slots[s.ahead-1]
	n := copy(p, a.rest)
	if a.rest = a.rest[n:]; len(a.rest) > 0 {
		return n, nil
	}
	if a.full && n < len(p) {
		m, err := s.raw.read(p[n:])
		a.full = m == len(p)-n
		if n += m; err != errAgain {
			a.err = err // for the next read: the kernel reports an error once
		}
	}
	if a.err != nil && n > 0 {
		return n, nil
	}
	err := a.err
	b.free(a)
	return n, err
}

func (b *batch) free(a *slot) {
	a.s.ahead = 0
	*a = slot{room: a.room}
	b.taken--
}

// turnOf sets the tunnel of the next turn.
func (b *batch) turnOf(t *tunnel) {
	if b != nil {
		b.turn = t
	}
}

// add gathers a write of s, whose queue is empty, and reports whether it did.
func (b *batch) add(s *sock, p []byte) bool {
	if b == nil || !b.on || s.pending || len(p) > cap(b.arena) {
		return false
	}
	if _, ok := s.raw.(polled); !ok {
		return false
	}
	if len(b.write) == batchSlots || len(p) > cap(b.arena)-len(b.arena) {
		b.flush()
	}
	from := len(b.arena)
	b.arena = append(b.arena, p...)
	b.write = append(b.write, call{s: s, t: b.turn, b: b.arena[from:len(b.arena):len(b.arena)], write: true})
	s.pending = true
	return true
}

// flush makes the writes. Tunnels that must see the result get a turn in end.
func (b *batch) flush() {
	b.spoil()
	live := b.write[:0]
	for _, c := range b.write {
		c.s.pending = false
		if c.s.state < sockFailed { // otherwise its bytes are lost
			live = append(live, c)
		}
	}
	if b.doing = live; len(live) > 0 {
		b.do(live)
	}
	for i := range live {
		c := &live[i]
		if c.n < len(c.b) {
			c.s.unsent(c.b[c.n:], c.err)
			b.late = append(b.late, c.t)
		}
	}
	clear(b.write)
	b.doing, b.write, b.arena = nil, b.write[:0], b.arena[:0]
}

// end makes the writes, and gives a turn to each tunnel with an incomplete or failed
// one.
func (b *batch) end(tell func(*tunnel, *leg, readiness)) {
	if b == nil {
		return
	}
	b.on, b.turn = false, nil // even if something below panics
	b.flush()
	for i := range b.reads { // only after a panic: begin did not run, or not to its end
		if at := b.reads[i].s.ahead; at != 0 {
			b.free(&b.slots[at-1])
		}
	}
	clear(b.reads)
	b.reads = b.reads[:0]
	for i := range b.late { // their writes are no longer gathered, so the list does not grow
		if t := b.late[i]; !t.done {
			tell(t, &t.client, 0)
		}
	}
	clear(b.late)
	b.late = b.late[:0]
	for i := 0; b.taken > 0 && i < len(b.slots); i++ {
		a := &b.slots[i]
		if a.s != nil && a.s.state != sockOpen {
			b.free(a)
		}
	}
}

// left reports the input that earlier batches left ahead. It is called before read.
func (b *batch) left(tell func(*tunnel, *leg, readiness)) {
	for i := 0; b != nil && b.taken > 0 && i < len(b.slots); i++ {
		if a := &b.slots[i]; a.ready() {
			tell(a.t, a.leg, inputReady)
		}
	}
}

// waiting reports whether left has something to report.
func (b *batch) waiting() bool {
	for i := 0; b != nil && b.taken > 0 && i < len(b.slots); i++ {
		if b.slots[i].ready() {
			return true
		}
	}
	return false
}

func (a *slot) ready() bool {
	return a.s != nil && a.s.state == sockOpen && a.s.want&forInput != 0
}

package proxy

import "time"

// Sizes of the buffers that a loop lends to a tunnel for one turn. A turn reads at most
// turnBudget from the kernel, once; rawSize has room for that after an incomplete record
// of an earlier turn.
const (
	turnBudget = 64 << 10
	recordMax  = 5 + 16<<10 + 2048 // bytes of one TLS record on the wire (RFC 5246, section 6.2.3)
	rawSize    = turnBudget + recordMax + 512
	plainSize  = maxHeld + turnBudget + recordMax
	gatherSize = 96 << 10
	joinSize   = 16 << 10 // bytes of one full TLS record
)

// A turn is the working space of an event loop, lent to one tunnel for one event. Between
// turns an idle tunnel owns no buffer.
type turn struct {
	now    time.Duration // since the loops began; read once for each batch of events
	budget int           // bytes that this turn may still read

	raw   []byte // ciphertext, lent to the tls.Conn that is read
	plain []byte // decrypted, or read from a plain socket: input of the scanner

	clear []byte // a payload of the client's, unmasked

	toClient, toUpstream outlet

	gathered []byte // written to one sock in this turn, not yet sent
	to       *sock  // the sock of gathered

	batch *batch // the loop's; nil: it has none

	traffic traffic // since the loop last added it to its load
}

func newTurn() *turn {
	return &turn{
		raw:      make([]byte, rawSize),
		plain:    make([]byte, plainSize),
		gathered: make([]byte, 0, gatherSize),

		toClient:   outlet{joined: make([]byte, 0, joinSize)},
		toUpstream: outlet{joined: make([]byte, 0, joinSize)},
	}
}

// An outlet joins the bytes that a turn writes to one leg. So frames that arrived together
// leave together, in one TLS record or one system call. The bytes must not change before
// they are flushed.
type outlet struct {
	run    []byte // not yet written; part of turn.plain, or of joined
	joined []byte // bytes that were not adjacent
}

// add takes the next bytes. It returns bytes to write before them, usually none.
func (o *outlet) add(b []byte) (first []byte) {
	switch n := len(o.run); {
	case len(b) == 0:
	case n == 0:
		o.run = b
	case n < cap(o.run) && &o.run[:n+1][n] == &b[0]:
		o.run = o.run[:n+len(b)]
	case n+len(b) > cap(o.joined):
		first, o.run = o.run, b
	default:
		if &o.run[0] != &o.joined[:1][0] {
			o.run = append(o.joined[:0], o.run...)
		}
		o.run = append(o.run, b...)
	}
	return first
}

// take returns all bytes to write.
func (o *outlet) take() []byte {
	run := o.run
	o.run = nil
	return run
}

// gather appends bytes for s to those before them, so that the records of one turn leave
// in one write.
func (w *turn) gather(s *sock, b []byte) {
	if w.to != s || len(w.gathered)+len(b) > cap(w.gathered) {
		w.flush()
		w.to = s
	}
	if len(b) > cap(w.gathered) {
		s.send(b)
		return
	}
	w.gathered = append(w.gathered, b...)
}

// flush sends the gathered bytes.
func (w *turn) flush() {
	if w.to != nil && len(w.gathered) > 0 {
		w.to.send(w.gathered)
	}
	w.to, w.gathered = nil, w.gathered[:0]
}

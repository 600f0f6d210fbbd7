package proxy

import "time"

// Sizes of what a driver lends to a tunnel for one turn. A turn reads at most
// turnBudget from the kernel, once; rawSize has room for that behind a record
// that an earlier turn left unfinished.
const (
	turnBudget = 64 << 10
	recordMax  = 5 + 16<<10 + 2048 // bytes of one TLS record on the wire (RFC 5246, section 6.2.3)
	rawSize    = turnBudget + recordMax + 512
	plainSize  = maxHeld + turnBudget + recordMax
	gatherSize = 96 << 10
)

// A turn is the working space of a driver: one for each event loop, lent to
// one tunnel for one event. Between turns an idle tunnel owns no buffer.
type turn struct {
	now    time.Duration // since the driver's start; read once for each batch of events
	budget int           // bytes that this turn may still read

	raw   []byte // ciphertext, lent to the tls.Conn that is read
	plain []byte // decrypted, or read from a plain socket: what the scanner sees

	gathered []byte // written to one sock in this turn, not yet sent
	to       *sock  // which

	moved moved // since the driver last added it to its load
}

func newTurn() *turn {
	return &turn{
		raw:      make([]byte, rawSize),
		plain:    make([]byte, plainSize),
		gathered: make([]byte, 0, gatherSize),
	}
}

// gather puts bytes for s together with those before them, so that the records
// of one turn leave in one write.
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

// flush sends what was gathered.
func (w *turn) flush() {
	if w.to != nil && len(w.gathered) > 0 {
		w.to.send(w.gathered)
	}
	w.to, w.gathered = nil, w.gathered[:0]
}

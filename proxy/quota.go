package proxy

import "time"

const (
	// quotaBurst is the number of seconds whose quota a client may use at once.
	quotaBurst = 2

	// quotaPatience is how long a client may exceed its quota. Until then it is only
	// read more slowly, which is enough for a well-behaved peer that fills its socket.
	quotaPatience = 10 * time.Second

	// idleRecordCost is the cost of a TLS record without data, in frames: a KeyUpdate
	// needs two derivations of keys here and almost nothing at the client.
	idleRecordCost = 16

	// smallRecords is the number of records with little data in one turn after which a
	// client is read in smaller pieces.
	smallRecords = 16

	// smallBudget is the amount read at once from a client that sent such records, or
	// records without data. It allows 75 of those, which delay other tunnels by less
	// than a millisecond.
	smallBudget = 2 << 10 // bytes
)

// A quota is a token bucket for the frames of one client (limits.frames_per_second).
// All frames count, because the cheapest ones to send carry no data: empty fragments,
// Pings, and TLS records without data. If a client sends more records than frames, the
// records that recordShare does not pay for count instead. So a frame that arrives byte
// by byte counts once per byte, and a frame whose header is in a separate record, as
// some libraries write it, counts twice.
//
// A client that has exceeded its quota is not read until the excess is earned back.
// Other parts also use this wait to slow a client down (rest).
type quota struct {
	spent float64       // frames not yet earned back
	at    time.Duration // the time of spent
	over  time.Duration // when the client began to exceed its quota; 0: it does not
	until time.Duration // the client is not read before this time
	small bool          // the last turn had many records with little or no data
}

// A share counts what a client sent in one turn.
type share struct {
	frames int64
	bytes  int64 // without TLS
	data   int64 // TLS records with data
	idle   int64 // TLS records without data
}

// cost returns the cost of a share, in frames.
func (s share) cost() int64 {
	return max(s.frames, s.data-s.bytes/recordShare) + idleRecordCost*max(s.idle, 0)
}

// small reports whether the client should be read in smaller pieces.
func (s share) small() bool {
	return s.idle > 0 || s.data-s.bytes/recordShare > 2*s.frames+smallRecords
}

// charge deducts the cost of a turn from the client's quota.
func (t *tunnel) charge(w *turn, sent share) {
	q := &t.quota
	q.small = sent.small()
	rate := float64(t.settings.frames)
	if rate == 0 {
		return
	}
	q.spent = max(q.spent-rate*(w.now-q.at).Seconds(), 0) + float64(sent.cost())
	q.at = w.now
	excess := q.spent - quotaBurst*rate
	switch {
	case excess <= 0:
		if q.spent < rate {
			q.over = 0
		}
		return
	case q.over == 0:
		q.over = max(w.now, 1)
	}
	wait := time.Duration(excess / rate * float64(time.Second))
	if w.now+wait >= q.over+quotaPatience {
		wait = breachTimeout
		t.endFor(reasonFlood, w.now+wait)
	}
	t.rest(w.now + wait)
}

// rest stops reading the client until a time. The wait does not count as its silence.
func (t *tunnel) rest(until time.Duration) {
	t.quota.until = max(t.quota.until, until)
	t.heard, t.pinged = max(t.heard, until), 0
}

// rests reports whether reading the client is paused. A client that gets our Close
// frame is read, for its answer, unless its own frames are the reason for the close.
func (t *tunnel) rests(now time.Duration) bool {
	return t.paused() || t.quota.until > now && (t.why == reasonNone || t.why == reasonFlood)
}

package proxy

import "time"

const (
	// quotaBurst is how many seconds' worth of frames a client may send at once.
	quotaBurst = 2

	// quotaPatience is how long a client may go on with more than its quota. Until
	// then it is only read more slowly: a peer that fills its socket in good faith
	// is slowed down by that.
	quotaPatience = 10 * time.Second

	// idleRecordCost is what a TLS record without data costs, in frames: a KeyUpdate
	// takes two derivations of keys here, and next to nothing there.
	idleRecordCost = 16

	// smallRecords is from how many records with little in them on, in one turn, a
	// client is read in smaller pieces.
	smallRecords = 16

	// smallBudget is how much is read at once of a client that sent such records, or
	// some without data: 75 of those, which hold others up for less than a millisecond.
	smallBudget = 2 << 10 // bytes
)

// A quota is a token bucket for what one client sends (limits.frames_per_second).
// All frames count, for the cheapest ones to send are the ones that carry nothing:
// empty fragments, Pings, and records without data. Where a client has its data in more
// records than frames, those that recordShare does not pay for count instead: a frame
// that comes byte by byte counts as often, and one whose header has a record of its own,
// as some libraries write it, as two.
//
// A client that has used up its quota is not read until it has earned what it
// took. The time of that is also how others slow a client down.
type quota struct {
	spent float64       // frames, not yet earned back
	at    time.Duration // as of then
	over  time.Duration // since when it is above its quota; 0: it is not
	until time.Duration // the client is not read before
	small bool          // many records with little or no data came last
}

// A share is what a client sent in one turn.
type share struct {
	frames int64
	bytes  int64 // without TLS
	data   int64 // TLS records with data
	idle   int64 // TLS records without
}

// cost is what a share takes of a quota, in frames.
func (s share) cost() int64 {
	return max(s.frames, s.data-s.bytes/recordShare) + idleRecordCost*max(s.idle, 0)
}

// small reports whether reading so much as this at once would take long.
func (s share) small() bool {
	return s.idle > 0 || s.data-s.bytes/recordShare > 2*s.frames+smallRecords
}

// charge takes what a client sent in one turn off its quota.
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

// rest keeps the client from being read until then. It is not silent meanwhile.
func (t *tunnel) rest(until time.Duration) {
	t.quota.until = max(t.quota.until, until)
	t.heard, t.pinged = max(t.heard, until), 0
}

// rests reports whether the client is not read now, whatever it sends. One that is
// told goodbye is read, for its answer, unless it gets it for what it sends.
func (t *tunnel) rests(now time.Duration) bool {
	return t.paused() || t.quota.until > now && (t.why == reasonNone || t.why == reasonFlood)
}

package proxy

import (
	"container/heap"
	"container/list"
	"time"
)

// A party is the connections of one client address.
type party struct {
	key     clientKey
	visits  int
	shares  int       // of those that are stalled or Ready
	stalled dueHeap   // of them
	ready   list.List // of *visit
	turn    *list.Element
	index   int // in door.order
}

// sharePrice is what a connection may cost and count as one. It is more than that of
// any client's that means well, so that who is further in his handshake counts no
// more than who has just come.
const sharePrice = 32 << 10 // bytes

// shares is what a connection counts among those of its address.
func (v *visit) shares() int { return 1 + int(v.price/sharePrice) }

// countsForParty reports whether v is one for which its address may lose one.
func (v *visit) countsForParty() bool { return phases[v.phase].stalled || v.phase == phaseReady }

// What follows is called with door.mu held.

func (d *door) partyOf(key clientKey) *party {
	p := d.parties[key]
	if p == nil {
		p = &party{key: key, stalled: dueHeap{of: inParty}}
		d.parties[key] = p
		heap.Push(&d.order, p)
	}
	return p
}

func (d *door) forget(p *party) {
	if p.visits == 0 {
		heap.Remove(&d.order, p.index)
		delete(d.parties, p.key)
	}
}

// full reports whether no more connections may be open. Those outside are not open
// in that sense, and those that end will not be for long.
func (d *door) full() bool { return d.open-d.outside.Len()-d.leaving >= d.limit }

// makePlace gives up connections until there is a place for one more of p. It returns
// false where there is none.
func (d *door) makePlace(p *party) bool {
	price := phases[phaseHello].price
	return (!d.full() || d.giveUpFor(p) || d.giveUpKept()) && d.makeRoom(p, price, helloShare)
}

// makeRoom gives up stalled connections until there is room for so many bytes more,
// for a connection of p, in so much of the room. It returns false where there is
// none.
func (d *door) makeRoom(p *party, bytes, sixteenths int64) bool {
	for d.held+bytes > int64(d.slots)*roomPerSlot/wholeRoom*sixteenths {
		if !d.giveUpFor(p) {
			return false
		}
	}
	return true
}

// giveUpFor gives up one connection for one of p.
func (d *door) giveUpFor(p *party) bool {
	v := d.most()
	if v == nil || v.party.shares <= p.shares+1 {
		if v = d.stalled.first(); v == nil || time.Now().Before(v.due) {
			return false
		}
	}
	d.giveUp(v)
	return true
}

// most is who is given up first of the party with most shares.
func (d *door) most() *visit {
	if len(d.order) == 0 {
		return nil
	}
	p := d.order[0]
	if v := p.stalled.first(); v != nil {
		return v
	}
	if e := p.ready.Back(); e != nil { // the others are before it
		return e.Value.(*visit)
	}
	return nil
}

// giveUpKept gives up the connection that is Kept for longest.
func (d *door) giveUpKept() bool {
	e := d.kept.Front()
	if e != nil {
		d.giveUp(e.Value.(*visit))
	}
	return e != nil
}

// giveUp takes v off its phase at once. Its goroutine closes it.
func (d *door) giveUp(v *visit) {
	was := v.phase
	d.unset(v)
	v.givenUp = true
	d.leaving++
	switch was {
	case phaseBody: // net/http sets deadlines of its own
		v.conn.Close()
	default:
		v.conn.SetDeadline(longAgo)
	}
	switch was {
	case phaseOutside:
		v.begin()
	case phaseReady:
		v.turn <- errGivenUp
	}
}

// A dueHeap has stalled connections, the one whose patience ends first first. A
// connection is in two: its party's and the door's.
type dueHeap struct {
	of     int // which of the two
	visits []*visit
}

const (
	inParty = iota
	inDoor
)

// first is nil where there is none.
func (h *dueHeap) first() *visit {
	if len(h.visits) == 0 {
		return nil
	}
	return h.visits[0]
}

func (h *dueHeap) Len() int           { return len(h.visits) }
func (h *dueHeap) Less(i, j int) bool { return h.visits[i].due.Before(h.visits[j].due) }

func (h *dueHeap) Swap(i, j int) {
	h.visits[i], h.visits[j] = h.visits[j], h.visits[i]
	h.visits[i].places[h.of], h.visits[j].places[h.of] = i, j
}

func (h *dueHeap) Push(x any) {
	v := x.(*visit)
	v.places[h.of] = len(h.visits)
	h.visits = append(h.visits, v)
}

func (h *dueHeap) Pop() any {
	last := len(h.visits) - 1
	v := h.visits[last]
	h.visits[last] = nil
	h.visits = h.visits[:last]
	return v
}

// partyOrder is a heap: the party with most shares first, and of equal ones that
// whose first connection is due first.
type partyOrder []*party

func (o partyOrder) Len() int { return len(o) }

func (o partyOrder) Less(i, j int) bool {
	a, b := o[i], o[j]
	if a.shares != b.shares || a.stalled.Len() == 0 || b.stalled.Len() == 0 {
		return a.shares > b.shares
	}
	return a.stalled.first().due.Before(b.stalled.first().due)
}

func (o partyOrder) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].index, o[j].index = i, j
}

func (o *partyOrder) Push(x any) {
	p := x.(*party)
	p.index = len(*o)
	*o = append(*o, p)
}

func (o *partyOrder) Pop() any {
	last := len(*o) - 1
	p := (*o)[last]
	(*o)[last] = nil
	*o = (*o)[:last]
	return p
}

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
	shares  int // of those that are stalled or Ready
	stalled ranking[visit]
	ready   list.List // of *visit
	turn    *list.Element
	outside list.List // of *visit, in the order of accept

	inOrder, inEntry, inQueues int // where it is in the door's rankings
}

// sharePrice is what a connection may cost and count as one. It is more than that of
// any client's that means well, whose body and a record of it are awaited included, so
// that who is further on counts no more than who has just come.
const sharePrice = 64 << 10 // bytes

// shares is what a connection counts among those of its address.
func (v *visit) shares() int { return 1 + int(v.price/sharePrice) }

// countsForParty reports whether v is one for which its address may lose one.
func (v *visit) countsForParty() bool { return phases[v.phase].stalled || v.phase == phaseReady }

// What follows is called with door.mu held.

func (d *door) partyOf(key clientKey) *party {
	p := d.parties[key]
	if p == nil {
		p = &party{key: key, stalled: ranking[visit]{before: endsFirst, place: func(v *visit) *int { return &v.inParty }}}
		d.parties[key] = p
		heap.Push(&d.order, p)
	}
	return p
}

func (d *door) forget(p *party) {
	if p.visits == 0 {
		heap.Remove(&d.order, p.inOrder)
		delete(d.parties, p.key)
	}
}

// reorder follows a change of what p has.
func (d *door) reorder(p *party) {
	heap.Fix(&d.order, p.inOrder)
	if p.outside.Len() > 0 {
		heap.Fix(&d.entry, p.inEntry)
		heap.Fix(&d.queues, p.inQueues)
	}
}

// full reports whether no more connections may be open. Those outside are not open
// in that sense, and those that end will not be for long.
func (d *door) full() bool { return d.open-d.outside-d.leaving >= d.limit }

// wantsFiles reports whether there are no descriptors for so many connections more.
// Each connection has one, and tunnels and those that are Served or with the pages
// need a second one.
func (d *door) wantsFiles(more int) bool {
	second := d.open - len(d.visits) + d.served - d.again.Len()
	return d.open-d.leaving+second+more > 2*d.limit
}

// closeOutside closes the last connection that is outside of the address that has
// most, if it has at least two more than p, and reports whether there was one. Nil is
// for nobody's sake. Those that are stalled count as well.
func (d *door) closeOutside(p *party) bool {
	if d.queues.Len() == 0 {
		return false
	}
	q := d.queues.first()
	if p != nil && q.all() <= p.all()+1 {
		return false
	}
	d.giveUp(q.outside.Back().Value.(*visit))
	return true
}

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
	for d.reserved+bytes > int64(d.slots)*roomPerSlot/wholeRoom*sixteenths {
		if !d.giveUpFor(p) {
			return false
		}
	}
	return true
}

// mayMakeRoom reports whether makeRoom would give up anybody, or need not.
func (d *door) mayMakeRoom(p *party, bytes, sixteenths int64) bool {
	return d.reserved+bytes <= int64(d.slots)*roomPerSlot/wholeRoom*sixteenths || d.givesWay(p) != nil
}

// giveUpFor gives up one connection for one of p.
func (d *door) giveUpFor(p *party) bool {
	v := d.givesWay(p)
	if v != nil {
		d.giveUp(v)
	}
	return v != nil
}

// givesWay is who is given up for one of p, nil where nobody is.
func (d *door) givesWay(p *party) *visit {
	if v := d.most(); v != nil && v.party.shares > p.shares+1 {
		return v
	}
	if v := d.stalled.first(); v != nil && !time.Now().Before(d.dueFor(v, p)) {
		return v
	}
	return nil
}

// dueFor is when v may be given up for one of p; nil is any other address. The more
// addresses wait outside, the less patience is there: a quarter is left when they are
// half as many as are stalled. An address competes with itself at full patience, or a
// crowd behind it would throw out whoever is far away.
func (d *door) dueFor(v *visit, p *party) time.Time {
	if v.party == p {
		return v.due
	}
	const least = 4
	patience := phases[v.phase].patience
	waiting, stalled := d.entry.Len(), d.stalled.Len()
	left := max(patience/least, patience-patience*3/2*time.Duration(waiting)/time.Duration(stalled))
	return v.due.Add(left - patience)
}

// most is who is given up first of the party with most shares.
func (d *door) most() *visit {
	if d.order.Len() == 0 {
		return nil
	}
	p := d.order.first()
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
	was, waits := v.phase, v.phase == phaseReady || v.grows()
	d.unset(v)
	v.givenUp = true
	d.leaving++
	switch was {
	case phaseBody: // net/http sets deadlines of its own
		v.conn.Close()
	default:
		v.conn.SetDeadline(longAgo)
	}
	switch {
	case was == phaseOutside:
		v.begin()
	case waits:
		v.turn <- errGivenUp
	}
}

// all is what counts where too many are outside.
func (p *party) all() int { return p.shares + p.outside.Len() }

// loses is the order of those who lose a connection: the party with most shares
// first, and of equal ones that whose first connection is due first.
func loses(a, b *party) bool {
	if a.shares != b.shares || a.stalled.Len() == 0 || b.stalled.Len() == 0 {
		return a.shares > b.shares
	}
	return a.stalled.first().due.Before(b.stalled.first().due)
}

// comesIn is the order of those outside: the party with fewest shares first, and of
// equal ones that which waits for longest.
func comesIn(a, b *party) bool {
	if a.shares != b.shares {
		return a.shares < b.shares
	}
	return a.outside.Front().Value.(*visit).until.Before(b.outside.Front().Value.(*visit).until)
}

// hasMore is the order of those outside where there are too many of them.
func hasMore(a, b *party) bool { return a.all() > b.all() }

// endsFirst is the order of those that are stalled: the one whose patience ends first.
func endsFirst(a, b *visit) bool { return a.due.Before(b.due) }

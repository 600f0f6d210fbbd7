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
	kept    list.List // of *visit, longest Kept first

	inOrder, inEntry, inQueues, inKeepers int // index in the door's rankings
}

// sharePrice is the maximum price of a connection that counts as one. It exceeds that
// of any well-behaved client, including a body and a record that are awaited, so that
// connections that are further on do not count more than new ones.
const sharePrice = 64 << 10 // bytes

// shares returns how much a connection counts within its address.
func (v *visit) shares() int { return 1 + int(v.price/sharePrice) }

// countsForParty reports whether the address may lose a connection for v.
func (v *visit) countsForParty() bool { return phases[v.phase].stalled || v.phase == phaseReady }

// The following are called with door.mu held.

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

// reorder updates the rankings after a change of p.
func (d *door) reorder(p *party) {
	heap.Fix(&d.order, p.inOrder)
	if p.outside.Len() > 0 {
		heap.Fix(&d.entry, p.inEntry)
		heap.Fix(&d.queues, p.inQueues)
	}
	if p.kept.Len() > 0 {
		heap.Fix(&d.keepers, p.inKeepers)
	}
}

// full reports whether the limit of open connections is reached. It ignores connections
// outside, and those that are ending.
func (d *door) full() bool { return d.open-d.outside-d.leaving >= d.limit }

// wantsFiles reports whether descriptors for this many more connections are lacking.
// Each connection has one; tunnels, and connections in Served, Body or Pages, need a
// second one.
func (d *door) wantsFiles(more int) bool {
	second := d.open - len(d.visits) + d.served - d.again.Len()
	return d.open-d.leaving+second+more > 2*d.limit
}

// closeOutside closes the last outside connection of the address with the most, if it
// has at least two more than p, and reports whether there was one. With p nil, the
// comparison is dropped. Stalled connections count as well.
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

// makePlace gives up connections until p can have one more, or returns false.
func (d *door) makePlace(p *party) bool {
	price := phases[phaseHello].price
	return (!d.full() || d.giveUpFor(p) || d.giveUpKept()) && d.makeRoom(p, price, helloShare)
}

// makeRoom gives up stalled connections until there is room for this many bytes more,
// for a connection of p, within the given share of the room, or returns false.
func (d *door) makeRoom(p *party, bytes, sixteenths int64) bool {
	for d.reserved+bytes > int64(d.slots)*roomPerSlot/wholeRoom*sixteenths {
		if !d.giveUpFor(p) {
			return false
		}
	}
	return true
}

// mayMakeRoom reports whether makeRoom would succeed, or is not needed.
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

// givesWay returns the connection to give up for one of p, or nil.
func (d *door) givesWay(p *party) *visit {
	if v := d.most(); v != nil && v.party.shares > p.shares+1 {
		return v
	}
	if v := d.stalled.first(); v != nil && !time.Now().Before(d.dueFor(v, p)) {
		return v
	}
	return nil
}

// dueFor returns when v may be given up for one of p; nil stands for any other address.
// The more addresses wait outside, the shorter the patience: a quarter is left when
// half as many addresses wait as connections are stalled. Within one address the
// patience is full; otherwise a crowd behind it would push out its distant members.
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

// most returns the first connection to give up of the party with the most shares.
func (d *door) most() *visit {
	if d.order.Len() == 0 {
		return nil
	}
	p := d.order.first()
	if v := p.stalled.first(); v != nil {
		return v
	}
	if e := p.ready.Back(); e != nil { // the others precede it
		return e.Value.(*visit)
	}
	return nil
}

// giveUpKept gives up a Kept connection of the address with the most.
func (d *door) giveUpKept() bool {
	return d.keepers.Len() > 0 && d.giveUpKeptOf(d.keepers.first())
}

// giveUpKeptOf gives up the connection of an address that has been Kept longest.
func (d *door) giveUpKeptOf(p *party) bool {
	e := p.kept.Front()
	if e != nil {
		d.giveUp(e.Value.(*visit))
	}
	return e != nil
}

// giveUp removes v from its phase at once. Its goroutine closes it.
func (d *door) giveUp(v *visit) {
	was, waits := v.phase, v.phase == phaseReady || v.grows()
	d.unset(v)
	v.givenUp = true
	d.leaving++
	switch was {
	case phaseBody: // net/http sets its own deadlines
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

// all returns the count for the limit outside.
func (p *party) all() int { return p.shares + p.outside.Len() }

// loses orders parties by which loses a connection first: most shares first; among
// equals, the one whose first connection is due first.
func loses(a, b *party) bool {
	if a.shares != b.shares || a.stalled.Len() == 0 || b.stalled.Len() == 0 {
		return a.shares > b.shares
	}
	return a.stalled.first().due.Before(b.stalled.first().due)
}

// comesIn orders parties with connections outside: fewest shares first; among equals,
// the one that has waited longest.
func comesIn(a, b *party) bool {
	if a.shares != b.shares {
		return a.shares < b.shares
	}
	return a.outside.Front().Value.(*visit).until.Before(b.outside.Front().Value.(*visit).until)
}

// keepsMore orders parties with Kept connections: most of them first; among equals, the
// one whose first has been Kept longest.
func keepsMore(a, b *party) bool {
	if a.kept.Len() != b.kept.Len() {
		return a.kept.Len() > b.kept.Len()
	}
	return a.kept.Front().Value.(*visit).due.Before(b.kept.Front().Value.(*visit).due)
}

// hasMore orders parties for the limit outside.
func hasMore(a, b *party) bool { return a.all() > b.all() }

// endsFirst orders stalled connections by the end of their patience.
func endsFirst(a, b *visit) bool { return a.due.Before(b.due) }

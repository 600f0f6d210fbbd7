package proxy

import (
	"container/heap"
	"container/list"
	"errors"
	"net"
	"sync"
	"time"
)

// A door has all connections that are not tunnels yet, and decides which of them
// go on. It bounds two things: how many handshakes compute at once (slots), and
// the memory of connections that wait for their client (room).
//
// A connection is in one phase at a time, and only its own goroutine moves it, but
// out of Outside and Ready, which the door does. A phase is stalled where a
// connection may be given up for others; in most of them nothing but the client's
// next bytes lead out of it:
//
//	Outside             accepted, but there is no room for it: no goroutine, nothing is read
//	Hello      stalled  the ClientHello is not whole; crypto/tls has not begun
//	Ready      stalled  it is whole, and waits for a slot; that may be for its own address's others
//	Computing           has a slot: crypto/tls works
//	Answered   stalled  gave its slot back: the client's next record is not whole
//	Request    stalled  TLS is done; the request is not whole
//	Served              it is whole: dialled for, answered, and then a tunnel or given to the pages
//	Kept                the pages answered; there may be another request
//	Refused    stalled  has its answer, and may take it
//
// Each phase has a price: about what such a connection takes of this process's
// memory. A stalled connection that cost more than a slot or a few KiB would let
// clients that do not go on keep out those that do; so what a client sends is read
// into a buffer that grows with the bytes that are there, crypto/tls gets whole
// records only, and a slot is held while computing alone.
//
// Where room or connections run short, one stalled connection is given up for
// each newcomer: of the address that has most of them stalled (by price), the one
// that has been for longest. Newcomers of another address need not wait for that.
// Those of the same address may do so once it has been stalled for the patience of
// its phase: an address competes with itself in the order of arrival, so that a
// crowd behind one address comes in although its members wait for their network.
// Meanwhile a newcomer waits outside and a handshake that is ready stays so, until
// somebody has gone on or its time is over. Where too many connections are open and
// nobody is to be given up, the one that is Kept for longest makes place. A newcomer
// for which there is none, or when too many are outside, is refused.
//
// Slots are given to the addresses in turn, and to connections that had one before
// the others.
type door struct {
	mu        sync.Mutex
	slots     int
	computing int   // slots that are taken
	held      int64 // bytes: the prices of all
	coming    int   // accepted, neither waiting for their client nor ever computing
	leaving   int   // given up; their goroutines have not ended yet
	visits    map[*visit]struct{}
	parties   map[clientKey]*party
	order     partyOrder // all parties, the first to lose a connection first
	turns     list.List  // of *party: those that have connections that are Ready
	again     list.List  // of *visit: had a slot before and want it back
	outside   list.List  // of *visit, in the order of accept
	kept      list.List  // of *visit, the one that is Kept for longest first
	room      chan struct{}
	blocked   bool // there is no room for who is Ready or outside
	retry     *time.Timer
	closed    bool // nobody is accepted any more
	draining  bool // no further request is waited for
}

const (
	// roomPerSlot is what may be held by connections on their way in for each slot.
	// With 16 slots it is 24 MiB: 3,000 connections that say nothing, or 1,600
	// handshakes that wait for their client (1,200 where clients offer a
	// post-quantum key share), so that 1,500 clients with a round trip of 700 ms
	// need not wait for each other.
	roomPerSlot = 3 << 19 // bytes

	// helloShare is the part of the room that ClientHellos may take, in sixteenths:
	// else those that are Ready could leave none for themselves to go on.
	helloShare = 12
	wholeRoom  = 16

	// helloCopies is how often crypto/tls has a ClientHello in memory, and what it
	// derives from it, while it waits for the client.
	helloCopies = 4

	// comingFactor bounds, for each slot, the connections that are accepted while
	// all slots are taken. The others wait in the kernel, where they cost least.
	comingFactor = 8

	// outsideFactor bounds those outside, for each slot.
	outsideFactor = 256

	// blockedRetry is how often the door looks whether somebody's patience has
	// passed, while it is blocked.
	blockedRetry = 100 * time.Millisecond
)

var (
	errNoPlace = errors.New("no place for a handshake in time")
	errClosing = errors.New("shutting down")
	errGivenUp = errors.New("given up: others need its place")
)

// A phase is where a connection is; door has the list.
type phase uint8

const (
	phaseNone phase = iota // not on its way in: a tunnel, or with the pages
	phaseOutside
	phaseHello
	phaseReady
	phaseComputing
	phaseAnswered
	phaseRequest
	phaseServed
	phaseKept
	phaseRefused
)

// What the phases cost was measured: a goroutine, which keeps the stack that it
// had in crypto/tls, what Go has for a socket, and crypto/tls itself. A Kept
// connection, or one that is outside, is bounded by limits.connections alone, as a tunnel is, and so is one
// that is Served.
var phases = [...]struct {
	price    int64         // bytes
	stalled  bool          // waits for its client
	patience time.Duration // before it makes place for others of its own address
}{
	phaseOutside:   {0, false, 0},
	phaseHello:     {8 << 10, true, 500 * time.Millisecond},
	phaseReady:     {8 << 10, true, time.Hour}, // others of its address wait behind it
	phaseComputing: {14 << 10, false, 0},       // and what the ClientHello takes
	phaseAnswered:  {14 << 10, true, 3 * time.Second},
	phaseRequest:   {12 << 10, true, 3 * time.Second},
	phaseServed:    {0, false, 0},
	phaseKept:      {0, false, 0},
	phaseRefused:   {12 << 10, true, 0},
}

// A visit is a connection on its way in. Its fields are the door's.
type visit struct {
	conn    net.Conn  // its deadline is set to give it up
	begin   func()    // starts its goroutine; called once
	until   time.Time // when its handshake has to be done
	party   *party
	phase   phase
	price   int64
	hello   int64         // bytes
	due     time.Time     // stalled: from then on others of its address may have its place
	place   *list.Element // in party.stalled
	waiting *list.Element // in party.ready, door.again, door.outside or door.kept
	line    *list.List    // which of them
	turn    chan error    // Ready, or wanting its slot again: nil, or why not
	coming  bool          // counted in door.coming
	asked   bool          // its client has begun what the connection now waits for
	givenUp bool
}

func (v *visit) priceOf(s phase) int64 {
	price := phases[s].price
	if s == phaseComputing || s == phaseAnswered {
		price += helloCopies * v.hello
	}
	return price
}

// A party is the connections of one client address.
type party struct {
	key     clientKey
	visits  int
	weight  int64     // the prices of those that are stalled
	stalled list.List // of *visit, by due
	ready   list.List // of *visit
	turn    *list.Element
	index   int // in door.order
}

func newDoor() *door {
	return &door{slots: 1, visits: map[*visit]struct{}{}, parties: map[clientKey]*party{}}
}

// limit sets how many may compute at once.
func (d *door) limit(slots int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slots = max(slots, 1)
	d.dispatch()
}

// awaitRoom waits while enough handshakes wait for a slot, or until stop is closed.
// It waits for nothing that a client has to do.
func (d *door) awaitRoom(stop <-chan struct{}) {
	for {
		d.mu.Lock()
		if !d.crowded() {
			d.mu.Unlock()
			return
		}
		if d.room == nil {
			d.room = make(chan struct{})
		}
		room := d.room
		d.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return
		}
	}
}

func (d *door) crowded() bool { return d.coming >= d.slots*comingFactor && !d.blocked }

// enter lets a connection in, or keeps it outside. Free is how many more may be
// open. It returns false where there is no place for it.
func (d *door) enter(v *visit, key clientKey, free int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.partyOf(key)
	switch {
	case free+d.leaving <= 0 && !d.giveUpFor(p, phases[phaseHello].price) && !d.giveUpKept():
		d.forget(p)
		return false
	case d.makeRoom(p, phases[phaseHello].price, helloShare):
		d.join(v, p, phaseHello)
		d.letIn(v)
	case d.outside.Len() < d.slots*outsideFactor:
		d.join(v, p, phaseOutside)
		v.lineUp(&d.outside)
		d.dispatch() // which looks again in a while
	default:
		d.forget(p)
		return false
	}
	return true
}

// begins is called first by a connection's goroutine. The error says that it is to
// be closed: it was outside for too long.
func (d *door) begins(v *visit) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.givenUp && d.closed:
		return errClosing
	case v.givenUp:
		return errNoPlace
	}
	return nil
}

// comeBack is enter for a connection that the pages kept, which is open already.
func (d *door) comeBack(v *visit, key clientKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.draining {
		return errClosing
	}
	d.join(v, d.partyOf(key), phaseKept)
	return nil
}

func (d *door) join(v *visit, p *party, s phase) {
	d.visits[v] = struct{}{}
	v.party, v.asked = p, false
	p.visits++
	d.set(v, s)
}

// belongs moves a connection to another address's party.
func (d *door) belongs(v *visit, key clientKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := v.party
	if old.key == key || v.givenUp {
		return
	}
	s, price, due := v.phase, v.price, v.due
	d.unset(v)
	old.visits--
	d.forget(old)
	v.party = d.partyOf(key)
	v.party.visits++
	d.put(v, s, price, due)
}

// waits notes that a connection's client has said nothing, or not all of it.
func (d *door) waits(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.came(v)
	d.dispatch()
}

func (d *door) came(v *visit) {
	if v.coming {
		v.coming = false
		d.coming--
	}
}

// speaks notes that the client has begun what the connection waits for, so that
// it may finish it although nobody is accepted any more.
func (d *door) speaks(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.asked = true
}

// move puts a connection into another phase. The error says that it is to be
// closed.
func (d *door) move(v *visit, s phase) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.givenUp:
		return errGivenUp
	case s == phaseRequest && d.closed:
		return errClosing
	}
	if s == phaseRequest || s == phaseKept {
		v.asked = false
	}
	d.set(v, s)
	d.dispatch()
	return nil
}

// grows adds bytes that a connection has read to its price. The error says that it
// is to be closed, as there is no room for them. It does nothing where the
// connection is not on its way in.
func (d *door) grows(v *visit, bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.givenUp:
		return errGivenUp
	case v.party == nil:
		return nil
	}
	s, price, due := v.phase, v.price, v.due
	d.unset(v)
	roomy := d.makeRoom(v.party, price+bytes, helloShare)
	d.put(v, s, price+bytes, due)
	if !roomy {
		return errNoPlace
	}
	return nil
}

// start waits for a slot, for a client whose hello is so long.
func (d *door) start(v *visit, hello int) error {
	d.mu.Lock()
	switch {
	case v.givenUp:
		d.mu.Unlock()
		return errGivenUp
	case d.closed:
		d.mu.Unlock()
		return errClosing
	}
	if !v.coming {
		v.coming = true
		d.coming++
	}
	price := v.price
	v.hello = int64(hello)
	v.turn = make(chan error, 1)
	d.unset(v)
	d.put(v, phaseReady, price, time.Now().Add(phases[phaseReady].patience))
	d.dispatch()
	d.mu.Unlock()
	return d.awaitTurn(v)
}

// pause gives the slot back, while the client is waited for.
func (d *door) pause(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(v, phaseAnswered)
	d.dispatch()
}

// leaveSlot gives the slot back while something else than the client is waited for.
func (d *door) leaveSlot(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	due := v.due
	d.unset(v)
	d.put(v, phaseServed, v.priceOf(phaseComputing), due)
	d.dispatch()
}

// resume follows pause and leaveSlot. On an error the slot is not held.
func (d *door) resume(v *visit) error {
	d.mu.Lock()
	if v.givenUp {
		d.mu.Unlock()
		return errGivenUp
	}
	price, due := v.price, v.due
	d.unset(v)
	d.put(v, phaseServed, price, due)
	v.lineUp(&d.again)
	d.dispatch()
	d.mu.Unlock()
	return d.awaitTurn(v)
}

func (d *door) awaitTurn(v *visit) error {
	select { // most of the time there is a slot at once
	case err := <-v.turn:
		return err
	default:
	}
	timer := time.NewTimer(time.Until(v.until))
	defer timer.Stop()
	select {
	case err := <-v.turn:
		return err
	case <-timer.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case err := <-v.turn: // it came with the deadline
		return err
	default:
		return errNoPlace
	}
}

// leave ends a connection's way in, wherever it is.
func (d *door) leave(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.visits[v]; !ok {
		return
	}
	delete(d.visits, v)
	if v.givenUp {
		d.leaving--
	} else {
		d.unset(v)
	}
	d.came(v)
	v.party.visits--
	d.forget(v.party)
	v.party = nil
	d.dispatch()
}

// stop keeps newcomers out, and ends who has not begun to ask for something.
func (d *door) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for v := range d.visits {
		switch {
		case v.phase == phaseOutside:
			d.giveUp(v)
		case v.phase == phaseReady:
			d.unset(v)
			d.put(v, phaseServed, 0, time.Time{})
			v.turn <- errClosing
		case (phases[v.phase].stalled && v.phase != phaseAnswered || v.phase == phaseKept) && !v.asked:
			v.conn.SetReadDeadline(longAgo)
		}
	}
}

// drain ends who is kept for a further request.
func (d *door) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	for v := range d.visits {
		if v.phase == phaseKept && !v.asked {
			v.conn.SetReadDeadline(longAgo)
		}
	}
}

// closeAll closes all connections on their way in.
func (d *door) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.visits {
		v.conn.Close()
	}
}

// arriving is how many connections are on their way in.
func (d *door) arriving() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.visits {
		if v.phase != phaseKept {
			n++
		}
	}
	return n
}

// shed gives up one connection that can be, because the process can open no more
// descriptors.
func (d *door) shed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v := d.first(); v != nil {
		d.giveUp(v)
	} else {
		d.giveUpKept()
	}
}

// yields gives up the connection of an address that has waited longest for a further
// request, and reports whether there was one.
func (d *door) yields(key clientKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for e := d.kept.Front(); e != nil; e = e.Next() {
		if v := e.Value.(*visit); v.party.key == key {
			d.giveUp(v)
			return true
		}
	}
	return false
}

var longAgo = time.Unix(1, 0)

// What follows is called with d.mu held.

func (d *door) partyOf(key clientKey) *party {
	p := d.parties[key]
	if p == nil {
		p = &party{key: key}
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

// set moves v to a phase, at that phase's price.
func (d *door) set(v *visit, s phase) {
	d.unset(v)
	due := v.due
	// Who says a little again and again does not get more time by that.
	if s != phaseAnswered || due.IsZero() {
		due = time.Now().Add(phases[s].patience)
	}
	d.put(v, s, v.priceOf(s), due)
}

// unset takes v out of its phase; put follows, or nothing.
func (d *door) unset(v *visit) {
	p := v.party
	if v.place != nil {
		p.stalled.Remove(v.place)
		p.weight -= v.price
		heap.Fix(&d.order, p.index)
	}
	if v.waiting != nil {
		v.line.Remove(v.waiting)
	}
	if v.phase == phaseReady && p.ready.Len() == 0 {
		d.turns.Remove(p.turn)
	}
	if v.phase == phaseComputing {
		d.computing--
	}
	d.held -= v.price
	v.phase, v.price, v.place, v.waiting = phaseNone, 0, nil, nil
}

func (v *visit) lineUp(line *list.List) { v.line, v.waiting = line, line.PushBack(v) }

func (d *door) put(v *visit, s phase, price int64, due time.Time) {
	p := v.party
	v.phase, v.price, v.due = s, price, due
	d.held += price
	if phases[s].stalled {
		at := p.stalled.Back()
		for at != nil && at.Value.(*visit).due.After(due) {
			at = at.Prev()
		}
		if at == nil {
			v.place = p.stalled.PushFront(v)
		} else {
			v.place = p.stalled.InsertAfter(v, at)
		}
		p.weight += price
		heap.Fix(&d.order, p.index)
	}
	switch s {
	case phaseComputing:
		d.computing++
	case phaseKept:
		v.lineUp(&d.kept)
	case phaseReady:
		v.lineUp(&p.ready)
		if p.ready.Len() == 1 {
			p.turn = d.turns.PushBack(p)
		}
	}
}

// letIn starts the goroutine of a connection that is let in.
func (d *door) letIn(v *visit) {
	v.coming = true
	d.coming++
	v.begin()
}

// dispatch gives free slots away, and room.
func (d *door) dispatch() {
	d.blocked = false
	for d.computing < d.slots {
		v := d.next()
		if v == nil {
			break
		}
		v.turn <- nil
	}
	for d.outside.Len() > 0 {
		v := d.outside.Front().Value.(*visit)
		if !d.makeRoom(v.party, phases[phaseHello].price, helloShare) {
			d.blocked = true
			break
		}
		d.set(v, phaseHello)
		d.letIn(v)
	}
	if d.blocked && d.retry == nil && !d.closed {
		d.retry = time.AfterFunc(blockedRetry, d.look)
	}
	if d.room != nil && !d.crowded() {
		close(d.room)
		d.room = nil
	}
}

func (d *door) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retry = nil
	for now := time.Now(); d.outside.Len() > 0; {
		v := d.outside.Front().Value.(*visit)
		if now.Before(v.until) {
			break
		}
		d.giveUp(v)
	}
	d.dispatch()
}

// next moves who gets the next slot to Computing.
func (d *door) next() *visit {
	if e := d.again.Front(); e != nil {
		v := e.Value.(*visit)
		due := v.due
		d.unset(v)
		d.put(v, phaseComputing, v.priceOf(phaseComputing), due)
		return v
	}
	for e := d.turns.Front(); e != nil; e = e.Next() {
		p := e.Value.(*party)
		v := p.ready.Front().Value.(*visit)
		if !d.makeRoom(p, v.priceOf(phaseComputing)-v.price, wholeRoom) {
			continue
		}
		d.turns.MoveToBack(e)
		d.unset(v)
		d.came(v)
		d.put(v, phaseComputing, v.priceOf(phaseComputing), time.Time{})
		return v
	}
	d.blocked = d.turns.Len() > 0
	return nil
}

// makeRoom gives up stalled connections until there is room for so many bytes more,
// for a connection of p, in so much of the room. It returns false where there is
// none.
func (d *door) makeRoom(p *party, bytes, sixteenths int64) bool {
	for d.held+bytes > int64(d.slots)*roomPerSlot/wholeRoom*sixteenths {
		if !d.giveUpFor(p, bytes) {
			return false
		}
	}
	return true
}

// giveUpFor gives up one stalled connection for one of p that has a price.
func (d *door) giveUpFor(p *party, price int64) bool {
	v := d.first()
	if v == nil || v.party.weight <= p.weight+price && time.Now().Before(v.due) {
		return false
	}
	d.giveUp(v)
	return true
}

// giveUpKept gives up the connection that is Kept for longest.
func (d *door) giveUpKept() bool {
	e := d.kept.Front()
	if e != nil {
		d.giveUp(e.Value.(*visit))
	}
	return e != nil
}

// first is who is given up first.
func (d *door) first() *visit {
	if len(d.order) == 0 || d.order[0].stalled.Len() == 0 {
		return nil
	}
	return d.order[0].stalled.Front().Value.(*visit)
}

// giveUp takes v off its phase at once. Its goroutine closes it.
func (d *door) giveUp(v *visit) {
	was := v.phase
	d.unset(v)
	v.givenUp = true
	d.leaving++
	v.conn.SetDeadline(longAgo)
	switch was {
	case phaseOutside:
		v.begin()
	case phaseReady:
		v.turn <- errGivenUp
	}
}

// partyOrder is a heap: the party with most that is stalled first, and of equal
// ones that whose first connection is due first.
type partyOrder []*party

func (o partyOrder) Len() int { return len(o) }

func (o partyOrder) Less(i, j int) bool {
	a, b := o[i], o[j]
	if a.weight != b.weight || a.stalled.Len() == 0 || b.stalled.Len() == 0 {
		return a.weight > b.weight
	}
	return a.stalled.Front().Value.(*visit).due.Before(b.stalled.Front().Value.(*visit).due)
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

package proxy

import (
	"container/heap"
	"container/list"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"wssgate/panics"
)

// A door has all connections that are not tunnels yet, and decides which of them
// proceed. It bounds three things: open connections, including tunnels; concurrent
// handshake computations (slots); and the memory of connections that wait for their
// client (room).
//
// A connection is in one phase at a time. Only its own goroutine changes it, except
// that the door moves it out of Outside and Ready. In a stalled phase the connection
// waits for its client's next bytes, so it may be given up for others:
//
//	Outside             accepted, but there is no place for it: no goroutine, nothing is read
//	Hello      stalled  the ClientHello is incomplete; crypto/tls has not begun
//	Ready               it is complete, and waits for a slot
//	Computing           has a slot: crypto/tls works
//	Answered   stalled  gave its slot back: the client's next record is incomplete
//	Request    stalled  TLS is done; the request is incomplete
//	Served              it is complete: dialled for, answered, and then a tunnel
//	Body       stalled  the pages have the request; its body is incomplete
//	Pages               they have it, and it is complete
//	Kept                they answered; there may be another request
//	Refused    stalled  was answered; its client may read the answer
//
// Each phase has a price: roughly the memory of such a connection. If a stalled
// connection cost more than a slot or a few KiB, idle clients could keep out active
// ones. So input is read into a buffer that grows with what arrives, crypto/tls gets
// only complete records, and a slot is held only during computation.
//
// When room or connections run out, one connection is given up for each newcomer: from
// the address with the most stalled or Ready connections, if it has at least two more
// than the newcomer's, the one whose patience ends first. Any other stalled connection
// keeps its place for the patience of its phase, regardless of other addresses and of
// prices; after that any newcomer may have its place. The patience shrinks the more
// addresses wait outside. So attackers with many connections per address delay no
// others, attackers with one each delay newcomers by at most a patience, and a crowd
// behind one address gets in although its members wait for their network. Meanwhile a
// newcomer waits outside and a ready handshake stays ready. If too many connections are
// open and none may be given up, a Kept one makes room: of the address with the most, the
// one that has been Kept longest. A newcomer is refused if no stalled connection could make room for it, or too many are
// outside.
//
// Of the connections outside, those of the address with fewest inside come in first. If
// too many are outside, the address with the most loses its last one, for an address
// with fewer or for the descriptor of a client that is being served.
//
// If a client has sent more than the price of its phase covers, it waits for room and
// stays stalled: it is not refused because others are silent.
//
// Time in Outside or Ready does not count against the client: the handshake's timeout
// restarts when it is let in, and when it gets its first slot.
//
// Addresses get slots in turn. Connections that had one before come first.
//
// eviction.go chooses the connections to give up.
type door struct {
	mu        sync.Mutex
	slots     int
	limit     int   // connections
	open      int   // connections, from enter to gone
	entered   int64 // connections since the start
	computing int   // slots in use
	reserved  int64 // bytes: the sum of all prices
	coming    int   // accepted, and neither waiting for their client nor computing yet
	leaving   int   // given up, but their goroutines have not ended
	visits    map[*visit]struct{}
	parties   map[clientKey]*party
	order     ranking[party] // all parties; the first loses a connection first
	entry     ranking[party] // those with connections outside; the first comes in first
	queues    ranking[party] // the same; the first loses a connection outside first
	stalled   ranking[visit] // of all parties
	turns     list.List      // of *party: those with Ready connections
	again     list.List      // of *visit: waiting to get their slot back
	growing   list.List      // of *visit: stalled, and waiting for room for what their clients have sent
	outside   int            // connections
	served    int            // those in Served, Body or Pages
	keepers   ranking[party] // those with Kept connections; the first loses one first
	room      chan struct{}
	changed   chan struct{} // closed by the next dispatch; nil: nobody waits for it
	blocked   bool          // no room for connections that are Ready or Outside
	retry     *time.Timer
	closed    bool // no longer accepting
	draining  bool // no longer waiting for further requests
	ended     bool // idle is closed, and nothing enters any more

	idle chan struct{} // closed once draining, when no connection is open
}

const (
	// roomPerSlot is the memory per slot for connections on their way in. With 16 slots
	// it is 24 MiB: 3,000 silent connections, or 1,600 handshakes that wait for their
	// client (1,200 with post-quantum key shares), so that 1,500 clients with a round
	// trip of 700 ms do not wait for each other.
	roomPerSlot = 3 << 19 // bytes

	// helloShare is the share of the room for ClientHellos, in sixteenths; without it,
	// Ready connections could leave no room to go on.
	helloShare = 12
	wholeRoom  = 16

	// helloCopies is how many copies of a ClientHello, with derived data, crypto/tls
	// holds while it waits for the client.
	helloCopies = 4

	// comingFactor bounds the connections per slot that are accepted while all slots
	// are taken. Others wait in the kernel, where they cost least.
	comingFactor = 8

	// outsideFactor bounds the connections outside, per slot.
	outsideFactor = 256

	// While it is blocked, the door checks again when the next patience ends, within
	// these bounds.
	minBlockedRetry = 5 * time.Millisecond
	maxBlockedRetry = 100 * time.Millisecond
)

var (
	errNoPlace = errors.New("no free handshake slot in time")
	errFull    = errors.New("limits.connections reached")
	errClosing = errors.New("shutting down")
	errGivenUp = errors.New("closed to make room for other clients")
)

// A phase is the state of a connection; see door.
type phase uint8

const (
	phaseNone phase = iota // not on its way in: a tunnel, or in Pages
	phaseOutside
	phaseHello
	phaseReady
	phaseComputing
	phaseAnswered
	phaseRequest
	phaseServed
	phaseBody
	phasePages
	phaseKept
	phaseRefused
)

// The prices were measured: a goroutine, with the stack that it grew in crypto/tls,
// Go's data for a socket, and crypto/tls or net/http. Connections that are Outside,
// Served, Kept or in Pages are bounded only by limits.connections, like tunnels.
//
// The patience of Hello exceeds the time after which a client with a round trip of 300
// ms retransmits.
var phases = [...]struct {
	price    int64         // bytes
	stalled  bool          // waits for its client
	patience time.Duration // before another connection may take its place
}{
	phaseOutside:   {0, false, 0},
	phaseHello:     {8 << 10, true, 1500 * time.Millisecond},
	phaseReady:     {8 << 10, false, 0},
	phaseComputing: {14 << 10, false, 0}, // plus the cost of the ClientHello
	phaseAnswered:  {14 << 10, true, 3 * time.Second},
	phaseRequest:   {12 << 10, true, 3 * time.Second},
	phaseServed:    {0, false, 0},
	phaseBody:      {36 << 10, true, 3 * time.Second},
	phasePages:     {0, false, 0},
	phaseKept:      {0, false, 0},
	phaseRefused:   {12 << 10, true, 0},
}

// A visit is a connection on its way in. Its fields belong to the door.
type visit struct {
	conn    net.Conn      // its deadline is set to give the connection up
	begin   func()        // starts its goroutine; called once
	timeout time.Duration // of its handshake
	until   time.Time     // deadline for the handshake, or for what precedes it
	party   *party
	phase   phase
	price   int64
	hello   int64         // bytes
	due     time.Time     // stalled: when others may take its place
	inParty int           // stalled: index in party.stalled
	inDoor  int           // stalled: index in door.stalled
	waiting *list.Element // in party.ready, party.outside, party.kept, door.again or door.growing
	line    *list.List    // the list with waiting
	want    want          // growing: what it waits for
	turn    chan error    // Ready, waiting for its slot, or growing: nil, or an error
	coming  bool          // counted in door.coming
	asked   bool          // its client has begun to send what the connection waits for
	givenUp bool
}

// A want is the phase and the price that a connection would have.
type want struct {
	phase phase
	price int64
	share int64 // of the room for this price, in sixteenths
}

func (v *visit) priceOf(s phase) int64 {
	price := phases[s].price
	if s == phaseComputing || s == phaseAnswered {
		price += helloCopies * v.hello
	}
	return price
}

func newDoor() *door {
	return &door{
		slots: 1, limit: 1, idle: make(chan struct{}),
		visits:  map[*visit]struct{}{},
		parties: map[clientKey]*party{},
		order:   ranking[party]{before: loses, place: func(p *party) *int { return &p.inOrder }},
		entry:   ranking[party]{before: comesIn, place: func(p *party) *int { return &p.inEntry }},
		keepers: ranking[party]{before: keepsMore, place: func(p *party) *int { return &p.inKeepers }},
		queues:  ranking[party]{before: hasMore, place: func(p *party) *int { return &p.inQueues }},
		stalled: ranking[visit]{before: endsFirst, place: func(v *visit) *int { return &v.inDoor }},
	}
}

// configure sets the limits of open connections and of concurrent computations.
func (d *door) configure(connections, slots int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit, d.slots = connections, max(slots, 1)
	d.dispatch()
}

// awaitRoom waits while enough handshakes wait for a slot, or until stop is closed. It
// never waits for a client.
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

// accepts reports whether connections may still enter.
func (d *door) accepts() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closed && !d.ended
}

// enter lets a connection in, or keeps it outside. If there is no place for it, the
// error is errFull or errNoPlace; errClosing if the door does not accept. Otherwise it
// counts as open until gone is called.
func (d *door) enter(v *visit, key clientKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tryEnter(v, key)
}

// enterInTurn is enter, and waits for a descriptor if a stalled connection will give one
// back. Meanwhile the next ones wait in the kernel, so they come in in the order of arrival
// where each has an address of its own. One whose address has another connection on its way
// in never waits, so an address can't stop the others.
func (d *door) enterInTurn(v *visit, key clientKey) error {
	for until := time.Now().Add(v.timeout); ; {
		changed, err := d.enterOrWait(v, key)
		if changed == nil {
			return err
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-changed:
			timer.Stop()
		case <-timer.C:
			return err
		}
	}
}

// enterOrWait is enter. If changed is not nil, nothing has happened, and the caller tries
// again when it is closed.
func (d *door) enterOrWait(v *visit, key clientKey) (changed <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.tryEnter(v, key)
	if err != errFull || d.parties[key] != nil || d.stalled.Len() == 0 {
		return nil, err
	}
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	d.lookLater()
	return d.changed, err
}

// tryEnter is enter with d.mu held.
func (d *door) tryEnter(v *visit, key clientKey) error {
	if d.closed || d.ended {
		return errClosing
	}
	p := d.partyOf(key)
	switch {
	case d.makePlace(p):
		d.counts()
		d.join(v, p, phaseHello)
		d.letIn(v)
	case d.wantsFiles(1) && !d.closeOutside(p):
		// A connection outside has a descriptor that one on its way in does not need
		// yet.
		d.forget(p)
		return errFull
	case d.outside >= d.slots*outsideFactor && !d.closeOutside(p):
		d.forget(p)
		return errNoPlace
	default:
		d.counts()
		v.until = time.Now().Add(v.timeout)
		d.join(v, p, phaseOutside)
		d.dispatch() // it checks again later
	}
	return nil
}

// counts counts a connection that enters, before its goroutine begins.
func (d *door) counts() {
	d.open++
	d.entered++
}

// gone is called when a connection that entered is closed, in any state. It returns the
// number of open ones.
func (d *door) gone() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	d.dispatch()
	d.closeIfIdle()
	return d.open
}

// closeIfIdle is called with d.mu held.
func (d *door) closeIfIdle() {
	if d.draining && d.open == 0 && !d.ended {
		d.ended = true
		close(d.idle)
	}
}

// connections returns the number of open connections.
func (d *door) connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// entries returns how many connections have entered since the start.
func (d *door) entries() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entered
}

// begins is called first by a connection's goroutine. After an error, close the
// connection: it was outside for too long.
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

func (d *door) join(v *visit, p *party, s phase) {
	d.visits[v] = struct{}{}
	v.party, v.asked = p, false
	p.visits++
	d.set(v, s)
}

// belongs moves a connection to the party of another address.
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

// waits notes that the client has not sent everything.
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

// speaks notes that the client has begun to send what the connection waits for, so that
// it may finish after the door is closed.
func (d *door) speaks(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.asked = true
}

// move changes the phase of a connection. After an error, close the connection: it was
// given up, or the server shuts down.
func (d *door) move(v *visit, s phase) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.givenUp:
		return errGivenUp
	case (s == phaseRequest || s == phaseKept) && d.closed, s == phaseKept && d.draining:
		return errClosing
	}
	if s == phaseRequest || s == phaseKept {
		v.asked = false
	}
	d.set(v, s)
	for (s == phaseServed || s == phasePages) && d.wantsFiles(0) && d.closeOutside(nil) {
	}
	d.dispatch()
	return nil
}

// moveToBody is move to Body from a stalled phase, and waits for room. The error is
// errNoPlace if there was none in time.
func (d *door) moveToBody(v *visit) error {
	return d.grow(v, func() want { return want{phaseBody, phases[phaseBody].price, wholeRoom} })
}

// grows adds bytes that a connection has read to its price, and waits for room. After
// an error, close the connection; it is errNoPlace if there was no room in time. grows
// does nothing if the connection is not on its way in.
func (d *door) grows(v *visit, bytes int64) error {
	return d.grow(v, func() want {
		share := int64(helloShare)
		if v.phase == phaseRequest {
			share = wholeRoom
		}
		return want{v.phase, v.price + bytes, share}
	})
}

// shrinks removes bytes that grows added, unless a change of phase has done so.
func (d *door) shrinks(v *visit, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	least := v.priceOf(v.phase)
	if v.givenUp || v.party == nil || v.price <= least {
		return
	}
	s, price, due := v.phase, v.price, v.due
	d.unset(v)
	d.put(v, s, max(price-bytes, least), due)
	d.dispatch()
}

// grow waits for room for the result of wants, which it calls with d.mu held. The
// connection stays stalled meanwhile, so it may be given up for others.
func (d *door) grow(v *visit, wants func() want) error {
	return d.await(v, func() (until time.Time, err error) {
		if v.givenUp {
			return until, errGivenUp
		}
		w := wants()
		switch {
		case v.party == nil || d.fulfil(v, w):
			return until, nil
		case !phases[v.phase].stalled: // never wait while holding a slot
			return until, errNoPlace
		}
		v.want = w
		v.lineUp(&d.growing)
		return time.Now().Add(v.timeout), nil
	})
}

// start waits for a slot. hello is the length of the ClientHello.
func (d *door) start(v *visit, hello int) error {
	return d.await(v, func() (until time.Time, err error) {
		switch {
		case v.givenUp:
			return until, errGivenUp
		case d.closed:
			return until, errClosing
		}
		if !v.coming {
			v.coming = true
			d.coming++
		}
		price := v.price
		v.hello = int64(hello)
		v.until = time.Now().Add(v.timeout)
		d.unset(v)
		d.put(v, phaseReady, price, time.Time{})
		return v.until, nil
	})
}

// pause releases the slot while the client is waited for.
func (d *door) pause(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(v, phaseAnswered)
	d.dispatch()
}

// leaveSlot releases the slot while something other than the client is waited for.
func (d *door) leaveSlot(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	due := v.due
	d.unset(v)
	d.put(v, phaseServed, v.priceOf(phaseComputing), due)
	d.dispatch()
}

// resume gets a slot back after pause or leaveSlot. After an error it holds none.
func (d *door) resume(v *visit) error {
	return d.await(v, func() (until time.Time, err error) {
		if v.givenUp {
			return until, errGivenUp
		}
		price, due := v.price, v.due
		d.unset(v)
		d.put(v, phaseServed, price, due)
		v.lineUp(&d.again)
		return v.until, nil
	})
}

// await calls queue with d.mu held. If queue returns a time, await waits for v's turn
// until then.
func (d *door) await(v *visit, queue func() (until time.Time, err error)) error {
	until, err := d.enqueue(v, queue)
	if until.IsZero() {
		return err
	}
	return d.awaitTurn(v, until)
}

func (d *door) enqueue(v *visit, queue func() (until time.Time, err error)) (until time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if until, err = queue(); !until.IsZero() {
		v.turn = make(chan error, 1)
		d.dispatch()
	}
	return until, err
}

func (d *door) awaitTurn(v *visit, until time.Time) error {
	select { // usually there is a slot at once
	case err := <-v.turn:
		return err
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case err := <-v.turn:
		return err
	case <-timer.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case err := <-v.turn: // it came at the deadline
		return err
	default:
		return errNoPlace
	}
}

// leave ends a connection's way in, in any phase.
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

// stop refuses new connections, and closes those whose clients have not begun a
// request. A second call does nothing.
func (d *door) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
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
	d.dispatch()
}

// drain closes connections kept for a further request. The end of the last connection
// then closes idle.
func (d *door) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	for v := range d.visits {
		if v.phase == phaseKept && !v.asked {
			v.conn.SetReadDeadline(longAgo)
		}
	}
	d.closeIfIdle()
}

// closeAll closes all connections on their way in.
func (d *door) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.visits {
		if v.grows() {
			d.giveUp(v) // it waits only for things that closing it ends
		}
		v.conn.Close()
	}
}

// arriving returns the number of connections on their way in.
func (d *door) arriving() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.visits {
		switch v.phase {
		case phaseKept, phaseBody, phasePages:
		default:
			n++
		}
	}
	return n
}

// shed gives up one connection if possible, because the process is out of descriptors.
func (d *door) shed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v := d.most(); v != nil {
		d.giveUp(v)
	} else {
		d.giveUpKept()
	}
}

// yields closes the connection of an address that has waited longest for a further
// request, and reports whether there was one.
func (d *door) yields(key clientKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.parties[key]
	return p != nil && d.giveUpKeptOf(p)
}

var longAgo = time.Unix(1, 0)

// The following are called with d.mu held.

// set moves v to a phase, at that phase's price.
func (d *door) set(v *visit, s phase) {
	d.unset(v)
	due := v.due
	// A client that sends little by little does not gain time.
	if s != phaseAnswered || due.IsZero() {
		due = time.Now().Add(phases[s].patience)
	}
	d.put(v, s, v.priceOf(s), due)
}

// unset removes v from its phase.
func (d *door) unset(v *visit) {
	p := v.party
	if v.countsForParty() {
		p.shares -= v.shares()
	}
	if phases[v.phase].stalled {
		heap.Remove(&p.stalled, v.inParty)
		heap.Remove(&d.stalled, v.inDoor)
	}
	if v.waiting != nil {
		v.line.Remove(v.waiting)
	}
	switch v.phase {
	case phaseOutside:
		d.outside--
		if p.outside.Len() == 0 {
			heap.Remove(&d.entry, p.inEntry)
			heap.Remove(&d.queues, p.inQueues)
		}
	case phaseReady:
		if p.ready.Len() == 0 {
			d.turns.Remove(p.turn)
		}
	case phaseComputing:
		d.computing--
	case phaseServed, phasePages:
		d.served--
	case phaseKept:
		if p.kept.Len() == 0 {
			heap.Remove(&d.keepers, p.inKeepers)
		}
	}
	d.reserved -= v.price
	v.phase, v.price, v.waiting = phaseNone, 0, nil
	d.reorder(p)
}

// grows reports whether v waits for room.
func (v *visit) grows() bool { return v.waiting != nil && phases[v.phase].stalled }

func (v *visit) lineUp(line *list.List) { v.line, v.waiting = line, line.PushBack(v) }

func visitsIn(line *list.List) (all []*visit) {
	for e := line.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*visit))
	}
	return all
}

func (d *door) put(v *visit, s phase, price int64, due time.Time) {
	p := v.party
	v.phase, v.price, v.due = s, price, due
	d.reserved += price
	if phases[s].stalled {
		heap.Push(&p.stalled, v)
		heap.Push(&d.stalled, v)
	}
	if v.countsForParty() {
		p.shares += v.shares()
	}
	switch s {
	case phaseOutside:
		d.outside++
		v.lineUp(&p.outside)
		if p.outside.Len() == 1 {
			heap.Push(&d.entry, p)
			heap.Push(&d.queues, p)
		}
	case phaseComputing:
		d.computing++
	case phaseServed, phasePages:
		d.served++
	case phaseKept:
		v.lineUp(&p.kept)
		if p.kept.Len() == 1 {
			heap.Push(&d.keepers, p)
		}
	case phaseReady:
		v.lineUp(&p.ready)
		if p.ready.Len() == 1 {
			p.turn = d.turns.PushBack(p)
		}
	}
	d.reorder(p)
}

// fulfil gives v what it wants, and reports whether there was room.
func (d *door) fulfil(v *visit, w want) bool {
	s, price, due := v.phase, v.price, v.due
	if !d.mayMakeRoom(v.party, w.price-price, w.share) {
		return false
	}
	waiting := v.waiting
	v.waiting = nil // it keeps its place in the line
	d.unset(v)      // it must not make room for itself
	roomy := d.makeRoom(v.party, w.price, w.share)
	if roomy && waiting != nil {
		v.line.Remove(waiting)
	}
	switch {
	case !roomy:
		d.put(v, s, price, due)
		v.waiting = waiting
	case w.phase != s:
		d.put(v, w.phase, w.price, time.Now().Add(phases[w.phase].patience))
	default:
		d.put(v, s, w.price, due)
	}
	return roomy
}

// letIn starts the goroutine of a connection.
func (d *door) letIn(v *visit) {
	v.until = time.Now().Add(v.timeout)
	v.coming = true
	d.coming++
	v.begin()
}

// dispatch assigns room and free slots, first to connections that are further on.
func (d *door) dispatch() {
	d.blocked = false
	for _, v := range visitsIn(&d.growing) {
		if v.grows() && d.fulfil(v, v.want) { // it may have been given up for an earlier one
			v.turn <- nil
		}
	}
	for d.computing < d.slots {
		v := d.next()
		if v == nil {
			break
		}
		v.turn <- nil
	}
	for d.outside > 0 {
		p := d.entry.first()
		if !d.makePlace(p) {
			d.blocked = true
			break
		}
		v := p.outside.Front().Value.(*visit)
		d.set(v, phaseHello)
		d.letIn(v)
	}
	if d.blocked || d.growing.Len() > 0 {
		d.lookLater()
	}
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
	if d.room != nil && !d.crowded() {
		close(d.room)
		d.room = nil
	}
}

// lookLater dispatches again when the next patience ends.
func (d *door) lookLater() {
	if d.retry != nil || d.closed {
		return
	}
	wait := maxBlockedRetry
	if v := d.stalled.first(); v != nil {
		wait = min(max(time.Until(d.dueFor(v, nil)), minBlockedRetry), maxBlockedRetry)
	}
	d.retry = time.AfterFunc(wait, func() { panics.Catch(panics.Handshake, d.look) })
}

func (d *door) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retry = nil
	now := time.Now()
	for _, p := range slices.Clone(d.entry.all) {
		for e := p.outside.Front(); e != nil && !now.Before(e.Value.(*visit).until); e = p.outside.Front() {
			d.giveUp(e.Value.(*visit))
		}
	}
	d.dispatch()
}

// next moves the connection that gets the next slot to Computing.
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
		v.until = time.Now().Add(v.timeout)
		d.put(v, phaseComputing, v.priceOf(phaseComputing), time.Time{})
		return v
	}
	d.blocked = d.turns.Len() > 0
	return nil
}

package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A doorway is a door in a bubble, with visitors.
type doorway struct {
	*door
	t *testing.T
}

func atDoor(t *testing.T, slots int, f func(*doorway)) {
	synctest.Test(t, func(t *testing.T) {
		d := &doorway{door: newDoor(), t: t}
		d.configure(1<<20, slots)
		f(d)
		d.door.mu.Lock()
		all := d.visits
		d.door.mu.Unlock()
		for v := range all {
			d.leave(v)
		}
		if d.reserved != 0 || d.computing != 0 || d.coming != 0 || d.leaving != 0 || len(d.parties) != 0 || d.order.Len() != 0 || d.entry.Len() != 0 || d.queues.Len() != 0 || d.outside != 0 || d.served != 0 || d.door.stalled.Len() != 0 || d.turns.Len() != 0 || d.again.Len() != 0 {
			t.Errorf("when all have left: %+v", d.door)
		}
	})
}

func addressOf(s string) clientKey { return keyOfAddr(netip.MustParseAddr(s)) }

// A quietConn is a connection that is never read.
type quietConn struct{ net.Conn }

func (quietConn) SetDeadline(time.Time) error     { return nil }
func (quietConn) SetReadDeadline(time.Time) error { return nil }
func (quietConn) Close() error                    { return nil }

const (
	stranger = "192.0.2.1"
	honest   = "198.51.100.1"
)

// come accepts a connection; nil if the door has no place.
func (d *doorway) come(from string) *visit {
	v := &visit{conn: quietConn{}, begin: func() {}, timeout: time.Hour}
	if d.enter(v, addressOf(from)) != nil {
		return nil
	}
	return v
}

// answered returns a connection whose client has received the gate's part of the
// handshake.
func (d *doorway) answered(from string) *visit {
	v := d.come(from)
	if err := d.start(v, 1500); err != nil {
		d.t.Fatal(err)
	}
	d.pause(v)
	return v
}

// phaseOf returns v's phase, which the door's timer may change.
func (d *doorway) phaseOf(v *visit) phase {
	d.door.mu.Lock()
	defer d.door.mu.Unlock()
	return v.phase
}

func (d *doorway) stalled(n int, from string) (all []*visit) {
	for range n {
		v := d.come(from)
		d.waits(v)
		all = append(all, v)
	}
	return all
}

func (d *doorway) countGivenUp(all []*visit) (n int) {
	d.door.mu.Lock()
	defer d.door.mu.Unlock()
	for _, v := range all {
		if v.givenUp {
			n++
		}
	}
	return n
}

// A handshake that waits for its client needs no slot, and gets it back before others
// begin.
func TestDoorOrder(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		first, second, third := d.come(stranger), d.come(stranger), d.come(stranger)
		if err := d.start(first, 300); err != nil {
			t.Fatal(err)
		}
		got := make(chan *visit, 3)
		for _, v := range []*visit{second, third} {
			go func() {
				d.start(v, 300)
				got <- v
			}()
			synctest.Wait()
		}
		d.pause(first)
		if v := <-got; v != second {
			t.Error("another one came in; want the second")
		}
		go func() {
			d.resume(first)
			got <- first
		}()
		synctest.Wait()
		d.leave(second)
		if v := <-got; v != first {
			t.Error("another one came in; want the first, which was under way")
		}
		d.leave(first)
		if v := <-got; v != third {
			t.Error("the third did not come in")
		}
	})
}

// Addresses get slots in turn: many ClientHellos from one address delay others no more
// than one does.
func TestDoorTurns(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		got := make(chan *visit, 20)
		begin := func(v *visit) {
			go func() {
				if d.start(v, 300) == nil {
					got <- v
				}
			}()
			synctest.Wait()
		}
		for range 10 {
			begin(d.come(stranger))
		}
		late := d.come(honest)
		begin(late)
		for i := 1; ; i++ {
			v := <-got
			d.leave(v)
			synctest.Wait()
			if v == late {
				if i > 3 {
					t.Errorf("it was the %dth; want the third at the latest", i)
				}
				break
			}
		}
		for range 8 {
			d.leave(<-got)
			synctest.Wait()
		}
	})
}

// Without newcomers, stalled connections may continue. A newcomer of another address
// gets a place at once, regardless of the number and phases of stalled connections of
// the first one; a newcomer of the same address gets one after the patience of the
// oldest.
func TestDoorGivesUp(t *testing.T) {
	for name, stall := range map[string]func(d *doorway, from string) *visit{
		"silent":   func(d *doorway, from string) *visit { return d.stalled(1, from)[0] },
		"answered": func(d *doorway, from string) *visit { return d.answered(from) },
		"request": func(d *doorway, from string) *visit {
			v := d.answered(from)
			d.resume(v)
			d.move(v, phaseRequest)
			return v
		},
	} {
		t.Run(name, func(t *testing.T) {
			atDoor(t, 2, func(d *doorway) {
				var all []*visit
				for d.reserved+(22<<10) < 2*roomPerSlot*helloShare/wholeRoom {
					all = append(all, stall(d, stranger))
				}
				time.Sleep(time.Hour)
				for range 2 { // the one that is left may be cheaper than another
					all = append(all, stall(d, stranger))
				}
				if n := d.countGivenUp(all[:len(all)-2]); n > 3 || d.countGivenUp(all[len(all)-2:]) > 0 {
					t.Errorf("%d were given up for two others; want the oldest", n)
				}
				before := d.countGivenUp(all)
				for range 10 {
					v := d.answered(honest)
					d.resume(v)
					if err := d.move(v, phaseRequest); err != nil {
						t.Fatal(err)
					}
					if err := d.move(v, phaseServed); err != nil {
						t.Fatal(err)
					}
				}
				if n := d.countGivenUp(all) - before; n > 20 {
					t.Errorf("%d strangers were given up for ten others", n)
				}
			})
		})
	}
}

// Many clients behind one address that connect at once do not push each other out:
// those without room wait until the first have proceeded.
func TestDoorCrowdOfOneAddress(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		const roundTrip = 700 * time.Millisecond
		n := 3 * roomPerSlot / (14 << 10)
		errs := make(chan error, n)
		for range n {
			v := &visit{conn: quietConn{}, timeout: 10 * time.Second}
			serve := func() {
				err := d.begins(v)
				if err == nil {
					err = d.start(v, 300)
				}
				if err == nil {
					d.pause(v)
					time.Sleep(roundTrip)
					err = d.resume(v)
				}
				d.leave(v)
				errs <- err
			}
			v.begin = func() { go serve() }
			if d.enter(v, addressOf(stranger)) != nil {
				t.Fatal("there was no place")
			}
			synctest.Wait()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A connection that is outside for too long, or when the server stops, ends.
func TestDoorOutside(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		for d.reserved+(22<<10) < roomPerSlot*helloShare/wholeRoom {
			d.answered(stranger)
		}
		d.stalled(2, stranger)
		began := make(chan error, 3)
		outside := func() {
			v := &visit{conn: quietConn{}, timeout: 2 * time.Second}
			v.begin = func() {
				go func() {
					began <- d.begins(v)
					d.leave(v)
				}()
			}
			if d.enter(v, addressOf(stranger)) != nil || len(began) > 0 {
				t.Error("it is not outside")
			}
			synctest.Wait()
		}
		d.door.mu.Lock()
		for v := range d.visits { // none makes place
			v.due = time.Now().Add(time.Hour)
		}
		d.door.mu.Unlock()
		outside()
		time.Sleep(3 * time.Second)
		if err := <-began; !errors.Is(err, errNoPlace) {
			t.Errorf("err = %v; want errNoPlace", err)
		}
		outside()
		if v := d.come(honest); v == nil || d.phaseOf(v) != phaseHello {
			t.Error("another address's client waits outside as well")
		}
		d.stop()
		if err := <-began; !errors.Is(err, errClosing) {
			t.Errorf("err = %v; want errClosing", err)
		}
	})
}

// At the limit of open connections, a client of another address takes the place of one
// of several stalled connections at once, and one of the same address waits outside
// until the patience of the first has ended. Tunnels and served connections keep their
// places.
func TestDoorFull(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		served := d.come(stranger)
		d.move(served, phaseServed)
		d.configure(1, 1)
		if d.come(honest) != nil {
			t.Error("there was a place although nobody was stalled")
		}
		d.configure(4, 1)
		all := d.stalled(3, stranger)
		patient := d.come(stranger)
		if patient == nil || d.phaseOf(patient) != phaseOutside || d.countGivenUp(all) > 0 {
			t.Error("another one of the same address does not wait outside")
		}
		if v := d.come(honest); v == nil || d.phaseOf(v) != phaseHello || d.countGivenUp(all) != 1 {
			t.Errorf("%d were given up for another address's client; want one", d.countGivenUp(all))
		}
		if len(d.visits) != 6 {
			t.Errorf("%d are at the door; want the served one, three, one outside and another", len(d.visits))
		}
		time.Sleep(phases[phaseHello].patience + maxBlockedRetry)
		if d.phaseOf(patient) != phaseHello || d.countGivenUp(all) != 2 {
			t.Errorf("%d were given up after a moment; want two", d.countGivenUp(all))
		}
		if err := d.move(all[0], phaseServed); !errors.Is(err, errGivenUp) {
			t.Errorf("who was given up goes on: %v", err)
		}
		for range 3 {
			d.shed()
		}
		if d.countGivenUp(all) != 3 || served.givenUp {
			t.Error("not all stalled ones were shed, or another one was")
		}
	})
}

// At most as many are outside as there are connections that could make place for them.
func TestDoorFullOutside(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		d.configure(5, 1)
		d.move(d.come(honest), phaseServed)
		d.stalled(4, stranger)
		outside := 0
		for d.come(stranger) != nil {
			if outside++; outside > 4 {
				break
			}
		}
		if outside != 4 {
			t.Errorf("%d are outside; want 4", outside)
		}
	})
}

// If each descriptor has an address of its own, a newcomer waits for one that a stalled
// connection gives back, the next ones behind it. An address that has a connection already
// is refused at once, and so is everybody where only tunnels have descriptors.
func TestDoorEntersInTurn(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		d.configure(4, 1)
		enter := func(from string) (*visit, error) {
			v := &visit{conn: quietConn{}, begin: func() {}, timeout: 10 * time.Second}
			return v, d.enterInTurn(v, addressOf(from))
		}
		from := func(i int) string { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String() }
		var all []*visit
		for i := range 8 { // four inside, four outside
			v := d.come(from(i))
			d.waits(v)
			all = append(all, v)
		}
		began := time.Now()
		if _, err := enter(from(3)); err != errFull || time.Since(began) != 0 {
			t.Errorf("one that has a connection: %v after %v; want it refused at once", err, time.Since(began))
		}
		_, err := enter(honest)
		if took := time.Since(began); err != nil || took == 0 || took > phases[phaseHello].patience {
			t.Errorf("a newcomer: %v after %v; want it in within a patience", err, took)
		}
		if n := d.countGivenUp(all); n == 0 {
			t.Error("no stalled one made place")
		}
		for i := range 20 { // so that all descriptors are taken again
			d.come(from(100 + i))
		}
		ended := make(chan error)
		go func() {
			_, err := enter("192.0.2.99")
			ended <- err
		}()
		synctest.Wait()
		d.stop()
		if err := <-ended; err != errClosing {
			t.Errorf("at the end: %v; want %v", err, errClosing)
		}
	})
	atDoor(t, 1, func(d *doorway) {
		d.configure(2, 1)
		for range 2 {
			v := d.come(stranger)
			d.leave(v) // a tunnel
		}
		began := time.Now()
		v := &visit{conn: quietConn{}, begin: func() {}, timeout: 10 * time.Second}
		if err := d.enterInTurn(v, addressOf(honest)); err != errFull || time.Since(began) != 0 {
			t.Errorf("beside tunnels: %v after %v; want it refused at once", err, time.Since(began))
		}
	})
}

// An address that counts as one is never given up for others before its patience ends,
// regardless of its price and of their number: not even a client that has its answer
// and is 100 ms away, beside attackers with one or two half ClientHellos each.
func TestDoorCountsNotPrices(t *testing.T) {
	for _, each := range []int{1, 2} {
		atDoor(t, 1, func(d *doorway) {
			from := func(i int) string { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String() }
			next := 0
			flood := func(n int) {
				for range n {
					if v := d.come(from(next / each)); v != nil && d.phaseOf(v) == phaseHello {
						d.waits(v)
					}
					next++
				}
			}
			flood(2 * roomPerSlot / (8 << 10))
			for range 20 {
				var v *visit
				for v = d.come(honest); d.phaseOf(v) == phaseOutside; {
					time.Sleep(maxBlockedRetry)
				}
				if err := d.start(v, 1500); err != nil {
					t.Fatal(err)
				}
				d.pause(v)
				flood(100)
				time.Sleep(100 * time.Millisecond)
				flood(100)
				if err := d.resume(v); err != nil {
					t.Fatalf("strangers with %d each: %v", each, err)
				}
				if err := d.move(v, phaseRequest); err != nil {
					t.Fatal(err)
				}
				flood(100)
				if err := d.move(v, phaseServed); err != nil {
					t.Fatal(err)
				}
				d.leave(v)
			}
		})
	}
}

// A connection that has been stalled for too long makes place for any newcomer, even if
// another address has more that have not.
func TestDoorOverdueMakesPlace(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		d.configure(4, 1)
		old := d.stalled(1, stranger)[0]
		time.Sleep(phases[phaseHello].patience)
		crowd := d.stalled(3, honest)
		if v := d.come(honest); v == nil || d.phaseOf(v) != phaseHello || !old.givenUp || d.countGivenUp(crowd) > 0 {
			t.Error("it was not the overdue one that made place")
		}
	})
}

// The time for a handshake begins when the connection is let in, and again with its
// slot, because it did not wait for its client before that.
func TestDoorTimeoutBeginsAnew(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		v := &visit{conn: quietConn{}, begin: func() {}, timeout: 2 * time.Second}
		d.configure(1, 1)
		first := d.stalled(1, stranger)[0]
		if err := d.enter(v, addressOf(stranger)); err != nil || d.phaseOf(v) != phaseOutside {
			t.Fatal(err, v.phase)
		}
		time.Sleep(time.Second)
		d.leave(first)
		d.gone()
		if left := time.Until(v.until); d.phaseOf(v) != phaseHello || left != 2*time.Second {
			t.Errorf("let in, it has %v; want 2s", left)
		}
		time.Sleep(time.Second)
		if err := d.start(v, 300); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(v.until); left != 2*time.Second {
			t.Errorf("with a slot, it has %v; want 2s", left)
		}
	})
}

// A request without its body is stalled like an incomplete request, and its price
// includes the memory of net/http.
func TestDoorBody(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		var all []*visit
		for range 100 {
			v := d.come(stranger)
			v.conn, _ = net.Pipe()
			d.start(v, 300)
			d.move(v, phaseRequest)
			d.move(v, phaseServed)
			if d.reserved+phases[phaseBody].price > roomPerSlot || d.moveToBody(v) != nil {
				d.leave(v)
				continue
			}
			all = append(all, v)
		}
		if d.reserved > roomPerSlot || len(all) < 20 {
			t.Errorf("%d take %d bytes; want at most %d", len(all), d.reserved, roomPerSlot)
		}
		if v := d.come(honest); v == nil || d.phaseOf(v) != phaseHello || d.countGivenUp(all) == 0 {
			t.Fatal("none was given up for another address's client")
		}
		out := all[slices.IndexFunc(all, func(v *visit) bool { return v.givenUp })]
		if err := d.move(out, phasePages); !errors.Is(err, errGivenUp) {
			t.Errorf("err = %v; want errGivenUp", err)
		}
		if _, err := out.conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("its connection: %v; want it closed", err)
		}
	})
}

// A connection that the pages kept makes place if no more may be open and no other
// connection does: of the address with the most of them, the longest kept one first. It
// is not given up for room, because it uses none. One of an address also makes place for
// another one of that address.
func TestDoorKept(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		keep := func(from string) *visit {
			v := d.come(from)
			if err := d.move(v, phaseKept); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			return v
		}
		kept := []*visit{keep(honest), keep(stranger), keep(stranger), keep(honest), keep(stranger)}
		var stalled []*visit
		for d.reserved+(22<<10) < roomPerSlot*helloShare/wholeRoom {
			stalled = append(stalled, d.stalled(1, stranger)...)
		}
		stalled = append(stalled, d.answered(stranger))
		if d.countGivenUp(kept) > 0 {
			t.Error("one was given up for room")
		}
		for _, v := range stalled {
			d.leave(v)
			d.gone()
		}
		young := d.stalled(1, honest)
		d.configure(6, 1)
		if d.come(honest) == nil || !kept[1].givenUp || d.countGivenUp(kept) != 1 || young[0].givenUp {
			t.Errorf("%d kept ones were given up for a connection; want the first of those who have most", d.countGivenUp(kept))
		}
		d.configure(5, 1)
		if d.come(honest) == nil || !kept[0].givenUp || d.countGivenUp(kept) != 2 {
			t.Errorf("%d kept ones were given up for two connections; want the first of all as well", d.countGivenUp(kept))
		}
		for _, i := range []int{2, 4} {
			if !d.yields(addressOf(stranger)) || !kept[i].givenUp {
				t.Errorf("the address does not yield its kept connection %d", i)
			}
		}
		if d.yields(addressOf(stranger)) {
			t.Error("the address yields another kept connection")
		}
		for range 4 {
			d.shed()
		}
		if d.countGivenUp(kept) != 5 {
			t.Errorf("%d kept ones are given up for want of descriptors; want all", d.countGivenUp(kept))
		}
	})
}

// Bytes of incomplete input have a price.
func TestDoorBytes(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		all := d.stalled(10, stranger)
		var err error
		for size := 0; size < 2*roomPerSlot && err == nil; size += 16 << 10 {
			err = d.grows(all[size/(16<<10)%10], 16<<10)
		}
		if err == nil || d.reserved > roomPerSlot+(32<<10) {
			t.Errorf("%d bytes are held, %v; want at most %d and an error", d.reserved, err, roomPerSlot)
		}
		if d.come(honest) == nil {
			t.Error("no place for another address's client")
		}
	})
}

// A client that sends little by little gains no time.
func TestDoorTrickle(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		v := d.answered(stranger)
		due := v.due
		for range 5 {
			time.Sleep(time.Second)
			d.resume(v)
			d.pause(v)
		}
		if v.due != due {
			t.Errorf("it is due %v later", v.due.Sub(due))
		}
	})
}

// A handshake gives up at its deadline. At shutdown those that have not begun end; a
// connection whose client has begun a request may finish it.
func TestDoorDeadlineAndStop(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		begun, late := d.come(stranger), d.come(stranger)
		d.start(begun, 300)
		late.timeout = 3 * time.Second
		if err := d.start(late, 300); !errors.Is(err, errNoPlace) {
			t.Errorf("err = %v; want errNoPlace", err)
		}
		d.leave(late)
		silent, asking, ready := d.come(stranger), d.come(stranger), d.come(stranger)
		d.speaks(asking)
		for _, v := range []*visit{begun, silent, asking, ready} {
			v.conn, _ = net.Pipe()
		}
		ended := make(chan error, 2)
		for _, v := range []*visit{silent, asking} {
			go func() {
				_, err := v.conn.Read(make([]byte, 1))
				ended <- err
			}()
		}
		waiting := make(chan error)
		go func() { waiting <- d.start(ready, 300) }()
		synctest.Wait()
		d.stop()
		if err := <-waiting; !errors.Is(err, errClosing) {
			t.Errorf("err = %v; want errClosing", err)
		}
		synctest.Wait()
		if len(ended) != 1 {
			t.Errorf("%d of a silent and an asking one ended; want the silent one", len(ended))
		}
		if n := d.arriving(); n != 4 {
			t.Errorf("%d are on their way; want 4", n)
		}
		d.closeAll()
		<-ended
		<-ended
	})
}

// While all slots are taken and enough handshakes wait for one, no more are accepted,
// until one has begun, turned out to be silent, or the server stops.
func TestNewcomersWaitOutside(t *testing.T) {
	atDoor(t, 2, func(d *doorway) {
		stop := make(chan struct{})
		var all []*visit
		go func() {
			for {
				d.awaitRoom(stop)
				select {
				case <-stop:
					return
				default:
				}
				all = append(all, d.come(stranger))
			}
		}()
		expect := func(want int, why string) {
			t.Helper()
			synctest.Wait()
			if len(all) != want {
				t.Errorf("%s: %d accepted; want %d", why, len(all), want)
			}
		}
		expect(2*comingFactor, "nobody has begun")
		if err := d.start(all[0], 300); err != nil {
			t.Fatal(err)
		}
		expect(2*comingFactor+1, "one has begun")
		d.waits(all[1])
		expect(2*comingFactor+2, "one says nothing")
		d.leave(all[2])
		expect(2*comingFactor+3, "one has gone")
		close(stop)
		synctest.Wait()
	})
}

// If too many are outside, a client of another address takes the place of one from the
// address with most, and enters first when a patience ends, regardless of the order of
// arrival.
func TestDoorOutsideByAddress(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		d.configure(4, 1)
		others := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}
		var inside, outside []*visit
		for _, from := range others {
			inside = append(inside, d.stalled(1, from)...)
		}
		for _, from := range others {
			outside = append(outside, d.come(from))
		}
		if d.come(others[0]) != nil {
			t.Error("a third one of an address that has two has a place")
		}
		newcomer := d.come(honest)
		if newcomer == nil || d.phaseOf(newcomer) != phaseOutside || d.countGivenUp(outside) != 1 || d.countGivenUp(inside) != 0 {
			t.Fatalf("%d of those outside were given up for another address's client; want one", d.countGivenUp(outside))
		}
		d.door.mu.Lock()
		for i, v := range inside { // one after the other
			v.due = time.Now().Add(phases[phaseHello].patience + time.Duration(i)*time.Second)
		}
		d.door.mu.Unlock()
		time.Sleep(phases[phaseHello].patience/4 + maxBlockedRetry)
		if d.phaseOf(newcomer) != phaseHello || d.countGivenUp(inside) != 1 {
			t.Error("others came in before the address that has nobody inside")
		}
	})
}

// A client that is served needs a second descriptor: if those outside have too many,
// the last one of the address with most is closed.
func TestDoorServedTakesFile(t *testing.T) {
	for _, s := range []phase{phaseServed, phasePages} {
		atDoor(t, 1, func(d *doorway) {
			d.configure(3, 1)
			inside := d.stalled(3, stranger)
			outside := []*visit{d.come(stranger), d.come(stranger), d.come(stranger)}
			for i, v := range inside {
				d.move(v, s)
				d.move(v, s)
				if n := d.countGivenUp(outside); n != 1+i {
					t.Errorf("phase %d: beside %d that are served %d of those outside were closed; want %d", s, 1+i, n, 1+i)
				}
			}
			if outside[0].givenUp && !outside[1].givenUp {
				t.Error("the first was closed before the last")
			}
		})
	}
}

// A client with a long request or body waits for room until others' patience ends, and
// is not refused; meanwhile it may be given up itself, and a shutdown ends it.
func TestDoorGrowsLater(t *testing.T) {
	for what, grow := range map[string]func(*doorway, *visit) error{
		"request": func(d *doorway, v *visit) error { return d.grows(v, 8<<10) },
		"body":    func(d *doorway, v *visit) error { return d.moveToBody(v) },
	} {
		crowd := func(d *doorway) (v *visit, result chan error) {
			v = d.come(honest)
			d.start(v, 300)
			d.move(v, phaseRequest)
			d.door.mu.Lock()
			d.reserved += roomPerSlot // of addresses with one connection each
			d.door.mu.Unlock()
			result = make(chan error, 1)
			go func() { result <- grow(d, v) }()
			synctest.Wait()
			if len(result) > 0 {
				t.Fatalf("%s: %v at once; want it to wait", what, <-result)
			}
			return v, result
		}
		empty := func(d *doorway) {
			d.door.mu.Lock()
			d.reserved -= roomPerSlot
			d.door.mu.Unlock()
		}
		atDoor(t, 1, func(d *doorway) {
			v, result := crowd(d)
			empty(d)
			time.Sleep(2 * maxBlockedRetry)
			if err := <-result; err != nil || d.door.reserved != v.price || v.price <= phases[phaseRequest].price {
				t.Errorf("%s: %v, with a price of %d of %d; want it to go on", what, err, v.price, d.door.reserved)
			}
		})
		atDoor(t, 1, func(d *doorway) {
			v, result := crowd(d)
			v.conn, _ = net.Pipe()
			time.Sleep(phases[phaseRequest].patience)
			if d.come(stranger) == nil {
				t.Errorf("%s: nothing makes place for another address's client", what)
			}
			if err := <-result; !errors.Is(err, errGivenUp) {
				t.Errorf("%s: err = %v; want errGivenUp", what, err)
			}
			empty(d)
		})
		atDoor(t, 1, func(d *doorway) {
			v, result := crowd(d)
			v.conn, _ = net.Pipe()
			d.closeAll()
			synctest.Wait()
			if err := <-result; !errors.Is(err, errGivenUp) {
				t.Errorf("%s: err = %v; want errGivenUp", what, err)
			}
			empty(d)
		})
	}
}

// Many connections wait for room, and each may be given up for the others: one is given
// up for another, never for itself, and the one that has waited longest comes first.
func TestDoorManyGrow(t *testing.T) {
	for what, grow := range map[string]func(*doorway, *visit) error{
		"hello":   func(d *doorway, v *visit) error { return d.grows(v, maxHello-freeBytes) },
		"request": func(d *doorway, v *visit) error { d.move(v, phaseRequest); return d.grows(v, 16<<10) },
		"body":    func(d *doorway, v *visit) error { d.move(v, phaseRequest); return d.moveToBody(v) },
	} {
		atDoor(t, 1, func(d *doorway) {
			var all []*visit
			for v := d.come(addressIn(0)); v != nil && v.phase == phaseHello; v = d.come(addressIn(len(all))) {
				all = append(all, v)
			}
			results := make([]chan error, len(all))
			for i, v := range all {
				results[i] = make(chan error, 1)
				go func() { results[i] <- grow(d, v) }()
				synctest.Wait()
			}
			time.Sleep(10 * time.Second)
			served, givenUp := 0, 0
			for i := range all {
				select {
				case err := <-results[i]:
					switch {
					case err == nil:
						served++
					case errors.Is(err, errGivenUp):
						givenUp++
					default:
						t.Errorf("%s: %d: %v", what, i, err)
					}
				default:
					t.Errorf("%s: %d waits although others' patience has ended", what, i)
				}
			}
			if served == 0 || givenUp == 0 {
				t.Errorf("%s: %d are served and %d given up; want some of both", what, served, givenUp)
			}
		})
	}
}

// A panic in the door does not keep it locked.
func TestDoorPanics(t *testing.T) {
	d := newDoor()
	for what, f := range map[string]func(*visit){
		"start":  func(v *visit) { d.start(v, 300) },
		"resume": func(v *visit) { d.resume(v) },
		"grows":  func(v *visit) { v.party = new(party); d.grows(v, 1<<20) },
		"move":   func(v *visit) { d.move(v, phaseServed) },
		"leave":  func(v *visit) { d.visits[v] = struct{}{}; d.leave(v) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			f(&visit{phase: phaseHello}) // it has never entered
		}()
		if !d.mu.TryLock() {
			t.Fatalf("%s: the door is locked", what)
		}
		d.mu.Unlock()
	}
}

// A connection that was given up for another stays given up, even if the other gets no
// room.
func TestDoorGrowsInVain(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		var all []*visit
		results := make(chan error, 2)
		for i := range 2 {
			v := d.come(addressIn(i))
			all = append(all, v)
			d.door.mu.Lock()
			d.reserved += roomPerSlot / 2 // of handshakes that wait for a slot
			d.door.mu.Unlock()
		}
		for _, v := range all {
			go func() { results <- d.grows(v, 16<<10) }()
		}
		time.Sleep(phases[phaseHello].patience + maxBlockedRetry)
		if n := d.countGivenUp(all); n != 1 || d.door.stalled.Len() != 1 {
			t.Errorf("%d are given up and %d stalled; want one each", n, d.door.stalled.Len())
		}
		d.door.mu.Lock()
		d.reserved -= 2 * (roomPerSlot / 2)
		d.door.mu.Unlock()
		time.Sleep(maxBlockedRetry)
		if a, b := <-results, <-results; (a == nil) == (b == nil) {
			t.Errorf("%v and %v; want one to be served", a, b)
		}
	})
}

// The price of a record is returned once crypto/tls has it: a long body does not make
// its address one of those with most.
func TestDoorRecordsOfBody(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		client, server := net.Pipe()
		e := &earlyConn{Conn: server, client: &clientConn{}, door: d.door}
		v := &e.client.visit
		*v = visit{conn: server, begin: func() {}, timeout: time.Hour}
		d.enter(v, addressOf(honest))
		d.start(v, 300)
		d.move(v, phaseRequest)
		if err := d.moveToBody(v); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer client.Close()
			for range 64 {
				client.Write(append([]byte{23, 3, 3, 0x40, 0}, make([]byte, 16<<10)...))
			}
		}()
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{e}); n != 64*(16<<10+recordHeader) || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if price := v.price; price != phases[phaseBody].price {
			t.Errorf("after 64 records it costs %d bytes; want %d", price, phases[phaseBody].price)
		}
	})
}

// A well-behaved client counts as one in every phase: beside attackers with one
// connection per address, none of its connections is given up before its patience ends.
func TestDoorBodyCountsAsOne(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		hello := d.come("198.51.100.2")
		body := d.come(honest)
		d.start(body, 2<<10)
		d.move(body, phaseRequest)
		if err := d.moveToBody(body); err != nil {
			t.Fatal(err)
		}
		d.grows(body, maxRecord-freeBytes)
		d.grows(hello, maxHello-freeBytes)
		for _, v := range []*visit{hello, body} {
			if v.shares() != 1 {
				t.Errorf("phase %d counts as %d; want 1", v.phase, v.shares())
			}
		}
		for d.come(addressIn(len(d.visits))) != nil && len(d.visits) < 400 {
			if hello.givenUp || body.givenUp {
				t.Fatalf("one was given up for the %dth stranger", len(d.visits))
			}
		}
	})
}

// addressIn returns an address in a network of attackers.
func addressIn(i int) string {
	return netip.AddrFrom4([4]byte{192, 0, 2 + byte(i>>8), byte(i)}).String()
}

// Patience shrinks while many addresses wait outside, but not within an address.
func TestDoorPatienceShrinks(t *testing.T) {
	for _, own := range []bool{false, true} {
		atDoor(t, 1, func(d *doorway) {
			const places = 8
			from := func(i int) string {
				if own {
					return honest
				}
				return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String()
			}
			d.configure(places, 1)
			var stalled []*visit
			for i := range places {
				stalled = append(stalled, d.answered(from(i)))
			}
			for i := range places {
				if v := d.come(from(places + i)); d.phaseOf(v) != phaseOutside {
					t.Fatal("it is not outside")
				}
			}
			time.Sleep(phases[phaseAnswered].patience/4 + maxBlockedRetry)
			if n := d.countGivenUp(stalled); (n > 0) == own {
				t.Errorf("with one address %t: %d were given up after a quarter of the patience", own, n)
			}
			time.Sleep(phases[phaseAnswered].patience)
			if d.countGivenUp(stalled) == 0 || d.outside > 0 {
				t.Errorf("with one address %t: %d are still outside in the end", own, d.outside)
			}
		})
	}
}

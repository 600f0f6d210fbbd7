package proxy

import (
	"errors"
	"net"
	"net/netip"
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
		d.limit(slots)
		f(d)
		d.door.mu.Lock()
		all := d.visits
		d.door.mu.Unlock()
		for v := range all {
			d.leave(v)
		}
		if d.held != 0 || d.computing != 0 || d.coming != 0 || d.leaving != 0 || len(d.parties) != 0 || len(d.order) != 0 || d.turns.Len() != 0 || d.again.Len() != 0 {
			t.Errorf("when all have left: %+v", d.door)
		}
	})
}

func addressOf(s string) clientKey { return keyOfAddr(netip.MustParseAddr(s)) }

// A quietConn is a connection of which nobody reads.
type quietConn struct{ net.Conn }

func (quietConn) SetDeadline(time.Time) error     { return nil }
func (quietConn) SetReadDeadline(time.Time) error { return nil }

const (
	stranger = "192.0.2.1"
	honest   = "198.51.100.1"
)

// come is a connection's accept; nil where the door has no place.
func (d *doorway) come(from string, free int) *visit {
	v := &visit{conn: quietConn{}, begin: func() {}, until: time.Now().Add(time.Hour)}
	if !d.enter(v, addressOf(from), free) {
		return nil
	}
	return v
}

// answered is a connection whose client has had the gate's part of the handshake.
func (d *doorway) answered(from string) *visit {
	v := d.come(from, 1)
	if err := d.start(v, 1500); err != nil {
		d.t.Fatal(err)
	}
	d.pause(v)
	return v
}

func (d *doorway) stalled(n int, from string) (all []*visit) {
	for range n {
		v := d.come(from, 1)
		d.waits(v)
		all = append(all, v)
	}
	return all
}

func countGivenUp(all []*visit) (n int) {
	for _, v := range all {
		if v.givenUp {
			n++
		}
	}
	return n
}

// A handshake that waits for its client needs no slot, and has it again before
// others begin.
func TestDoorOrder(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		first, second, third := d.come(stranger, 1), d.come(stranger, 1), d.come(stranger, 1)
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

// Slots go to the addresses in turn: one with many ClientHellos is no more in the
// way than one with one.
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
			begin(d.come(stranger, 1))
		}
		late := d.come(honest, 1)
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

// Where nobody else comes, who does not go on may take his time. Another address
// has a place at once, however many of the first are stalled and wherever; another
// client of the same address has one after a moment, which the oldest pays for.
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
				for d.held+(22<<10) < 2*roomPerSlot*helloShare/wholeRoom {
					all = append(all, stall(d, stranger))
				}
				time.Sleep(time.Hour)
				for range 2 { // the one that is left may be less than another's price
					all = append(all, stall(d, stranger))
				}
				if n := countGivenUp(all[:len(all)-2]); n > 3 || countGivenUp(all[len(all)-2:]) > 0 {
					t.Errorf("%d were given up for two others; want the oldest", n)
				}
				before := countGivenUp(all)
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
				if n := countGivenUp(all) - before; n > 20 {
					t.Errorf("%d strangers were given up for ten others", n)
				}
			})
		})
	}
}

// Clients behind one address that all come at once do not push each other out: who
// finds no room waits until the first have gone on.
func TestDoorCrowdOfOneAddress(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		const roundTrip = 700 * time.Millisecond
		n := 3 * roomPerSlot / (14 << 10)
		errs := make(chan error, n)
		for range n {
			v := &visit{conn: quietConn{}, until: time.Now().Add(10 * time.Second)}
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
			if !d.enter(v, addressOf(stranger), 1000) {
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

// Who is outside for too long, or when the server stops, ends.
func TestDoorOutside(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		for d.held+(22<<10) < roomPerSlot*helloShare/wholeRoom {
			d.answered(stranger)
		}
		d.stalled(2, stranger)
		began := make(chan error, 3)
		outside := func() {
			v := &visit{conn: quietConn{}, until: time.Now().Add(2 * time.Second)}
			v.begin = func() {
				go func() {
					began <- d.begins(v)
					d.leave(v)
				}()
			}
			if !d.enter(v, addressOf(stranger), 1000) || len(began) > 0 {
				t.Error("it is not outside")
			}
			synctest.Wait()
		}
		d.door.mu.Lock()
		for v := range d.visits { // nobody makes place
			v.due = time.Now().Add(time.Hour)
		}
		d.door.mu.Unlock()
		outside()
		time.Sleep(3 * time.Second)
		if err := <-began; !errors.Is(err, errNoPlace) {
			t.Errorf("err = %v; want errNoPlace", err)
		}
		outside()
		if v := d.come(honest, 1000); v == nil || v.phase != phaseHello {
			t.Error("another address's client waits outside as well")
		}
		d.stop()
		if err := <-began; !errors.Is(err, errClosing) {
			t.Errorf("err = %v; want errClosing", err)
		}
	})
}

// Where no more connections may be open, another address's client takes the place
// of one that is stalled at once, and one of the same address after a moment; a
// tunnel's or a served one's place nobody takes.
func TestDoorFull(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		served := d.come(stranger, 1)
		d.move(served, phaseServed)
		if d.come(honest, 0) != nil {
			t.Error("there was a place although nobody was stalled")
		}
		all := d.stalled(3, stranger)
		if d.come(stranger, 0) != nil {
			t.Error("a place was made at once for another one of the same address")
		}
		if d.come(honest, 0) == nil || countGivenUp(all) != 1 {
			t.Errorf("%d were given up for another address's client; want one", countGivenUp(all))
		}
		time.Sleep(phases[phaseHello].patience)
		if d.come(stranger, -1) == nil || countGivenUp(all) != 2 {
			t.Errorf("%d were given up after a moment; want two", countGivenUp(all))
		}
		if err := d.move(all[0], phaseServed); !errors.Is(err, errGivenUp) {
			t.Errorf("who was given up goes on: %v", err)
		}
		d.shed()
		d.shed()
		d.shed()
		if countGivenUp(all) != 3 || served.givenUp {
			t.Error("not all stalled ones were shed, or another one was")
		}
	})
}

// A connection that the pages kept makes place where no more may be open and nobody
// else does, the longest kept one first. It is not given up for room, for it takes
// none; and one of an address makes place for another one of that address.
func TestDoorKept(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		keep := func(from string) *visit {
			v := &visit{conn: quietConn{}}
			if err := d.comeBack(v, addressOf(from)); err != nil {
				t.Fatal(err)
			}
			return v
		}
		kept := []*visit{keep(stranger), keep(honest), keep(honest), keep(stranger)}
		var stalled []*visit
		for d.held+(22<<10) < roomPerSlot*helloShare/wholeRoom {
			stalled = append(stalled, d.stalled(1, stranger)...)
		}
		time.Sleep(time.Second)
		stalled = append(stalled, d.answered(stranger))
		if countGivenUp(kept) > 0 {
			t.Error("one was given up for room")
		}
		for _, v := range stalled {
			d.leave(v)
		}
		young := d.stalled(1, honest)
		if d.come(honest, 0) == nil || !kept[0].givenUp || countGivenUp(kept) != 1 || young[0].givenUp {
			t.Errorf("%d kept ones were given up for a connection; want the first", countGivenUp(kept))
		}
		if !d.yields(addressOf(stranger)) || !kept[3].givenUp || d.yields(addressOf(stranger)) {
			t.Error("the address does not yield its one kept connection, or more")
		}
		d.shed()
		d.shed()
		d.shed()
		d.shed()
		if countGivenUp(kept) != 4 {
			t.Errorf("%d kept ones are given up for want of descriptors; want all", countGivenUp(kept))
		}
	})
}

// The bytes of what is not whole are paid for.
func TestDoorBytes(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		all := d.stalled(10, stranger)
		var err error
		for size := 0; size < 2*roomPerSlot && err == nil; size += 16 << 10 {
			err = d.grows(all[size/(16<<10)%10], 16<<10)
		}
		if err == nil || d.held > roomPerSlot+(32<<10) {
			t.Errorf("%d bytes are held, %v; want at most %d and an error", d.held, err, roomPerSlot)
		}
		if d.come(honest, 1) == nil {
			t.Error("no place for another address's client")
		}
	})
}

// Who says a little again and again gets no more time by that.
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

// A handshake gives up at its deadline, and all that have not begun do when the
// server shuts down; who has begun to ask for something may go on.
func TestDoorDeadlineAndStop(t *testing.T) {
	atDoor(t, 1, func(d *doorway) {
		begun, late := d.come(stranger, 1), d.come(stranger, 1)
		d.start(begun, 300)
		late.until = time.Now().Add(3 * time.Second)
		if err := d.start(late, 300); !errors.Is(err, errNoPlace) {
			t.Errorf("err = %v; want errNoPlace", err)
		}
		d.leave(late)
		silent, asking, ready := d.come(stranger, 1), d.come(stranger, 1), d.come(stranger, 1)
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

// While all slots are taken and enough wait for one, no more are accepted, until one
// has begun, was silent after all, or the server stops.
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
				all = append(all, d.come(stranger, 1))
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

package proxy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Handshakes that wait for their client need no place, newcomers come in order,
// and those under way go before them.
func TestPlacesOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces()
		p.limit(1)
		deadline := time.Now().Add(time.Minute)
		if err := p.start(deadline); err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 3)
		for _, name := range []string{"second", "third"} {
			go func() {
				p.start(deadline)
				got <- name
			}()
			synctest.Wait()
		}
		first := p.pause(func() {})
		if name := <-got; name != "second" {
			t.Errorf("%s came in; want second", name)
		}
		go func() {
			p.resume(first, deadline)
			got <- "first"
		}()
		synctest.Wait()
		p.finish(true)
		if name := <-got; name != "first" {
			t.Errorf("%s came in; want first, which was under way", name)
		}
		p.finish(true)
		if name := <-got; name != "third" {
			t.Errorf("%s came in; want third", name)
		}
		p.finish(true)
	})
}

// Whoever begins handshakes and does not go on keeps nobody out for more than
// patience; without newcomers he may take his time.
func TestPlacesEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces()
		p.limit(2)
		begin := time.Now()
		deadline := begin.Add(time.Minute)
		for range 2 * waitingFactor {
			if err := p.start(deadline); err != nil {
				t.Fatal(err)
			}
			gone := make(chan struct{})
			place := p.pause(func() { close(gone) })
			go func() {
				<-gone
				p.resume(place, deadline)
				p.finish(true)
			}()
		}
		time.Sleep(10 * time.Second)
		if p.started != 2*waitingFactor {
			t.Errorf("%d handshakes are under way; want all %d, for nobody else came", p.started, 2*waitingFactor)
		}
		before := time.Now()
		if err := p.start(deadline); err != nil {
			t.Errorf("a newcomer got in not at all: %v", err)
		}
		if took := time.Since(before); took > patience {
			t.Errorf("a newcomer waited %v; want at most %v", took, patience)
		}
		p.finish(true)
		for p.started > 0 {
			if e := p.paused.Front(); e != nil {
				p.paused.Remove(e).(*pausedHandshake).giveUp()
			}
			synctest.Wait()
		}
	})
}

// A newcomer gives up at its deadline, and all do when the server shuts down.
func TestPlacesDeadlineAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces()
		p.limit(1)
		p.start(time.Now().Add(time.Hour))
		if err := p.start(time.Now().Add(3 * time.Second)); !errors.Is(err, errNoPlace) {
			t.Errorf("err = %v; want errNoPlace", err)
		}
		waiting := make(chan error)
		go func() { waiting <- p.start(time.Now().Add(time.Hour)) }()
		synctest.Wait()
		p.close()
		if err := <-waiting; !errors.Is(err, errClosing) {
			t.Errorf("err = %v; want errClosing", err)
		}
		if err := p.start(time.Now().Add(time.Hour)); !errors.Is(err, errClosing) {
			t.Errorf("err = %v; want errClosing", err)
		}
		p.finish(true)
	})
}

// When many newcomers wait, no more are accepted until one has started, was
// silent after all, or the server stops.
func TestNewcomersWaitOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces()
		p.limit(2)
		stop := make(chan struct{})
		accepted := 0
		go func() {
			for {
				p.awaitRoom(stop)
				select {
				case <-stop:
					return
				default:
				}
				p.arrive()
				accepted++
			}
		}()
		expect := func(want int, why string) {
			t.Helper()
			synctest.Wait()
			if accepted != want {
				t.Errorf("%s: %d accepted; want %d", why, accepted, want)
			}
		}
		expect(2*comingFactor, "nobody has started")
		if err := p.start(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		expect(2*comingFactor+1, "one has started")
		p.silent()
		expect(2*comingFactor+2, "one says nothing")
		close(stop)
		synctest.Wait()
	})
}

package proxy

import (
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// If clients reconnect exactly one second after their close, their rate never exceeds
// 1.2 times the mean in any second of the drain.
func TestDrainMakesNoStorm(t *testing.T) {
	const clients, within = 100_000, 60 * time.Second
	order := &drainOrder{within: within}
	moments := order.moments(clients, time.Hour, rand.New(rand.NewPCG(1, 1)))
	slices.Sort(moments)
	if first, last := moments[0]-time.Hour, moments[clients-1]-time.Hour; first < 0 || last > within {
		t.Fatalf("closes from %v to %v; want 0 to %v", first, last, within)
	}
	for i := range moments {
		moments[i] += time.Second // they reconnect
	}
	const mean = float64(clients) / 60 // per second
	most, from := 0, 0
	for i, at := range moments {
		for at-moments[from] >= time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	t.Logf("%d clients in %v: at most %d in any second, %.3f times the mean", clients, within, most, float64(most)/mean)
	if float64(most) > 1.2*mean {
		t.Errorf("%d clients in one second; want at most 1.2 times %.0f", most, mean)
	}
}

// The configured pace applies, regardless of the timeout. Without one a drain takes
// half of the timeout, and less for a few clients.
func TestPacing(t *testing.T) {
	for _, test := range []struct {
		p    Pacing
		n    int
		want time.Duration
	}{
		{Pacing{Timeout: 30 * time.Second}, 100_000, 15 * time.Second},
		{Pacing{Timeout: 30 * time.Second}, 5, 100 * time.Millisecond},
		{Pacing{Timeout: 30 * time.Second, Pace: 10}, 100, 10 * time.Second},
		{Pacing{}, 1000, 0},
	} {
		if got := test.p.within(test.n); got != test.want {
			t.Errorf("%+v, %d clients: %v; want %v", test.p, test.n, got, test.want)
		}
	}
}

// A tunnel may arrive at any moment of a drain, and be found before it has started.
func TestDrainWhileTunnelsCome(t *testing.T) {
	d, vhost := newTestLoops(t), someVhost(t)
	var drains sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		drains.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					o := &drainOrder{within: time.Hour}
					d.drain(o)
					d.visit(func(*tunnel, *turn) {}) // waits for the loop
					d.undrain(o)
				}
			}
		})
	}
	for range 500 {
		client, clientGate := net.Pipe()
		err := d.take(&tunnel{
			settings: &tunnelSettings{backlog: 1 << 20},
			info:     &tunnelInfo{vhost: vhost},
			client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, keep: 1}},
			upstream: upstreamLeg(nil),
			onDone:   func(*tunnel, time.Duration) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
	close(stop)
	drains.Wait()
	d.close()
}

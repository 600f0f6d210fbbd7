package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// What happens at the door: strangers who do not go on with what they began, and
// honest clients that come meanwhile, or all at once from far away. Everybody is on
// loopback; addresses are those of 127.0.0.0/8.

// A stranger connects, says something, and then nothing more until it is thrown out.
type stranger func(ctx context.Context, from net.IP) error

// doorMeasures are the measures whose names begin with "door".
func doorMeasures() []measure {
	half := func(g *gate) stranger { return g.stalled(wholeHello()[:6]) }
	whole := func(g *gate) stranger { return g.stalled(wholeHello()) }
	silent := func(g *gate) stranger { return g.stalled(nil) }
	return []measure{
		{name: "door-half-1", run: beside("600 half ClientHellos of one address", 600, 0, 1, half)},
		{name: "door-half-50", run: beside("600 half ClientHellos of 50 addresses", 600, 0, 50, half)},
		{name: "door-hellos-1", run: beside("150 silent ClientHellos a second of one address", 0, 150, 1, whole)},
		{name: "door-hellos-50", run: beside("150 silent ClientHellos a second of 50 addresses", 0, 150, 50, whole)},
		{name: "door-silent-1", run: beside("2,000 silent connections of one address", 2000, 0, 1, silent)},
		{name: "door-silent-50", run: beside("2,000 silent connections of 50 addresses", 2000, 0, 50, silent)},
		{name: "door-far", run: func(ctx context.Context, g *gate) ([]figure, error) {
			return atOnce(ctx, g, clients(1500), 700*time.Millisecond)
		}},
		{name: "door-near", run: func(ctx context.Context, g *gate) ([]figure, error) { return atOnce(ctx, g, clients(2000), 0) }},
	}
}

// beside measures honest clients of one more address, one after the other, while
// strangers are there: so many at any time, who come back when they are thrown out,
// or so many who come each second.
func beside(what string, always, perSecond, addresses int, kind func(*gate) stranger) func(context.Context, *gate) ([]figure, error) {
	return func(ctx context.Context, g *gate) ([]figure, error) {
		ctx, stop := context.WithCancel(ctx)
		var there sync.WaitGroup
		defer there.Wait()
		defer stop()
		from := func(i int) net.IP { return net.IPv4(127, 0, 1, byte(1+i%addresses)) }
		be, before := kind(g), 3*time.Second
		if always = clients(always); perSecond == 0 {
			for i := range always {
				there.Go(func() {
					for ctx.Err() == nil {
						if err := be(ctx, from(i)); err != nil {
							time.Sleep(10 * time.Millisecond)
						}
					}
				})
			}
		} else {
			before = 12 * time.Second // until a patience of 10 s shows
			there.Go(func() {
				tick := time.NewTicker(time.Second / time.Duration(perSecond))
				defer tick.Stop()
				for i := 0; ctx.Err() == nil; i++ {
					<-tick.C
					there.Go(func() { be(ctx, from(i)) })
				}
			})
		}
		honest := 100
		if *quick {
			before, honest = 200*time.Millisecond, 3
		}
		time.Sleep(before)
		var took []time.Duration
		failed := 0
		for until := time.Now().Add(15 * time.Second); len(took) < honest && time.Now().Before(until); {
			began := time.Now()
			if err := g.visit(ctx, 0); err != nil {
				failed++
			}
			took = append(took, time.Since(began))
			time.Sleep(30 * time.Millisecond)
		}
		peak, err := g.peak()
		return []figure{
			{"beside " + what + ": from connect to 101, p50, ms", micros(percentile(took, 0.5)) / 1000, 0},
			{"the slowest, beside " + what + ", ms", micros(slices.Max(took)) / 1000, 0},
			{"failed of 100, beside " + what, float64(failed*100) / float64(len(took)), 0},
			{"peak memory, beside " + what + ", MB", float64(peak) / 1e6, 0},
		}, err
	}
}

// atOnce has n clients come at the same time, from so far away; none has a second
// try.
func atOnce(ctx context.Context, g *gate, n int, away time.Duration) ([]figure, error) {
	what := fmt.Sprintf("%d clients at once, %v of round trip", n, away)
	began := time.Now()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = g.visit(ctx, away) })
	}
	all.Wait()
	took := time.Since(began)
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	peak, err := g.peak()
	return []figure{
		{what + ": all have their 101 after, s", took.Seconds(), 1},
		{what + ": failed", float64(failed), 0},
		{what + ": peak memory, MB", float64(peak) / 1e6, 0},
	}, err
}

// visit is an honest client: it comes up to its 101, and then goes. It waits no
// longer than a browser would.
func (g *gate) visit(ctx context.Context, away time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	time.Sleep(away) // SYN and its answer
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", g.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	conn := tls.Client(&farConn{Conn: raw, away: away}, g.tlsConfig())
	return upgrade(conn, bufio.NewReaderSize(conn, 1024))
}

// A farConn has answers come no sooner than a round trip after what they answer.
type farConn struct {
	net.Conn
	away time.Duration
	sent time.Time
}

func (c *farConn) Write(b []byte) (int, error) {
	c.sent = time.Now()
	return c.Conn.Write(b)
}

func (c *farConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(time.Until(c.sent.Add(c.away)))
	return n, err
}

// stalled is a stranger who says no more than that.
func (g *gate) stalled(says []byte) stranger {
	return func(ctx context.Context, from net.IP) error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		conn, err := dialer.DialContext(ctx, "tcp", g.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if len(says) > 0 {
			if _, err := conn.Write(says); err != nil {
				return err
			}
		}
		var answer [4 << 10]byte
		for err == nil {
			_, err = conn.Read(answer[:])
		}
		return nil
	}
}

// wholeHello is a client's first flight.
var wholeHello = sync.OnceValue(func() []byte {
	client, server := net.Pipe()
	defer server.Close()
	go tls.Client(client, &tls.Config{ServerName: serverName, MinVersion: tls.VersionTLS13}).Handshake()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello)
	if err != nil {
		panic(err) // of a pipe
	}
	return hello[:n]
})

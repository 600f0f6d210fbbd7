package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
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
	bodiless := func(g *gate) stranger { return g.bodiless }
	const away = 100 * time.Millisecond
	return []measure{
		{name: "door-half-1", run: strangers{"600 half ClientHellos of one address", 600, 0, 1, half, 0}.beside},
		{name: "door-half-50", run: strangers{"600 half ClientHellos of 50 addresses", 600, 0, 50, half, 0}.beside},
		{name: "door-half-1250", run: strangers{"2,500 half ClientHellos of 1,250 addresses", 2500, 0, 1250, half, away}.beside},
		{name: "door-hellos-1", run: strangers{"150 silent ClientHellos a second of one address", 0, 150, 1, whole, 0}.beside},
		{name: "door-hellos-50", run: strangers{"150 silent ClientHellos a second of 50 addresses", 0, 150, 50, whole, 0}.beside},
		{name: "door-silent-1", run: strangers{"2,000 silent connections of one address", 2000, 0, 1, silent, 0}.beside},
		{name: "door-silent-50", run: strangers{"2,000 silent connections of 50 addresses", 2000, 0, 50, silent, 0}.beside},
		{name: "door-files", files: 256, run: strangers{"40 half ClientHellos a second of 50 addresses, with ulimit -n 256", 0, 40, 50, half, away}.beside},
		{name: "door-files-200", files: 256, run: strangers{"200 half ClientHellos of 200 addresses, with ulimit -n 256", 200, 0, 200, half, away}.beside},
		{name: "door-crowd", run: strangers{"1,700 half ClientHellos of 1,700 addresses, 20 clients of one address at a time", 1700, 0, 1700, half, away}.besideCrowd(20)},
		{name: "door-bodies", run: strangers{"200 requests without their body a second of 50 addresses", 0, 200, 50, bodiless, 0}.beside},
		{name: "door-far", run: func(ctx context.Context, g *gate) ([]figure, error) {
			return atOnce(ctx, g, clients(1500), 700*time.Millisecond)
		}},
		{name: "door-farther", run: func(ctx context.Context, g *gate) ([]figure, error) {
			return atOnce(ctx, g, clients(3000), 2*time.Second)
		}},
		{name: "door-near", run: func(ctx context.Context, g *gate) ([]figure, error) { return atOnce(ctx, g, clients(2000), 0) }},
	}
}

// Strangers are so many at any time, who come back when they are thrown out, or so
// many who come each second.
type strangers struct {
	what      string
	always    int
	perSecond int
	addresses int
	kind      func(*gate) stranger
	away      time.Duration // how far the honest clients beside them are
}

// beside measures honest clients of one more address, one after the other.
func (s strangers) beside(ctx context.Context, g *gate) ([]figure, error) {
	return s.besideCrowd(1)(ctx, g)
}

// besideCrowd measures so many honest clients of one address at a time.
func (s strangers) besideCrowd(n int) func(context.Context, *gate) ([]figure, error) {
	return func(ctx context.Context, g *gate) ([]figure, error) { return s.besideClients(ctx, g, n) }
}

func (s strangers) besideClients(ctx context.Context, g *gate, crowd int) ([]figure, error) {
	strangersCtx, stop := context.WithCancel(ctx)
	var there sync.WaitGroup
	defer there.Wait()
	defer stop()
	before, honest := s.come(strangersCtx, g, &there), 100
	if *quick {
		before, honest = 200*time.Millisecond, 3
	}
	time.Sleep(before)
	var took []time.Duration
	failed := 0
	for until := time.Now().Add(20 * time.Second); len(took) < honest && time.Now().Before(until); {
		var all sync.WaitGroup
		var mu sync.Mutex
		for range crowd {
			all.Go(func() {
				began := time.Now()
				err := g.visit(ctx, s.away)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
				}
				took = append(took, time.Since(began))
			})
		}
		all.Wait()
		time.Sleep(30 * time.Millisecond)
	}
	peak, err := g.peak()
	what := s.what
	if s.away > 0 {
		what += fmt.Sprintf(", %v of round trip", s.away)
	}
	return []figure{
		{"beside " + what + ": from connect to 101, p50, ms", micros(percentile(took, 0.5)) / 1000, 0},
		{"the slowest, beside " + what + ", ms", micros(slices.Max(took)) / 1000, 0},
		{"failed of 100, beside " + what, float64(failed*100) / float64(len(took)), 0},
		{"peak memory, beside " + what + ", MB", float64(peak) / 1e6, 0},
	}, err
}

// come starts the strangers, and returns after what time they show what they can do.
func (s strangers) come(ctx context.Context, g *gate, there *sync.WaitGroup) time.Duration {
	from := func(i int) net.IP { i %= s.addresses; return net.IPv4(127, 1, byte(i/250), byte(1+i%250)) }
	be := s.kind(g)
	for i := range clients(s.always) {
		there.Go(func() {
			for ctx.Err() == nil {
				if err := be(ctx, from(i)); err != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	if s.perSecond == 0 {
		return 3 * time.Second
	}
	there.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(s.perSecond))
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-tick.C
			there.Go(func() { be(ctx, from(i)) })
		}
	})
	return 12 * time.Second // until a patience of 10 s shows
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

// bodiless is a stranger whose request says that a body follows, which never does.
func (g *gate) bodiless(ctx context.Context, from net.IP) error {
	raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(ctx, "tcp", g.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := tls.Client(raw, g.tlsConfig())
	fmt.Fprintf(conn, "POST /http-bind HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n", serverName)
	io.Copy(io.Discard, conn)
	return nil
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

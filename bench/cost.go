package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"wssgate/bench/internal/process"
	"wssgate/internal/tlstest"
	"wssgate/internal/websocket"
)

// costMeasures are what a stranger can make a gate pay: the table in SECURITY.md.
func costMeasures() []measure {
	return []measure{
		{name: "cost", run: costs},
		{name: "flood", run: flood},
	}
}

// An action is something that a stranger does, n times in each of some rounds, and no
// login is needed for. A connection is good for one round at the most.
type action struct {
	what      string
	n, rounds int
	do        func(g *gate, n int) error
}

// actions stay below limits.frames_per_second: what they cost is measured, not what
// keeps them from being done more often.
var actions = []action{
	{"an empty Ping, answered", 8000, 10, func(g *gate, n int) error {
		return g.rude(func(c *rudeConn) error {
			return times(n/1000, func() error { return c.pings(1000) })
		})
	}},
	{"an empty continuation frame", 8000, 20, func(g *gate, n int) error {
		return g.rude(func(c *rudeConn) error {
			return errors.Join(c.begin(), c.frames(websocket.Continuation, n), c.pings(1))
		})
	}},
	{"a TLS KeyUpdate", 400, 40, func(g *gate, n int) error {
		return g.rude(func(c *rudeConn) error { return errors.Join(c.updates(n), c.pings(1)) })
	}},
	{"6 bytes of a ClientHello", 500, 4, func(g *gate, n int) error { return g.knock(n, wholeHello()[:6]) }},
	{"a ClientHello and no more", 500, 4, func(g *gate, n int) error { return g.knock(n, wholeHello()) }},
	{"a ClientHello for a name that it does not serve", 500, 4, (*gate).nameless},
	{"a whole handshake", 500, 2, func(g *gate, n int) error {
		return times(n, func() error {
			conn, err := tls.Dial("tcp", g.addr, g.tlsConfig())
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}},
	{"a whole handshake and a request that is answered with 400", 500, 2, func(g *gate, n int) error {
		return g.nonsense(n, g.tlsConfig())
	}},
	{"the same with a resumed TLS session", 500, 2, func(g *gate, n int) error {
		config := g.tlsConfig()
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		return g.nonsense(n, config)
	}},
}

// nameless begins n handshakes, one after the other, for a name that is not served.
func (g *gate) nameless(n int) error {
	config := g.tlsConfig()
	config.ServerName = "nobody.example"
	return times(n, func() error {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if tls.Client(conn, config).Handshake() == nil {
			return errors.New("a name that is not served has a certificate")
		}
		return nil
	})
}

// costs are the CPU of the gate and of the rig's own process, for each action.
func costs(_ context.Context, g *gate) ([]figure, error) {
	var figures []figure
	for _, a := range actions {
		rounds := a.rounds
		if *quick {
			rounds = 1
		}
		n := a.n * rounds
		own, err := process.CPU(os.Getpid())
		if err != nil {
			return nil, err
		}
		used, err := g.cpuOf(func() (int, error) { return n, times(rounds, func() error { return a.do(g, a.n) }) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.what, err)
		}
		now, err := process.CPU(os.Getpid())
		if err != nil {
			return nil, err
		}
		figures = append(figures,
			figure{a.what + ": CPU of the gate, µs", micros(used), 1},
			figure{a.what + ": CPU of who does it, µs", micros((now - own) / time.Duration(n)), 1})
	}
	return figures, nil
}

// flood is what busy clients notice of one that sends nothing but frames that carry
// nothing, as fast as it can.
func flood(ctx context.Context, g *gate) ([]figure, error) {
	const rate, size = 2000, 128
	c, err := g.connect(ctx, clients(100), false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var figures []figure
	p99 := func(what string) error {
		latencies, err := c.paced(message(size), rate, busy())
		if err == nil {
			figures = append(figures, figure{what, micros(percentile(latencies, 0.99)) / 1000, 2})
		}
		return err
	}
	if err := p99("100 clients, 2,000 messages a second: p99, ms"); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		what string
		do   func(c *rudeConn) error
	}{
		{"Pings", func(c *rudeConn) error { return c.pings(1000) }},
		{"empty continuation frames", func(c *rudeConn) error { return c.frames(websocket.Continuation, 1000) }},
		{"KeyUpdates", func(c *rudeConn) error { return c.updates(100) }},
	} {
		ctx, stop := context.WithCancel(ctx)
		var over sync.WaitGroup
		over.Go(func() {
			for ctx.Err() == nil {
				g.rude(func(c *rudeConn) error {
					defer context.AfterFunc(ctx, func() { c.raw.Close() })()
					err := c.begin()
					for err == nil && ctx.Err() == nil {
						err = f.do(c)
					}
					return err
				})
			}
		})
		time.Sleep(busy() / 4)
		err := p99("the same beside one client that floods with " + f.what + ", ms")
		stop()
		over.Wait()
		if err != nil {
			return nil, err
		}
	}
	return figures, nil
}

// A rudeConn is a tunnel whose client writes records of its own.
type rudeConn struct {
	raw net.Conn
	w   *tlstest.Writer
	br  *bufio.Reader
	buf []byte
}

// rude opens a tunnel, and does f on it.
func (g *gate) rude(f func(*rudeConn) error) error {
	raw, err := net.Dial("tcp", g.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(time.Minute))
	var keys bytes.Buffer
	config := g.tlsConfig()
	config.MinVersion, config.KeyLogWriter = tls.VersionTLS13, &keys
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	w, err := tlstest.NewWriter(raw, conn.ConnectionState(), keys.Bytes())
	if err != nil {
		return err
	}
	c := &rudeConn{raw: raw, w: w, br: bufio.NewReader(conn)}
	if err := upgrade(w, c.br); err != nil {
		return err
	}
	return f(c)
}

// begin begins a message that does not end.
func (c *rudeConn) begin() error {
	_, err := c.w.Write([]byte{websocket.Text, 0x80, 0, 0, 0, 0})
	return err
}

// frames sends so many empty frames, a thousand to a record.
func (c *rudeConn) frames(opcode byte, n int) error {
	first := opcode
	if opcode != websocket.Continuation {
		first |= 0x80 // FIN
	}
	batch := bytes.Repeat([]byte{first, 0x80, 0, 0, 0, 0}, min(n, 1000))
	for ; n > 0; n -= 1000 {
		if _, err := c.w.Write(batch); err != nil {
			return err
		}
	}
	return nil
}

// pings sends so many Pings in one record, and reads their answers.
func (c *rudeConn) pings(n int) (err error) {
	if err := c.frames(websocket.Ping, n); err != nil {
		return err
	}
	for pongs := 0; pongs < n; {
		f, err := readMessage(c.br, c.buf)
		if err != nil {
			return err
		}
		if c.buf = f.Payload; f.Op == websocket.Pong {
			pongs++
		}
	}
	return nil
}

// updates sends so many KeyUpdates that ask for nothing. crypto/tls takes 16 in a row.
func (c *rudeConn) updates(n int) error {
	for i := range n {
		if i%10 == 9 {
			if err := c.frames(websocket.Ping, 1); err != nil {
				return err
			}
		}
		if err := c.w.KeyUpdate(false); err != nil {
			return err
		}
	}
	return nil
}

// knock connects so many times, says that, and leaves.
func (g *gate) knock(n int, says []byte) error {
	return times(n, func() error {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(says)
		time.Sleep(time.Millisecond) // or it has come and gone in one
		return err
	})
}

// nonsense connects so many times, one after the other, and says what no gate hands
// to its upstream. With a session cache, all but the first have to be resumed.
func (g *gate) nonsense(n int, config *tls.Config) error {
	came := 0
	return times(n, func() error {
		conn, err := tls.Dial("tcp", g.addr, config)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if resumed := conn.ConnectionState().DidResume; resumed != (config.ClientSessionCache != nil && came > 0) {
			return fmt.Errorf("session %d: resumed is %v", came, resumed)
		}
		came++
		if _, err := io.WriteString(conn, "nonsense\r\n\r\n"); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn) // it may end with a reset
		if !bytes.Contains(answer, []byte(" 400 ")) {
			return fmt.Errorf("nonsense is answered with %q, %w", answer, err)
		}
		return nil
	})
}

func times(n int, f func() error) error {
	for range n {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

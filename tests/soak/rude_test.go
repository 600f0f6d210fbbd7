package soak

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"wssgate/internal/tlstest"
	"wssgate/tests/internal/wire"
)

// rude has one bad connection after another. How each ends is the gate's
// business; the rig wants of it that others do not notice.
func (r *rig) rude(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		w := rng.IntN(len(rudenesses))
		rudenesses[w](r, rng)
		r.rudes.Add(1)
		pause(ctx, time.Duration(20+rng.IntN(80))*time.Millisecond)
	}
}

// flood does the same with what costs the gate more than it costs who does it.
func (r *rig) flood(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		floods[rng.IntN(len(floods))](r, rng)
		r.floods.Add(1)
		pause(ctx, time.Duration(200+rng.IntN(800))*time.Millisecond)
	}
}

// enter opens a WebSocket for somebody rude, who needs no luck: nil where there
// is none.
func (r *rig) enter(rng *rand.Rand, words ...string) *wire.Conn {
	name := r.names[rng.IntN(len(r.names))]
	c, err := r.dial(name)
	if err != nil {
		return nil
	}
	if err := c.TryUpgrade(wire.Request(name)); err != nil {
		c.Close()
		return nil
	}
	c.SetDeadline(time.Now().Add(patience))
	for _, text := range words {
		c.Write(c.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(text)}))
	}
	return c
}

// says makes a rudeness of bytes behind a good start, and waits for the end.
func says(b []byte) func(*rig, *rand.Rand) {
	return func(r *rig, rng *rand.Rand) {
		if c := r.enter(rng, open); c != nil {
			defer c.Close()
			c.Write(b)
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, c.R)
		}
	}
}

func masked(f wire.Frame) []byte {
	f.Masked = true
	return f.Append(nil)
}

var rudenesses = []func(*rig, *rand.Rand){
	says([]byte("\x81\x05Hello")), // without a mask
	says(masked(wire.Frame{FIN: true, RSV: 4, Op: wire.Text, Payload: []byte("x")})),        // an extension
	says(masked(wire.Frame{FIN: true, Op: 3, Payload: []byte("x")})),                        // an opcode that is none
	says(masked(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte("\xff\xc0\xed\xa0")})), // no UTF-8
	says(masked(wire.Frame{FIN: true, Op: wire.Continuation, Payload: []byte("x")})),        // of nothing
	says(masked(wire.Frame{Op: wire.Ping, Payload: []byte("x")})),                           // in fragments
	says(masked(wire.Frame{FIN: true, Op: wire.Ping, Payload: bytes.Repeat([]byte("x"), 126)})),
	says([]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00x")), // a length
	says(masked(wire.Frame{FIN: true, Op: wire.Close, Payload: []byte{3}})),   // half a status code
	says(masked(wire.Frame{FIN: true, Op: wire.Text, Payload: bytes.Repeat([]byte("y"), 2<<20)})),
	says(masked(wire.Frame{FIN: true, Op: wire.Binary, Payload: []byte{0, 1, 2}})),
	func(r *rig, rng *rand.Rand) { // no stream at all
		if c := r.enter(rng, strings.Repeat("<presence/>", 1+rng.IntN(1000))); c != nil {
			c.SetReadDeadline(time.Now().Add(time.Second))
			io.Copy(io.Discard, c.R)
			c.Close()
		}
	},
	func(r *rig, rng *rand.Rand) { // a frame that breaks off, and a reset
		if c := r.enter(rng, open); c != nil {
			frame := masked(wire.Frame{FIN: true, Op: wire.Text, Payload: bytes.Repeat([]byte("z"), 1000)})
			c.Write(frame[:rng.IntN(len(frame))])
			if t, ok := c.Conn.(*tls.Conn).NetConn().(*net.TCPConn); ok && rng.IntN(2) == 0 {
				t.SetLinger(0)
				t.Close()
			}
			c.Close()
		}
	},
	func(r *rig, rng *rand.Rand) { // asks for a lot and reads nothing of it
		if c := r.enter(rng, open); c != nil {
			c.SetWriteDeadline(time.Now().Add(2 * time.Second))
			big := masked(wire.Frame{FIN: true, Op: wire.Text, Payload: bytes.Repeat([]byte("w"), 100<<10)})
			for range 60 {
				if _, err := c.Write(big); err != nil {
					break
				}
			}
			c.Conn.(*tls.Conn).NetConn().Close()
		}
	},
	func(r *rig, rng *rand.Rand) { // half a ClientHello, half a request, or nothing
		conn, err := net.Dial("tcp", r.gate.addr("wss"))
		if err != nil {
			return
		}
		defer conn.Close()
		switch rng.IntN(3) {
		case 0:
			io.WriteString(conn, "\x16\x03\x01\x02\x00\x01")
		case 1:
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+r.names[0]+"\r\n\r\n") // without TLS
		}
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	},
	func(r *rig, rng *rand.Rand) { // a name that nobody has
		conn, err := tls.Dial("tcp", r.gate.addr("wss"), r.site.Client("nobody.test"))
		if err == nil {
			conn.Close()
			r.breach("a client of nobody.test was let in")
		}
	},
	func(r *rig, rng *rand.Rand) { // requests that are none
		c, err := r.dial(r.names[0])
		if err != nil {
			return
		}
		defer c.Close()
		all := wire.Request(r.names[0])
		text := all[:rng.IntN(len(all))] + strings.Repeat("\r\nX: y", rng.IntN(4000))
		c.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(c.Conn, text)
		io.Copy(io.Discard, c.R)
	},
}

// burst writes a frame many times over, reading what comes or not.
func burst(frame []byte, n int) func(*rig, *rand.Rand) {
	return func(r *rig, rng *rand.Rand) {
		c := r.enter(rng, open)
		if c == nil {
			return
		}
		defer c.Close()
		if rng.IntN(2) == 0 {
			go io.Copy(io.Discard, c.R)
		}
		c.SetDeadline(time.Now().Add(3 * time.Second))
		c.Write(bytes.Repeat(frame, n))
		pause(context.Background(), time.Duration(rng.IntN(1000))*time.Millisecond)
	}
}

var floods = []func(*rig, *rand.Rand){
	burst(masked(wire.Frame{FIN: true, Op: wire.Ping}), 5000),
	burst(masked(wire.Frame{FIN: true, Op: wire.Pong}), 5000),
	burst(masked(wire.Frame{Op: wire.Text}), 1),
	func(r *rig, rng *rand.Rand) { // empty continuations of one message
		empty := masked(wire.Frame{Op: wire.Continuation})
		burst(append(masked(wire.Frame{Op: wire.Text, Payload: []byte("<x")}), bytes.Repeat(empty, 5000)...), 1)(r, rng)
	},
	func(r *rig, rng *rand.Rand) {
		if err := r.keyUpdates(rng, 2000); err != nil {
			r.tb.Logf("KeyUpdates: %v", err)
		}
	},
}

// keyUpdates sends KeyUpdates that ask for one in return (RFC 8446, section
// 4.6.3), and reads nothing.
func (r *rig) keyUpdates(rng *rand.Rand, n int) error {
	raw, err := net.Dial("tcp", r.gate.addr("wss"))
	if err != nil {
		return nil
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	var keys bytes.Buffer
	config := r.site.Client(r.names[0])
	config.MinVersion, config.KeyLogWriter = tls.VersionTLS13, &keys
	conn := tls.Client(raw, config)
	if conn.Handshake() != nil {
		return nil // no place, perhaps
	}
	w, err := tlstest.NewWriter(raw, conn.ConnectionState(), keys.Bytes())
	if err != nil {
		return err
	}
	c := wire.NewConn(untidy{r.tb}, conn, true)
	if _, err := w.Write([]byte(wire.Request(r.names[0]))); err != nil {
		return nil
	}
	if _, err := c.R.ReadString('\n'); err != nil { // the 101, or no place
		return nil
	}
	ping := c.Bytes(wire.Frame{FIN: true, Op: wire.Ping})
	for i := range n {
		if w.KeyUpdate(true) != nil {
			return nil // it had enough
		}
		if i%16 == 0 {
			if _, err := w.Write(ping); err != nil {
				return nil
			}
		}
	}
	r.updates.Add(int64(n))
	return nil
}

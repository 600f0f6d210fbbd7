package tests

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// sizes are the edges of WebSocket's three length forms, of a TLS record and
// of the largest message.
var sizes = []int{0, 1, 125, 126, 127, 4096, 16383, 16384, 16385, 65535, 65536, 1<<20 - 1, 1 << 20}

func payload(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	r.Read(b)
	for i := range b {
		b[i] &= 0x7f // text is UTF-8
	}
	return b
}

// Messages of 0 B to 1 MiB go through both ways as they are, under every kind
// of TLS record.
func TestMessageSizes(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	for _, tt := range []struct {
		what   string
		cipher uint16 // 0: TLS 1.3
	}{
		{"TLS 1.3", 0},
		{"TLS 1.2 AES-GCM", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		{"TLS 1.2 ChaCha20", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	} {
		config := site.Client(name)
		if tt.cipher != 0 {
			config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tt.cipher}
		}
		c := wire.Dial(t, g.Addr("wss"), config)
		for i, n := range sizes {
			t.Run(fmt.Sprintf("%s, %d B", tt.what, n), func(t *testing.T) {
				f := wire.Frame{FIN: true, Op: []byte{wire.Text, wire.Binary}[i%2], Payload: payload(n)}
				sent := make(chan struct{})
				go func() { defer close(sent); c.Write(c.Bytes(f)) }() // the echo starts before the end
				c.Want(f)
				<-sent
			})
		}
	}
}

// Many messages in one segment stay many messages in their order.
func TestMessagesBackToBack(t *testing.T) {
	_, client, upstream := open(t, "")
	const n = 1000
	for _, way := range [][2]*wire.Conn{{client, upstream}, {upstream, client}} {
		from, to := way[0], way[1]
		var batch []byte
		for i := range n {
			batch = append(batch, from.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: fmt.Appendf(nil, "message %d", i)})...)
		}
		go from.Write(batch)
		for i := range n {
			to.WantText(fmt.Sprintf("message %d", i))
		}
	}
}

// Fragments, with control frames between them, arrive frame by frame as they
// were sent: the gate neither joins nor splits, and keeps control frames where
// they are.
func TestMessageFragments(t *testing.T) {
	_, client, upstream := open(t, "")
	frames := []wire.Frame{
		{Op: wire.Text, Payload: []byte("<message>")},
		{FIN: true, Op: wire.Ping, Payload: []byte("between")},
		{Op: wire.Continuation, Payload: nil},
		{FIN: true, Op: wire.Pong, Payload: []byte("nobody asked")},
		{Op: wire.Continuation, Payload: payload(70_000)},
		{FIN: true, Op: wire.Continuation, Payload: []byte("</message>")},
		{FIN: true, Op: wire.Ping},
		{FIN: true, Op: wire.Text, Payload: []byte("next")},
	}
	for _, way := range [][2]*wire.Conn{{client, upstream}, {upstream, client}} {
		from, to := way[0], way[1]
		from.Send(frames...)
		for _, f := range frames {
			to.Want(f)
		}
	}
}

// Frames that come one byte at a time, each in a TLS record and a segment of
// its own, arrive whole.
func TestMessageByteByByte(t *testing.T) {
	_, client, upstream := open(t, "")
	frames := []wire.Frame{
		{FIN: true, Op: wire.Text, Payload: []byte("short")},
		{Op: wire.Binary, Payload: bytes.Repeat([]byte("x"), 130)},
		{FIN: true, Op: wire.Ping, Payload: []byte("?")},
		{FIN: true, Op: wire.Continuation},
	}
	for _, way := range [][2]*wire.Conn{{client, upstream}, {upstream, client}} {
		from, to := way[0], way[1]
		for _, f := range frames {
			for _, b := range from.Bytes(f) {
				if _, err := from.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			to.Want(f)
		}
	}
}

// The payload of a client's frame reaches the upstream under the client's own
// mask: the gate does not touch it. (wire masks with a fixed key.)
func TestMessagePayloadUntouched(t *testing.T) {
	_, client, upstream := open(t, "")
	sent := client.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(framings[0].open(name))})
	if _, err := client.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	for n := 0; n < len(got); {
		m, err := upstream.R.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("upstream got %q; want %q", got, sent)
	}
}

// Tunnels don't mix, however their bytes come: each of many at once gets back
// what it sent, and only that. TLS records and frames arrive in pieces of any
// size, so that the event loop meets each of them half done.
func TestTunnelsApart(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	const clients = 40
	errs := make(chan error)
	for i := range clients {
		raw, err := net.Dial("tcp", g.Addr("wss"))
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, uint64(i)))
		config := site.Client(name)
		if i%4 == 0 {
			config.MaxVersion = tls.VersionTLS12
		}
		c := wire.NewConn(t, tls.Client(&chopped{raw, random}, config), true)
		c.Upgrade(wire.Request(name))
		go func() { errs <- converse(c, i, random) }()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// chopped writes in pieces of random size.
type chopped struct {
	net.Conn
	random *rand.Rand
}

func (c *chopped) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		size := min(1+c.random.IntN(4000), len(b)-n)
		if c.random.IntN(4) == 0 {
			size = min(1+c.random.IntN(10), size)
		}
		m, err := c.Conn.Write(b[n : n+size])
		if n += m; err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// converse sends messages of random sizes, each in writes of random sizes, and
// wants each back.
func converse(c *wire.Conn, id int, random *rand.Rand) error {
	for round := range 20 {
		size := random.IntN(300)
		if random.IntN(3) == 0 {
			size = random.IntN(100_000)
		}
		want := bytes.Repeat(fmt.Appendf(nil, "client %d, round %d; ", id, round), 1+size/20)
		f := wire.Frame{FIN: true, Op: wire.Text, Payload: want}
		sent := make(chan error, 1)
		go func() {
			var err error
			for b := c.Bytes(f); len(b) > 0 && err == nil; {
				n := 1 + random.IntN(len(b))
				_, err = c.Write(b[:n])
				b = b[n:]
			}
			sent <- err
		}()
		got, err := c.Frame()
		if err == nil {
			err = <-sent
		}
		if err != nil {
			return fmt.Errorf("client %d, round %d: %w", id, round, err)
		}
		if !bytes.Equal(got.Payload, want) {
			return fmt.Errorf("client %d, round %d: got %v; want %d bytes", id, round, got, len(want))
		}
	}
	return nil
}

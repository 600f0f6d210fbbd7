package tests

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
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
		{"TLS 1.2 CBC", tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA},
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
	sent := client.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte("<open/>")})
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

// Tunnels don't mix: each of many at once gets back what it sent, and only
// that.
func TestTunnelsApart(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(wire.Echo(t).URL))
	const clients, rounds = 50, 20
	errs := make(chan error)
	for i := range clients {
		c := wire.Dial(t, g.Addr("wss"), site.Client(name))
		go func() { errs <- chat(c, i, rounds) }()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func chat(c *wire.Conn, id, rounds int) error {
	for round := range rounds {
		want := fmt.Appendf(nil, "client %d, round %d, %s", id, round, bytes.Repeat([]byte{byte('a' + id%26)}, id*round))
		f := wire.Frame{FIN: true, Op: wire.Text, Payload: want}
		if _, err := c.Write(c.Bytes(f)); err != nil {
			return err
		}
		got, err := c.Frame()
		if err != nil {
			return err
		}
		if !bytes.Equal(got.Payload, want) {
			return fmt.Errorf("client %d, round %d: got %v", id, round, got)
		}
	}
	return nil
}

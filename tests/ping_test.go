package tests

import (
	"testing"
	"time"

	"wssgate/tests/internal/wire"
)

// A silent client is pinged again and again, and what it answers stays with the
// gate: the upstream never sees a Pong that it did not ask for. A Pong that the
// client sends by itself is the upstream's.
func TestPingSilentClient(t *testing.T) {
	t.Parallel()
	_, client, upstream := open(t, "[timeouts]\nping = \"1s\"\npong = \"20s\"\n")
	for range 2 {
		f, err := client.Frame()
		if err != nil || f.Op != wire.Ping {
			t.Fatalf("got %v, %v; want a Ping", f, err)
		}
		client.Send(wire.Frame{FIN: true, Op: wire.Pong, Payload: f.Payload})
	}
	own := wire.Frame{FIN: true, Op: wire.Pong, Payload: []byte("by itself")}
	client.Send(own)
	upstream.Want(own)
}

// A Pong of the gate's is taken out where it stands, also between the fragments
// of a message.
func TestPongBetweenFragments(t *testing.T) {
	t.Parallel()
	_, client, upstream := open(t, "[timeouts]\nping = \"1s\"\npong = \"20s\"\n")
	first := wire.Frame{Op: wire.Text, Payload: []byte("one ")}
	client.Send(first)
	upstream.Want(first)
	ping, err := client.Frame()
	if err != nil || ping.Op != wire.Ping {
		t.Fatalf("got %v, %v; want a Ping", ping, err)
	}
	last := wire.Frame{FIN: true, Op: wire.Continuation, Payload: []byte("message")}
	both := append(client.Bytes(wire.Frame{FIN: true, Op: wire.Pong, Payload: ping.Payload}), client.Bytes(last)...)
	if _, err := client.Write(both); err != nil {
		t.Fatal(err)
	}
	upstream.Want(last)
}

// The gate's Ping never lands inside a frame of the upstream's.
func TestPingNotInsideFrame(t *testing.T) {
	t.Parallel()
	_, client, upstream := open(t, "[timeouts]\nping = \"1s\"\npong = \"20s\"\n")
	f := wire.Frame{FIN: true, Op: wire.Text, Payload: payload(20_000)}
	whole := upstream.Bytes(f)
	for _, part := range [][]byte{whole[:1], whole[1:10_000], whole[10_000:]} {
		if _, err := upstream.Write(part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1200 * time.Millisecond) // long enough for a Ping to fall due
	}
	for {
		got, err := client.Frame() // refuses what is no frame
		if err != nil {
			t.Fatal(err)
		}
		if got.Op == wire.Ping {
			continue
		}
		if string(got.Payload) != string(f.Payload) {
			t.Fatalf("got %v; want %v", got, f)
		}
		return
	}
}

// A client that does not answer is gone for timeouts.pong: both legs are
// closed.
func TestPongTimeout(t *testing.T) {
	t.Parallel()
	g, client, upstream := open(t, "[timeouts]\nping = \"1s\"\npong = \"1s\"\n")
	wire.WantEOF(t, upstream.R, upstream.Conn)
	wantReason(t, g, "pong_timeout")
	client.WantGone()
}

package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// A bench is a tunnel between two ends of pipes, on a fake clock.
type bench struct {
	t        *testing.T
	loops    *loops
	tunnel   *tunnel
	client   net.Conn // the client's own end
	upstream net.Conn
	done     chan struct{} // closed by onDone
}

var testKey = [4]byte{0xa5, 0x5a, 0x01, 0xff}

// newTestLoops returns loops without the system's poller, for which a fake clock can't
// wait.
func newTestLoops(t testing.TB) *loops {
	d, err := newLoops(false, nil, func(_ panics.Place, cause any, _ ...any) { t.Errorf("panic in a turn: %v\n%s", cause, debug.Stack()) })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// do runs f in a turn of the tunnel.
func (b *bench) do(f func(*turn)) {
	done := make(chan struct{})
	b.loops.all()[0].post(func() {
		defer close(done)
		f(b.tunnel.loop.work)
	})
	<-done
}

// someVhost returns a vhost whose upstream does not require XMPP.
func someVhost(t testing.TB) *upstream.Vhost {
	return vhostWith(t, upstream.VhostOptions{Names: []string{testName}, Upstream: "test"})
}

// xmppVhost returns a vhost whose upstream speaks XMPP.
func xmppVhost(t testing.TB) *upstream.Vhost {
	g := group("test", "ws://192.0.2.1:5290/")
	g.XMPP = true
	return vhostOf(t, g, upstream.VhostOptions{Names: []string{testName}, Upstream: "test"})
}

func vhostWith(t testing.TB, vhost upstream.VhostOptions) *upstream.Vhost {
	t.Helper()
	return vhostOf(t, group("test", "ws://192.0.2.1:5290/"), vhost)
}

func vhostOf(t testing.TB, g upstream.GroupOptions, vhost upstream.VhostOptions) *upstream.Vhost {
	t.Helper()
	table, err := upstream.New(upstream.Options{Vhosts: []upstream.VhostOptions{vhost}, Upstreams: []upstream.GroupOptions{g},
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	v, err := table.Routes().Lookup(testName)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// inBubble runs f with a tunnel in a bubble. Pings are off unless set enables them.
func inBubble(t *testing.T, set tunnelSettings, f func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, clientGate := net.Pipe()
		upstream, upstreamGate := net.Pipe()
		b := &bench{t: t, loops: newTestLoops(t), client: client, upstream: upstream, done: make(chan struct{})}
		if set.backlog == 0 {
			set.backlog = 1 << 20
		}
		b.tunnel = &tunnel{
			settings: &set,
			client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
			upstream: leg{sock: &sock{conn: upstreamGate}, scan: scanner{keep: maxKeep}},
			onDone:   func(*tunnel, time.Duration) { close(b.done) },
			stage:    stageOver,
		}
		if err := b.loops.take(b.tunnel); err != nil {
			t.Fatal(err)
		}
		f(b)
		client.Close()
		upstream.Close()
		b.loops.close()
		<-b.done
	})
}

// frame reads one frame from conn; it gives up after an hour of the bubble.
func (b *bench) frame(conn net.Conn) (h header, payload []byte, err error) {
	conn.SetReadDeadline(time.Now().Add(time.Hour))
	var buf []byte
	for {
		if h, err = parseHeader(buf); err != nil || h.size > 0 {
			break
		}
		one := make([]byte, 1)
		if _, err := io.ReadFull(conn, one); err != nil {
			return h, nil, err
		}
		buf = append(buf, one...)
	}
	payload = make([]byte, h.length)
	_, err = io.ReadFull(conn, payload)
	if h.masked {
		applyMask(payload, h.key, 0)
	}
	return h, payload, err
}

// wantFrame fails unless the next frame is this one.
func (b *bench) wantFrame(conn net.Conn, opcode byte, payload string) {
	b.t.Helper()
	h, got, err := b.frame(conn)
	if err != nil || h.opcode != opcode || string(got) != payload {
		b.t.Errorf("frame = opcode %#x, %q, %v; want %#x, %q", h.opcode, got, err, opcode, payload)
	}
}

// wantClose fails unless the next frame is a Close frame with this status code.
func (b *bench) wantClose(conn net.Conn, code uint16) {
	b.t.Helper()
	h, payload, err := b.frame(conn)
	if err != nil || h.opcode != opClose || len(payload) < 2 || binary.BigEndian.Uint16(payload) != code {
		b.t.Errorf("frame = opcode %#x, %q, %v; want Close %d", h.opcode, payload, err, code)
	}
}

// wantEOF fails unless conn is closed by the gate within the time.
func (b *bench) wantEOF(conn net.Conn, within time.Duration) {
	b.t.Helper()
	conn.SetReadDeadline(time.Now().Add(within))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		b.t.Errorf("read = %d, %v; want EOF", n, err)
	}
}

func (b *bench) wantReason(why reason) {
	b.t.Helper()
	<-b.done
	if b.tunnel.why != why {
		b.t.Errorf("tunnel ended for %v; want %v", b.tunnel.why, why)
	}
}

func (b *bench) send(conn net.Conn, opcode byte, payload string) {
	b.t.Helper()
	key := &testKey
	if conn == b.upstream {
		key = nil
	}
	if _, err := conn.Write(appendFrame(nil, opcode, []byte(payload), key)); err != nil {
		b.t.Error(err)
	}
}

// Frames pass unchanged in both directions; those of the client stay masked.
func TestTunnelForwards(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.send(b.client, opText, "to the upstream")
		b.wantFrame(b.upstream, opText, "to the upstream")
		b.send(b.upstream, opBinary, "to the client")
		b.wantFrame(b.client, opBinary, "to the client")
		b.send(b.upstream, opPing, "theirs")
		b.wantFrame(b.client, opPing, "theirs")
		b.send(b.client, opPong, "theirs")
		b.wantFrame(b.upstream, opPong, "theirs")
	})
}

// A header that arrives separately from its payload leaves together with it.
func TestTunnelJoinsHeaderAndPayload(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		frame := appendFrame(nil, opText, []byte("stanza"), nil)
		b.upstream.Write(frame[:2])
		synctest.Wait()
		go b.upstream.Write(frame[2:])
		got := make([]byte, 100)
		n, err := b.client.Read(got)
		if err != nil || !bytes.Equal(got[:n], frame) {
			t.Errorf("read = %x, %v; want the whole frame in one", got[:n], err)
		}
	})
}

// A silent client gets a Ping; its Pong is not passed on, and the tunnel stays open.
func TestTunnelPings(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		for range 3 {
			start := time.Now()
			h, payload, err := b.frame(b.client)
			if err != nil || h.opcode != opPing {
				t.Fatalf("frame = %+v, %v; want a Ping", h, err)
			}
			if waited := time.Since(start); waited != 30*time.Second {
				t.Errorf("Ping after %v of silence; want 30s", waited)
			}
			b.send(b.client, opPong, string(payload))
		}
		b.send(b.client, opText, "hello")
		b.wantFrame(b.upstream, opText, "hello") // not a Pong
	})
}

// A client that does not answer the Ping is closed, and the upstream sees the end.
func TestTunnelPongTimeout(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		start := time.Now()
		go io.Copy(io.Discard, b.client)
		b.wantEOF(b.upstream, time.Hour)
		if took := time.Since(start); took != 50*time.Second {
			t.Errorf("gave up after %v; want 50s", took)
		}
		b.wantReason(reasonPong)
	})
}

// A client that reads nothing, not even the Ping, is closed as well.
func TestTunnelPingToDeafClient(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		b.wantEOF(b.upstream, time.Hour)
		b.wantReason(reasonPong)
	})
}

// Any input from the client counts as a sign of life.
func TestTunnelTrafficIsLife(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		for range 10 {
			time.Sleep(29 * time.Second)
			b.send(b.client, opText, "still here")
			b.wantFrame(b.upstream, opText, "still here")
		}
		b.client.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := b.client.Read(make([]byte, 1)); n != 0 {
			t.Errorf("the gate sent something: %v", err)
		}
	})
}

// The closing handshake passes in both directions, and then both sides are closed,
// although neither closed its connection.
func TestTunnelClosingHandshake(t *testing.T) {
	for _, test := range []struct {
		name string
		why  reason
	}{{"by the client", reasonClientClose}, {"by the upstream", reasonUpstreamClose}} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, tunnelSettings{}, func(b *bench) {
				first, second := b.client, b.upstream
				if test.why == reasonUpstreamClose {
					first, second = second, first
				}
				b.send(first, opClose, "\x03\xe8bye")
				b.wantFrame(second, opClose, "\x03\xe8bye")
				b.send(second, opClose, "")
				b.wantFrame(first, opClose, "")
				b.wantEOF(first, time.Second)
				b.wantEOF(second, time.Second)
				b.wantReason(test.why)
				if b.tunnel.code != 1000 {
					t.Errorf("status code = %d; want 1000", b.tunnel.code)
				}
			})
		})
	}
}

// The gate answers for an upstream that does not answer a Close frame, after
// closeTimeout, or at once if it disconnects.
func TestTunnelCloseWithoutAnswer(t *testing.T) {
	for _, fin := range []bool{false, true} {
		inBubble(t, tunnelSettings{}, func(b *bench) {
			start := time.Now()
			b.send(b.client, opClose, "\x03\xe8")
			b.wantFrame(b.upstream, opClose, "\x03\xe8")
			want := closeTimeout
			if fin {
				want = 0
				b.upstream.Close()
			}
			b.wantClose(b.client, 1000)
			if took := time.Since(start); took != want {
				t.Errorf("answered after %v; want %v", took, want)
			}
			b.wantEOF(b.client, time.Second)
			b.wantReason(reasonClientClose)
		})
	}
}

// A client that sends a message, a Close frame and FIN at once loses nothing, even if
// the upstream reads late.
func TestTunnelDeliversLastWords(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		last := appendFrame(nil, opText, []byte("last words"), &testKey)
		b.client.Write(appendFrame(last, opClose, nil, &testKey))
		b.client.Close()
		time.Sleep(closeTimeout / 2)
		b.wantFrame(b.upstream, opText, "last words")
		b.wantFrame(b.upstream, opClose, "")
		b.wantEOF(b.upstream, time.Second)
		b.wantReason(reasonClientClose)
	})
}

// The client of an upstream that disconnects gets 1012, after all earlier bytes.
func TestTunnelUpstreamGone(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.send(b.upstream, opText, "almost")
		b.upstream.Close()
		b.wantFrame(b.client, opText, "almost")
		b.wantClose(b.client, codeRestart)
		b.send(b.client, opClose, "\x03\xf4")
		b.wantEOF(b.client, time.Second)
		b.wantReason(reasonUpstreamGone)
	})
}

// A Close frame is impossible in the middle of a frame: the available bytes are
// delivered, and the connection is closed.
func TestTunnelUpstreamGoneMidFrame(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		frame := appendFrame(nil, opText, make([]byte, 1000), nil)
		b.upstream.Write(frame[:500])
		b.upstream.Close()
		got, err := io.ReadAll(b.client)
		if err != nil || !bytes.Equal(got, frame[:500]) {
			t.Errorf("client read %x, %v; want %x", got, err, frame[:500])
		}
		b.wantReason(reasonUpstreamGone)
	})
}

// A client that breaks the protocol gets the status code for that, and breachTimeout to
// close; the upstream sees only the end.
func TestTunnelClientBreaksProtocol(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.client.Write([]byte{0x81, 0x00}) // no mask
		b.wantEOF(b.upstream, time.Second)
		b.wantClose(b.client, codeProtocol)
		b.wantEOF(b.client, breachTimeout+time.Second)
		b.wantReason(reasonClientProtocol)
	})
}

// The gate's Close frame waits for the end of the current frame.
func TestTunnelCloseWaitsForBoundary(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		frame := appendFrame(nil, opText, make([]byte, 1000), nil)
		b.upstream.Write(frame[:500])
		got := make([]byte, len(frame))
		io.ReadFull(b.client, got[:500])
		b.loops.drain(&drainOrder{})
		time.Sleep(time.Millisecond)
		b.upstream.Write(append(bytes.Clone(frame[500:]), frame...))
		if _, err := io.ReadFull(b.client, got[500:]); err != nil || !bytes.Equal(got, frame) {
			t.Errorf("client read %x, %v; want the frame under way", got, err)
		}
		b.wantClose(b.client, codeAway)
		b.send(b.client, opClose, "\x03\xe9")
		b.wantEOF(b.client, time.Second)
		b.wantReason(reasonDrain)
	})
}

// Bytes that a client sent before it saw the drain's Close frame still arrive, followed
// by a plain end: without a Close frame the stream can be resumed.
func TestTunnelDrainDeliversToUpstream(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.loops.drain(&drainOrder{})
		b.wantClose(b.client, codeAway)
		b.send(b.client, opText, "on its way")
		b.wantFrame(b.upstream, opText, "on its way")
		b.send(b.client, opClose, "\x03\xe9")
		b.wantEOF(b.upstream, time.Second)
		b.wantReason(reasonDrain)
	})
}

// A tunnel that arrives during a drain is closed at once.
func TestTunnelTakenWhileDraining(t *testing.T) {
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.loops.drain(&drainOrder{})
		b.wantClose(b.client, codeAway)
		client, clientGate := net.Pipe()
		upstream, upstreamGate := net.Pipe()
		defer client.Close()
		defer upstream.Close()
		late := &tunnel{
			settings: b.tunnel.settings,
			client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, keep: 1}},
			upstream: leg{sock: &sock{conn: upstreamGate}, scan: scanner{keep: maxKeep}},
			onDone:   func(*tunnel, time.Duration) {},
			stage:    stageOver,
		}
		if err := b.loops.take(late); err != nil {
			t.Fatal(err)
		}
		b.wantClose(client, codeAway)
	})
}

// A client that does not read is cut off at a frame boundary with 1008, once more than
// the backlog waits for it, and the upstream is closed at once.
func TestTunnelCutsSlowClient(t *testing.T) {
	const backlog = 256 << 10
	inBubble(t, tunnelSettings{backlog: backlog}, func(b *bench) {
		sent := 0
		for {
			b.upstream.SetWriteDeadline(time.Now().Add(time.Minute))
			if _, err := b.upstream.Write(appendFrame(nil, opText, make([]byte, 10_000), nil)); err != nil {
				break
			}
			sent += 10_000
		}
		if sent < backlog || sent > backlog+2*turnBudget {
			t.Errorf("the gate took %d bytes for a client that reads nothing; want about %d", sent, backlog)
		}
		// Now the client reads, and finds complete frames and a reason.
		for {
			h, payload, err := b.frame(b.client)
			if err != nil {
				t.Fatal(err)
			}
			if h.opcode == opClose {
				if code := closeCode(h, payload); code != codePolicy {
					t.Errorf("Close %d; want 1008", code)
				}
				break
			}
		}
		b.client.Close()
		b.wantReason(reasonSlowClient)
	})
}

// A frame larger than the backlog can't be completed for a client that does not read;
// the queued bytes stay bounded.
func TestTunnelCutsSlowClientMidFrame(t *testing.T) {
	const backlog = 64 << 10
	inBubble(t, tunnelSettings{backlog: backlog}, func(b *bench) {
		b.upstream.SetWriteDeadline(time.Now().Add(time.Minute))
		n, err := b.upstream.Write(appendFrame(nil, opText, make([]byte, 1<<20), nil))
		if err == nil || n > backlog+4*turnBudget {
			t.Errorf("the gate took %d bytes, %v; want an end soon after %d", n, err, backlog)
		}
		b.wantReason(reasonSlowClient)
	})
}

// An upstream that does not read stops the client instead of using memory; after
// stallTimeout it is closed.
func TestTunnelUpstreamStuck(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		go io.Copy(io.Discard, b.client)
		sent := 0
		for {
			b.client.SetWriteDeadline(time.Now().Add(20 * time.Second))
			n, err := b.client.Write(appendFrame(nil, opText, make([]byte, 10_000), &testKey))
			sent += n
			if err != nil {
				break
			}
		}
		if sent > 4*turnBudget {
			t.Errorf("the gate took %d bytes for an upstream that reads nothing", sent)
		}
		b.wantReason(reasonUpstreamStuck)
	})
}

// An upstream that stops in the middle of a frame keeps its client no longer than one
// that does not read, although no Ping is possible.
func TestTunnelUpstreamStopsMidFrame(t *testing.T) {
	inBubble(t, tunnelSettings{ping: 30 * time.Second, pong: 20 * time.Second}, func(b *bench) {
		frame := appendFrame(nil, opText, make([]byte, 1000), nil)
		b.upstream.Write(frame[:500])
		got, err := io.ReadAll(b.client)
		if err != nil || !bytes.Equal(got, frame[:500]) {
			t.Errorf("client read %x, %v; want %x", got, err, frame[:500])
		}
		b.wantReason(reasonUpstreamStuck)
	})
}

// A panic at any point of a turn ends only that tunnel: the loop continues, and both
// sockets are closed.
func TestPanicEndsOneTunnel(t *testing.T) {
	for name, inject := range map[string]func(b *bench, other *tunnel){
		"in an event": func(b *bench, other *tunnel) { other.settings = nil },
		"in a timer":  func(b *bench, other *tunnel) { other.drainAt, other.due, other.settings = 1, 1, nil },
		"at the end":  func(b *bench, other *tunnel) { other.onDone = func(*tunnel, time.Duration) { panic("test") } },
		"in closing":  func(b *bench, other *tunnel) { other.client.sock.raw = panicsWhenClosed{other.client.sock.raw} },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tunnelSettings{}, func(b *bench) {
				caught := 0
				b.loops.panicked = func(panics.Place, any, ...any) { caught++ }
				client, clientGate := net.Pipe()
				node, nodeGate := net.Pipe()
				ended := false
				other := &tunnel{
					settings: &tunnelSettings{backlog: 1 << 20}, stage: stageOver,
					client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, keep: 1}},
					upstream: leg{sock: &sock{conn: nodeGate}, scan: scanner{keep: maxKeep}},
					onDone:   func(*tunnel, time.Duration) { ended = true },
				}
				if err := b.loops.take(other); err != nil {
					t.Fatal(err)
				}
				b.do(func(*turn) { inject(b, other) })
				go func() {
					client.Write(appendFrame(nil, opText, []byte("x"), &testKey))
					client.Close()
				}()
				go io.Copy(io.Discard, node)
				client.Read(make([]byte, 1))
				node.SetReadDeadline(time.Now().Add(time.Minute))
				go b.send(b.client, opText, "still there")
				b.wantFrame(b.upstream, opText, "still there")
				synctest.Wait()
				b.do(func(*turn) {
					if caught == 0 || !ended && name != "at the end" || len(b.tunnel.loop.timers) != 1 {
						t.Errorf("%d panics, ended %t, %d tunnels; want that tunnel ended, and only that one", caught, ended, len(b.tunnel.loop.timers))
					}
				})
			})
		})
	}
}

// panicsWhenClosed panics in close, after closing.
type panicsWhenClosed struct{ rawConn }

func (c panicsWhenClosed) close(reset bool) {
	c.rawConn.close(reset)
	panic("test")
}

// A panicsOutside is a poller that panics outside of a turn.
type panicsOutside struct {
	poller
	left *int // how many more times
}

func (p *panicsOutside) deliver(tell func(*tunnel, *leg, readiness)) bool {
	if *p.left > 0 {
		*p.left--
		panic("test")
	}
	return p.poller.deliver(tell)
}

// A panic outside a turn ends no tunnel. If the next round panics as well, the loop
// ends its tunnels, gets a new poller, and serves others.
func TestPanicOutsideTurn(t *testing.T) {
	for _, times := range []int{1, 1 << 30} {
		inBubble(t, tunnelSettings{}, func(b *bench) {
			var caught []panics.Place
			b.loops.panicked = func(where panics.Place, _ any, _ ...any) { caught = append(caught, where) }
			left := times
			b.do(func(*turn) {
				l := b.tunnel.loop
				l.mu.Lock()
				l.poller = &panicsOutside{l.poller, &left}
				l.mu.Unlock()
			})
			if times == 1 {
				go b.send(b.client, opText, "still there")
				b.wantFrame(b.upstream, opText, "still there")
				b.do(func(*turn) {
					if len(caught) != 1 || caught[0] != panics.Loop || b.tunnel.loop.broken != 0 {
						t.Errorf("caught %q", caught)
					}
				})
				return
			}
			go b.send(b.client, opText, "the end")
			<-b.done
			left = 0
			done := make(chan struct{})
			if !b.loops.all()[0].post(func() { close(done) }) {
				t.Error("the loop takes nothing")
			}
			<-done
			if len(caught) != 2 {
				t.Errorf("caught %q; want two", caught)
			}
		})
	}
}

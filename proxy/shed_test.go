package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/demo/chat"
)

func TestLeastToShed(t *testing.T) {
	for _, test := range []struct {
		what  string
		sizes []int64
		bytes int64
		want  int64
	}{
		{"nothing there", nil, 100, 7},
		{"the largest is enough", []int64{50, 300, 200}, 100, 300},
		{"two are", []int64{50, 300, 200}, 301, 200},
		{"all together are not", []int64{50, 300, 200}, 551, 7},
		{"all of one size", []int64{40, 40, 40}, 50, 40},
	} {
		if got := leastToShed(test.sizes, test.bytes, 7); got != test.want {
			t.Errorf("%s: leastToShed(%v, %d) = %d; want %d", test.what, test.sizes, test.bytes, got, test.want)
		}
	}
}

// slowTunnels creates tunnels of one Server in a bubble, with so many bytes each for
// clients that have read nothing yet.
func slowTunnels(t *testing.T, sizes ...int) (*Server, []*bench) {
	d := newTestLoops(t)
	s := &Server{loops: d, pages: &pages{}}
	var all []*bench
	for _, size := range sizes {
		client, clientGate := net.Pipe()
		upstream, upstreamGate := net.Pipe()
		b := &bench{t: t, loops: d, client: client, upstream: upstream, done: make(chan struct{})}
		b.tunnel = &tunnel{
			settings: &tunnelSettings{backlog: 1 << 20},
			client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
			upstream: leg{sock: &sock{conn: upstreamGate}, scan: scanner{keep: maxKeep}},
			onDone:   func(*tunnel, time.Duration) { close(b.done) },
			stage:    stageOver,
		}
		if err := d.take(b.tunnel); err != nil {
			t.Fatal(err)
		}
		b.send(upstream, opText, strings.Repeat("x", size))
		all = append(all, b)
	}
	synctest.Wait()
	return s, all
}

// The largest backlog is shed first, and no more than necessary; its client learns the
// reason if it continues to read. Then all large ones are shed at once; a client that
// is a moment behind stays.
func TestShedLargestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, all := slowTunnels(t, 200_000, 500_000, 300_000, 20_000)
		open := func() (n int) {
			for _, b := range all {
				select {
				case <-b.done:
				default:
					n++
				}
			}
			return n
		}
		tunnels, requests, freed := s.Shed(100_000, false, time.Second)
		if tunnels != 1 || requests != 0 || freed < 400_000 || freed > 500_100 {
			t.Errorf("Shed = %d, %d, %d; want the one tunnel that holds 500,000 bytes", tunnels, requests, freed)
		}
		b := all[1]
		b.wantFrame(b.client, opText, strings.Repeat("x", 500_000))
		b.wantClose(b.client, codePolicy)
		b.send(b.client, opClose, "\x03\xf0")
		b.wantReason(reasonSlowClient)
		if b.tunnel.lastError() != errShort {
			t.Errorf("the log says %v; want %v", b.tunnel.lastError(), errShort)
		}
		if n := open(); n != 3 {
			t.Errorf("%d tunnels are open; want the three others", n)
		}

		// If the client does not read, its patience ends it.
		if tunnels, _, _ := s.Shed(1, false, time.Second); tunnels != 1 {
			t.Errorf("%d tunnels were shed; want one", tunnels)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if all[2].wantReason(reasonSlowClient); open() != 2 {
			t.Errorf("%d tunnels are open a second later; want two", open())
		}
		if tunnels, _, _ := s.Shed(1<<30, false, 0); tunnels != 1 {
			t.Errorf("%d tunnels were shed at once; want one", tunnels)
		}
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if all[0].wantReason(reasonSlowClient); open() != 1 {
			t.Errorf("%d tunnels are open; want the one that is hardly behind", open())
		}
		all[3].wantFrame(all[3].client, opText, strings.Repeat("x", 20_000))
		all[3].client.Close()
		<-all[3].done
		for _, b := range all {
			b.client.Close()
			b.upstream.Close()
		}
		s.loops.close()
	})
}

// A shrinking rawConn has a peer that takes a little of what the kernel holds for it
// whenever somebody looks.
type shrinking struct {
	rawConn
	held int
}

func (s *shrinking) unacknowledged() int {
	s.held -= 1000
	return s.held
}

// The largest is shed although its client takes some of its bytes while all are looked at.
func TestShedWhatShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, all := slowTunnels(t, 0, 0)
		s.loops.visit(func(tu *tunnel, _ *turn) {
			if tu == all[1].tunnel {
				tu.client.sock.raw = &shrinking{tu.client.sock.raw, 200_000}
			}
		})
		if tunnels, _, freed := s.Shed(100_000, true, 0); tunnels != 1 || freed < 100_000 {
			t.Errorf("Shed = %d, %d bytes; want the one that holds 200,000", tunnels, freed)
		}
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		all[1].wantReason(reasonSlowClient)
		for _, b := range all {
			b.client.Close()
			b.upstream.Close()
		}
		s.loops.close()
	})
}

// While nothing may grow, a tunnel for whose client more than 64 KiB wait ends when
// its upstream says more, and holds nothing after it.
func TestBrake(t *testing.T) {
	for size, ends := range map[int]bool{blockSize + shedLeast/2: false, blockSize + 2*shedLeast: true} {
		brake := new(brake)
		brake.on.Store(true)
		inBubble(t, tunnelSettings{brake: brake}, func(b *bench) {
			b.upstream.SetWriteDeadline(time.Now().Add(time.Second))
			b.upstream.Write(appendFrame(nil, opText, make([]byte, size), nil))
			b.upstream.Write(appendFrame(nil, opText, []byte("more"), nil))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			ended := false
			select {
			case <-b.done:
				ended = true
			default:
			}
			if held := b.tunnel.client.sock.out.size; ended != ends || ended && (b.tunnel.why != reasonSlowClient || held > 0) {
				t.Errorf("%d bytes: ended is %v for %v, %d bytes are held; want %v", size, ended, b.tunnel.why, held, ends)
			}
			if n := brake.ended.Load(); n > 0 != ends {
				t.Errorf("%d tunnels are counted", n)
			}
		})
	}
}

// While memory is short a newcomer is closed before TLS and counted. An earlier
// connection gets 503, and tunnels continue. Shed also visits the tunnels of event
// loops.
func TestShort(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL(), echoPages)
	tunnel := g.dial()
	early := g.pageClient(t)
	g.SetShort(true, false)
	if conn, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool()}); err == nil {
		conn.Close()
		t.Error("a newcomer got in")
	}
	if n := g.Counts().Refused["memory"]; n != 1 {
		t.Errorf("%d connections were refused for memory; want 1", n)
	}
	early.send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n", testName))
	if resp := early.want(503, "Try again"); resp.Header.Get("Retry-After") == "" {
		t.Errorf("503 without Retry-After: %v", resp.Header)
	}
	if tunnels, requests, freed := g.Shed(1<<30, true, 0); tunnels != 0 || requests != 0 || freed != 0 {
		t.Errorf("Shed = %d, %d, %d; want nothing: nobody is behind", tunnels, requests, freed)
	}
	pingPong(t, tunnel)
	g.SetShort(false, false)
	pingPong(t, g.dial())
}

// A loop's tunnel whose client does not read is shed with the bytes in the kernel, and
// its client gets a reset.
func TestShedSocket(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL())
	slow, other := g.dial(), g.dial()
	slow.Conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
	for range 20 {
		if err := slow.Send(strings.Repeat("x", 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	held := func() (n int) {
		g.loops.visit(func(t *tunnel, _ *turn) {
			n = max(n, t.client.sock.out.size+t.client.sock.raw.unacknowledged())
		})
		return n
	}
	for held() < 256<<10 { // the echo is on its way; bytes queued for the upstream are temporary
		time.Sleep(time.Millisecond)
	}
	if tunnels, _, freed := g.Shed(256<<10, true, 0); tunnels != 1 || freed < 256<<10 {
		t.Errorf("Shed = %d, %d bytes; want the slow one", tunnels, freed)
	}
	if _, err := io.Copy(io.Discard, slow.Conn); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the slow client reads %v; want a reset", err)
	}
	pingPong(t, other)
	g.loops.visit(func(*tunnel, *turn) {}) // the turn that reset it is over
	if n := g.Counts().Closed[reasonSlowClient.String()]; n != 1 {
		t.Errorf("%d tunnels ended as slow; want 1", n)
	}
}

// A request of the pages that waits for its server, and one with an incomplete body,
// end when they are shed; the answer reaches the client.
func TestShedRequests(t *testing.T) {
	begun := make(chan struct{}, 2)
	up := newUpstream(t, chat.Config{})
	g := newGate(t, up.URL(), func(o *Options) {
		o.Pages = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begun <- struct{}{}
			if _, err := io.ReadAll(r.Body); err == nil {
				<-r.Context().Done()
			}
			if r.Context().Err() == context.Canceled {
				http.Error(w, "shed", http.StatusServiceUnavailable)
			}
		})
	})
	polls, trickles := g.pageClient(t), g.pageClient(t)
	polls.send("GET /http-bind HTTP/1.1\r\nHost: " + testName + "\r\n\r\n")
	trickles.send("POST /http-bind HTTP/1.1\r\nHost: " + testName + "\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 10_000))
	<-begun
	<-begun
	if _, requests, freed := g.Shed(1, false, 0); requests != 1 || freed < requestCost {
		t.Errorf("Shed(1) = %d requests, %d bytes; want one", requests, freed)
	}
	trickles.want(503, "shed") // the larger one first
	if _, requests, _ := g.Shed(1<<30, false, 0); requests != 1 {
		t.Errorf("Shed = %d requests; want the other", requests)
	}
	polls.want(503, "shed")
}

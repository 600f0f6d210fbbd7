package wire

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"wssgate/internal/websocket"
)

// An Upstream listens on loopback and hands each connection to a handler.
type Upstream struct {
	URL string // ws://127.0.0.1:port/

	ln       net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool // true: a client's WebSocket
	killed   bool
	requests []*http.Request
	handlers sync.WaitGroup
}

// Listen starts an upstream. The handler owns the connection and runs on a
// goroutine of its own; with the test everything is closed, and the handlers
// have to come back then.
func Listen(tb testing.TB, handler func(net.Conn)) *Upstream {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return serve(tb, ln, handler)
}

func serve(tb testing.TB, ln net.Listener, handler func(net.Conn)) *Upstream {
	u := &Upstream{URL: "ws://" + ln.Addr().String() + "/", ln: ln, conns: map[net.Conn]bool{}}
	u.handlers.Go(func() { u.acceptLoop(handler) })
	tb.Cleanup(func() {
		u.Kill()
		u.handlers.Wait()
	})
	return u
}

// ListenWS starts an upstream that answers the opening handshake with 101,
// hands the WebSocket to the handler, and closes it when the handler returns.
func ListenWS(tb testing.TB, handler func(*Conn)) *Upstream {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return Serve(tb, ln, handler)
}

// Serve is ListenWS on any listener, which it closes with the test.
func Serve(tb testing.TB, ln net.Listener, handler func(*Conn)) *Upstream {
	var u *Upstream
	ready := make(chan struct{})
	u = serve(tb, ln, func(conn net.Conn) {
		<-ready
		c := &Conn{Conn: conn, R: bufio.NewReader(conn), tb: tb}
		if req, err := c.request(); err == nil {
			c.gates = strings.HasPrefix(req.UserAgent(), "wssgate ")
			if !c.gates {
				u.remember(conn, req) // before the client can know of the 101
			}
			if websocket.SwitchProtocols(c.Conn, req) == nil {
				handler(c)
			}
		}
		conn.Close()
	})
	close(ready)
	return u
}

// Chan starts an upstream whose WebSockets come out of the channel; the test
// then plays the upstream's part on its own goroutine. The gate's own questions
// are answered as Echo does.
func Chan(tb testing.TB) (*Upstream, <-chan *Conn) {
	tb.Helper()
	conns := make(chan *Conn)
	done := make(chan struct{})
	u := ListenWS(tb, func(c *Conn) {
		if c.gates {
			EchoFrames(c)
			return
		}
		select {
		case conns <- c:
			<-done // the Conn stays open: the test closes it, or Kill does
		case <-done:
		}
	})
	tb.Cleanup(func() { close(done) }) // runs before Kill
	return u, conns
}

// Echo starts an upstream that sends every data frame back as it came, answers
// Ping with Pong and a Close frame with one without status code.
func Echo(tb testing.TB) *Upstream {
	tb.Helper()
	return ListenWS(tb, EchoFrames)
}

// EchoFrames is Echo's handler.
func EchoFrames(c *Conn) {
	for {
		f, err := ReadFrame(c.R)
		if err != nil {
			return
		}
		f.Masked = false
		switch f.Op {
		case Ping:
			f.Op = Pong
		case Pong:
			continue
		case Close:
			f.Payload = nil
		}
		if _, err := c.Conn.Write(f.Append(nil)); err != nil || f.Op == Close {
			return
		}
	}
}

// request reads the opening handshake.
func (c *Conn) request() (*http.Request, error) {
	c.SetReadDeadline(time.Now().Add(Patience))
	defer c.SetReadDeadline(time.Time{})
	return http.ReadRequest(c.R)
}

func (u *Upstream) acceptLoop(handler func(net.Conn)) {
	for {
		conn, err := u.ln.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		u.conns[conn] = false
		if u.killed { // it was on its way
			conn.Close()
		}
		u.mu.Unlock()
		u.handlers.Go(func() {
			handler(conn)
			u.mu.Lock()
			delete(u.conns, conn)
			u.mu.Unlock()
		})
	}
}

// Kill closes the listener and every connection at once, as the end of the
// process would.
func (u *Upstream) Kill() {
	u.ln.Close()
	u.mu.Lock()
	u.killed = true
	for conn := range u.conns {
		conn.Close()
	}
	u.mu.Unlock()
}

// Open returns how many WebSockets of clients are open at this moment: the gate's own
// questions come and go when they like.
func (u *Upstream) Open() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, client := range u.conns {
		if client {
			n++
		}
	}
	return n
}

// Requests returns the opening handshakes of clients that came so far.
func (u *Upstream) Requests() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*http.Request(nil), u.requests...)
}

func (u *Upstream) remember(conn net.Conn, req *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns[conn] = true
	u.requests = append(u.requests, req)
}

// Take returns the next WebSocket of Chan's channel.
func Take(tb testing.TB, conns <-chan *Conn) *Conn {
	tb.Helper()
	select {
	case c := <-conns:
		return c
	case <-time.After(Patience):
		tb.Fatal("the gate did not come to the upstream")
		return nil
	}
}

// WantEOF reads raw bytes until the other side has closed, with a FIN or a
// reset, and fails the test if it does not.
func WantEOF(tb testing.TB, r io.Reader, conn net.Conn) {
	tb.Helper()
	conn.SetReadDeadline(time.Now().Add(Patience))
	_, err := io.Copy(io.Discard, r)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		tb.Fatalf("the gate kept the connection open for %v", Patience)
	}
}

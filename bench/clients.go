package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/internal/websocket"
)

// patience bounds every wait for a gate.
const patience = 60 * time.Second

// errLost says that connections ended that should not have.
var errLost = errors.New("connections lost")

// A client is one connection. Its reader answers Pings, as browsers do, and
// counts answers.
type client struct {
	conn   net.Conn
	br     *bufio.Reader
	crowd  *crowd
	sent   atomic.Int64 // when its last message left, since crowd.born
	again  atomic.Pointer[loopRun]
	answer chan struct{} // each answer, where nobody loops
}

// A crowd is all clients of one measurement.
type crowd struct {
	born     time.Time
	clients  []*client
	reading  sync.WaitGroup
	closing  atomic.Bool
	gone     atomic.Int64
	refused  atomic.Int64 // attempts to come in that failed, and were repeated
	mu       sync.Mutex
	firstErr error

	record    atomic.Bool // the readers note latencies
	latencies []time.Duration
}

// A loopRun is one closed loop.
type loopRun struct {
	frame []byte
	done  atomic.Int64
}

// connect opens n streams through the gate: all at the same time, or 16 at a
// time. At the same time, a client may have to try three times; 16 at a time,
// none may fail.
func (g *gate) connect(ctx context.Context, n int, together bool) (*crowd, error) {
	config := g.tlsConfig()
	width, tries := 16, 1
	if together {
		width, tries = n, 3
	}
	return newCrowd(ctx, n, width, tries, func(ctx context.Context) (net.Conn, error) {
		return dialTLS(ctx, g.addr, config)
	})
}

// connectUpstream opens n streams straight to the gate's upstream.
func (g *gate) connectUpstream(ctx context.Context, n int) (*crowd, error) {
	return newCrowd(ctx, n, 16, 1, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", g.upstream)
	})
}

func (g *gate) tlsConfig() *tls.Config {
	config := &tls.Config{RootCAs: g.bench.roots, ServerName: serverName, MinVersion: tls.VersionTLS13}
	if !*postQ {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	return config
}

// dialTLS connects, and insists on the cipher suite that all are measured with.
func dialTLS(ctx context.Context, addr string, config *tls.Config) (*tls.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if suite := conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		raw.Close()
		return nil, fmt.Errorf("cipher suite %s, want AES-128-GCM", tls.CipherSuiteName(suite))
	}
	return conn, nil
}

func newCrowd(ctx context.Context, n, width, tries int, dial func(context.Context) (net.Conn, error)) (*crowd, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := &crowd{born: time.Now(), clients: make([]*client, n)}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range width {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && ctx.Err() == nil; i = next.Add(1) - 1 {
				client, err := c.enter(ctx, dial)
				for try := 1; err != nil && try < tries; try++ {
					c.refused.Add(1)
					client, err = c.enter(ctx, dial)
				}
				if err != nil {
					c.fail(fmt.Errorf("client %d: %w", i, err))
					cancel()
					return
				}
				c.clients[i] = client
			}
		})
	}
	workers.Wait()
	if err := c.why(); err != nil {
		c.close()
		return nil, err
	}
	return c, ctx.Err()
}

// enter opens one stream, up to its features.
func (c *crowd) enter(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*client, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	cl := &client{conn: conn, br: bufio.NewReaderSize(conn, 1024), crowd: c, answer: make(chan struct{}, 1)}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if err := upgrade(conn, cl.br); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := conn.Write(open); err != nil {
		conn.Close()
		return nil, err
	}
	for _, want := range []string{"open", "features"} {
		if _, err := readMessage(cl.br, nil); err != nil {
			conn.Close()
			return nil, fmt.Errorf("waiting for %s: %w", want, err)
		}
	}
	conn.SetDeadline(time.Time{})
	c.reading.Go(cl.read)
	return cl, nil
}

// read is the client's goroutine from its first answer on.
func (cl *client) read() {
	c := cl.crowd
	var buf []byte
	for {
		f, err := readMessage(cl.br, buf)
		if err == nil && f.Op == websocket.Ping {
			_, err = cl.conn.Write(clientFrame(websocket.Pong, f.Payload))
		}
		if err == nil && f.Op == websocket.Text {
			err = cl.answered()
		}
		if err == nil && f.Op == websocket.Close {
			err = fmt.Errorf("got a Close frame %x", f.Payload)
		}
		if err != nil {
			if !c.closing.Load() {
				c.gone.Add(1)
				c.fail(err)
			}
			cl.conn.Close()
			return
		}
		if buf = f.Payload; cap(buf) > 4096 {
			buf = nil
		}
	}
}

func (cl *client) answered() error {
	c := cl.crowd
	if run := cl.again.Load(); run != nil {
		run.done.Add(1)
		_, err := cl.conn.Write(run.frame)
		return err
	}
	if c.record.Load() {
		took := time.Since(c.born) - time.Duration(cl.sent.Load())
		c.mu.Lock()
		c.latencies = append(c.latencies, took)
		c.mu.Unlock()
	}
	select {
	case cl.answer <- struct{}{}:
	default:
	}
	return nil
}

// closedLoop has every client send as soon as it has its answer, and returns
// how many answers came in that time.
func (c *crowd) closedLoop(frame []byte, length time.Duration) (int, error) {
	run := &loopRun{frame: frame}
	c.drainAnswers()
	for _, cl := range c.clients {
		cl.again.Store(run)
		cl.conn.Write(frame) // an error shows in the reader
	}
	time.Sleep(length)
	for n := 0; run.done.Load() == 0 && n < 600; n++ { // a minute more, where the machine has other things to do
		time.Sleep(100 * time.Millisecond)
	}
	for _, cl := range c.clients {
		cl.again.Store(nil)
	}
	done := int(run.done.Load())
	return done, c.awaitAnswers()
}

// burst sends one message on every connection at the same time, and waits for
// all answers.
func (c *crowd) burst(frame []byte) error {
	c.drainAnswers()
	var sending sync.WaitGroup
	for _, cl := range c.clients {
		sending.Go(func() { cl.conn.Write(frame) })
	}
	sending.Wait()
	return c.awaitAnswers()
}

// paced sends so many messages a second, from one connection after the other,
// and returns the latencies.
func (c *crowd) paced(frame []byte, rate int, length time.Duration) ([]time.Duration, error) {
	c.drainAnswers()
	c.mu.Lock()
	c.latencies = make([]time.Duration, 0, int(length.Seconds()*float64(rate))+1)
	c.mu.Unlock()
	c.record.Store(true)
	defer c.record.Store(false)
	gap := time.Second / time.Duration(rate)
	start := time.Now()
	for i := 0; ; i++ {
		due := time.Duration(i) * gap
		if due >= length {
			break
		}
		if early := due - time.Since(start); early > 0 {
			time.Sleep(early)
		}
		cl := c.clients[i%len(c.clients)]
		cl.sent.Store(int64(time.Since(c.born)))
		cl.conn.Write(frame)
	}
	time.Sleep(200 * time.Millisecond) // the last answers
	c.mu.Lock()
	defer c.mu.Unlock()
	if lost := c.lost(); lost > 0 {
		return c.latencies, fmt.Errorf("%w: %d, the first with: %w", errLost, lost, c.firstErr)
	}
	return c.latencies, nil
}

func (c *crowd) drainAnswers() {
	for _, cl := range c.clients {
		select {
		case <-cl.answer:
		default:
		}
	}
}

// awaitAnswers waits until every client had an answer that nobody counted.
func (c *crowd) awaitAnswers() error {
	late := time.After(patience)
	for i, cl := range c.clients {
		for waiting := true; waiting; {
			select {
			case <-cl.answer:
				waiting = false
			case <-late:
				return fmt.Errorf("client %d: no answer in %v", i, patience)
			case <-time.After(time.Second):
				if c.lost() > 0 {
					return fmt.Errorf("%w: %d, the first with: %w", errLost, c.lost(), c.why())
				}
			}
		}
	}
	return nil
}

// lost is how many connections have ended by themselves.
func (c *crowd) lost() int { return int(c.gone.Load()) }

// why is the first thing that went wrong.
func (c *crowd) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.firstErr
}

func (c *crowd) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.firstErr == nil {
		c.firstErr = err
	}
}

// close closes all connections at once, as a lost network does.
func (c *crowd) close() {
	c.closing.Store(true)
	for _, cl := range c.clients {
		if cl == nil {
			continue
		}
		if t, ok := cl.conn.(*tls.Conn); ok {
			t.NetConn().Close()
		} else {
			cl.conn.Close()
		}
	}
	c.reading.Wait()
}

// comeAndGo has n connections come and go again with a closing handshake, 8 at
// a time. All but the first few are resumed, or none is.
func (g *gate) comeAndGo(ctx context.Context, n int, resume bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	config := g.tlsConfig()
	if resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
		if _, err := g.comeOnce(ctx, config); err != nil {
			return 0, err
		}
	}
	var next, resumed atomic.Int64
	var workers sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		workers.Go(func() {
			for next.Add(1) <= int64(n) {
				again, err := g.comeOnce(ctx, config)
				if err != nil {
					errs <- err
					return
				}
				if again {
					resumed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return 0, err
	}
	if got := int(resumed.Load()); resume && got < n || !resume && got > 0 {
		return 0, fmt.Errorf("%d of %d sessions were resumed", got, n)
	}
	return n, nil
}

func (g *gate) comeOnce(ctx context.Context, config *tls.Config) (resumed bool, err error) {
	conn, err := dialTLS(ctx, g.addr, config)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	br := bufio.NewReaderSize(conn, 1024)
	if err := upgrade(conn, br); err != nil {
		return false, err
	}
	if _, err := conn.Write(clientFrame(websocket.Close, []byte{0x03, 0xe8})); err != nil {
		return false, err
	}
	if f, err := readMessage(br, nil); err != nil || f.Op != websocket.Close {
		return false, fmt.Errorf("answer to Close: %v, %w", f, err)
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return false, fmt.Errorf("after the closing handshake: %w", err)
	}
	return conn.ConnectionState().DidResume, nil
}

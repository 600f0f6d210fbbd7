package fair

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"wssgate/panics"
)

// Conns bounds the connections of an http.Server, on any number of listeners.
//
// A connection is in a handler, or idle: it has said nothing, or not all of a request,
// or waits for the next one. Where there are as many as there may be, an idle one makes
// place for a newcomer: at once where its address has more of them than the newcomer's,
// and more than a few, else once it has had its patience. So whoever asks is served, however many others do
// not, and whoever gets in has the time of a few round trips to ask.
//
// A newcomer for whom nobody makes place waits outside: it is accepted, and the server
// does not know of it. Of those the one goes in next whose address has fewest inside,
// and among such the first that came. Where there is no more room outside either, the
// address that has most there loses its first; else all others wait in the kernel.
//
//	server.ConnContext = conns.ConnContext
//	server.ConnState   = conns.ConnState
//	server.Handler     = conns.Handler(handler)
//	server.Serve(conns.Listen(listener))
type Conns struct {
	// Max is how many connections there may be, those outside included.
	Max int

	// Panicked is told of a panic that met a connection on its way in, which is closed.
	// Nil: nobody catches it.
	Panicked func(cause any)

	// Refuses says which clients are closed at once; nil: none.
	Refuses func(client netip.Addr) bool

	mu      sync.Mutex
	idle    Set[*conn]
	open    int
	outside []*conn       // in the order of accept
	retry   *time.Timer   // looks whether somebody has had its patience
	room    chan struct{} // closed when there may be room outside; nil: nobody waits for that
}

const (
	// patience is how long an idle connection keeps its place beside others of its
	// address, or of addresses that have as many: a request that was lost is sent
	// again after 200 ms or so.
	patience = 500 * time.Millisecond

	// hurry is that patience where others wait in the kernel. There a client's request
	// mostly comes before the client gets in.
	hurry = 200 * time.Millisecond

	// outsideShare is which part of all connections may be outside.
	outsideShare = 4
)

// crowd is how many of so many places one address may have before it makes place at
// once: a few people behind one address.
func crowd(places int) int { return max(places/8, min(places/2, 2), 1) }

func (c *Conns) mayBeOutside() int { return max(c.Max/outsideShare, 1) }
func (c *Conns) inside() int       { return c.Max - c.mayBeOutside() }

// Listen returns a listener whose connections are bounded.
func (c *Conns) Listen(ln net.Listener) net.Listener {
	return &listener{Listener: ln, conns: c, wake: make(chan struct{}, 1), errs: make(chan error), closed: make(chan struct{})}
}

type listener struct {
	net.Listener
	conns  *Conns
	begin  sync.Once
	end    sync.Once
	ready  []*conn       // got in; Accept has not returned them yet. conns.mu
	wake   chan struct{} // ready has something
	errs   chan error    // of accepting
	closed chan struct{}
}

// Close closes the connections that are outside, too.
func (l *listener) Close() error {
	l.end.Do(func() {
		close(l.closed)
		l.conns.forget(l)
	})
	return l.Listener.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	l.begin.Do(func() { go panics.Keep(l.closed, panics.Listener, l.acceptAll) })
	for {
		if conn := l.next(); conn != nil {
			return conn, nil
		}
		select {
		case <-l.wake:
		case err := <-l.errs:
			return nil, err
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

func (l *listener) next() *conn {
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	if len(l.ready) == 0 {
		return nil
	}
	conn := l.ready[0]
	l.ready = slices.Delete(l.ready, 0, 1)
	return conn
}

// acceptAll accepts until the listener is closed.
func (l *listener) acceptAll() {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.errs <- err:
			case <-l.closed:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if !l.take(accepted) {
			return
		}
	}
}

// take hands on what was accepted, and reports false once the listener is closed.
func (l *listener) take(accepted net.Conn) (more bool) {
	defer func() {
		if l.conns.Panicked == nil {
			return
		}
		if cause := recover(); cause != nil {
			accepted.Close()
			l.conns.Panicked(cause)
			more = true
		}
	}()
	if refuses := l.conns.Refuses; refuses != nil && refuses(addrOf(accepted)) {
		accepted.Close()
		return true
	}
	return l.conns.enter(&conn{Conn: accepted, listener: l, owner: ownerOfConn(accepted)})
}

func addrOf(conn net.Conn) netip.Addr {
	ap, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return ap.Addr().Unmap()
}

// enter lets a newcomer in, or keeps it outside, or closes it. It waits while too many
// are outside, and reports false once the listener is closed.
func (c *Conns) enter(newcomer *conn) bool {
	l := newcomer.listener
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.isClosed() {
		newcomer.Conn.Close()
		return false
	}
	c.outside = append(c.outside, newcomer)
	c.dispatch()
	for c.crowded() && !c.closeFirst() {
		if c.room == nil {
			c.room = make(chan struct{})
			c.dispatch() // in a hurry now
			continue
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-l.closed:
		}
		c.mu.Lock()
		if l.isClosed() {
			return false
		}
	}
	return true
}

func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// What follows is called with c.mu held, up to the next line like this.

// letIn gives a connection a place, perhaps another one's, and reports whether there
// was one.
func (c *Conns) letIn(newcomer *conn) bool {
	if c.open >= c.inside() {
		out := c.idle.GivesWay(newcomer.owner, crowd(c.inside()), c.patience())
		if out == nil {
			return false
		}
		c.leave(out.Value)
		out.Value.Conn.Close()
	}
	c.open++
	newcomer.open = true
	newcomer.entry = c.idle.Add(newcomer.owner, newcomer)
	l := newcomer.listener
	l.ready = append(l.ready, newcomer)
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
	return true
}

func (c *Conns) patience() time.Duration {
	if c.room != nil {
		return hurry
	}
	return patience
}

func (c *Conns) crowded() bool { return len(c.outside) > c.mayBeOutside() }

// closeFirst closes the first connection of the address that has most outside, and
// reports whether there is one with more than a crowd. Not the last: who has just come
// is the likeliest to want something.
func (c *Conns) closeFirst() bool {
	count := map[netip.Addr]int{}
	var most netip.Addr
	for _, conn := range c.outside {
		if count[conn.owner]++; count[conn.owner] >= count[most] {
			most = conn.owner
		}
	}
	if count[most] <= crowd(c.mayBeOutside()) {
		return false
	}
	first := slices.IndexFunc(c.outside, func(conn *conn) bool { return conn.owner == most })
	c.outside[first].Conn.Close()
	c.outside = slices.Delete(c.outside, first, first+1)
	return true
}

// dispatch lets in who is outside, as far as there are places, and sees to it that
// somebody looks again.
func (c *Conns) dispatch() {
	for len(c.outside) > 0 {
		next := 0
		for i, conn := range c.outside {
			if c.idle.Of(conn.owner) < c.idle.Of(c.outside[next].owner) {
				next = i
			}
		}
		if !c.letIn(c.outside[next]) {
			break
		}
		c.outside = slices.Delete(c.outside, next, next+1)
	}
	if c.room != nil && !c.crowded() {
		close(c.room)
		c.room = nil
	}
	if len(c.outside) == 0 || c.idle.Len() == 0 {
		return
	}
	due := time.Until(c.idle.oldest().since.Add(c.patience()))
	if due <= 0 {
		due = time.Until(c.idle.Worst().since.Add(c.patience()))
	}
	if c.retry == nil {
		c.retry = time.AfterFunc(due, func() { panics.Catch(panics.HTTP, c.look) })
	} else {
		c.retry.Reset(due)
	}
}

// leave gives a connection's place back.
func (c *Conns) leave(conn *conn) {
	if conn.open {
		conn.open = false
		c.open--
		c.idle.Remove(conn.entry)
	}
}

// These are not.

func (c *Conns) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dispatch()
}

// forget closes the connections of a listener that its server does not know.
func (c *Conns) forget(l *listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range l.ready {
		c.leave(conn)
		conn.Conn.Close()
	}
	l.ready = nil
	c.outside = slices.DeleteFunc(c.outside, func(conn *conn) bool {
		if conn.listener == l {
			conn.Conn.Close()
		}
		return conn.listener == l
	})
	c.dispatch()
}

// busy keeps a connection that is in a handler from being given up, or lets it
// be again.
func (c *Conns) busy(conn *conn, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !conn.open:
	case is:
		c.idle.Remove(conn.entry)
	default:
		c.idle.Remove(conn.entry)
		conn.entry = c.idle.Add(conn.owner, conn)
		c.dispatch()
	}
}

// A conn is one connection of a Conns.
type conn struct {
	net.Conn
	listener *listener
	owner    netip.Addr

	open  bool          // it has a place; conns.mu
	entry *Entry[*conn] // among the idle; conns.mu
}

func (c *conn) Close() error {
	conns := c.listener.conns
	conns.mu.Lock()
	conns.leave(c)
	conns.dispatch()
	conns.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// ConnContext is for the http.Server.
func (c *Conns) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// ConnState is for the http.Server: a connection that has got its answer is idle.
func (c *Conns) ConnState(nc net.Conn, state http.ConnState) {
	if conn, ok := nc.(*conn); ok && state == http.StateIdle {
		c.busy(conn, false)
	}
}

// maxBody is how much of a request's body is awaited, in bytes.
const maxBody = 64 << 10

// Handler is next, for requests that are there to the end of their bodies: before that
// a connection is idle. From then on until the answer is sent it keeps its place. Next
// gets no body.
func (c *Conns) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := 0
		if r.ContentLength != 0 {
			status = discard(r.Body)
		}
		if conn, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.busy(conn, true)
		}
		if status != 0 {
			w.Header().Set("Connection", "close")
			http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // net/http would wait for the rest
			http.Error(w, strconv.Itoa(status)+" "+http.StatusText(status), status)
			return
		}
		r.Body = http.NoBody
		next.ServeHTTP(w, r)
	})
}

// discard reads a body to its end. Else it returns the status of the answer.
func discard(body io.Reader) (status int) {
	switch n, err := io.Copy(io.Discard, io.LimitReader(body, maxBody+1)); {
	case err != nil:
		return http.StatusRequestTimeout
	case n > maxBody:
		return http.StatusRequestEntityTooLarge
	}
	return 0
}

// While calls wait in a handler, during which the connection of the request's
// context may be given up all the same: the wait is the client's own fault.
func While(ctx context.Context, wait func()) {
	if conn, ok := ctx.Value(connKey{}).(*conn); ok {
		conn.listener.conns.busy(conn, false)
		defer conn.listener.conns.busy(conn, true)
	}
	wait()
}

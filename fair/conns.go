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
// A connection is in a handler, or idle: it has sent nothing, or only a part of a
// request, or waits for the next one. At the bound, an idle connection gives way to a
// newcomer. It does so at once if its address has more connections than the newcomer's,
// and more than a crowd; otherwise after its patience. So every client that sends a
// request is served, regardless of how many others do not, and every client that enters
// has the time of a few round trips to send one.
//
// A newcomer waits outside if no connection gives way: it is accepted, but the server
// does not know it yet. The next one to enter is the one whose address has fewest
// connections inside; among equals, the first that arrived. If there is no room outside
// either, the address with most connections outside loses its first one, or, if none
// has more than a crowd, all others wait in the kernel.
//
//	server.ConnContext = conns.ConnContext
//	server.ConnState   = conns.ConnState
//	server.Handler     = conns.Handler(handler)
//	server.Serve(conns.Listen(listener))
type Conns struct {
	// Max is the maximum number of connections, including those outside.
	Max int

	// Panicked is called for a panic while a connection enters. The connection is
	// closed. Nil: panics are not caught.
	Panicked func(cause any)

	// Refuses reports whether to close a client's connection at once; nil: never.
	Refuses func(client netip.Addr) bool

	mu      sync.Mutex
	idle    Set[*conn]
	open    int
	outside []*conn       // in the order of accept
	retry   *time.Timer   // checks whether the patience of an idle connection has ended
	room    chan struct{} // closed when there may be room outside; nil: nothing waits for that
}

const (
	// patience is how long an idle connection keeps its place against newcomers of its
	// own address, or of addresses with as many connections. A lost request is sent
	// again after about 200 ms.
	patience = 500 * time.Millisecond

	// hurry is the patience while others wait in the kernel. A client's request then
	// usually arrives before the client enters.
	hurry = 200 * time.Millisecond

	// outsideShare: one in outsideShare of all connections may be outside.
	outsideShare = 4
)

// crowd returns how many of the places one address may have before it gives way at
// once: enough for a few people behind one address.
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
	ready  []*conn       // inside, but not returned by Accept yet; conns.mu
	wake   chan struct{} // ready has changed
	errs   chan error    // errors of accepting
	closed chan struct{}
}

// Close also closes the connections that are outside.
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

// take lets an accepted connection enter, and returns false once the listener is
// closed.
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

// enter lets a newcomer in, keeps it outside, or closes it. It waits while too many are
// outside, and returns false once the listener is closed.
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
			c.dispatch() // with hurry from now on
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

// The caller of the following functions holds c.mu.

// letIn gives a connection a place, possibly that of another one, and reports whether
// there was one.
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
	default: // a wake-up is already pending
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

// closeFirst closes the first connection of the address with most connections outside,
// and returns false if none has more than a crowd. It spares the last one: the newest
// client is the likeliest to send a request.
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

// dispatch lets connections in from outside while there are places, and schedules the
// next check.
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

// leave frees a connection's place.
func (c *Conns) leave(conn *conn) {
	if conn.open {
		conn.open = false
		c.open--
		c.idle.Remove(conn.entry)
	}
}

// The caller of the following functions does not hold c.mu.

func (c *Conns) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dispatch()
}

// forget closes the connections of a listener that the server does not know yet.
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

// busy marks a connection as in a handler, which protects it, or as idle.
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

// ConnContext is the server's ConnContext.
func (c *Conns) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// ConnState is the server's ConnState. A connection becomes idle after its answer.
func (c *Conns) ConnState(nc net.Conn, state http.ConnState) {
	if conn, ok := nc.(*conn); ok && state == http.StateIdle {
		c.busy(conn, false)
	}
}

// maxBody is the maximum size of a request's body in bytes.
const maxBody = 64 << 10

// Handler calls next once a request has arrived to the end of its body. Before that,
// its connection is idle; from then on it keeps its place until the answer is sent. The
// body is not passed to next.
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
			http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // otherwise net/http would wait for the rest
			http.Error(w, strconv.Itoa(status)+" "+http.StatusText(status), status)
			return
		}
		r.Body = http.NoBody
		next.ServeHTTP(w, r)
	})
}

// discard reads a body to its end. On failure it returns the status for the answer.
func discard(body io.Reader) (status int) {
	switch n, err := io.Copy(io.Discard, io.LimitReader(body, maxBody+1)); {
	case err != nil:
		return http.StatusRequestTimeout
	case n > maxBody:
		return http.StatusRequestEntityTooLarge
	}
	return 0
}

// While calls wait inside a handler. During the call the connection of the request's
// context may give way: the client itself causes the wait.
func While(ctx context.Context, wait func()) {
	if conn, ok := ctx.Value(connKey{}).(*conn); ok {
		conn.listener.conns.busy(conn, false)
		defer conn.listener.conns.busy(conn, true)
	}
	wait()
}

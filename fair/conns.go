package fair

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// Conns bounds the connections of an http.Server, on any number of listeners.
// When there are as many as there may be, a newcomer gets the place of one that
// is in no handler: it has said nothing, or not all of a request, or waits for
// the next one. The address that has most of those loses its oldest. So whoever
// asks at once is served at once, however many others do not.
//
//	server.ConnContext = conns.ConnContext
//	server.Handler     = conns.Handler(handler)
//	server.Serve(conns.Listen(listener))
type Conns struct {
	// Max is how many connections there may be.
	Max int

	// Refuses says which clients are closed at once; nil: none.
	Refuses func(client netip.Addr) bool

	mu   sync.Mutex
	idle Set[*conn]
	open int
	room chan struct{} // closed when a place is left or given up; nil: nobody waits for that
}

// Listen returns a listener whose connections are bounded.
func (c *Conns) Listen(ln net.Listener) net.Listener {
	return &listener{Listener: ln, conns: c, closed: make(chan struct{})}
}

type listener struct {
	net.Listener
	conns  *Conns
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		owner := ownerOfConn(accepted)
		if refuses := l.conns.Refuses; refuses != nil && refuses(addrOf(accepted)) {
			accepted.Close()
			continue
		}
		newcomer := &conn{Conn: accepted, conns: l.conns, owner: owner}
		if !l.conns.take(newcomer, l.closed) {
			accepted.Close()
			return nil, net.ErrClosed
		}
		return newcomer, nil
	}
}

func addrOf(conn net.Conn) netip.Addr {
	ap, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return ap.Addr().Unmap()
}

// take waits for a place, which it seldom has to: only while all connections
// are in handlers. It reports false where stop is closed first.
func (c *Conns) take(newcomer *conn, stop <-chan struct{}) bool {
	for {
		c.mu.Lock()
		var out *Entry[*conn]
		if c.open >= c.Max {
			out = c.idle.Worst()
		}
		if c.open < c.Max || out != nil {
			if out != nil {
				c.leave(out.Value)
			}
			c.open++
			newcomer.open = true
			newcomer.entry = c.idle.Add(newcomer.owner, newcomer)
			c.mu.Unlock()
			if out != nil {
				out.Value.Conn.Close()
			}
			return true
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return false
		}
	}
}

// leave gives a connection's place back; c.mu is held.
func (c *Conns) leave(conn *conn) {
	if conn.open {
		conn.open = false
		c.open--
		c.idle.Remove(conn.entry)
		c.makeRoom()
	}
}

// makeRoom tells who waits for it that there may be a place now; c.mu is held.
func (c *Conns) makeRoom() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
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
		conn.entry = c.idle.Add(conn.owner, conn)
		c.makeRoom()
	}
}

// A conn is one connection of a Conns.
type conn struct {
	net.Conn
	conns *Conns
	owner netip.Addr

	open  bool          // it has a place; conns.mu
	entry *Entry[*conn] // among the idle; conns.mu
}

func (c *conn) Close() error {
	c.conns.mu.Lock()
	c.conns.leave(c)
	c.conns.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// ConnContext is for the http.Server.
func (c *Conns) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// Handler is next, during which a connection keeps its place.
func (c *Conns) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.busy(conn, true)
			defer c.busy(conn, false)
		}
		next.ServeHTTP(w, r)
	})
}

// While calls wait in a handler, during which the connection of the request's
// context may be given up all the same: the wait is the client's own fault.
func While(ctx context.Context, wait func()) {
	if conn, ok := ctx.Value(connKey{}).(*conn); ok {
		conn.conns.busy(conn, false)
		defer conn.conns.busy(conn, true)
	}
	wait()
}

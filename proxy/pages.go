package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"wssgate/panics"
)

// pages answers requests that are not WebSocket upgrades. It is an http.Server on
// connections that were accepted, decrypted and partly read before.
//
// If a connection is kept for another request, the server gives it back, because that
// request may be an upgrade, which net/http must not read. So net/http sees one request
// of a connection at a time:
//
//	clientConn.request ──head──▶ http.Server on a pageConn ──answered──▶ clientConn.nextRequest
//	        ▲                                                                     │
//	        └───────────────────────────first byte of another─────────────────────┘
//
// This requires that the end of the request is known before its body is read. After any
// other request (see bodyLength) the connection is closed.
type pages struct {
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	done   chan struct{}
	drain  context.CancelFunc // ends requests that keep their clients waiting

	mu       sync.Mutex
	requests map[*pageConn]context.CancelFunc // in progress
}

const (
	pageRequestTimeout = 30 * time.Second // for a request's body
	pageAnswerTimeout  = 60 * time.Second // from the request's head to the last byte of the answer

	// keepTimeout is how long a connection waits for another request. A BOSH client has
	// two connections. One of them is idle while the server holds a request on the
	// other: for 60 s, as most clients ask.
	keepTimeout = 90 * time.Second

	// requestCost is the memory of a BOSH request without its body: the goroutines and
	// buffers of two HTTP connections, in bytes.
	requestCost = 64 << 10

	// requestPatience is how long a client has to read the 503 of a request that was shed.
	requestPatience = time.Second
)

func newPages(log *slog.Logger, panicked panicFunc) *pages {
	ctx, drain := context.WithCancel(context.Background())
	p := &pages{conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan struct{}), drain: drain,
		requests: map[*pageConn]context.CancelFunc{}}
	p.server = &http.Server{
		Handler:           recovering(panicked, panics.Pages, http.HandlerFunc(p.underServerName)),
		ReadHeaderTimeout: 10 * time.Second, // the head was read before
		ReadTimeout:       pageRequestTimeout,
		WriteTimeout:      pageAnswerTimeout,
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, pageConnKey{}, conn)
		},
		ConnState: func(conn net.Conn, state http.ConnState) {
			if state == http.StateIdle {
				conn.(*pageConn).answered.Store(true)
			}
		},
	}
	go p.serve()
	return p
}

func (p *pages) serve() {
	defer close(p.done)
	panics.Catch(panics.Pages, func() { p.server.Serve(p) })
}

// take gives conn to the server. After close it returns false, and the caller still owns
// conn.
func (p *pages) take(conn net.Conn) bool {
	select {
	case p.conns <- conn:
		return true
	case <-p.closed:
		return false
	}
}

// close ends the server and its connections at once.
func (p *pages) close() {
	p.server.Close()
	p.Close()
	<-p.done
	p.drain()
}

// Accept, Close and Addr make pages the net.Listener of its server.
func (p *pages) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pages) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pages) Addr() net.Addr { return &net.TCPAddr{} }

// pageConnKey finds a request's *pageConn in its context.
type pageConnKey struct{}

// underServerName sets the fields of a request that net/http can't know, and gives it to
// the Pages of its connection. It refuses a request for another vhost.
func (p *pages) underServerName(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(pageConnKey{}).(*pageConn)
	if !conn.framed {
		w.Header().Set("Connection", "close")
	}
	if c := conn.client.client; c.IsValid() {
		r.RemoteAddr = c.String()
	}
	if r.Host == "" && !r.ProtoAtLeast(1, 1) {
		r.Host = r.TLS.ServerName // optional in HTTP/1.0
	}
	if !hostIs(r.Host, r.TLS.ServerName) {
		w.Header().Set("Connection", "close")
		http.Error(w, "421 Misdirected Request\n\nThe request's Host differs from the TLS server name.", http.StatusMisdirectedRequest)
		return
	}
	if r.Body == http.NoBody {
		conn.client.whole()
	} else {
		// Pages that want a body give the client more time.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTimeout))
		r.Body = &awaitedBody{r.Body, conn.client}
	}
	ctx, end := context.WithCancel(r.Context())
	p.mu.Lock()
	p.requests[conn] = end
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.requests, conn)
		p.mu.Unlock()
		end()
	}()
	conn.client.config.Pages.ServeHTTP(w, r.WithContext(ctx))
}

// An awaitedBody is a request's body. Until it is complete, the connection is stalled at
// the door, because the client may never send the rest.
type awaitedBody struct {
	io.ReadCloser
	client *clientConn
}

func (b *awaitedBody) Read(p []byte) (n int, err error) {
	if n, err = b.ReadCloser.Read(p); err == io.EOF {
		b.client.whole()
	}
	return n, err
}

// weights returns the memory of each request in progress, in bytes.
func (p *pages) weights() (out []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.requests {
		out = append(out, conn.weight())
	}
	return out
}

// shed ends requests of at least the size least, until bytes are free.
func (p *pages) shed(least, bytes int64) (n int, freed int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn, end := range p.requests {
		if freed >= bytes {
			break
		}
		if w := conn.weight(); w >= least {
			end()
			conn.SetReadDeadline(time.Unix(1, 0)) // it may wait for the body
			conn.SetWriteDeadline(time.Now().Add(requestPatience))
			n++
			freed += w
		}
	}
	return n, freed
}

func (c *pageConn) weight() int64 { return requestCost + c.received.Load() }

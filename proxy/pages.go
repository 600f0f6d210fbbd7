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

// pages answers requests that are no WebSocket upgrade: an http.Server on
// connections that were accepted, decrypted and partly read already.
//
// A connection that is kept for a further request comes back from it: that
// request may be an upgrade, which is ours to judge and must be read by nobody
// else. So net/http never sees more of a connection than one request:
//
//	clientConn.request ──head──▶ http.Server on a pageConn ──answered──▶ clientConn.nextRequest
//	        ▲                                                                     │
//	        └───────────────────────────first byte of another─────────────────────┘
//
// That takes a request whose end we know without reading its body. Another one
// (see bodyLength) gets its answer, and then the connection is closed.
type pages struct {
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	done   chan struct{}
	drain  context.CancelFunc // ends requests that keep their clients waiting

	mu       sync.Mutex
	requests map[*pageConn]context.CancelFunc // under way
}

const (
	pageRequestTimeout = 30 * time.Second // for a request's body
	pageAnswerTimeout  = 60 * time.Second // from the request's head to the last byte of the answer

	// keepTimeout is how long a connection waits for another request. A client
	// that does BOSH has two connections, and one of them is idle for as long
	// as a request on the other is held: 60 s is what clients ask for.
	keepTimeout = 90 * time.Second

	// requestCost is what a request of BOSH takes beside its body: the goroutines
	// and buffers of two HTTP connections, in bytes.
	requestCost = 64 << 10

	// requestPatience is how long its client has to take the 503.
	requestPatience = time.Second
)

func newPages(log *slog.Logger, panicked panicFunc) *pages {
	ctx, drain := context.WithCancel(context.Background())
	p := &pages{conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan struct{}), drain: drain,
		requests: map[*pageConn]context.CancelFunc{}}
	p.server = &http.Server{
		Handler:           recovering(panicked, panics.Pages, http.HandlerFunc(p.underServerName)),
		ReadHeaderTimeout: 10 * time.Second, // it is there already
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

// take hands conn over. It reports false, and does not own conn, once closed.
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

// underServerName completes what net/http knows of a request, and hands it to the
// Pages of its connection. It refuses one that is for another vhost.
func (p *pages) underServerName(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(pageConnKey{}).(*pageConn)
	if !conn.framed {
		w.Header().Set("Connection", "close")
	}
	if c := conn.client.client; c.IsValid() {
		r.RemoteAddr = c.String()
	}
	if r.Host == "" && !r.ProtoAtLeast(1, 1) {
		r.Host = r.TLS.ServerName // HTTP/1.0 need not say it
	}
	if !hostIs(r.Host, r.TLS.ServerName) {
		w.Header().Set("Connection", "close")
		http.Error(w, "421 Misdirected Request\n\nThe request's Host differs from the TLS server name.", http.StatusMisdirectedRequest)
		return
	}
	if r.Body == http.NoBody {
		conn.client.whole()
	} else {
		// A Pages that wants a body gives its client more time.
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

// An awaitedBody is a request's body, which a client may never send. Until it is whole
// the connection is one that is stalled.
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

// weights returns what each request under way takes.
func (p *pages) weights() (out []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.requests {
		out = append(out, conn.weight())
	}
	return out
}

// shed ends requests that take at least so much, until so many bytes are free.
func (p *pages) shed(least, bytes int64) (n int, freed int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn, end := range p.requests {
		if freed >= bytes {
			break
		}
		if w := conn.weight(); w >= least {
			end()
			conn.SetReadDeadline(time.Unix(1, 0)) // the body may be what it waits for
			conn.SetWriteDeadline(time.Now().Add(requestPatience))
			n++
			freed += w
		}
	}
	return n, freed
}

func (c *pageConn) weight() int64 { return requestCost + c.received.Load() }

package proxy

import (
	"crypto/tls"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// pages answers requests that are no WebSocket upgrade: an http.Server on
// connections that were accepted, decrypted and partly read already.
type pages struct {
	server *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	done   chan struct{}
}

func newPages(handler http.Handler, log *slog.Logger) *pages {
	p := &pages{conns: make(chan net.Conn), closed: make(chan struct{}), done: make(chan struct{})}
	p.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	// One request for each connection: the next one might be an upgrade.
	p.server.SetKeepAlivesEnabled(false)
	go p.serve()
	return p
}

func (p *pages) serve() {
	defer close(p.done)
	p.server.Serve(p)
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

// A pageConn gives back what was read of a connection before net/http got it.
type pageConn struct {
	*tls.Conn
	read   []byte
	closed func() // called once, by Close
	once   sync.Once
}

func (c *pageConn) Read(b []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(b, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *pageConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.closed)
	return err
}

// servePage says what this is to people who open the address in a browser.
func servePage(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.Error(w, "404 Not Found\n\nThere is nothing at this path.", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "405 Method Not Allowed\n\nA WebSocket is opened with GET.", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	io.WriteString(w, pageHead+"wss://"+html.EscapeString(r.Host)+"/"+pageTail)
}

const pageHead = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>XMPP over WebSocket</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }
code { font-size: 1.1em }
</style>
<h1>XMPP over WebSocket</h1>
<p>This address is for XMPP clients, not for browsing. Give it to your client as</p>
<p><code>`

const pageTail = `</code></p>
<p>Nothing is wrong if you see this page: the gate is up.</p>
</html>
`

package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/panics"
)

// A pageConn is a connection as net/http sees it: one request, whose beginning was read
// before, and nothing after it. When net/http closes a connection that can be kept,
// Close gives it back to its clientConn.
type pageConn struct {
	*tls.Conn
	client *clientConn
	ready  []byte // of this request: read before
	body   int64  // of this request: bytes that are missing
	next   []byte // read before, after this request
	framed bool   // the end of this request is known

	received atomic.Int64 // bytes of this request
	answered atomic.Bool  // set between two requests, when no Read is in progress
	once     sync.Once
}

// newPageConn makes a connection whose first bytes are read: a request's head, of length
// head, and perhaps more.
func newPageConn(c *clientConn, read []byte, head int) *pageConn {
	p := &pageConn{Conn: c.tls, client: c, ready: read}
	if p.body, p.framed = bodyLength(read[:head]); p.framed {
		end := head + int(min(p.body, int64(len(read)-head)))
		p.ready, p.next = read[:end], read[end:]
		p.body -= int64(end - head)
	}
	p.received.Store(int64(len(p.ready)))
	return p
}

// Read gives net/http the request. While net/http answers, it reads on to notice a
// disconnect. If the client sends bytes instead, they begin another request: Read keeps
// them, and returns neither data nor an error.
//
// A panic becomes an error: net/http reads in goroutines without a recover.
func (c *pageConn) Read(b []byte) (n int, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			c.client.in.panicked(panics.Pages, cause, "client", c.client.client)
			n, err = 0, io.ErrUnexpectedEOF
		}
	}()
	switch {
	case len(c.ready) > 0:
		n = copy(b, c.ready)
		c.ready = c.ready[n:]
		return n, nil
	case !c.framed:
		n, err = c.Conn.Read(b)
		c.received.Add(int64(n))
		return n, err
	case c.body > 0:
		n, err = c.Conn.Read(b[:min(int64(len(b)), c.body)])
		c.body -= int64(n)
		c.received.Add(int64(n))
		return n, err
	case c.answered.Load():
		return 0, io.EOF
	case len(c.next) > 0:
		return 0, nil
	}
	var one [1]byte
	n, err = c.Conn.Read(one[:])
	c.next = append(c.next, one[:n]...)
	return 0, err
}

// Close gives the connection back if it can be kept, and closes it otherwise.
func (c *pageConn) Close() (err error) {
	c.once.Do(func() {
		if c.framed && c.answered.Load() && c.body == 0 {
			go c.client.nextRequest(c.next)
			return
		}
		err = c.Conn.Close()
		c.client.close()
	})
	return err
}

// bodyLength returns the length of the body that follows a request's head. ok is false if
// another reader of the head might disagree: with chunks, several lengths, an older
// version, or unusual lines.
func bodyLength(head []byte) (n int64, ok bool) {
	if bytes.Count(head, []byte("\n")) != bytes.Count(head, []byte("\r\n")) {
		return 0, false
	}
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	if !strings.HasSuffix(lines[0], " HTTP/1.1") {
		return 0, false
	}
	seen := false
	for _, f := range lines[1:] {
		name, value, colon := strings.Cut(f, ":")
		switch {
		case !colon || !isToken(name) || strings.EqualFold(name, "Transfer-Encoding"):
			return 0, false
		case !strings.EqualFold(name, "Content-Length"):
			continue
		case seen:
			return 0, false
		}
		seen = true
		length, err := strconv.ParseUint(strings.Trim(value, " \t"), 10, 63)
		if err != nil {
			return 0, false
		}
		n = int64(length)
	}
	return n, true
}

// whole tells the door that the pages have all of a request.
func (c *clientConn) whole() { c.in.door.move(&c.visit, phasePages) }

// toPages gives a request that is not an upgrade to the http.Server, which owns the
// connection until it has answered. The request's head is the first bytes of read.
func (c *clientConn) toPages(read []byte, head int) bool {
	c.early.SetDeadline(time.Time{})
	p := newPageConn(c, read, head)
	var err error
	if p.body > 0 || !p.framed {
		err = c.in.door.moveToBody(&c.visit)
	} else {
		err = c.in.door.move(&c.visit, phasePages)
	}
	if err != nil {
		c.readFailed(err)
		return false
	}
	return c.in.pages.take(p)
}

// nextRequest waits for another request on a connection that the pages kept, and handles
// it like the first one. Its first bytes may be in read. A client may keep its connection
// for days, so each request gets the current Configuration. Like a ticket, a connection
// is worthless once its name has lost the certificate.
func (c *clientConn) nextRequest(read []byte) {
	defer c.survive()
	c.early.SetDeadline(time.Now().Add(keepTimeout))
	more := c.in.door.move(&c.visit, phaseKept) == nil
	if more && len(read) == 0 {
		var one [1]byte
		n, _ := c.tls.Read(one[:])
		read, more = one[:n], n > 0
	}
	c.config = c.in.now.Load()
	more = more && c.config.HasCertificate(c.tls.ConnectionState().ServerName) && !c.in.access.denied(c.client.Addr())
	if !more {
		c.tls.Close() // sends close_notify
	}
	if kept := more && c.request(read); !kept {
		c.close()
	}
}

// whose returns the client of a request to the pages; its key is invalid if unknown.
func whose(r *http.Request) (netip.AddrPort, clientKey) {
	conn, ok := r.Context().Value(pageConnKey{}).(*pageConn)
	if !ok {
		return netip.AddrPort{}, clientKey{}
	}
	return conn.client.client, conn.client.suspect()
}

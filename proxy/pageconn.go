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

// A pageConn is a connection as net/http sees it: one request, of which the
// beginning was read already, and then nothing more. Where net/http is done
// with a connection that it would keep, Close gives it back to its clientConn.
type pageConn struct {
	*tls.Conn
	client *clientConn
	ready  []byte // of this request: read already
	body   int64  // of this request: bytes that are still to come
	next   []byte // read already, and behind this request
	framed bool   // it is known where this request ends

	received atomic.Int64 // bytes of this request
	answered atomic.Bool  // set between two requests, when no Read is under way
	once     sync.Once
}

// newPageConn makes a connection of which read was read already, a request's
// head and perhaps more; head is the length of that head.
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

// Read gives net/http the request. Behind it, while the request is being
// answered, net/http reads to notice that the client has gone away. What the
// client says there instead is the beginning of another request, and kept; the
// Read then is over, with neither data nor an error.
//
// A panic is the end of what can be read: net/http reads in goroutines in which it
// catches none.
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

// Close gives a connection back that can be kept, and closes another one.
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

// bodyLength returns the length of the body that follows a request's head. It
// reports false where another reader of the head might see it otherwise: with
// chunks, several lengths, an older version, or lines that are not plain ones.
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

// whole notes that the pages have all of a request.
func (c *clientConn) whole() { c.in.door.move(&c.visit, phasePages) }

// toPages hands a request that is no upgrade, with the bytes read, to the
// http.Server, which owns the connection until it has answered. The request's
// head are the first bytes.
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

// nextRequest waits for another request on a connection that the pages kept,
// and goes on as with the first one. Read are bytes of it that are there
// already. A client may keep its connection for days, so each request has the
// Configuration of its time; like a ticket, a connection is worth nothing for a
// name that has lost its certificate.
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
		c.tls.Close() // which says goodbye
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

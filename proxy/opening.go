package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"wssgate/upstream"
)

// heads has the buffers that requests are read into. They are small, because hundreds of
// clients may wait for their dial at once; a longer request gets a larger one.
var heads = sync.Pool{New: func() any { return new([2 << 10]byte) }}

var blankLine = []byte("\r\n\r\n")

// request reads the client's request, whose first bytes may be in read, and answers it.
// It reports whether the connection continues, as a tunnel or with the pages.
func (c *clientConn) request(read []byte) bool {
	door := c.in.door
	c.early.SetDeadline(time.Now().Add(c.config.RequestTimeout))
	c.early.records, c.early.bytes = 0, 0
	if door.move(&c.visit, phaseRequest) != nil {
		return false
	}
	if len(read) == 0 { // no buffer while the client is silent
		var first [1]byte
		n, err := c.tls.Read(first[:])
		if n == 0 {
			c.readFailed(err)
			return false
		}
		read = first[:n]
	}
	door.speaks(&c.visit)
	pooled := heads.Get().(*[2 << 10]byte)
	defer heads.Put(pooled)
	buf, end, err := readHead(&requestReader{c: c, read: read}, pooled[:0])
	var req *request
	var parseErr error
	if err == nil {
		req, parseErr = parseRequest(buf[:end])
		if parseErr == nil && !req.upgrade {
			return c.toPages(bytes.Clone(buf), end)
		}
	}
	if moveErr := door.move(&c.visit, phaseServed); moveErr != nil {
		err = moveErr
	}
	if err != nil {
		c.readFailed(err)
		return false
	}
	if err = parseErr; err == nil {
		var up *upstream.Conn
		var vhost *upstream.Vhost
		if up, vhost, err = c.upgrade(req); err == nil {
			return c.toLoop(req, vhost, up, bytes.Clone(buf[end:]))
		}
	}
	c.refused(req, err)
	return false
}

// A requestReader reads a client's request, and adds the bytes that it holds to the price
// of the connection.
type requestReader struct {
	c     *clientConn
	read  []byte // before
	total int
}

func (r *requestReader) Read(b []byte) (n int, err error) {
	if len(r.read) > 0 {
		n = copy(b, r.read)
		r.read = r.read[n:]
	} else {
		n, err = r.c.tls.Read(b)
	}
	if r.total += n; err == nil && r.total > freeBytes {
		err = r.c.in.door.grows(&r.c.visit, int64(n))
	}
	return n, err
}

var (
	errTooLarge  = errors.New("request header over 16 KiB")
	errBareLF    = errors.New("request with a bare LF")
	errNotAtOnce = errors.New("incomplete request at the deadline")
)

// readHead reads until the blank line, and never more than maxRequestHeader. It returns
// the bytes that it read, in buf if they fit, and the end of the head: bytes after it
// belong to the tunnel.
func readHead(r io.Reader, buf []byte) (read []byte, end int, err error) {
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, min(len(buf)+512, maxRequestHeader-len(buf)))
		}
		n := len(buf)
		m, err := r.Read(buf[n:min(cap(buf), maxRequestHeader)])
		buf = buf[:n+m]
		from := max(n-len(blankLine)+1, 0)
		if i := bytes.Index(buf[from:], blankLine); i >= 0 {
			return buf, from + i + len(blankLine), nil
		}
		switch {
		case bytes.Contains(buf[max(from-1, 0):], []byte("\n\n")):
			return buf, 0, errBareLF
		case len(buf) >= maxRequestHeader:
			return buf, 0, errTooLarge
		case errors.Is(err, os.ErrDeadlineExceeded) && len(buf) > 0:
			return buf, 0, errNotAtOnce
		case err != nil:
			return buf, 0, err
		}
	}
}

// readFailed answers a request that could not be read, if HTTP has an answer.
func (c *clientConn) readFailed(err error) {
	switch {
	case errors.Is(err, errTooLarge):
		c.refused(nil, &refusal{status: http.StatusRequestHeaderFieldsTooLarge, text: "The request header is over 16 KiB.", err: err})
	case errors.Is(err, errBareLF):
		c.refused(nil, &refusal{status: http.StatusBadRequest, text: "The request ends its lines with LF instead of CRLF.", err: err})
	case errors.Is(err, errNotAtOnce):
		c.refused(nil, &refusal{status: http.StatusRequestTimeout, text: "The request did not arrive in time.", err: err})
	case errors.Is(err, errNoPlace):
		c.refused(nil, &refusal{status: http.StatusServiceUnavailable, text: "Too many clients are connected at the moment. Try again later.",
			header: "Retry-After: 5\r\n", err: err})
	default:
		c.debug("request", err)
	}
}

// upgrade checks the request against the routes, dials the upstream, and sends the 101.
// The error is a *refusal. The upstream is nil if the domain in the stream's start tag
// will choose it, or if the client will only be redirected.
func (c *clientConn) upgrade(req *request) (*upstream.Conn, *upstream.Vhost, error) {
	c.id = c.in.tunnels.ids.next()
	vhost, err := c.route(req)
	if err != nil {
		return nil, nil, err
	}
	var up *upstream.Conn
	if !vhost.RoutesTo() && c.elsewhere == "" {
		if up, err = c.in.dialler.first(vhost, c.dialRequest(req)); err != nil {
			return nil, nil, c.dialRefusal(err)
		}
		c.upstream = up
	}
	answer, err := req.switchingProtocols()
	if err == nil {
		c.early.SetDeadline(time.Now().Add(c.config.RequestTimeout))
		if _, err = c.tls.Write(answer); err != nil {
			err = &refusal{err: err} // the client has disconnected
		}
	}
	if err != nil {
		c.letGo()
		return nil, nil, err
	}
	return up, vhost, nil
}

// letGo closes the upstream that was dialled if no tunnel owns it.
func (c *clientConn) letGo() {
	letGo(c.upstream)
	c.upstream = nil
}

// dialRequest returns the parts of the client's request for the upstream. They are copies,
// because they may outlive the buffer.
func (c *clientConn) dialRequest(req *request) *upstream.Request {
	return &upstream.Request{
		Client: c.client, Local: c.local,
		ID:             c.id.String(),
		ServerName:     c.tls.ConnectionState().ServerName,
		Host:           strings.Clone(req.host),
		RequestURI:     strings.Clone(req.target),
		Subprotocol:    strings.Clone(req.subprotocol),
		Origin:         strings.Clone(req.origin),
		UserAgent:      strings.Clone(req.userAgent),
		Cookie:         strings.Clone(req.cookie),
		Authorization:  strings.Clone(req.authorization),
		AcceptLanguage: strings.Clone(req.language),
	}
}

// route finds the vhost and checks the request against its rules.
func (c *clientConn) route(req *request) (*upstream.Vhost, error) {
	serverName := c.tls.ConnectionState().ServerName
	if !hostIs(req.host, serverName) {
		return nil, &refusal{status: http.StatusMisdirectedRequest, text: "The request's Host differs from the TLS server name.",
			err: errors.New("host " + strconv.Quote(req.host) + ", server name " + strconv.Quote(serverName))}
	}
	if banned := c.in.guard.refuses(c.suspect(), guardedUpgrade); banned > 0 {
		return nil, &refusal{status: http.StatusForbidden, text: "Too many logins from this address failed. Try again later.",
			header: retryAfter(banned), err: errLogins}
	}
	vhost, err := c.config.Routes.Lookup(serverName)
	if err != nil {
		return nil, &refusal{status: http.StatusNotFound, text: "There is no XMPP service for this name.", err: err}
	}
	err = vhost.AllowsClient(c.client.Addr())
	if err == nil && c.in.access.denied(c.client.Addr()) { // banned since it was let in
		err = errAccess
	}
	if err != nil {
		return nil, &refusal{status: http.StatusForbidden, text: "This is not allowed.", err: err}
	}
	if err := vhost.AllowsPath(req.path); err != nil {
		return nil, &refusal{status: http.StatusForbidden, text: "This is not allowed.", err: err}
	}
	if err := vhost.AllowsOrigin(req.origin); err != nil {
		return nil, &refusal{status: http.StatusForbidden, text: "This is not allowed.", err: err}
	}
	c.admitted, c.elsewhere = c.in.admission.admits(vhost, req.host)
	if !c.admitted && c.elsewhere == "" {
		return nil, &refusal{status: http.StatusServiceUnavailable, text: "This gate is not accepting new clients at the moment. Try again later.",
			header: "Retry-After: 5\r\n", err: errClosing}
	}
	return vhost, nil
}

// errLogins is the error of a refused client address.
var errLogins = errors.New("too many failed logins")

// retryAfter formats a duration for a header field in whole seconds, rounded up.
func retryAfter(d time.Duration) string {
	return "Retry-After: " + strconv.Itoa(int((d+time.Second-1)/time.Second)) + "\r\n"
}

// dialRefusal returns the refusal for a failed dial. Only the log gets details of the
// servers behind the gate.
func (c *clientConn) dialRefusal(err error) error {
	r := &refusal{status: http.StatusBadGateway, err: err}
	var de *upstream.DialError
	if errors.As(err, &de) {
		r.status = de.Status
		if de.RetryAfter > 0 {
			r.header = retryAfter(de.RetryAfter)
		}
	}
	switch {
	case de != nil && de.Ours:
		r.text = "This gate has no room for new clients at the moment. Try again later."
	case r.status == http.StatusServiceUnavailable:
		r.text = "The XMPP server is unreachable at the moment. Try again later."
	case r.status == http.StatusGatewayTimeout:
		r.text = "The XMPP server did not answer in time. Try again later."
	default:
		r.text = "The XMPP server refused the connection."
	}
	return r
}

// refused sends a refusal, counts it and logs it.
func (c *clientConn) refused(req *request, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{status: http.StatusInternalServerError, text: "An internal error occurred.", err: err}
	}
	c.in.refuse(r.status)
	attrs := []any{"client", c.client, "server_name", c.tls.ConnectionState().ServerName, "code", r.status, "err", r.Error()}
	if req != nil {
		attrs = append(attrs, "host", req.host, "path", req.path)
	}
	if c.id != 0 {
		attrs = append(attrs, "id", c.id.String())
	}
	var de *upstream.DialError
	if errors.As(err, &de) && de.Ours && de.Hint() != "" {
		attrs = append(attrs, "hint", de.Hint())
	}
	switch {
	case r.status >= 500 && r.status != http.StatusServiceUnavailable || errors.As(err, new(*upstream.DialError)):
		c.in.log.Warn("opening handshake refused", attrs...)
	case errors.Is(err, upstream.ErrOrigin) || errors.Is(err, upstream.ErrPath):
		// The answer does not say why. The log does, because the configuration may be
		// wrong.
		c.in.log.Info("opening handshake refused", attrs...)
	default:
		c.in.log.Debug("opening handshake refused", attrs...)
	}
	if r.status == 0 {
		return
	}
	c.early.SetDeadline(time.Now().Add(lingerTimeout))
	if _, err := c.tls.Write(r.answer()); err != nil {
		return
	}
	c.tls.CloseWrite()
	if c.in.door.move(&c.visit, phaseRefused) != nil {
		return
	}
	// A close with unread bytes is a reset, which can overtake the answer.
	io.Copy(io.Discard, io.LimitReader(c.tls, maxRequestHeader))
}

// toLoop makes the two connections a tunnel, which a loop owns from here. rest is the
// bytes after the client's request.
func (c *clientConn) toLoop(req *request, vhost *upstream.Vhost, up *upstream.Conn, rest []byte) bool {
	conn := c.early.Conn
	conn.SetDeadline(time.Time{})
	c.in.door.leave(&c.visit)
	c.sock.conn = conn
	client := leg{sock: c.sock, tls: c.tls, unscanned: rest, scan: scanner{fromClient: true, limit: c.config.Message, keep: 1}}
	if err := c.in.tunnels.open(newTunnel(c.tunnelInfo(req, vhost, up), &c.config.tunnel, client)); err != nil {
		c.in.log.Warn("tunnel", "client", c.client, "err", err)
		c.letGo()
		return false
	}
	c.upstream = nil
	return true
}

// tunnelInfo describes the tunnel of a client that got its 101. What it keeps of the
// request are copies: a part of a string would keep the whole of it.
func (c *clientConn) tunnelInfo(req *request, vhost *upstream.Vhost, up *upstream.Conn) *tunnelInfo {
	serverName := c.tls.ConnectionState().ServerName
	info := &tunnelInfo{
		id: c.id, client: c.client, key: c.key, suspect: c.suspect(),
		serverName: serverName, host: serverName, path: "/",
		vhost: vhost, upstream: up, elsewhere: c.elsewhere,
	}
	if req.host != serverName {
		info.host = strings.Clone(req.host)
	}
	if req.path != "/" {
		info.path = strings.Clone(req.path)
	}
	if vhost.RoutesTo() || vhost.Nodes() > 1 {
		info.request = c.dialRequest(req)
	}
	return info
}

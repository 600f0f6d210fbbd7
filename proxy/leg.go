package proxy

import (
	"crypto/tls"
	"net"

	"wssgate/upstream"
)

// A leg is one end of a tunnel: a socket, TLS on it or not, and the frames
// that come from there.
type leg struct {
	sock      *sock
	tls       *tls.Conn // nil: plain
	scan      scanner   // follows the frames that this leg sends
	unscanned []byte    // of those, what the scanner could not use yet
	bytes     int64     // received, TLS taken off
	closeSent bool      // a Close frame went to this leg; nothing follows it
	closeSeen bool      // a Close frame came from it
	unread    bool      // it was not read for a while: tls may hold bytes that no event tells of
	known     sockState // the state of sock that the tunnel has drawn its conclusions from
	err       error     // why it ended, or is to, for the log
}

// open reports whether bytes of this leg may still come.
func (l *leg) open() bool { return l.sock.state == sockOpen }

// upstreamLeg is the upstream's end of a tunnel; one that has ended where there
// is no upstream.
func upstreamLeg(up *upstream.Conn) leg {
	if up == nil {
		return leg{sock: &sock{state: sockClosed, err: net.ErrClosed}}
	}
	l := leg{unscanned: up.Rest, scan: scanner{keep: maxKeep}}
	up.Rest = nil
	switch conn := up.Conn.(type) {
	case *sock:
		l.sock = conn
	case *tls.Conn:
		l.tls, l.sock = conn, conn.NetConn().(*sock)
	default:
		l.sock = &sock{conn: conn}
	}
	return l
}

// hold keeps the rest that a scanner left. A few bytes keep their memory, for
// some upstreams write every header apart.
func (l *leg) hold(rest []byte) {
	if len(rest) == 0 && cap(l.unscanned) > 2*maxHeader {
		l.unscanned = nil
		return
	}
	l.unscanned = append(l.unscanned[:0], rest...)
}

// write is for toClient, toUpstream and flush. An error is the socket's, and
// known by its state.
func (l *leg) write(b []byte) {
	switch {
	case len(b) == 0 || l.sock.state >= sockFailed:
	case l.tls != nil:
		l.tls.Write(b)
	default:
		l.sock.send(b)
	}
}

package proxy

import (
	"crypto/tls"
	"net"

	"wssgate/upstream"
)

// A leg is one end of a tunnel: a socket, perhaps with TLS, and the frames that arrive on
// it.
type leg struct {
	sock      *sock
	tls       *tls.Conn // nil: plain
	scan      scanner   // follows the frames that this leg sends
	unscanned []byte    // bytes of those frames that the scanner could not use yet
	bytes     int64     // received, without TLS
	closeSent bool      // a Close frame went to this leg; nothing follows it
	closeSeen bool      // a Close frame came from it
	unread    bool      // reading was paused: tls may hold bytes without an event
	known     sockState // the state of sock that the tunnel has handled
	err       error     // why it ended or will end, for the log
}

// open reports whether more bytes may arrive.
func (l *leg) open() bool { return l.sock.state == sockOpen }

// upstreamLeg returns the upstream's end of a tunnel. Without an upstream it has ended.
func upstreamLeg(up *upstream.Conn) leg {
	if up == nil {
		return leg{sock: &sock{state: sockClosed, err: net.ErrClosed}}
	}
	l := leg{unscanned: up.Rest, scan: scanner{keep: maxKeep}}
	up.Rest = nil
	conn := up.Conn
	if over, ok := conn.(*tls.Conn); ok {
		l.tls, conn = over, over.NetConn()
	}
	l.sock = conn.(*sock) // WrapUpstream made it, below TLS too
	return l
}

// hold keeps the bytes that the scanner left. The memory of a few bytes is reused, because
// some upstreams write each header separately.
func (l *leg) hold(rest []byte) {
	if len(rest) == 0 && cap(l.unscanned) > 2*maxHeader {
		l.unscanned = nil
		return
	}
	l.unscanned = append(l.unscanned[:0], rest...)
}

// write is for toClient, toUpstream and flush. An error shows in the socket's state.
func (l *leg) write(b []byte) {
	switch {
	case len(b) == 0 || l.sock.state >= sockFailed:
	case l.tls != nil:
		l.tls.Write(b)
	default:
		l.sock.send(b)
	}
}

package proxy

import (
	"crypto/tls"
	"log/slog"
	"net"
	"sync/atomic"

	"wssgate/panics"
)

// An ingress takes connections from accept until they are tunnels, or closed. It is the
// only part of the Server that a clientConn knows. Its methods are safe for concurrent
// use.
type ingress struct {
	now       *current
	log       *slog.Logger
	panicked  panicFunc
	tls       *tls.Config
	tlsECH    *tls.Config // while ECH is on; it makes each handshake a little dearer
	admission *admission
	door      *door // the admission's
	access    *accessControl
	guard     *guard
	dialler   *dialler
	pages     *pages   // owns requests that are not for a WebSocket
	tunnels   *tunnels // owns tunnels

	handshakes [len(handshakeKinds)]atomic.Int64
	refusals   [600]atomic.Int64 // by HTTP status; 0: the client had disconnected
	ech        [echResults]atomic.Int64
	unserved   unserved

	proxyHeader, proxyUnexpected balancerTrouble
}

// admit gives conn a place and a goroutine, or closes it if a limit is reached and the
// door has no connection to give up for it. The place is counted when admit returns, so
// that Shutdown never misses a connection.
func (in *ingress) admit(conn net.Conn) {
	defer func() {
		if cause := recover(); cause != nil {
			conn.Close()
			in.panicked(panics.Handshake, cause, "client", conn.RemoteAddr().String())
		}
	}()
	c := in.newClientConn(conn, in.now.Load())
	c.visit.begin = func() { go c.serve() }
	if limit := in.admission.enter(&c.visit, c.config, c.client.Addr(), c.key); limit != limitNone {
		in.log.Debug("connection refused", "client", conn.RemoteAddr().String(), "reason", limitNames[limit])
		conn.Close()
	}
}

// refuse counts an opening handshake that was answered with an HTTP status.
func (in *ingress) refuse(status int) {
	if status >= 0 && status < len(in.refusals) {
		in.refusals[status].Add(1)
	}
}

package proxy

import (
	"crypto/tls"
	"errors"
	"os"
)

// handshake does TLS. It returns false if the connection only has to be closed, because
// the handshake failed or was all that a CA wanted.
func (c *clientConn) handshake() bool {
	in, e := c.in, &c.early
	e.SetDeadline(c.visit.until)
	err := in.door.begins(&c.visit)
	if err == nil {
		err = c.proxied()
	}
	if err == nil {
		err = e.collectHello()
	}
	if err == nil {
		err = in.door.start(&c.visit, len(e.got))
	}
	if err == nil {
		e.SetDeadline(c.visit.until) // a new deadline; a connection with a slot is never given up
		cfg := in.tls
		if in.now.Load().ECH != nil {
			cfg = in.tlsECH
			e.echOffer = echIn(e.got)
		}
		e.computing = true
		c.tls = tls.Server(c.sock, cfg)
		err = c.tls.Handshake()
		e.computing = false
		if result := e.echResult(); err == nil || result != echNone {
			in.ech[result].Add(1)
		}
	}
	if err != nil {
		kind := e.failure(err)
		switch kind {
		case handshakeNameless:
			c.debug("TLS handshake", err, "server_name", e.name[:min(len(e.name), maxNameLength)])
		case handshakeProxyHeader:
			in.proxyHeader.note(in.log, c.client.Addr(), err.Error(), ProxyHeaderHint)
		case handshakeProxyUnexpected:
			in.proxyUnexpected.note(in.log, c.client.Addr(), textProxyUnexpected, ProxyUnexpectedHint)
		default:
			c.debug("TLS handshake", err)
		}
		in.handshakes[kind].Add(1) // last, because a reader of the count expects the rest
		c.answerPlainHTTP(err)
		return false
	}
	cs := c.tls.ConnectionState()
	in.handshakes[handshakeDone(cs)].Add(1)
	if cs.NegotiatedProtocol == alpnACME {
		// The handshake is the answer; the CA closes now (RFC 8737, section 3).
		c.tls.Close()
		return false
	}
	return true
}

// Results of handshakes that other packages use. All other results are failures.
const (
	HandshakeFull      = "full"
	HandshakeResumed   = "resumed"
	HandshakeSilent    = "silent"
	HandshakeNoPlace   = "no_place"
	HandshakeChallenge = "challenge"
)

// The results of a handshake.
const (
	handshakeFull12 = iota
	handshakeFull13
	handshakeResumed12
	handshakeResumed13
	handshakeSilent
	handshakeNoPlace
	handshakeNameless
	handshakeTimeout
	handshakeDrain
	handshakeFailed
	handshakeProxyHeader
	handshakeProxyUnexpected
	handshakeChallenge
)

var handshakeKinds = [...]struct{ result, version string }{
	handshakeFull12:          {HandshakeFull, "1.2"},
	handshakeFull13:          {HandshakeFull, "1.3"},
	handshakeResumed12:       {HandshakeResumed, "1.2"},
	handshakeResumed13:       {HandshakeResumed, "1.3"},
	handshakeSilent:          {HandshakeSilent, ""},  // no byte arrived
	handshakeNoPlace:         {HandshakeNoPlace, ""}, // no slot or room in time
	handshakeNameless:        {"unknown_name", ""},   // no certificate for the server name
	handshakeTimeout:         {"timeout", ""},
	handshakeDrain:           {"drain", ""},
	handshakeFailed:          {"failed", ""},
	handshakeProxyHeader:     {"proxy_header", ""}, // missing or not valid
	handshakeProxyUnexpected: {"proxy_unexpected", ""},
	handshakeChallenge:       {HandshakeChallenge, ""}, // a CA's, for tls-alpn-01
}

// handshakeDone returns the result of a successful handshake.
func handshakeDone(cs tls.ConnectionState) int {
	if cs.NegotiatedProtocol == alpnACME {
		return handshakeChallenge
	}
	kind := handshakeFull12
	if cs.DidResume {
		kind = handshakeResumed12
	}
	if cs.Version >= tls.VersionTLS13 {
		kind++
	}
	return kind
}

// failure returns the result of a handshake that ended with err.
func (e *earlyConn) failure(err error) int {
	switch {
	case e.nameless:
		return handshakeNameless
	case errors.Is(err, errClosing):
		return handshakeDrain
	case errors.Is(err, errNoPlace):
		return handshakeNoPlace
	case !e.heard:
		return handshakeSilent
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errGivenUp):
		return handshakeTimeout
	case beginsProxyHeader(err):
		return handshakeProxyUnexpected
	}
	if _, ok := errors.AsType[proxyHeaderError](err); ok {
		return handshakeProxyHeader
	}
	return handshakeFailed
}

package proxy

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

const (
	// alpnHTTP is the one protocol that clients get. A browser that were offered
	// h2 would take it, and then not do WebSocket (RFC 6455 is HTTP/1.1).
	alpnHTTP = "http/1.1"

	// alpnACME is what a CA offers, and nothing beside it, when it validates a
	// name by tls-alpn-01 (RFC 8737, section 3).
	alpnACME = "acme-tls/1"
)

// tlsConfig is the configuration of every client's connection: crypto/tls's
// own choice of versions, cipher suites and key exchanges. It outlives all
// Configurations, and with it the keys of tickets.
func (s *Server) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		GetCertificate: getCertificate,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{alpnHTTP},
		// Or the first 128 KiB of a connection go out in small records.
		DynamicRecordSizingDisabled: true,
	}
	// A resumed connection sees no certificate. So a ticket is good for the
	// server name that it was made for, and only while that has one.
	nameless := cfg.Clone()
	nameless.SessionTicketsDisabled = true
	cfg.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, ticketName(cs.ServerName))
		return cfg.EncryptTicket(cs, session)
	}
	cfg.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := cfg.DecryptTicket(identity, cs)
		if session == nil || err != nil {
			return nil, err
		}
		for _, extra := range session.Extra {
			if bytes.Equal(extra, ticketName(cs.ServerName)) {
				return session, nil
			}
		}
		return nil, nil
	}
	// A CA's ClientHello has a configuration of its own: no ordinary client can
	// be shown a challenge's certificate, and no CA another one.
	challenge := &tls.Config{
		GetCertificate:         s.challengeCertificate,
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{alpnACME},
		SessionTicketsDisabled: true,
	}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := patientOf(hello).client
		c.config = s.now.Load()
		switch {
		case s.challenge != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == alpnACME:
			return challenge, nil
		case !c.config.HasCertificate(hello.ServerName):
			return nameless, nil
		}
		return nil, nil // cfg itself
	}
	return cfg
}

// getCertificate notes where there is none: crypto/tls has no error of its own
// for that.
func getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	p := patientOf(hello)
	cert, err := p.client.config.GetCertificate(hello)
	p.nameless = cert == nil && err == nil
	return cert, err
}

// challengeCertificate is getCertificate for a CA. The answer may be on a disk,
// and a slow one must not keep clients out: the handshake has no place meanwhile.
func (s *Server) challengeCertificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
	p := patientOf(hello)
	if placeErr := p.pausedFor(func() { cert, err = s.challenge(hello) }); placeErr != nil {
		return nil, placeErr
	}
	p.nameless = cert == nil && err == nil
	return cert, err
}

// patientOf returns the connection that a ClientHello came on.
func patientOf(hello *tls.ClientHelloInfo) *patientConn {
	return hello.Conn.(*sock).conn.(*patientConn)
}

// ticketName is what a session ticket says of the server name it is for.
func ticketName(serverName string) []byte { return []byte("wssgate name " + serverName) }

// A clientConn is a client's connection until it is a tunnel. One goroutine
// serves it.
type clientConn struct {
	server *Server
	config *configuration // of its accept, and from its ClientHello on of then
	sock   *sock
	tls    *tls.Conn
	key    clientKey

	client, local netip.AddrPort // zero for a unix socket
	unnamed       bool           // a balancer's PROXY header does not say whose it is

	elsewhere string // the URL that a drain sends this client to
}

// serve takes the connection from accept to the tunnel.
func (c *clientConn) serve() {
	conn := c.sock.conn
	c.client, c.local = addrPortOf(conn.RemoteAddr()), addrPortOf(conn.LocalAddr())
	if kept := c.handshake() && c.request(nil); !kept {
		c.close(conn)
	}
}

// close gives the connection up, and its place.
func (c *clientConn) close(conn net.Conn) {
	conn.Close()
	c.server.settled(conn)
	c.server.left(c.key)
}

// handshake does TLS. It reports false where there is nothing left but to
// close the connection: it failed, or was all that a CA wanted.
func (c *clientConn) handshake() bool {
	s := c.server
	deadline := time.Now().Add(c.config.HandshakeTimeout)
	c.sock.conn.SetDeadline(deadline)
	if !readable(c.sock.conn) {
		s.places.silent()
		if err := waitReadable(c.sock.conn); err != nil {
			s.stats.handshakes[handshakeSilent].Add(1)
			c.debug("client said nothing", err)
			return false
		}
		s.places.arrive()
	}
	s.enter(c.sock.conn, phaseBusy)
	if err := c.proxied(); err != nil {
		s.stats.handshakes[handshakeFailed].Add(1)
		c.debug("PROXY header", err)
		return false
	}
	if err := s.places.start(deadline); err != nil {
		s.stats.handshakes[handshakeFailure(err, false)].Add(1)
		c.debug("TLS handshake", err)
		return false
	}
	patient := &patientConn{Conn: c.sock.conn, client: c, places: s.places, deadline: deadline}
	c.sock.conn = patient
	c.tls = tls.Server(c.sock, s.tls)
	err := c.tls.Handshake()
	c.sock.conn = patient.Conn
	s.places.finish(!patient.out)
	if err != nil {
		kind := handshakeFailure(err, patient.nameless)
		if kind == handshakeFailed && !patient.heard {
			kind = handshakeSilent // an end is no input: a balancer's TCP check
		}
		s.stats.handshakes[kind].Add(1)
		c.debug("TLS handshake", err)
		c.answerPlainHTTP(err)
		return false
	}
	cs := c.tls.ConnectionState()
	s.stats.handshakes[handshakeDone(cs)].Add(1)
	if cs.NegotiatedProtocol == alpnACME {
		// The handshake is the answer; the CA closes now (RFC 8737, section 3).
		c.tls.Close()
		return false
	}
	return true
}

func (c *clientConn) debug(what string, err error) {
	c.server.log.Debug(what, "client", c.client, "err", err)
}

// A patientConn gives the handshake's place back while it waits for the
// client.
type patientConn struct {
	net.Conn
	client   *clientConn
	places   *places
	deadline time.Time
	out      bool // it did not get its place again
	nameless bool // there is no certificate for its server name
	heard    bool // a byte came
}

func (c *patientConn) Read(b []byte) (n int, err error) {
	n, err, ok := readNow(c.Conn, b)
	if !ok {
		if placeErr := c.pausedFor(func() { n, err = c.Conn.Read(b) }); placeErr != nil {
			return 0, placeErr
		}
	}
	c.heard = c.heard || n > 0
	return n, err
}

// pausedFor does what takes its time without a place. The error says that the
// place did not come back.
func (c *patientConn) pausedFor(wait func()) error {
	place := c.places.pause(func() { c.Conn.SetReadDeadline(time.Unix(1, 0)) })
	wait()
	if err := c.places.resume(place, c.deadline); err != nil {
		c.out = true
		return err
	}
	return nil
}

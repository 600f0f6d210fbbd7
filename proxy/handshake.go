package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

const (
	// alpnHTTP is the one protocol that clients get. A browser that were offered
	// h2 would take it, and then not do WebSocket (RFC 6455 is HTTP/1.1).
	alpnHTTP = "http/1.1"

	// alpnACME is what a CA offers, and nothing beside it, when it validates a
	// name by tls-alpn-01 (RFC 8737, section 3).
	alpnACME = "acme-tls/1"
)

// suites12 are the cipher suites of TLS 1.2: those with AEAD and forward secrecy.
// Those of TLS 1.3, which has no others, are crypto/tls's own choice.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// ticketLife is how long a session can be resumed, and how long a key of tickets is
// good.
const ticketLife = 24 * time.Hour

// ticketClock is the time by which crypto/tls dates sessions and the keys of their
// tickets, and nothing else on a server. It lets both live for seven days, which is
// a constant there; so this clock runs seven times as fast as others. A session that
// is resumed keeps its date in TLS 1.2, where a new ticket has the old secret.
func ticketClock() time.Time {
	const constant = 7 * 24 * time.Hour // maxSessionTicketLifetime, ticketKeyLifetime
	return time.Unix(time.Now().Unix()*int64(constant/ticketLife), 0)
}

// errNameless ends a handshake for a server name without certificate, before
// anything is computed.
var errNameless = errors.New("no certificate for the server name")

// tlsConfig is the configuration of every client's connection: crypto/tls's
// own choice of versions and key exchanges. It outlives all Configurations, and
// with it the keys of tickets.
func (s *Server) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		GetCertificate: getCertificate,
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites12,
		NextProtos:     []string{alpnHTTP},
		Time:           ticketClock,
		// Or the first 128 KiB of a connection go out in small records.
		DynamicRecordSizingDisabled: true,
	}
	// A resumed connection sees no certificate. So a ticket is good for the
	// server name that it was made for, and only while that has one.
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
		CipherSuites:           suites12,
		NextProtos:             []string{alpnACME},
		SessionTicketsDisabled: true,
	}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		e := earlyOf(hello)
		e.client.config = s.now.Load()
		switch {
		case s.challenge != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == alpnACME:
			return challenge, nil
		case !e.client.config.HasCertificate(hello.ServerName):
			// Else crypto/tls would do the key exchange first, and then ask
			// for a certificate.
			e.nameless = true
			return nil, errNameless
		}
		return nil, nil // cfg itself
	}
	return cfg
}

// getCertificate notes where there is none: crypto/tls has no error of its own
// for that.
func getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	e := earlyOf(hello)
	cert, err := e.client.config.GetCertificate(hello)
	e.nameless = cert == nil && err == nil
	return cert, err
}

// challengeCertificate is getCertificate for a CA. The answer may be on a disk,
// and a slow one must not keep clients out: the handshake has no slot meanwhile.
// No more of them wait for the disk than there are slots.
func (s *Server) challengeCertificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
	e := earlyOf(hello)
	if int(s.challenges.Add(1)) > e.client.config.Handshakes {
		s.challenges.Add(-1)
		return nil, errNoPlace
	}
	defer s.challenges.Add(-1)
	s.door.leaveSlot(&e.client.visit)
	cert, err = s.challenge(hello)
	if slotErr := s.door.resume(&e.client.visit); slotErr != nil {
		return nil, slotErr
	}
	e.nameless = cert == nil && err == nil
	return cert, err
}

// earlyOf returns the connection that a ClientHello came on.
func earlyOf(hello *tls.ClientHelloInfo) *earlyConn {
	return hello.Conn.(*sock).conn.(*earlyConn)
}

// ticketName is what a session ticket says of the server name it is for.
func ticketName(serverName string) []byte { return []byte("wssgate name " + serverName) }

// A clientConn is a client's connection until it is a tunnel. One goroutine
// serves it.
type clientConn struct {
	server *Server
	config *configuration // of its accept, and from its ClientHello on of then
	early  earlyConn
	visit  visit
	sock   *sock // on early
	tls    *tls.Conn
	key    clientKey

	client, local netip.AddrPort // zero for a unix socket
	unnamed       bool           // a balancer's PROXY header does not say whose it is

	upstream *upstream.Conn // dialled for it, while no tunnel has it

	admitted  bool   // no drain turned it away
	elsewhere string // the URL that one sends it to
}

func (s *Server) newClientConn(conn net.Conn, config *configuration) *clientConn {
	c := &clientConn{server: s, config: config, key: keyOf(conn.RemoteAddr())}
	c.early = earlyConn{Conn: conn, client: c, raw: rawOf(conn)}
	c.visit.conn, c.visit.timeout = conn, config.HandshakeTimeout
	c.sock = &sock{conn: &c.early}
	c.client, c.local = addrPortOf(conn.RemoteAddr()), addrPortOf(conn.LocalAddr())
	return c
}

// serve takes the connection from accept to the tunnel.
func (c *clientConn) serve() {
	defer c.survive()
	if kept := c.handshake() && c.request(nil); !kept {
		c.close()
	}
}

// survive is deferred by the goroutines of a connection. A panic ends the
// connection, and nothing else.
func (c *clientConn) survive() {
	if v := recover(); v != nil {
		where := panics.Request
		if c.early.computing {
			where = panics.Handshake
		}
		c.server.panicked(where, v, "client", c.client)
		c.letGo()
		c.close()
	}
}

// close gives the connection up, and its place.
func (c *clientConn) close() {
	c.early.Close()
	c.server.door.leave(&c.visit)
	c.server.left(c.key, c.admitted)
}

// handshake does TLS. It reports false where there is nothing left but to
// close the connection: it failed, or was all that a CA wanted.
func (c *clientConn) handshake() bool {
	s, e := c.server, &c.early
	e.SetDeadline(c.visit.until)
	err := s.door.begins(&c.visit)
	if err == nil {
		err = c.proxied()
	}
	if err == nil {
		err = e.collectHello()
	}
	if err == nil {
		err = s.door.start(&c.visit, len(e.got))
	}
	if err == nil {
		e.SetDeadline(c.visit.until) // anew; nobody gives up who has a slot
		e.computing = true
		c.tls = tls.Server(c.sock, s.tls)
		err = c.tls.Handshake()
		e.computing = false
	}
	if err != nil {
		s.stats.handshakes[e.failure(err)].Add(1)
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

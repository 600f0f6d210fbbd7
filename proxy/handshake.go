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
	// alpnHTTP is the only protocol for clients. If h2 were offered, a browser would
	// choose it and could not use WebSockets (RFC 6455 needs HTTP/1.1).
	alpnHTTP = "http/1.1"

	// alpnACME is the only protocol that a CA offers when it validates a name by
	// tls-alpn-01 (RFC 8737, section 3).
	alpnACME = "acme-tls/1"
)

// suites12 are the cipher suites of TLS 1.2 with AEAD and forward secrecy. crypto/tls
// chooses those of TLS 1.3, which all have both.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// ticketLife is how long sessions and ticket keys are valid.
const ticketLife = 24 * time.Hour

// ticketClock dates sessions and ticket keys; a server uses it for nothing else.
// crypto/tls lets both live for seven days, a constant, so this clock runs seven times
// as fast. In TLS 1.2 a resumed session keeps its date, because a new ticket has the
// old secret.
func ticketClock() time.Time {
	const constant = 7 * 24 * time.Hour // maxSessionTicketLifetime, ticketKeyLifetime
	return time.Unix(time.Now().Unix()*int64(constant/ticketLife), 0)
}

// errNameless ends a handshake for a server name without a certificate, before any
// computation.
var errNameless = errors.New("no certificate for the server name")

// tlsConfig is the configuration for all clients, with crypto/tls's own choice of
// versions and key exchanges. It outlives all Configurations, and so do its ticket
// keys.
func (s *Server) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		GetCertificate: getCertificate,
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites12,
		NextProtos:     []string{alpnHTTP},
		Time:           ticketClock,
		// Otherwise the first 128 KiB of a connection go out in small records.
		DynamicRecordSizingDisabled: true,
	}
	// A resumed connection sees no certificate. So a ticket is valid only for its
	// server name, and only while that has a certificate.
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
	// A CA's ClientHello has its own configuration: an ordinary client never gets a
	// challenge certificate, and a CA gets no other.
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
			// Otherwise crypto/tls would do the key exchange first, and then ask for a
			// certificate.
			e.nameless, e.name = true, hello.ServerName
			return nil, errNameless
		}
		return nil, nil // cfg itself
	}
	return cfg
}

// getCertificate notes a missing certificate, because crypto/tls has no specific error
// for it.
func getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	e := earlyOf(hello)
	cert, err := e.client.config.GetCertificate(hello)
	e.nameless, e.name = cert == nil && err == nil, hello.ServerName
	return cert, err
}

// challengeCertificate is getCertificate for a CA. The answer may be on a slow disk,
// which must not keep clients out, so the handshake has no slot meanwhile. At most as
// many wait for the disk as there are slots.
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

// earlyOf returns the connection of a ClientHello.
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
		kind := e.failure(err)
		s.stats.handshakes[kind].Add(1)
		switch kind {
		case handshakeNameless:
			s.stats.unserved.note(e.name, time.Now())
			c.debug("TLS handshake", err, "server_name", e.name[:min(len(e.name), maxNameLength)])
		case handshakeProxyHeader:
			s.stats.proxyHeader.note(s.log, c.client.Addr(), err.Error(), ProxyHeaderHint)
		case handshakeProxyUnexpected:
			s.stats.proxyUnexpected.note(s.log, c.client.Addr(), errProxyUnexpected.Error(), ProxyUnexpectedHint)
		default:
			c.debug("TLS handshake", err)
		}
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

func (c *clientConn) debug(what string, err error, attrs ...any) {
	c.server.log.Debug(what, append([]any{"client", c.client, "err", err}, attrs...)...)
}

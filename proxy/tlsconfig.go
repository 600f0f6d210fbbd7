package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"time"
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

// newTLSConfig makes the configuration for all clients, with crypto/tls's own choice of
// versions and key exchanges. It outlives all Configurations, and so do its ticket
// keys. With a ClientHello, clientConn.config becomes the one that is current. Without
// challenges, no CA is answered.
func newTLSConfig(now *current, challenges *challenges) *tls.Config {
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
		GetCertificate:         challenges.getCertificate,
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           suites12,
		NextProtos:             []string{alpnACME},
		SessionTicketsDisabled: true,
	}
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		e := earlyOf(hello)
		e.client.config = now.Load()
		switch {
		case challenges != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == alpnACME:
			return challenge, nil
		case !e.client.config.HasCertificate(hello.ServerName):
			// Otherwise crypto/tls would do the key exchange first, and then ask for a
			// certificate.
			e.lacks(hello.ServerName)
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
	if cert == nil && err == nil {
		e.lacks(hello.ServerName)
	}
	return cert, err
}

// lacks notes that there is no certificate for a server name, before the client learns it.
func (e *earlyConn) lacks(name string) {
	e.nameless, e.name = true, name
	e.client.in.unserved.note(name, time.Now())
}

// ticketName returns the part of a session ticket that binds it to a server name.
func ticketName(serverName string) []byte { return []byte("wssgate name " + serverName) }

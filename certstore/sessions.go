package certstore

import (
	"crypto/tls"
	"slices"
)

// extraName marks our entry in tls.SessionState.Extra, which others may use
// too.
const extraName = "wssgate server name\x00"

// BindSessions makes config issue session tickets that are good for one server
// name only, and only while has says that there is a certificate for it.
//
// crypto/tls by itself resumes a session under any server name: in TLS 1.3 it
// does not even ask GetCertificate then, so that a client with a ticket for
// one vhost reaches another one, whose certificate it never saw, or one that
// has been taken away. RFC 6066, section 3, forbids that.
//
// The ticket keys stay those of config, rotated by crypto/tls. The config must
// not be cloned afterwards: the clone's tickets would still be config's.
func BindSessions(config *tls.Config, has func(serverName string) bool) {
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		name, err := normalName(state.ServerName)
		if err != nil {
			name = ""
		}
		session.Extra = append(slices.Clip(session.Extra), []byte(extraName+name))
		return config.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(identity []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := config.DecryptTicket(identity, state)
		if err != nil || session == nil {
			return nil, err
		}
		name, err := normalName(state.ServerName)
		if err != nil || !has(name) {
			return nil, nil // a full handshake, which refuses the name
		}
		for _, extra := range session.Extra {
			if string(extra) == extraName+name {
				return session, nil
			}
		}
		return nil, nil
	}
}

package proxy

import (
	"crypto/tls"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Encrypted Client Hello (RFC 9849). crypto/tls replaces the ClientHello by the one that
// is encrypted in it before it calls anything of ours but echKeys, so certificates,
// vhosts, tickets and access lists follow the name that the client really wants. If no
// key decrypts it, the client goes on with its outer ClientHello, which has the public
// name; it gets that name's certificate, and with it the right key.

// An echOffer is what a ClientHello says in the clear about the one encrypted in it.
type echOffer struct {
	id        uint8 // of the key
	kdf, aead uint16
}

// An echResult says what became of it.
type echResult uint8

const (
	echNone     echResult = iota // not offered; or offered at random (GREASE, section 6.2)
	echRejected                  // no key fits
	echAccepted
	echResults
)

var echWords = [echResults]string{echNone: "none", echRejected: "rejected", echAccepted: "accepted"}

// withECH returns a configuration for clients while ECH is on. It shares the sessions and
// ticket keys of cfg.
func withECH(cfg *tls.Config, now *current) *tls.Config {
	on := cfg.Clone()
	on.GetEncryptedClientHelloKeys = func(hello *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
		e := earlyOf(hello)
		ech := now.Load().ECH
		switch {
		case ech == nil: // a reload has just turned it off
			return nil, nil
		case e.echDecided: // the answer to a client whose offer was not decrypted
			return ech.Retry(), nil
		}
		// Only keys that the client means: crypto/tls tries all, and breaks off if it does
		// not know the client's algorithms.
		e.echDecided = true
		var keys []tls.EncryptedClientHelloKey
		if e.echOffer != nil {
			keys = ech.Keys(e.echOffer.id, e.echOffer.kdf, e.echOffer.aead)
		}
		e.echOutside = strings.EqualFold(hello.ServerName, ech.PublicName)
		return keys, nil
	}
	return on
}

// echResult returns the result of the connection's handshake, which may have failed since.
func (e *earlyConn) echResult() echResult {
	switch {
	case e.client.tls.ConnectionState().ECHAccepted:
		return echAccepted
	case e.echOutside && e.echOffer != nil:
		return echRejected
	}
	return echNone
}

// echIn returns the offer in the records of a ClientHello, or nil.
func echIn(records []byte) *echOffer {
	var hello cryptobyte.String
	for s := cryptobyte.String(records); !s.Empty(); {
		var part cryptobyte.String
		if !s.Skip(3) || !s.ReadUint16LengthPrefixed(&part) {
			return nil
		}
		if hello == nil && s.Empty() {
			hello = part // usually there is one
		} else {
			hello = append(hello[:len(hello):len(hello)], part...)
		}
	}
	const versionAndRandom, extensionECH = 2 + 32, 0xfe0d
	var body, session, suites, compression, extensions cryptobyte.String
	if !hello.Skip(1) || !hello.ReadUint24LengthPrefixed(&body) || !body.Skip(versionAndRandom) ||
		!body.ReadUint8LengthPrefixed(&session) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&compression) || !body.ReadUint16LengthPrefixed(&extensions) {
		return nil
	}
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return nil
		}
		if kind != extensionECH {
			continue
		}
		const outer = 0
		var form uint8
		o := &echOffer{}
		if !data.ReadUint8(&form) || form != outer || !data.ReadUint16(&o.kdf) || !data.ReadUint16(&o.aead) || !data.ReadUint8(&o.id) {
			return nil
		}
		return o
	}
	return nil
}

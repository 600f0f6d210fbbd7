package proxy

import (
	"crypto/tls"
	"sync/atomic"
)

// challenges answer the ClientHellos of CAs (RFC 8737, section 3).
type challenges struct {
	answer func(*tls.ClientHelloInfo) (*tls.Certificate, error) // Options.ChallengeCertificate
	door   *door
	busy   atomic.Int32 // calls of answer
}

// getCertificate is for tls.Config. The answer may be on a slow disk, which must not
// delay clients, so the handshake has no slot meanwhile. At most as many handshakes
// wait for the disk as there are slots. The error is errNoPlace for others, or if no
// slot is free in time to continue.
func (ch *challenges) getCertificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
	e := earlyOf(hello)
	defer ch.busy.Add(-1)
	if int(ch.busy.Add(1)) > e.client.config.Handshakes {
		return nil, errNoPlace
	}
	ch.door.leaveSlot(&e.client.visit)
	cert, err = ch.answer(hello)
	if slotErr := ch.door.resume(&e.client.visit); slotErr != nil {
		return nil, slotErr
	}
	e.nameless = cert == nil && err == nil
	return cert, err
}

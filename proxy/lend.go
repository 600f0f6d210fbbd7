package proxy

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps two buffers for its whole life: rawInput, which stays at 18 KiB after
// one full record, and hand, which keeps room for the largest handshake message. An idle
// tunnel should own neither. So a turn lends its own buffer to rawInput and takes it back
// at its end, and hand is dropped.
//
// Both fields are unexported. Their offsets are found once, by name and type. If a Go
// release lacks them, or has other types, lending is off: everything works, but an idle
// tunnel that has seen a full record costs 18 KiB more, and TestLendingKnowsThisGo fails.

// tlsLayout has the offsets of the two buffers in a tls.Conn.
type tlsLayout struct {
	rawInput, hand uintptr
	ok             bool
}

var layout = findLayout(reflect.TypeFor[tls.Conn]())

func findLayout(conn reflect.Type) tlsLayout {
	buffer := reflect.TypeFor[bytes.Buffer]()
	raw, okRaw := conn.FieldByName("rawInput")
	hand, okHand := conn.FieldByName("hand")
	if !okRaw || !okHand || raw.Type != buffer || hand.Type != buffer {
		return tlsLayout{}
	}
	return tlsLayout{rawInput: raw.Offset, hand: hand.Offset, ok: true}
}

// Lends reports whether idle connections return their TLS buffers with the Go release
// of this build.
func Lends() bool { return layout.ok }

func (l tlsLayout) buffers(c *tls.Conn) (rawInput, hand *bytes.Buffer) {
	p := unsafe.Pointer(c)
	return (*bytes.Buffer)(unsafe.Add(p, l.rawInput)), (*bytes.Buffer)(unsafe.Add(p, l.hand))
}

// lend gives c the buffer b to read ciphertext into, until giveBack. The part of a record
// that c has read before moves to b. The caller is the only user of c meanwhile.
func lend(c *tls.Conn, b []byte) {
	if !layout.ok {
		return
	}
	raw, _ := layout.buffers(c)
	lent := bytes.NewBuffer(b[:0])
	lent.Write(raw.Bytes())
	*raw = *lent
}

// dropHand frees hand, which during a handshake has room for the last message. It is for
// calls from below c, in a Read of its connection.
func dropHand(c *tls.Conn) {
	if !layout.ok {
		return
	}
	if _, hand := layout.buffers(c); hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}

// unfinished returns how many bytes c keeps of an incomplete handshake message; 0 if that
// is unknown. Call it from below c, as dropHand, or as the only user of c.
func unfinished(c *tls.Conn) int {
	if !layout.ok {
		return 0
	}
	_, hand := layout.buffers(c)
	return hand.Len()
}

// maxUnfinished bounds a handshake message from a client after the handshake:
// only KeyUpdate may come (RFC 8446, section 4.6), a header and one byte.
const maxUnfinished = 4 + 1 // bytes

// errHandshakeMessage is the breach of a client with a longer one.
var errHandshakeMessage = &protocolError{codeProtocol, "a TLS handshake message other than KeyUpdate"}

// giveBack ends lend: c keeps a copy of the incomplete record, which is usually empty, and
// no reference to the lent buffer. c must not hold unread plaintext; reading until
// errAgain ensures that.
func giveBack(c *tls.Conn) {
	if !layout.ok {
		return
	}
	raw, hand := layout.buffers(c)
	if raw.Len() == 0 {
		*raw = bytes.Buffer{}
	} else {
		*raw = *bytes.NewBuffer(bytes.Clone(raw.Bytes()))
	}
	if hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}

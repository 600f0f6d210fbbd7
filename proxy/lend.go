package proxy

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// A tls.Conn keeps two buffers for as long as it lives: rawInput, which after
// one full record stays at 18 KiB, and hand, which keeps room for the largest
// handshake message. An idle tunnel shall own neither, so a turn lends its own
// buffer to rawInput and takes it back at its end, and hand is let go.
//
// Both fields are unexported. Their place is found once, by name and type;
// where a Go release has them no more, or with other types, lending is off:
// everything works, and an idle tunnel that has seen a full record costs
// 18 KiB more. TestLendingKnowsThisGo fails then.

// tlsLayout is where in a tls.Conn the two buffers are.
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

// lend gives c the buffer b to read ciphertext into, until giveBack. What c
// had read of a record before moves to b. Nobody else may use c meanwhile.
func lend(c *tls.Conn, b []byte) {
	if !layout.ok {
		return
	}
	raw, _ := layout.buffers(c)
	lent := bytes.NewBuffer(b[:0])
	lent.Write(raw.Bytes())
	*raw = *lent
}

// dropHand lets go of hand, which during a handshake has the room that the last
// message took. It is for calls from under c, in a Read of its connection.
func dropHand(c *tls.Conn) {
	if !layout.ok {
		return
	}
	if _, hand := layout.buffers(c); hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
}

// unfinished is how many bytes c keeps of a handshake message that is not whole yet; 0
// where that is not known. Like dropHand, it is for calls from under c, and for those of
// who alone uses c.
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

// giveBack ends what lend began: c keeps a copy of the part of a record that
// it holds, mostly nothing, and no reference to the lent buffer that it would
// read through again. It must not hold plaintext that was not read; reading
// until errAgain sees to that.
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

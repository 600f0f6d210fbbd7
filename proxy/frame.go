package proxy

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Opcodes (RFC 6455, section 11.8).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Bits of the first two bytes of a frame (RFC 6455, section 5.2).
const (
	bitFIN  = 0x80
	bitsRSV = 0x70
	bitMask = 0x80
)

const (
	maxHeader  = 14  // bytes; 2, a 64-bit length, a masking key
	maxControl = 125 // bytes of payload of a control frame (RFC 6455, section 5.5)

	// maxKeep bounds scanner.keep.
	maxKeep = 256

	// maxHeld is the maximum that a scanner leaves for the next call: the start of a
	// data frame, which may be longer than a control frame.
	maxHeld = maxHeader + maxKeep
)

// header is a frame's header, decoded.
type header struct {
	fin    bool
	opcode byte
	masked bool
	key    [4]byte // masking key, if masked
	length int64   // bytes of payload
	size   int     // bytes of the header itself
}

func (h header) control() bool { return h.opcode&0x8 != 0 }

// parseHeader decodes the header at the start of b. The size is 0 if b is too short. It
// returns an error for headers that RFC 6455, section 5.2, forbids without extensions;
// the caller checks masking.
func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) < 2 {
		return h, nil
	}
	if b[0]&bitsRSV != 0 {
		return h, &protocolError{codeProtocol, "reserved bits set, but no extension was negotiated"}
	}
	h.fin, h.opcode, h.masked = b[0]&bitFIN != 0, b[0]&0x0f, b[1]&bitMask != 0
	switch h.opcode {
	case opContinuation, opText, opBinary:
	case opClose, opPing, opPong:
		if !h.fin {
			return h, &protocolError{codeProtocol, "fragmented control frame"}
		}
		if b[1]&^bitMask > maxControl {
			return h, &protocolError{codeProtocol, "control frame over 125 bytes"}
		}
	default:
		return h, &protocolError{codeProtocol, "reserved opcode"}
	}

	size := 2
	switch n := b[1] &^ bitMask; n {
	default:
		h.length = int64(n)
	case 126:
		if size += 2; len(b) < size {
			return h, nil
		}
		h.length = int64(binary.BigEndian.Uint16(b[2:]))
		if h.length <= maxControl {
			return h, &protocolError{codeProtocol, "payload length is not minimally encoded"}
		}
	case 127:
		if size += 8; len(b) < size {
			return h, nil
		}
		length := binary.BigEndian.Uint64(b[2:])
		if length > math.MaxInt64 {
			return h, &protocolError{codeProtocol, "payload length with the most significant bit set"}
		}
		if h.length = int64(length); h.length <= math.MaxUint16 {
			return h, &protocolError{codeProtocol, "payload length is not minimally encoded"}
		}
	}
	if h.masked {
		if size += 4; len(b) < size {
			return h, nil
		}
		h.key = [4]byte(b[size-4:])
	}
	h.size = size
	return h, nil
}

// appendHeader encodes h in its shortest form; it ignores h.size.
func appendHeader(b []byte, h header) []byte {
	first, mask := h.opcode, byte(0)
	if h.fin {
		first |= bitFIN
	}
	if h.masked {
		mask = bitMask
	}
	switch {
	case h.length <= maxControl:
		b = append(b, first, mask|byte(h.length))
	case h.length <= math.MaxUint16:
		b = append(b, first, mask|126)
		b = binary.BigEndian.AppendUint16(b, uint16(h.length))
	default:
		b = append(b, first, mask|127)
		b = binary.BigEndian.AppendUint64(b, uint64(h.length))
	}
	if h.masked {
		b = append(b, h.key[:]...)
	}
	return b
}

// appendFrame appends a complete final frame of our own. For an upstream it is masked
// with key; for a client, key is nil.
func appendFrame(b []byte, opcode byte, payload []byte, key *[4]byte) []byte {
	h := header{fin: true, opcode: opcode, length: int64(len(payload))}
	if key != nil {
		h.masked, h.key = true, *key
	}
	b = appendHeader(b, h)
	start := len(b)
	b = append(b, payload...)
	if key != nil {
		applyMask(b[start:], *key, 0)
	}
	return b
}

// applyMask masks or unmasks a part of a payload that begins at byte at (RFC 6455,
// section 5.3).
func applyMask(payload []byte, key [4]byte, at int) {
	wide := wideKey(key, at)
	for len(payload) >= 8 {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^wide)
		payload = payload[8:]
	}
	for i := range payload {
		payload[i] ^= byte(wide >> (8 * (i & 7)))
	}
}

// wideKey returns the key for eight bytes at once, little-endian, from byte at of a
// payload.
func wideKey(key [4]byte, at int) uint64 {
	k := bits.RotateLeft32(binary.LittleEndian.Uint32(key[:]), -8*(at&3))
	return uint64(k) | uint64(k)<<32
}

// A protocolError is a violation of RFC 6455 by the peer, with its status code.
type protocolError struct {
	code   uint16
	reason string
}

func (e *protocolError) Error() string { return e.reason }

// A scanner follows the frames of one peer and splits its input into pieces. It is a
// plain value without buffers; the caller keeps input that it can't use yet. It does
// not change payloads, and checks only that text is UTF-8.
type scanner struct {
	fromClient bool // frames must be masked; from an upstream they must not be
	started    bool // within a fragmented message
	closed     bool // after a Close frame or an error: nothing may follow
	text       utf8Checker
	opcode     byte    // of the current message
	key        [4]byte // masking key of the current frame
	keep       uint16  // bytes at the start of a message that must be seen together, if they may matter; 1 to maxKeep
	limit      int64   // bytes of one message; 0: no limit
	length     int64   // payload bytes of the current frame
	left       int64   // payload bytes that have not arrived yet
	message    int64   // payload bytes of the current message, including this frame
	frames     int64   // data frames and control frames seen
}

// A piece is a part of a peer's input: a whole control frame, or the available part of
// one data frame; later pieces of a frame have the opcode of a continuation. Pieces
// come in wire order, and none spans two frames: so a decision at the start of a frame
// applies to all of that frame and to nothing before it.
type piece struct {
	header         // of its frame
	wire    []byte // as received
	payload []byte // the part of wire that is payload; masked if the frame is
	at      int64  // offset in the frame's payload
	message byte   // opcode of the message, or of a control frame
	empty   bool   // ends a message without any payload
}

// begins reports whether p begins a message. Its payload then has the message's first
// bytes: scanner.keep of them if they may matter, or all that the first frame has.
func (p *piece) begins() bool { return !p.control() && p.opcode != opContinuation }

// unmasked appends the unmasked payload to b.
func (p *piece) unmasked(b []byte) []byte {
	from := len(b)
	b = append(b, p.payload...)
	if p.masked {
		applyMask(b[from:], p.key, int(p.at&3))
	}
	return b
}

// atBoundary reports whether the last piece ends its frame, so that we may send a
// control frame.
func (s *scanner) atBoundary() bool { return s.left == 0 }

// betweenMessages reports whether we may also send a data frame.
func (s *scanner) betweenMessages() bool { return s.left == 0 && !s.started }

// forget drops the current frame, of which nothing was passed on: the rest of its
// message will not come. With whole, nothing of the message was passed on either, as if
// it had never begun.
func (s *scanner) forget(whole bool) {
	s.left, s.started, s.message, s.text = 0, !whole, 0, utf8Checker{}
}

// next takes the next piece off b and returns how many bytes it used, or 0 if it needs
// more: then b, at most maxHeld bytes, must precede the input of the next call. It
// waits for a complete control frame, and for the first bytes of payload after a
// header: a peer that writes the two separately must not cost two TLS records, and the
// caller sees how a message begins.
//
// After an error or a Close frame, it consumes all input and the piece is empty.
func (s *scanner) next(b []byte) (p piece, used int, err error) {
	switch {
	case s.closed:
		return piece{}, len(b), nil
	case s.left > 0:
		p.header = header{fin: !s.started, opcode: opContinuation, masked: s.fromClient, key: s.key, length: s.length}
		p.at = s.length - s.left
		p.wire = b[:min(s.left, int64(len(b)))]
		p.payload = p.wire
	default:
		if p.header, err = parseHeader(b); err == nil && p.size > 0 {
			err = s.check(p.header)
		}
		switch {
		case err != nil:
			return s.refuse(b, err)
		case p.size == 0:
			return piece{}, 0, nil
		case p.control():
			return s.control(b, p)
		}
		if seen := int64(len(b) - p.size); seen < min(p.length, s.wanted(b[p.size:])) {
			return piece{}, 0, nil
		}
		s.frames++
		s.begin(p.header)
		p.wire = b[:min(int64(len(b)), int64(p.size)+p.length)]
		p.payload = p.wire[p.size:]
		p.empty = p.fin && s.message == 0
	}
	p.message = s.opcode
	s.left -= int64(len(p.payload))
	if s.opcode == opText && !s.text.check(&p, s.left == 0 && p.fin) {
		return s.refuse(b, errNotUTF8)
	}
	return p, len(p.wire), nil
}

// begin starts a data frame.
func (s *scanner) begin(h header) {
	if h.opcode != opContinuation {
		s.opcode, s.message, s.text = h.opcode, 0, utf8Checker{}
	}
	s.key, s.length, s.left, s.started = h.key, h.length, h.length, !h.fin
	s.message += h.length
}

// control takes a control frame, once it is complete.
func (s *scanner) control(b []byte, p piece) (piece, int, error) {
	end := p.size + int(p.length)
	if end > len(b) {
		return piece{}, 0, nil
	}
	s.frames++
	p.wire, p.payload, p.message = b[:end], b[p.size:end], p.opcode
	if p.opcode == opClose {
		if err := checkClose(&p); err != nil {
			return s.refuse(b, err)
		}
		s.closed = true
	}
	return p, end, nil
}

func (s *scanner) refuse(b []byte, err error) (piece, int, error) {
	s.closed = true
	return piece{}, len(b), err
}

// wanted returns how many bytes of a payload that begins with head must arrive before
// any of it is passed on: keep if they could matter, otherwise 1. Nearly all messages
// are stanzas, which never matter.
func (s *scanner) wanted(head []byte) int64 {
	head = bytes.TrimLeft(head, " \t\r\n")
	switch {
	case len(head) > 0 && head[0] != '<':
		return 1
	case len(head) > 1 && (head[1] == 'm' || head[1] == 'p' || head[1] == 'i'):
		return 1
	}
	return int64(s.keep)
}

// check checks a header against its sender and the preceding frames.
func (s *scanner) check(h header) error {
	if h.masked != s.fromClient {
		if s.fromClient {
			return &protocolError{codeProtocol, "unmasked frame from a client"}
		}
		return &protocolError{codeProtocol, "masked frame from a server"}
	}
	if h.control() {
		return nil
	}
	if (h.opcode == opContinuation) != s.started {
		if s.started {
			return &protocolError{codeProtocol, "new message inside a fragmented message"}
		}
		return &protocolError{codeProtocol, "continuation frame without a message"}
	}
	before := s.message
	if h.opcode != opContinuation {
		before = 0
	}
	if s.limit > 0 && h.length > s.limit-before {
		return &protocolError{codeTooBig, "message exceeds the limit"}
	}
	return nil
}

// checkClose checks a Close frame's payload: empty, or a valid status code and a reason
// in UTF-8 (RFC 6455, sections 5.5.1 and 7.4).
func checkClose(p *piece) error {
	var buf [maxControl]byte
	plain := p.unmasked(buf[:0])
	switch {
	case len(plain) == 0:
	case len(plain) == 1:
		return &protocolError{codeProtocol, "Close frame with a truncated status code"}
	case !validCode(closeCode(p.header, p.payload)):
		return &protocolError{codeProtocol, "Close frame with a status code that must not be sent"}
	case !utf8.Valid(plain[2:]):
		return errNotUTF8
	}
	return nil
}

// closeCode returns the status code in a Close frame's masked payload, or 1005 (no
// status code; RFC 6455, section 7.4.1).
func closeCode(h header, payload []byte) uint16 {
	if len(payload) < 2 {
		return codeNone
	}
	return binary.BigEndian.Uint16([]byte{payload[0] ^ h.key[0], payload[1] ^ h.key[1]})
}

// validCode reports whether a status code may appear in a Close frame: those in the
// IANA registry that are not for local use, and the private ranges.
func validCode(code uint16) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code < 1000 || code > 1014:
		return false
	}
	return code != 1004 && code != codeNone && code != codeAbnormal
}

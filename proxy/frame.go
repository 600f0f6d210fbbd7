package proxy

import (
	"bytes"
	"encoding/binary"
	"math"
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

	// maxHeld bounds what a scanner leaves for the next call: the start of a
	// data frame, which is more than of a control frame.
	maxHeld = maxHeader + maxKeep
)

// header is a frame's header, decoded.
type header struct {
	fin    bool
	opcode byte
	masked bool
	key    [4]byte // masking key, where masked
	length int64   // bytes of payload
	size   int     // bytes of the header itself
}

func (h header) control() bool { return h.opcode&0x8 != 0 }

// parseHeader decodes the header at the start of b. It returns a size of 0
// where b is too short to tell, and an error for what RFC 6455, section 5.2
// forbids on any connection without extensions; who must mask is the
// caller's to check.
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
			return h, &protocolError{codeProtocol, "payload length not in its shortest form"}
		}
	case 127:
		if size += 8; len(b) < size {
			return h, nil
		}
		length := binary.BigEndian.Uint64(b[2:])
		if length > math.MaxInt64 {
			return h, &protocolError{codeProtocol, "payload length with its top bit set"}
		}
		if h.length = int64(length); h.length <= math.MaxUint16 {
			return h, &protocolError{codeProtocol, "payload length not in its shortest form"}
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

// appendHeader encodes h in its shortest form; h.size is not looked at.
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

// appendFrame appends a whole final frame of ours. A frame for an upstream is
// masked with key; for a client key is nil.
func appendFrame(b []byte, opcode byte, payload []byte, key *[4]byte) []byte {
	h := header{fin: true, opcode: opcode, length: int64(len(payload))}
	if key != nil {
		h.masked, h.key = true, *key
	}
	b = appendHeader(b, h)
	start := len(b)
	b = append(b, payload...)
	if key != nil {
		applyMask(b[start:], *key)
	}
	return b
}

// applyMask masks or unmasks a payload from its first byte (RFC 6455, section 5.3).
func applyMask(payload []byte, key [4]byte) {
	for i := range payload {
		payload[i] ^= key[i&3]
	}
}

// A protocolError is a breach of RFC 6455 by the peer whose frames were
// scanned, with the status code that it earns.
type protocolError struct {
	code   uint16
	reason string
}

func (e *protocolError) Error() string { return e.reason }

// A scanner follows the frames that one peer sends, by their headers only:
// payloads of data frames are neither read nor changed. It is a plain value
// without buffers; what it can't use yet stays with the caller.
type scanner struct {
	fromClient bool  // frames must be masked; from an upstream they must not be
	started    bool  // within a fragmented message
	closed     bool  // a Close frame has gone by: nothing may follow it
	keep       int   // how much of a message is to be seen at once, if it may matter; 1 to maxKeep
	limit      int64 // bytes of one message; 0: no limit
	left       int64 // payload bytes of the current data frame still to come
	message    int64 // bytes of the current message in the frames before
	frames     int64 // data frames and control frames seen
}

// A frameSink takes what a scanner finds, in the order of the wire.
type frameSink interface {
	// message takes the first bytes of a message's payload, before they are
	// forwarded: scanner.keep of them where they may matter, or all that the
	// first frame has, and perhaps more. They are masked if the frame is.
	message(h header, head []byte)
	// forward takes bytes that go on unchanged: the payload of data frames
	// with their headers, and control frames that control let pass.
	forward(b []byte)
	// control takes a whole control frame, header included, and says whether
	// it goes on.
	control(h header, frame []byte) (pass bool)
}

// atBoundary reports whether all that was forwarded ends with a whole frame,
// so that a control frame of ours may follow.
func (s *scanner) atBoundary() bool { return s.left == 0 }

// betweenMessages reports whether a data frame of ours may follow, too.
func (s *scanner) betweenMessages() bool { return s.left == 0 && !s.started }

// forget gives up the message that is under way, of which nothing went on.
func (s *scanner) forget() { s.left, s.started, s.message = 0, false, 0 }

// scan walks b and hands its frames to sink. It returns how many bytes it used;
// the rest, at most maxHeld bytes, must stand before the next call's bytes. It
// keeps back a control frame that is not whole, and a header without the first
// bytes of its payload: a peer that writes the two apart shall not cost two TLS
// records, and the sink sees how a message begins.
//
// After an error, or once a Close frame has gone by, it uses up and drops
// everything. The forwarded runs end at a frame boundary in both cases.
func (s *scanner) scan(b []byte, sink frameSink) (used int, err error) {
	run := 0 // start of the run not yet forwarded
	i := 0
	flush := func(end int) {
		if end > run {
			sink.forward(b[run:end])
		}
	}
	for i < len(b) && !s.closed {
		if s.left > 0 {
			n := min(s.left, int64(len(b)-i))
			s.left -= n
			i += int(n)
			continue
		}
		h, err := parseHeader(b[i:])
		if err == nil && h.size == 0 {
			break
		}
		if err == nil {
			err = s.check(h)
		}
		if err != nil {
			flush(i)
			s.closed = true
			return len(b), err
		}
		end := i + h.size
		if h.control() {
			if end += int(h.length); end > len(b) {
				break
			}
			s.frames++
			if h.opcode == opClose {
				s.closed = true
				if err := checkClose(h, b[i+h.size:end]); err != nil {
					flush(i)
					return len(b), err
				}
			}
			flush(i)
			run = i
			if !sink.control(h, b[i:end]) {
				run = end
			}
			i = end
			continue
		}
		if seen := b[end:]; int64(len(seen)) < min(h.length, s.wanted(seen)) {
			break
		}
		s.frames++
		if h.opcode != opContinuation {
			sink.message(h, b[end:min(int64(len(b)), int64(end)+h.length)])
		}
		s.started = !h.fin
		s.message += h.length
		if h.fin {
			s.message = 0
		}
		s.left = h.length
		i = end
	}
	flush(i)
	if s.closed {
		return len(b), nil
	}
	return i, nil
}

// wanted is how much of a payload that begins with head is to be there before
// any of it goes on: keep, if that could tell us something, else 1. Stanzas,
// which nearly all messages are, tell nothing.
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

// check holds a header against who sent it and what came before.
func (s *scanner) check(h header) error {
	if h.masked != s.fromClient {
		if s.fromClient {
			return &protocolError{codeProtocol, "frame of a client without a mask"}
		}
		return &protocolError{codeProtocol, "frame of a server with a mask"}
	}
	if h.control() {
		return nil
	}
	if (h.opcode == opContinuation) != s.started {
		if s.started {
			return &protocolError{codeProtocol, "new message within a fragmented one"}
		}
		return &protocolError{codeProtocol, "continuation frame without a message"}
	}
	if s.limit > 0 && h.length > s.limit-s.message {
		return &protocolError{codeTooBig, "message over the limit"}
	}
	return nil
}

// checkClose looks at a Close frame's payload: empty, or a status code that
// may stand on the wire and a reason (RFC 6455, sections 5.5.1 and 7.4).
func checkClose(h header, payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return &protocolError{codeProtocol, "Close frame with half a status code"}
	}
	if code := closeCode(h, payload); !validCode(code) {
		return &protocolError{codeProtocol, "Close frame with a status code that may not be sent"}
	}
	return nil
}

// closeCode returns the status code of a Close frame's payload as it came off
// the wire, 1005 (RFC 6455, section 7.4.1: no status code) where it has none.
func closeCode(h header, payload []byte) uint16 {
	if len(payload) < 2 {
		return codeNone
	}
	return binary.BigEndian.Uint16([]byte{payload[0] ^ h.key[0], payload[1] ^ h.key[1]})
}

// validCode reports whether a status code may stand in a Close frame: those of
// the IANA registry that are not for local use, and the private ranges.
func validCode(code uint16) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code < 1000 || code > 1014:
		return false
	}
	return code != 1004 && code != codeNone && code != codeAbnormal
}

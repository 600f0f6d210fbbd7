// Package websocket has the frames and the opening handshake of RFC 6455, for the
// black-box tests and for the rigs of bench. It shares no code with the gate or with
// the gate's WebSocket library, so that the two can't be wrong together. It writes
// what it is told to, right or wrong, and reads only what the RFC allows.
package websocket

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Opcodes of RFC 6455, section 5.2.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xA
)

// maxPayload is what ReadFrame takes at most; more is a broken length.
const maxPayload = 64 << 20 // bytes

// A Frame is one frame. Payload is always unmasked.
type Frame struct {
	FIN     bool
	RSV     byte // three bits
	Op      byte
	Masked  bool
	ZeroKey bool // Append masks with zeros: no work here, nor where the payload is read
	Payload []byte
}

func (f Frame) String() string {
	payload := f.Payload
	if len(payload) > 64 {
		payload = payload[:64]
	}
	return fmt.Sprintf("{fin=%v rsv=%d op=%#x masked=%v len=%d %q}", f.FIN, f.RSV, f.Op, f.Masked, len(f.Payload), payload)
}

// mask is the masking key of every other masked frame: a server can't tell keys apart,
// and a fixed one makes runs comparable.
var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// Append appends the frame's bytes to b.
func (f Frame) Append(b []byte) []byte {
	head := f.RSV<<4 | f.Op
	if f.FIN {
		head |= 0x80
	}
	var maskBit byte
	if f.Masked {
		maskBit = 0x80
	}
	b = append(b, head)
	switch n := len(f.Payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, maskBit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBit|127), uint64(n))
	}
	if !f.Masked {
		return append(b, f.Payload...)
	}
	if f.ZeroKey {
		b = append(b, 0, 0, 0, 0)
		return append(b, f.Payload...)
	}
	b = append(b, mask[:]...)
	for i, c := range f.Payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// ReadFrame reads one frame. A frame in a form that RFC 6455 forbids is an
// error.
func ReadFrame(r *bufio.Reader) (Frame, error) { return ReadFrameInto(r, nil) }

// ReadFrameInto is ReadFrame with the payload in buf where it has room.
func ReadFrameInto(r *bufio.Reader, buf []byte) (Frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{FIN: head[0]&0x80 != 0, RSV: head[0] >> 4 & 7, Op: head[0] & 0xf, Masked: head[1]&0x80 != 0}
	size, err := readLength(r, head[1]&0x7f)
	if err != nil {
		return f, err
	}
	if err := f.check(size); err != nil {
		return f, err
	}
	var key [4]byte
	if f.Masked {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return f, unexpected(err)
		}
	}
	if uint64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	f.Payload = buf[:size]
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		return f, unexpected(err)
	}
	if key != [4]byte{} {
		for i := range f.Payload {
			f.Payload[i] ^= key[i%4]
		}
	}
	return f, nil
}

func readLength(r io.Reader, short byte) (uint64, error) {
	switch short {
	case 126:
		var n [2]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return 0, unexpected(err)
		}
		size := uint64(binary.BigEndian.Uint16(n[:]))
		if size < 126 {
			return 0, fmt.Errorf("length %d in two bytes", size)
		}
		return size, nil
	case 127:
		var n [8]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return 0, unexpected(err)
		}
		size := binary.BigEndian.Uint64(n[:])
		if size < 1<<16 {
			return 0, fmt.Errorf("length %d in eight bytes", size)
		}
		return size, nil
	}
	return uint64(short), nil
}

func (f Frame) check(size uint64) error {
	switch {
	case f.RSV != 0:
		return fmt.Errorf("frame with RSV %d", f.RSV)
	case f.Op > Binary && f.Op < Close || f.Op > Pong:
		return fmt.Errorf("frame with opcode %#x", f.Op)
	case f.Op >= Close && !f.FIN:
		return fmt.Errorf("control frame %#x without FIN", f.Op)
	case f.Op >= Close && size > 125:
		return fmt.Errorf("control frame %#x of %d bytes", f.Op, size)
	case size > maxPayload:
		return fmt.Errorf("frame of %d bytes", size)
	}
	return nil
}

// unexpected says that the bytes ended inside a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/gobwas/ws"
)

// gobwas, which probes and other gates use, reads a frame's header in the same way;
// what we refuse is forbidden by RFC 6455, section 5.2.
func FuzzHeaderReaders(f *testing.F) {
	f.Add([]byte{0x81, 0x05})
	f.Add([]byte{0x01, 0xfe, 0x00, 0x7e, 1, 2, 3, 4})
	f.Add([]byte{0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0})
	f.Add([]byte{0x89, 0x80, 1, 2, 3, 4})
	f.Add([]byte{0x88, 0x7e, 0, 5})
	f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		theirs, theirErr := ws.ReadHeader(r)
		h, err := parseHeader(b)
		switch {
		case err != nil:
			if len(b) >= 2 && !forbidden(b) {
				t.Errorf("% x is refused: %v; nothing forbids it", b, err)
			}
		case h.size == 0:
			if theirErr == nil {
				t.Errorf("% x is too short for us; gobwas reads %+v", b, theirs)
			} else if theirErr != io.EOF && theirErr != io.ErrUnexpectedEOF {
				t.Errorf("% x is too short for us; gobwas says %v", b, theirErr)
			}
		default:
			if theirErr != nil || theirs.Fin != h.fin || byte(theirs.OpCode) != h.opcode || theirs.Masked != h.masked || theirs.Length != h.length ||
				h.masked && theirs.Mask != h.key || theirs.Rsv != 0 || len(b)-r.Len() != h.size {
				t.Errorf("% x: we read %+v, gobwas %+v with %d bytes, %v", b, h, theirs, len(b)-r.Len(), theirErr)
			}
			if forbidden(b) {
				t.Errorf("% x is taken, which RFC 6455 forbids", b)
			}
		}
	})
}

// forbidden reports what sections 5.2 and 5.5 forbid in the available bytes.
func forbidden(b []byte) bool {
	op, n := b[0]&0x0f, b[1]&0x7f
	switch {
	case b[0]&0x70 != 0, op > 2 && op < 8, op > 10:
		return true
	case op >= 8 && (b[0]&0x80 == 0 || n > 125):
		return true
	case n == 126 && len(b) >= 4:
		return binary.BigEndian.Uint16(b[2:]) < 126
	case n == 127 && len(b) >= 10:
		length := binary.BigEndian.Uint64(b[2:])
		return length < 1<<16 || length > 1<<63-1
	}
	return false
}

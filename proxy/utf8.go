package proxy

import (
	"encoding/binary"
	"unicode/utf8"
)

// errNotUTF8 is the error for a text message, or the reason in a Close frame, that is
// not UTF-8 (RFC 6455, sections 5.5.1, 5.6 and 8.1). Some servers do not answer such a
// message, and keep a dead stream.
var errNotUTF8 = &protocolError{codeNotUTF8, "text that is not UTF-8"}

// A utf8Checker checks the text of one message as it arrives, in pieces of any size.
// The zero value is ready for a message.
type utf8Checker struct {
	need   uint8 // bytes missing from the current character
	lo, hi uint8 // the range of the next byte
}

// check reads a piece of the message, and reports whether it is valid. With last, the
// piece ends the message.
func (c *utf8Checker) check(p *piece, last bool) bool {
	b, at := p.payload, int(p.at&3)
	for len(b) > 0 {
		if c.need == 0 {
			n := ascii(b, wideKey(p.key, at)) // key is zero without a mask
			b, at = b[n:], at+n
		}
		var plain [512]byte
		n := copy(plain[:], b)
		if p.masked {
			applyMask(plain[:n], p.key, at)
		}
		if !c.chunk(plain[:n]) {
			return false
		}
		b, at = b[n:], at+n
	}
	return !last || c.need == 0
}

// ascii returns the number of bytes at the start of b that are ASCII once unmasked, as a
// multiple of 32.
func ascii(b []byte, key uint64) (n int) {
	const high = 0x8080808080808080
	for ; len(b) >= 32; b = b[32:] {
		a, c := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		d, e := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
		if ((a^key)|(c^key)|(d^key)|(e^key))&high != 0 {
			break
		}
		n += 32
	}
	return n
}

// chunk reads unmasked bytes.
func (c *utf8Checker) chunk(b []byte) bool {
	for c.need > 0 && len(b) > 0 {
		if !c.step(b[0]) {
			return false
		}
		b = b[1:]
	}
	whole := len(b)
	for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
		if start := len(b) - i; utf8.RuneStart(b[start]) {
			if !utf8.FullRune(b[start:]) {
				whole = start
			}
			break
		}
	}
	if !utf8.Valid(b[:whole]) {
		return false
	}
	for _, x := range b[whole:] {
		if !c.step(x) {
			return false
		}
	}
	return true
}

// step reads one byte (RFC 3629, section 4).
func (c *utf8Checker) step(b byte) bool {
	if c.need > 0 {
		ok := c.lo <= b && b <= c.hi
		if c.need--; c.need > 0 {
			c.lo, c.hi = 0x80, 0xbf
		} else {
			*c = utf8Checker{}
		}
		return ok
	}
	if b < 0x80 {
		return true
	}
	c.lo, c.hi = 0x80, 0xbf
	switch {
	case b < 0xc2:
		return false
	case b < 0xe0:
		c.need = 1
	case b < 0xf0:
		c.need = 2
		switch b {
		case 0xe0:
			c.lo = 0xa0
		case 0xed:
			c.hi = 0x9f // no surrogates
		}
	case b < 0xf5:
		c.need = 3
		switch b {
		case 0xf0:
			c.lo = 0x90
		case 0xf4:
			c.hi = 0x8f
		}
	default:
		return false
	}
	return true
}

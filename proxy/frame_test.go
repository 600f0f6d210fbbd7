package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// record collects the output of a scanner. It removes Pings, to exercise that too.
type record struct {
	forwarded []byte
	controls  []string
	text      []byte // payloads of data frames, unmasked
}

func (r *record) take(p *piece) {
	switch {
	case p.control():
		r.controls = append(r.controls, fmt.Sprintf("%x at %d: %x", p.opcode, len(r.forwarded), p.wire))
		if p.opcode == opPing {
			return
		}
	case p.begins():
		r.controls = append(r.controls, fmt.Sprintf("message of %d begins %x", p.length, p.payload[:min(len(p.payload), 1)]))
	}
	if !p.control() {
		r.text = p.unmasked(r.text)
	}
	r.forwarded = append(r.forwarded, p.wire...)
}

// scan takes all complete pieces of b, and returns the rest.
func (r *record) scan(s *scanner, b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		p, n, err := s.next(b)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		if len(p.wire) > 0 {
			r.take(&p)
		}
		b = b[n:]
	}
	return b, nil
}

// scanAll feeds b to s in pieces of the given sizes, after the held bytes, as a tunnel
// does.
func scanAll(s *scanner, b []byte, sizes func() int) (*record, error) {
	r := &record{}
	var held []byte
	for len(b) > 0 {
		n := min(max(sizes(), 1), len(b))
		chunk := append(held, b[:n]...)
		b = b[n:]
		rest, err := r.scan(s, chunk)
		if err != nil {
			return r, err
		}
		if len(rest) > maxHeld {
			return r, fmt.Errorf("%d bytes held back", len(rest))
		}
		held = bytes.Clone(rest)
	}
	return r, nil
}

// Any split of the same bytes gives the same forwarded bytes, the same control
// frames at the same places, and the same error.
func FuzzScannerSplit(f *testing.F) {
	key := [4]byte{1, 2, 3, 4}
	text := appendFrame(nil, opText, []byte("<message/>"), &key)
	f.Add(text, uint64(1), true)
	f.Add(append(appendFrame(nil, opPing, []byte("p"), &key), text...), uint64(2), true)
	f.Add(appendFrame(appendFrame(nil, opText, make([]byte, 700), nil), opClose, []byte{3, 232}, nil), uint64(3), false)
	f.Add([]byte{0x01, 0x01, 'a', 0x89, 0x00, 0x80, 0x01, 'b'}, uint64(4), false)
	f.Add([]byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 1}, uint64(5), false)
	f.Add([]byte("\x81\x08<enabled\x81\x04<iq>\x81\x02  "), uint64(6), false)
	f.Fuzz(func(t *testing.T, b []byte, seed uint64, fromClient bool) {
		const limit = 1 << 10
		whole := &scanner{fromClient: fromClient, limit: limit, keep: 5}
		want, wantErr := scanAll(whole, b, func() int { return len(b) })
		rnd := rand.New(rand.NewPCG(seed, 0))
		for _, sizes := range []func() int{
			func() int { return 1 },
			func() int { return 1 + rnd.IntN(20) },
			func() int { return 1 + rnd.IntN(len(b)+1) },
		} {
			s := &scanner{fromClient: fromClient, limit: limit, keep: 5}
			got, err := scanAll(s, b, sizes)
			if wantErr == errNotUTF8 && err == errNotUTF8 && bytes.HasPrefix(got.forwarded, want.forwarded) {
				continue // bytes before the wrong one were forwarded if they came alone
			}
			// Bytes that wait for the first byte of payload depend on the split only at
			// the very end.
			if !bytes.Equal(got.forwarded, want.forwarded) {
				t.Errorf("forwarded %x, want %x", got.forwarded, want.forwarded)
			}
			if fmt.Sprint(got.controls) != fmt.Sprint(want.controls) {
				t.Errorf("control frames %q, want %q", got.controls, want.controls)
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("err = %v, want %v", err, wantErr)
			}
			if !bytes.Equal(got.text, want.text) {
				t.Errorf("text %q, want %q", got.text, want.text)
			}
			if err == nil && *s != *whole {
				t.Errorf("scanner is %+v, want %+v", *s, *whole)
			}
		}
	})
}

// A header that was parsed is encoded to the same bytes.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x81, 0x05})
	f.Add([]byte{0x82, 126, 0x01, 0x00})
	f.Add([]byte{0x02, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil || h.size == 0 {
			return
		}
		if again := appendHeader(nil, h); !bytes.Equal(again, b[:h.size]) {
			t.Errorf("%x came back as %x", b[:h.size], again)
		}
		for n := range h.size {
			if short, err := parseHeader(b[:n]); err != nil || short.size != 0 {
				t.Errorf("%d of %d bytes gave %+v, %v", n, h.size, short, err)
			}
		}
	})
}

// Forbidden input is refused with the right status code, and complete frames before it
// are forwarded.
func TestScannerRefuses(t *testing.T) {
	masked := func(b ...byte) []byte { return append(b, 0, 0, 0, 0) }
	hello := []byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}
	for _, test := range []struct {
		name string
		b    []byte
		code uint16
	}{
		{"no mask", []byte{0x81, 0x01, 'x'}, codeProtocol},
		{"RSV1", masked(0xC1, 0x80), codeProtocol},
		{"RSV2", masked(0xA1, 0x80), codeProtocol},
		{"RSV3", masked(0x91, 0x80), codeProtocol},
		{"opcode 3", masked(0x83, 0x80), codeProtocol},
		{"opcode 11", masked(0x8B, 0x80), codeProtocol},
		{"fragmented Ping", masked(0x09, 0x80), codeProtocol},
		{"Ping of 126 bytes", masked(0x89, 0xFE, 0, 126), codeProtocol},
		{"orphan continuation", masked(0x80, 0x80), codeProtocol},
		{"new message in a message", append(masked(0x01, 0x80), masked(0x81, 0x80)...), codeProtocol},
		{"length not shortest, 16 bit", masked(0x81, 0xFE, 0, 125), codeProtocol},
		{"length not shortest, 64 bit", masked(0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF), codeProtocol},
		{"length with the most significant bit", masked(0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0), codeProtocol},
		{"Close with one byte", append(masked(0x88, 0x81), 3), codeProtocol},
		{"Close with 1005", append(masked(0x88, 0x82), 0x03, 0xED), codeProtocol},
		{"Close with 999", append(masked(0x88, 0x82), 0x03, 0xE7), codeProtocol},
		{"Close with a reason that is not UTF-8", append(masked(0x88, 0x83), 3, 0xe8, 0xff), codeNotUTF8},
		{"text that is not UTF-8", append(masked(0x81, 0x81), 0xc0), codeNotUTF8},
		{"text that ends in a character", append(masked(0x81, 0x82), 0xe2, 0x82), codeNotUTF8},
		{"text that ends in a character, in two frames", append(append(masked(0x01, 0x81), 0xe2), append(masked(0x80, 0x81), 0x82)...), codeNotUTF8},
		{"half a character and an empty end", append(append(masked(0x01, 0x81), 0xe2), masked(0x80, 0x80)...), codeNotUTF8},
		{"a surrogate", append(masked(0x81, 0x83), 0xed, 0xa0, 0x80), codeNotUTF8},
		{"over the limit", masked(0x81, 0xFE, 0x04, 0x01), codeTooBig},
		{"over the limit in two", append(append(masked(0x01, 0xFE, 0x04, 0x00), make([]byte, 1024)...), masked(0x80, 0x81)...), codeTooBig},
	} {
		s := &scanner{fromClient: true, limit: 1024, keep: 1}
		r := &record{}
		_, err := r.scan(s, append(bytes.Clone(hello), test.b...))
		var pe *protocolError
		if !errors.As(err, &pe) || pe.code != test.code {
			t.Errorf("%s: err = %v; want status code %d", test.name, err, test.code)
		}
		if !bytes.HasPrefix(r.forwarded, hello) {
			t.Errorf("%s: forwarded %x", test.name, r.forwarded)
		}
		if p, n, err := s.next(hello); n != len(hello) || len(p.wire) > 0 || err != nil || s.frames > 3 {
			t.Errorf("%s: goes on after an error", test.name)
		}
	}
}

// Control frames may come between the fragments of a message, and the limit applies to
// each message.
func TestScannerAccepts(t *testing.T) {
	s := &scanner{limit: 4, keep: 1}
	r := &record{}
	b := []byte{0x01, 0x02, 'a', 'b', 0x8A, 0x01, 'p', 0x00, 0x00, 0x80, 0x02, 'c', 'd', 0x82, 0x04, 1, 2, 3, 4}
	if rest, err := r.scan(s, b); len(rest) > 0 || err != nil {
		t.Fatalf("scan left %x, %v", rest, err)
	}
	if !bytes.Equal(r.forwarded, b) || s.frames != 5 || !s.betweenMessages() {
		t.Errorf("forwarded %x, %d frames, %+v", r.forwarded, s.frames, s)
	}
}

func BenchmarkScan(b *testing.B) {
	var frames []byte
	key := [4]byte{1, 2, 3, 4}
	for range 100 {
		frames = appendFrame(frames, opText, make([]byte, 300), &key)
	}
	b.SetBytes(int64(len(frames)))
	b.ReportAllocs()
	s := &scanner{fromClient: true, limit: 1 << 20, keep: 1}
	for b.Loop() {
		scanAway(b, s, frames)
	}
}

func scanAway(t testing.TB, s *scanner, b []byte) {
	for len(b) > 0 {
		_, n, err := s.next(b)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		b = b[n:]
	}
}

// Scanning allocates nothing for any text.
func TestScanAllocatesNothing(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 300), strings.Repeat("aé€😀", 30)} {
		frame := appendFrame(nil, opText, []byte(text), &[4]byte{1, 2, 3, 4})
		s := &scanner{fromClient: true, limit: 1 << 20, keep: 1}
		if n := testing.AllocsPerRun(100, func() { scanAway(t, s, frame) }); n != 0 {
			t.Errorf("%v allocations a frame; want 0", n)
		}
	}
}

// A text is valid exactly if unicode/utf8 accepts it, regardless of cuts and mask.
func FuzzUTF8(f *testing.F) {
	f.Add([]byte("aé€😀"+strings.Repeat("x", 64)+"ü"), uint64(1), uint32(0x01020304))
	f.Add([]byte("\xed\xa0\x80"), uint64(2), uint32(0))
	f.Add([]byte("\xf4\x90\x80\x80"), uint64(3), uint32(7))
	f.Add(append(bytes.Repeat([]byte("y"), 600), 0xe2, 0x82), uint64(4), uint32(0xffffffff))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64, mask uint32) {
		var key [4]byte
		binary.LittleEndian.PutUint32(key[:], mask)
		wire := bytes.Clone(text)
		for i := range wire {
			wire[i] ^= key[i&3]
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		var c utf8Checker
		valid := true
		for at := 0; valid && (at < len(wire) || at == 0); {
			n := min(rnd.IntN(100), len(wire)-at)
			if rnd.IntN(3) == 0 {
				n = len(wire) - at
			}
			p := piece{header: header{masked: true, key: key}, payload: wire[at : at+n], at: int64(at)}
			at += n
			valid = c.check(&p, at == len(wire))
			if len(wire) == 0 {
				break
			}
		}
		if valid != utf8.Valid(text) {
			t.Errorf("%q is valid: %v; want %v", text, valid, !valid)
		}
	})
}

func BenchmarkUTF8(b *testing.B) {
	for name, text := range map[string]string{"ASCII": strings.Repeat("a", 1024), "Cyrillic": strings.Repeat("ы", 512)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			p := piece{header: header{masked: true, key: [4]byte{1, 2, 3, 4}}, payload: []byte(text)}
			applyMask(p.payload, p.key, 0)
			for b.Loop() {
				var c utf8Checker
				if !c.check(&p, true) {
					b.Fatal("not valid")
				}
			}
		})
	}
}

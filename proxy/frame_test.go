package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// record is a frameSink that writes down what it was given. Pings are taken
// out, so that there is something to take out.
type record struct {
	forwarded []byte
	controls  []string
}

func (r *record) forward(b []byte) { r.forwarded = append(r.forwarded, b...) }

func (r *record) message(h header, head []byte) {
	r.controls = append(r.controls, fmt.Sprintf("message of %d begins %x", h.length, head[:min(len(head), 1)]))
}

func (r *record) control(h header, frame []byte) bool {
	r.controls = append(r.controls, fmt.Sprintf("%x at %d: %x", h.opcode, len(r.forwarded), frame))
	return h.opcode != opPing
}

// scanAll feeds b to s in pieces of the given sizes, held bytes in front, as a
// tunnel does.
func scanAll(s *scanner, b []byte, sizes func() int) (*record, error) {
	r := &record{}
	var held []byte
	for len(b) > 0 {
		n := min(max(sizes(), 1), len(b))
		chunk := append(held, b[:n]...)
		b = b[n:]
		used, err := s.scan(chunk, r)
		if err != nil {
			return r, err
		}
		held = bytes.Clone(chunk[used:])
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
			// What is kept back for its first byte of payload depends on the
			// split only at the very end.
			if !bytes.Equal(got.forwarded, want.forwarded) {
				t.Errorf("forwarded %x, want %x", got.forwarded, want.forwarded)
			}
			if fmt.Sprint(got.controls) != fmt.Sprint(want.controls) {
				t.Errorf("control frames %q, want %q", got.controls, want.controls)
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("err = %v, want %v", err, wantErr)
			}
			if err == nil && *s != *whole {
				t.Errorf("scanner is %+v, want %+v", *s, *whole)
			}
		}
	})
}

// A header that is read is written again as it was.
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

// What a peer may not send is refused, with the right status code, and what
// was whole before it is forwarded.
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
		{"length with its top bit", masked(0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0), codeProtocol},
		{"Close with one byte", append(masked(0x88, 0x81), 3), codeProtocol},
		{"Close with 1005", append(masked(0x88, 0x82), 0x03, 0xED), codeProtocol},
		{"Close with 999", append(masked(0x88, 0x82), 0x03, 0xE7), codeProtocol},
		{"over the limit", masked(0x81, 0xFE, 0x04, 0x01), codeTooBig},
		{"over the limit in two", append(append(masked(0x01, 0xFE, 0x04, 0x00), make([]byte, 1024)...), masked(0x80, 0x81)...), codeTooBig},
	} {
		s := &scanner{fromClient: true, limit: 1024, keep: 1}
		r := &record{}
		used, err := s.scan(append(bytes.Clone(hello), test.b...), r)
		var pe *protocolError
		if !errors.As(err, &pe) || pe.code != test.code {
			t.Errorf("%s: err = %v; want status code %d", test.name, err, test.code)
		}
		if !bytes.HasPrefix(r.forwarded, hello) || used != len(hello)+len(test.b) {
			t.Errorf("%s: forwarded %x, used %d", test.name, r.forwarded, used)
		}
		if more, err := s.scan(hello, r); more != len(hello) || err != nil || s.frames > 3 {
			t.Errorf("%s: goes on after an error", test.name)
		}
	}
}

// Control frames may come between the fragments of a message, and a limit is
// for each message anew.
func TestScannerAccepts(t *testing.T) {
	s := &scanner{limit: 4, keep: 1}
	r := &record{}
	b := []byte{0x01, 0x02, 'a', 'b', 0x8A, 0x01, 'p', 0x00, 0x00, 0x80, 0x02, 'c', 'd', 0x82, 0x04, 1, 2, 3, 4}
	if used, err := s.scan(b, r); used != len(b) || err != nil {
		t.Fatalf("scan = %d, %v; want %d", used, err, len(b))
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
	sink := &countSink{}
	for b.Loop() {
		if _, err := s.scan(frames, sink); err != nil {
			b.Fatal(err)
		}
	}
}

type countSink struct{ n int }

func (c *countSink) message(header, []byte)      {}
func (c *countSink) forward(b []byte)            { c.n += len(b) }
func (c *countSink) control(header, []byte) bool { return true }

// Scanning costs no memory.
func TestScanAllocatesNothing(t *testing.T) {
	frame := appendFrame(nil, opText, make([]byte, 300), &[4]byte{1, 2, 3, 4})
	s := &scanner{fromClient: true, limit: 1 << 20, keep: 1}
	sink := &countSink{}
	if n := testing.AllocsPerRun(100, func() { s.scan(frame, sink) }); n != 0 {
		t.Errorf("%v allocations a frame; want 0", n)
	}
}

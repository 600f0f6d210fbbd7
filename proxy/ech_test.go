package proxy

import (
	"testing"
)

// What a ClientHello offers is read in whatever records it comes; of what is damaged or
// of the wrong form, nothing.
func TestECHIn(t *testing.T) {
	offer := []byte{0xfe, 0x0d, 0, 6, 0, 0, 1, 0, 3, 42}
	hello := func(extensions []byte) []byte {
		body := append(make([]byte, 2+32), 0, 0, 2, 0x13, 0x01, 1, 0)
		body = append(append(body, byte(len(extensions)>>8), byte(len(extensions))), extensions...)
		return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	records := func(message []byte, size int) (out []byte) {
		for len(message) > 0 {
			n := min(size, len(message))
			out = append(append(out, 22, 3, 1, byte(n>>8), byte(n)), message[:n]...)
			message = message[n:]
		}
		return out
	}
	whole := hello(offer)
	for _, size := range []int{1, 7, len(whole)} {
		if got := echIn(records(whole, size)); got == nil || *got != (echOffer{42, 1, 3}) {
			t.Errorf("in records of %d bytes: %+v; want id 42, KDF 1, AEAD 3", size, got)
		}
	}
	if got := echIn(records(hello(append(make([]byte, 4), offer...)), 999)); got == nil {
		t.Error("behind another extension: not found")
	}
	for cut := range len(whole) {
		if got := echIn(records(whole[:cut], 999)); got != nil {
			t.Errorf("cut at %d: %+v; want none", cut, got)
		}
	}
	for name, bad := range map[string][]byte{
		"inner":   {0xfe, 0x0d, 0, 1, 1},
		"short":   {0xfe, 0x0d, 0, 3, 0, 0, 1},
		"another": {0xfe, 0x0e, 0, 6, 0, 0, 1, 0, 3, 42},
	} {
		if got := echIn(records(hello(bad), 999)); got != nil {
			t.Errorf("%s: %+v; want none", name, got)
		}
	}
}

package websocket

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

// The frames of RFC 6455, section 5.7, are written and read as it shows them.
func TestFrameExamples(t *testing.T) {
	for _, tt := range []struct {
		frame Frame
		bytes string
	}{
		{Frame{FIN: true, Op: Text, Payload: []byte("Hello")}, "\x81\x05Hello"},
		{Frame{FIN: true, Op: Text, Masked: true, Payload: []byte("Hello")}, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{Frame{Op: Text, Payload: []byte("Hel")}, "\x01\x03Hel"},
		{Frame{FIN: true, Op: Continuation, Payload: []byte("lo")}, "\x80\x02lo"},
		{Frame{FIN: true, Op: Ping, Payload: []byte("Hello")}, "\x89\x05Hello"},
		{Frame{FIN: true, Op: Binary, Payload: make([]byte, 256)}, "\x82\x7e\x01\x00" + strings.Repeat("\x00", 256)},
		{Frame{FIN: true, Op: Text, Masked: true, ZeroKey: true, Payload: []byte("Hello")}, "\x81\x85\x00\x00\x00\x00Hello"},
		{Frame{FIN: true, Op: Binary, Payload: make([]byte, 125)}, "\x82\x7d" + strings.Repeat("\x00", 125)},
		{Frame{FIN: true, Op: Binary, Payload: make([]byte, 0xffff)}, "\x82\x7e\xff\xff" + strings.Repeat("\x00", 0xffff)},
		{Frame{FIN: true, Op: Binary, Payload: make([]byte, 1<<16)}, "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("\x00", 1<<16)},
	} {
		if got := tt.frame.Append(nil); string(got) != tt.bytes {
			t.Errorf("%v.Append() = %q; want %q", tt.frame, got, tt.bytes)
		}
		buf := make([]byte, 256)
		got, err := ReadFrameInto(bufio.NewReader(strings.NewReader(tt.bytes)), buf)
		if err != nil || got.String() != tt.frame.String() || !bytes.Equal(got.Payload, tt.frame.Payload) {
			t.Errorf("ReadFrameInto(%q) = %v, %v; want %v", tt.bytes, got, err, tt.frame)
		}
		if n := len(got.Payload); n > 0 && n <= len(buf) && &got.Payload[0] != &buf[0] {
			t.Errorf("ReadFrameInto left its buffer, though %d bytes have room there", n)
		}
	}
}

// The accept value is the one that RFC 6455, section 1.3, computes.
func TestAccept(t *testing.T) {
	if got, want := Accept(Key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("Accept(%q) = %q; want %q", Key, got, want)
	}
}

package upstream

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// maxAnswer is the maximum size in bytes of a node's answer up to the blank line of its
// 101. Real answers stay under 1 KiB.
const maxAnswer = 16 << 10

// A HandshakeError is the error for a node that answered the opening handshake with
// anything but the requested 101.
type HandshakeError struct {
	Status int    // of the answer; 0 if it was not HTTP
	What   string // such as "answered 404 Not Found to the opening handshake, want 101"
	Hint   string // what the operator may check; may be empty
	Err    error  // the network error that caused it; may be nil
}

func (e *HandshakeError) Error() string {
	if e.Err != nil {
		return e.What + ": " + e.Err.Error()
	}
	return e.What
}

func (e *HandshakeError) Unwrap() error { return e.Err }

// ws.Dialer.Upgrade (gobwas/ws v1.5.0) is unsuitable: its reader has no limit. It
// accepts HTTP/1.10, status digits such as "10:", bare LF, repeated headers and an
// answer without a subprotocol. It splits a request over 4 KiB into several writes, and
// can't write a PROXY header with it.

// OpeningHandshake writes request, which already contains key, and reads the answer. It
// returns the bytes after the 101; they belong to the tunnel. The error is a
// *HandshakeError. The caller sets deadlines, and closes the conn after an error.
func OpeningHandshake(conn net.Conn, request []byte, key, subprotocol string) (rest []byte, err error) {
	if _, err := conn.Write(request); err != nil {
		return nil, &HandshakeError{What: "write the opening handshake", Err: bare(err)}
	}
	pooled := answerBuffers.Get().(*[2 << 10]byte)
	defer answerBuffers.Put(pooled)

	buf, end := pooled[:0], 0
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, maxAnswer-len(buf))
		}
		n := len(buf)
		var m int
		m, err = conn.Read(buf[n:min(cap(buf), maxAnswer)])
		buf = buf[:n+m]
		from := max(0, n-len(blankLine)+1)
		if i := bytes.Index(buf[from:], []byte(blankLine)); i >= 0 {
			end = from + i + len(blankLine)
			break
		}
		if err != nil || len(buf) >= maxAnswer {
			return nil, cutAnswer(buf, err)
		}
	}
	a, err := parseAnswer(buf[:end])
	if err == nil {
		err = a.check(key, subprotocol)
	}
	if err != nil {
		return nil, err
	}
	return append(rest, buf[end:]...), nil
}

// answerBuffers fit real answers; longer ones are copied to a larger buffer. During a
// storm, hundreds of dials wait for their answers.
var answerBuffers = sync.Pool{New: func() any { return new([2 << 10]byte) }}

// cutAnswer is the error for an answer without a blank line.
func cutAnswer(got []byte, cause error) error {
	line, _, whole := strings.Cut(string(got), "\r\n")
	if whole {
		if status, reason, err := parseStatusLine(line); err == nil && status != 101 {
			return statusError(status, reason, "")
		}
	}
	switch {
	case cause == nil:
		return &HandshakeError{What: fmt.Sprintf("answered %d bytes without a blank line to the opening handshake", len(got))}
	case len(got) == 0 && !errors.Is(cause, io.EOF):
		return &HandshakeError{What: "no answer to the opening handshake", Err: bare(cause)}
	case len(got) > 0 && !strings.HasPrefix("HTTP/1.1 ", string(got[:min(len(got), 9)])) && !strings.HasPrefix(string(got), "HTTP/"):
		return notHTTP(got)
	case len(got) == 0:
		return &HandshakeError{What: "closed without an answer to the opening handshake",
			Hint: "does the port speak plain WebSocket? does the server limit new connections per second?"}
	case errors.Is(cause, io.EOF):
		cause = io.ErrUnexpectedEOF
	}
	return &HandshakeError{What: fmt.Sprintf("answered %d bytes of an opening handshake, then", len(got)), Err: bare(cause)}
}

func notHTTP(got []byte) error {
	e := &HandshakeError{What: fmt.Sprintf("answered %q to the opening handshake, want HTTP/1.1", got[:min(len(got), 40)])}
	if got[0] == 0x15 || got[0] == 0x16 {
		e.Hint = `the port speaks TLS; write "wss://"`
	}
	return e
}

// NewKey makes a Sec-WebSocket-Key: 16 random bytes in base64.
func NewKey() string {
	var nonce [16]byte
	rand.Read(nonce[:])
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// AcceptKey returns the Sec-WebSocket-Accept for a key.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

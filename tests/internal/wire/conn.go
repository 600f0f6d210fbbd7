package wire

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"wssgate/internal/websocket"
)

// Patience is how long a Conn waits for bytes that must come.
const Patience = time.Minute

// A Conn is one end of a WebSocket, or of what may become one. Its methods end
// the test where the other side does not do what they ask for, so they belong
// on the test's goroutine; Frame and Write return errors instead.
type Conn struct {
	net.Conn
	R      *bufio.Reader
	Client bool // sends masked frames and takes only unmasked ones
	gates  bool // at an upstream: the gate itself is the client
	tb     testing.TB
}

// NewConn wraps a connection. The Conn is closed with the test.
func NewConn(tb testing.TB, conn net.Conn, client bool) *Conn {
	tb.Cleanup(func() { conn.Close() })
	return &Conn{Conn: conn, R: bufio.NewReader(conn), Client: client, tb: tb}
}

// DialTLS opens a TLS connection to the gate.
func DialTLS(tb testing.TB, addr string, config *tls.Config) *Conn {
	tb.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: Patience}, "tcp", addr, config)
	if err != nil {
		tb.Fatal(err)
	}
	return NewConn(tb, conn, true)
}

// Dial opens a TLS connection and a WebSocket with the subprotocol xmpp on it.
func Dial(tb testing.TB, addr string, config *tls.Config) *Conn {
	tb.Helper()
	c := DialTLS(tb, addr, config)
	c.Upgrade(Request(config.ServerName))
	return c
}

// Request returns a browser's opening handshake for the host; more header
// lines replace those of the same name, and "Name:" alone takes one away.
func Request(host string, more ...string) string {
	return RequestLine("GET / HTTP/1.1", host, more...)
}

// RequestLine is Request with another first line.
func RequestLine(line, host string, more ...string) string {
	header := []string{
		"Host: " + host,
		"Connection: Upgrade",
		"Upgrade: websocket",
		"Origin: https://" + host,
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: " + websocket.Key,
		"Sec-WebSocket-Protocol: xmpp",
	}
	var kept []string
	for _, old := range header {
		name, _, _ := strings.Cut(old, ":")
		replaced := false
		for _, m := range more {
			other, _, _ := strings.Cut(m, ":")
			replaced = replaced || strings.EqualFold(name, other)
		}
		if !replaced {
			kept = append(kept, old)
		}
	}
	for _, m := range more {
		if !strings.HasSuffix(m, ":") {
			kept = append(kept, m)
		}
	}
	return line + "\r\n" + strings.Join(kept, "\r\n") + "\r\n\r\n"
}

// Upgrade sends the request and wants a 101 for it with the subprotocol xmpp.
func (c *Conn) Upgrade(request string) {
	c.tb.Helper()
	if err := c.TryUpgrade(request); err != nil {
		c.tb.Fatal(err)
	}
}

// TryUpgrade is Upgrade for any goroutine.
func (c *Conn) TryUpgrade(request string) error {
	c.SetDeadline(time.Now().Add(Patience))
	defer c.SetDeadline(time.Time{})
	return websocket.Upgrade(c.Conn, c.R, request)
}

// Answer sends the request and returns the answer with its body.
func (c *Conn) Answer(request string) (*http.Response, string) {
	c.tb.Helper()
	c.SetDeadline(time.Now().Add(Patience))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c.Conn, request); err != nil {
		c.tb.Fatal(err)
	}
	resp, err := http.ReadResponse(c.R, nil)
	if err != nil {
		c.tb.Fatalf("answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatalf("answer: %s, body %q: %v", resp.Status, body, err)
	}
	return resp, string(body)
}

// Bytes returns the frame as this end has to send it.
func (c *Conn) Bytes(f Frame) []byte {
	f.Masked = c.Client
	return f.Append(nil)
}

// Send sends the frames, each in a write of its own.
func (c *Conn) Send(frames ...Frame) {
	c.tb.Helper()
	for _, f := range frames {
		if _, err := c.Write(c.Bytes(f)); err != nil {
			c.tb.Fatalf("send %v: %v", f, err)
		}
	}
}

// SendText sends one text message.
func (c *Conn) SendText(text string) {
	c.tb.Helper()
	c.Send(Frame{FIN: true, Op: Text, Payload: []byte(text)})
}

// Frame reads the next frame.
func (c *Conn) Frame() (Frame, error) {
	c.SetReadDeadline(time.Now().Add(Patience))
	defer c.SetReadDeadline(time.Time{})
	f, err := ReadFrame(c.R)
	if err == nil && f.Masked == c.Client {
		err = fmt.Errorf("frame %v: wrong mask bit", f)
	}
	return f, err
}

// Want reads the next frame, which must be this one.
func (c *Conn) Want(want Frame) {
	c.tb.Helper()
	got, err := c.Frame()
	if err != nil {
		c.tb.Fatalf("got %v; want %v", err, want)
	}
	if got.FIN != want.FIN || got.Op != want.Op || !bytes.Equal(got.Payload, want.Payload) {
		c.tb.Fatalf("got %v; want %v", got, want)
	}
}

// WantText reads the next frame, which must be this text message.
func (c *Conn) WantText(text string) {
	c.tb.Helper()
	c.Want(Frame{FIN: true, Op: Text, Payload: []byte(text)})
}

// WantClose reads the next frame, which must be a Close with the status code,
// and returns its reason.
func (c *Conn) WantClose(code uint16) string {
	c.tb.Helper()
	f, err := c.Frame()
	if err != nil {
		c.tb.Fatalf("got %v; want a Close frame %d", err, code)
	}
	if f.Op != Close || len(f.Payload) < 2 || binary.BigEndian.Uint16(f.Payload) != code {
		c.tb.Fatalf("got %v; want a Close frame %d", f, code)
	}
	return string(f.Payload[2:])
}

// WantEnd reads the end of the connection: nothing more comes, and where it is
// TLS the end is an honest one (close_notify).
func (c *Conn) WantEnd() {
	c.tb.Helper()
	if f, err := c.Frame(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.tb.Fatalf("got %v, %v; want the end of the connection", f, err)
	}
}

// WantGone reads until the connection is over, honestly or with a reset.
func (c *Conn) WantGone() {
	c.tb.Helper()
	c.SetReadDeadline(time.Now().Add(Patience))
	defer c.SetReadDeadline(time.Time{})
	_, err := io.Copy(io.Discard, c.R)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.tb.Fatalf("the connection is still open after %v", Patience)
	}
}

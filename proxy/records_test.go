package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/internal/tlstest"
)

// A recordClient is a TLS 1.3 client that writes its own records.
type recordClient struct {
	*tlstest.Writer
	conn *tls.Conn
}

func (g *gate) recordClient(t *testing.T) *recordClient {
	raw, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	var keys bytes.Buffer
	conn := tls.Client(raw, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool(), MinVersion: tls.VersionTLS13, KeyLogWriter: &keys})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	w, err := tlstest.NewWriter(raw, conn.ConnectionState(), keys.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return &recordClient{w, conn}
}

// pieces writes text in records of so many bytes.
func (c *recordClient) pieces(text string, size int) (err error) {
	for len(text) > 0 && err == nil {
		n := min(size, len(text))
		_, err = c.Write([]byte(text[:n]))
		text = text[n:]
	}
	return err
}

// wantEnd expects the connection to be closed, after any answer.
func (c *recordClient) wantEnd(t *testing.T) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

func (c *recordClient) want(t *testing.T, status string) {
	t.Helper()
	line := make([]byte, len("HTTP/1.1 "+status))
	if _, err := io.ReadFull(c.conn, line); err != nil || !strings.HasSuffix(string(line), status) {
		t.Errorf("the request is answered with %q, %v; want %s", line, err, status)
	}
}

// A client that uses TLS in a way that is expensive for the gate is closed before its
// request is complete, and also after an answer; one with merely small records is
// served.
func TestRecordsOfRequest(t *testing.T) {
	up := newUpstream(t, chat.Config{Echo: true})
	g := newGate(t, up.URL(), echoPages, func(o *Options) { o.Settings.RequestTimeout = time.Hour })
	upgrade := head("GET / HTTP/1.1")
	long := strings.TrimSuffix(upgrade, "\r\n") + "X-Long: " + strings.Repeat("x", 8<<10) + "\r\n\r\n"
	unfinished := append([]byte{24, 0, 0x40, 0}, make([]byte, 2)...) // a KeyUpdate of 16 KiB

	for _, size := range []int{1, 7, 1 << 14} {
		c := g.recordClient(t)
		if err := c.pieces(upgrade, size); err != nil {
			t.Fatal(err)
		}
		c.want(t, "101")
	}
	c := g.recordClient(t)
	if err := c.pieces(long, 64); err != nil {
		t.Fatal(err)
	}
	c.want(t, "101")

	for what, be := range map[string]func(*recordClient) error{
		"a long request, byte by byte": func(c *recordClient) error { return c.pieces(long, 1) },
		"KeyUpdates between bytes": func(c *recordClient) error {
			for _, b := range []byte(upgrade[:len(upgrade)-4]) {
				for range 8 {
					if err := c.KeyUpdate(false); err != nil {
						return err
					}
				}
				if _, err := c.Write([]byte{b}); err != nil {
					return err
				}
			}
			return nil
		},
		"a handshake message that does not end": func(c *recordClient) error { return c.Handshake(unfinished) },
		"the same in the middle of a request": func(c *recordClient) error {
			return errors.Join(c.pieces("GET / ", 6), c.Handshake(unfinished))
		},
		"the same behind an answer": func(c *recordClient) error {
			if err := c.pieces(fmt.Sprintf("GET /page HTTP/1.1\r\nHost: %s\r\n\r\n", testName), 1<<10); err != nil {
				return err
			}
			c.want(t, "200")
			return c.Handshake(unfinished)
		},
		"the same in a body": func(c *recordClient) error {
			err := c.pieces(fmt.Sprintf("POST /page HTTP/1.1\r\nHost: %s\r\nContent-Length: 9\r\n\r\n1", testName), 1<<10)
			return errors.Join(err, c.Handshake(unfinished))
		},
		"the same in a tunnel": func(c *recordClient) error {
			if err := c.pieces(upgrade, 1<<10); err != nil {
				return err
			}
			c.want(t, "101")
			return c.Handshake(unfinished)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := g.recordClient(t)
			be(c) // it may see the end
			c.wantEnd(t)
		})
	}
}

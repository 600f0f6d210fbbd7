package upstream

import (
	"bufio"
	"io"
	"net"
	"testing"
)

var request = &Request{Host: "example1.com", RequestURI: "/ws", Subprotocol: "xmpp", ServerName: "example1.com"}

// What follows the 101 belongs to the tunnel, and so does what comes later.
func TestDialKeepsWhatFollowsThe101(t *testing.T) {
	node := startNode(t, "tcp", func(c net.Conn, br *bufio.Reader, head string) {
		text := good(head) + "\x81\x02hi"
		io.WriteString(c, text[:40])
		io.WriteString(c, text[40:])
		io.Copy(c, br)
	})
	c, err := one(t, GroupOptions{}, wsURL(node)).Dial(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Conn.Close()
	defer c.Release()
	got := string(c.Rest)
	for len(got) < 4 {
		var b [8]byte
		n, err := c.Conn.Read(b[:])
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
	if got != "\x81\x02hi" {
		t.Errorf("after the 101 came %q; want %q", got, "\x81\x02hi")
	}
}

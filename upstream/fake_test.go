package upstream

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A peer answers one opening handshake; head is the request up to its blank line,
// including a PROXY header.
type peer func(c net.Conn, br *bufio.Reader, head string)

// A fakeNode listens on a loopback port and passes each conn to its peer.
type fakeNode struct {
	net.Listener
	mu    sync.Mutex
	heads []string
	jobs  sync.WaitGroup
}

// startNode starts a node until the end of the test. The peer's conn is closed when the
// peer returns.
func startNode(t *testing.T, network string, p peer) *fakeNode {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = t.TempDir() + "/s"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveNode(t, ln, p)
}

func serveNode(t *testing.T, ln net.Listener, p peer) *fakeNode {
	f := &fakeNode{Listener: ln}
	t.Cleanup(func() { ln.Close(); f.jobs.Wait() })
	f.jobs.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.jobs.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				br := bufio.NewReader(c)
				head, err := readHead(br)
				f.mu.Lock()
				f.heads = append(f.heads, head)
				f.mu.Unlock()
				if err == nil {
					p(c, br, head)
				}
			})
		}
	})
	return f
}

func readHead(br *bufio.Reader) (string, error) {
	var b bytes.Buffer
	for {
		line, err := br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
		// A PROXY v2 header also has a blank line, before the request.
		if strings.HasSuffix(b.String(), blankLine) && strings.Contains(b.String(), "Sec-WebSocket-Key") {
			return b.String(), nil
		}
	}
}

func (f *fakeNode) head(t *testing.T) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heads) == 0 {
		t.Fatal("the node saw no request")
	}
	return f.heads[len(f.heads)-1]
}

// headerOf returns the first value of a header in a head; name is case-sensitive.
func headerOf(head, name string) string {
	_, rest, _ := strings.Cut(head, "\r\n"+name+": ")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// good returns Tigase's 101.
func good(head string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Access-Control-Allow-Origin: *\r\n" +
		"Sec-WebSocket-Accept: " + AcceptKey(headerOf(head, "Sec-WebSocket-Key")) + "\r\n" +
		"Sec-WebSocket-Protocol: " + headerOf(head, "Sec-WebSocket-Protocol") + "\r\n\r\n"
}

// polite accepts, then echoes until the client disconnects.
func polite(c net.Conn, br *bufio.Reader, head string) {
	io.WriteString(c, good(head))
	io.Copy(c, br)
}

// says answers with a fixed text and closes.
func says(text string) peer {
	return func(c net.Conn, _ *bufio.Reader, _ string) { io.WriteString(c, text) }
}

// table creates a Table without a log until the end of the test.
func table(t *testing.T, o Options) *Table {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	tab, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	return tab
}

// update does the same as a reload.
func update(t *testing.T, tab *Table, o Options) {
	t.Helper()
	r, err := Prepare(o)
	if err != nil {
		t.Error(err)
		return
	}
	tab.Commit(r)
}

// one returns the vhost of a single group with these node URLs.
func one(t *testing.T, g GroupOptions, urls ...string) *Vhost {
	t.Helper()
	g.Name = "tigase"
	for _, u := range urls {
		g.Nodes = append(g.Nodes, NodeOptions{URL: u})
	}
	v, err := table(t, Options{Upstreams: []GroupOptions{g}}).Routes().Lookup("example1.com")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wsURL(ln net.Listener) string { return fmt.Sprintf("ws://%s/", ln.Addr()) }

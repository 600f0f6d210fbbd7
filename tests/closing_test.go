package tests

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

func containsLine(head, prefix string) bool {
	for line := range strings.SplitSeq(head, "\r\n") {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// Tigase answers a client's Close frame with one that has no status code, and
// leaves TCP open. The client gets that answer, and both legs are closed.
func TestCloseByClient(t *testing.T) {
	g, client, upstream := open(t, "")
	client.Send(wire.CloseFrame(true, 1000, "bye"))
	upstream.Want(wire.CloseFrame(false, 1000, "bye"))
	upstream.Send(wire.Frame{FIN: true, Op: wire.Close})
	client.Want(wire.Frame{FIN: true, Op: wire.Close})
	client.WantEnd()
	wire.WantEOF(t, upstream.R, upstream.Conn)
	wantReason(t, g, "client_close")
}

// A Close frame of the upstream goes to the client and the answer back; then
// both legs are closed, whoever of the two would have to begin.
func TestCloseByUpstream(t *testing.T) {
	g, client, upstream := open(t, "")
	upstream.Send(wire.CloseFrame(false, 1001, "restart"))
	client.Want(wire.CloseFrame(false, 1001, "restart"))
	client.Send(wire.CloseFrame(true, 1001, ""))
	upstream.Want(wire.CloseFrame(false, 1001, ""))
	client.WantEnd()
	wire.WantEOF(t, upstream.R, upstream.Conn)
	wantReason(t, g, "upstream_close")
}

// An upstream that dies is a service restart to a browser: Close 1012. So it is
// with a FIN, as Tigase ends on SIGTERM, and with a reset.
func TestUpstreamGone(t *testing.T) {
	for _, linger := range []int{-1, 0} {
		t.Run(fmt.Sprintf("linger %d", linger), func(t *testing.T) {
			g, client, upstream := open(t, "")
			upstream.SendText("last words")
			client.WantText("last words")
			upstream.Conn.(*net.TCPConn).SetLinger(linger)
			upstream.Conn.Close()
			client.WantClose(1012)
			client.Send(wire.CloseFrame(true, 1012, ""))
			client.WantEnd()
			wantReason(t, g, "upstream_gone")
		})
	}
}

// An upstream that ends in the middle of a frame that is on its way to the
// client leaves nothing that could be said: the connection ends.
func TestUpstreamHalfFrame(t *testing.T) {
	_, client, upstream := open(t, "")
	whole := upstream.Bytes(wire.Frame{FIN: true, Op: wire.Text, Payload: payload(20_000)})
	upstream.Write(whole[:10_000])
	if _, err := client.R.Peek(1); err != nil { // it is on its way
		t.Fatal(err)
	}
	upstream.Conn.Close()
	f, err := client.Frame()
	if err == nil {
		t.Fatalf("got %v; want the end inside a frame", f)
	}
	client.WantGone()
}

// An upstream that breaks RFC 6455 is a bad gateway to the client: Close 1014,
// behind the whole frames that came before.
func TestUpstreamProtocol(t *testing.T) {
	for _, tt := range []struct{ what, bytes string }{
		{"masked frame", "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{"reserved bit", "\xc1\x05Hello"},
		{"reserved opcode", "\x83\x05Hello"},
		{"fragmented Ping", "\x09\x00"},
		{"Ping of 126 bytes", "\x89\x7e\x00\x7e" + strings.Repeat("x", 126)},
		{"continuation of nothing", "\x80\x05Hello"},
		{"message inside a message", "\x01\x03Hel\x81\x02lo"},
		{"length with the most significant bit", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x01x"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			g, client, upstream := open(t, "")
			upstream.SendText("good")
			client.WantText("good")
			upstream.Write([]byte(tt.bytes))
			f, err := client.Frame()
			for err == nil && !f.FIN { // the fragment that was right by itself
				f, err = client.Frame()
			}
			if err != nil || f.Op != wire.Close || string(f.Payload[:2]) != "\x03\xf6" {
				t.Fatalf("got %v, %v; want a Close frame 1014", f, err)
			}
			client.Send(wire.CloseFrame(true, 1014, ""))
			client.WantEnd()
			wire.WantEOF(t, upstream.R, upstream.Conn)
			wantReason(t, g, "upstream_protocol")
		})
	}
}

// A client that breaks RFC 6455 gets Close 1002, one whose message is too big
// 1009; the upstream sees none of it and is closed.
func TestClientProtocol(t *testing.T) {
	const limit = "[limits]\nmessage = \"16KiB\"\n"
	masked := func(f wire.Frame) string { f.Masked = true; return string(f.Append(nil)) }
	largest := payload(16 << 10)
	for _, tt := range []struct {
		what, bytes string
		code        uint16
		reason      string
	}{
		{"unmasked frame", "\x81\x05Hello", 1002, "client_protocol"},
		{"reserved bit", masked(wire.Frame{FIN: true, RSV: 4, Op: wire.Text}), 1002, "client_protocol"},
		{"reserved opcode", masked(wire.Frame{FIN: true, Op: 3}), 1002, "client_protocol"},
		{"reserved control opcode", masked(wire.Frame{FIN: true, Op: 11}), 1002, "client_protocol"},
		{"fragmented Close", masked(wire.Frame{Op: wire.Close}), 1002, "client_protocol"},
		{"Ping of 126 bytes", masked(wire.Frame{FIN: true, Op: wire.Ping, Payload: make([]byte, 126)}), 1002, "client_protocol"},
		{"continuation of nothing", masked(wire.Frame{FIN: true, Op: wire.Continuation}), 1002, "client_protocol"},
		{"length with the most significant bit", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01", 1002, "client_protocol"},
		{"message too big", masked(wire.Frame{FIN: true, Op: wire.Text, Payload: append(largest[:len(largest):len(largest)], 'x')}), 1009, "message_too_big"},
		{"a length that nobody has", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask", 1009, "message_too_big"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			g, client, upstream := open(t, limit)
			client.Send(wire.Frame{FIN: true, Op: wire.Text, Payload: largest}) // as big as it may be
			upstream.Want(wire.Frame{FIN: true, Op: wire.Text, Payload: largest})
			client.Write([]byte(tt.bytes))
			client.WantClose(tt.code)
			client.Send(wire.CloseFrame(true, tt.code, ""))
			client.WantEnd()
			if f, err := wire.ReadFrame(upstream.R); err == nil && f.Op != wire.Close {
				t.Errorf("the upstream got %v", f)
			}
			wire.WantEOF(t, upstream.R, upstream.Conn)
			wantReason(t, g, tt.reason)
		})
	}
}

// Fragments count together: a message is too big by its sum.
func TestClientMessageSum(t *testing.T) {
	_, client, upstream := open(t, "[limits]\nmessage = \"16KiB\"\n")
	first := wire.Frame{Op: wire.Text, Payload: payload(16 << 10)}
	client.Send(first)
	upstream.Want(first)
	client.Send(wire.Frame{FIN: true, Op: wire.Continuation, Payload: []byte{'x'}})
	client.WantClose(1009)
}

// A client that vanishes, with a FIN, with a reset or with TLS's close_notify
// alone and its TCP left open, takes its upstream connection with it.
func TestClientGone(t *testing.T) {
	for _, tt := range []struct {
		what  string
		leave func(*tls.Conn)
	}{
		{"FIN", func(c *tls.Conn) { c.NetConn().Close() }},
		{"reset", func(c *tls.Conn) { c.NetConn().(*net.TCPConn).SetLinger(0); c.NetConn().Close() }},
		{"half-open: FIN one way", func(c *tls.Conn) { c.NetConn().(*net.TCPConn).CloseWrite() }},
		{"half-open: close_notify one way", func(c *tls.Conn) { c.CloseWrite() }},
		{"half a TLS record", func(c *tls.Conn) { c.NetConn().Write([]byte("\x17\x03\x03\x01\x00abc")); c.NetConn().Close() }},
		{"a broken TLS record", func(c *tls.Conn) { c.NetConn().Write([]byte("\x17\x03\x03\x00\x20" + strings.Repeat("x", 32))) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			g, client, upstream := open(t, "")
			client.SendText("last words")
			upstream.WantText("last words")
			tt.leave(client.Conn.(*tls.Conn))
			wire.WantEOF(t, upstream.R, upstream.Conn)
			wantReason(t, g, "client_gone")
			if tt.what != "FIN" && tt.what != "reset" && tt.what != "half a TLS record" {
				client.WantGone()
			}
		})
	}
}

// A client that reads nothing while its upstream sends and sends is cut once
// limits.client_backlog waits for it: with Close 1008, for the upstream must
// never wait. The other clients notice nothing.
func TestSlowClient(t *testing.T) {
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	g := site.Start(t, toUpstream(u.URL)+"[limits]\nclient_backlog = \"256KiB\"\n")
	slow := wire.Dial(t, g.Addr("wss"), site.Client(name))
	toSlow := wire.Take(t, conns)
	quick := wire.Dial(t, g.Addr("wss"), site.Client(name))
	toQuick := wire.Take(t, conns)

	frame := wire.Frame{FIN: true, Op: wire.Text, Payload: payload(10_000)}
	sent := 0
	for ; sent < 10_000; sent++ { // 100 MB: more than any kernel's buffers
		if _, err := toSlow.Write(toSlow.Bytes(frame)); err != nil {
			break
		}
	}
	if sent == 10_000 {
		t.Fatalf("the upstream could send %d frames to a client that reads nothing", sent)
	}
	toQuick.Send(frame)
	quick.Want(frame)

	for { // whole frames, then the Close frame
		f, err := slow.Frame()
		if err != nil {
			t.Fatalf("got %v; want a Close frame 1008 behind whole frames", err)
		}
		if f.Op == wire.Close {
			if string(f.Payload[:2]) != "\x03\xf0" {
				t.Errorf("got %v; want a Close frame 1008", f)
			}
			break
		}
		if string(f.Payload) != string(frame.Payload) {
			t.Fatalf("got %v; want the frame that the upstream sent", f)
		}
	}
	slow.Conn.Close()
	wantReason(t, g, "slow_client")
}

// An upstream that does not read makes the gate stop reading the client: what
// waits is bounded by the kernel's buffers, and nothing is lost.
func TestSlowUpstream(t *testing.T) {
	_, client, upstream := open(t, "")
	frame := wire.Frame{FIN: true, Op: wire.Binary, Payload: payload(100_000)}
	const n = 300 // 30 MB
	sent := make(chan error, 1)
	go func() {
		for range n {
			if _, err := client.Write(client.Bytes(frame)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for range n {
		upstream.Want(frame)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// The line of a finished tunnel calls vhost, upstream and node what the
// configuration calls them, and counts what went through.
func TestTunnelLine(t *testing.T) {
	site := gate.NewSite(t, name)
	g := site.Start(t, fmt.Sprintf("[upstream.xmpp]\nnodes = [{ name = \"n1\", url = %q }]\nxmpp = false\n", wire.Echo(t).URL)+vhosts(name))
	client := wire.Dial(t, g.Addr("wss"), site.Client(name))
	client.SendText("hello")
	client.WantText("hello")
	client.Send(wire.CloseFrame(true, 1000, ""))
	client.WantGone()
	line := g.WaitLine("the line of the tunnel", func(l gate.Line) bool { return l.Msg() == "tunnel" })
	for key, want := range map[string]any{
		"level": "INFO", "client": client.LocalAddr().String(), "server_name": name, "host": name, "path": "/",
		"vhost": name, "upstream": "xmpp", "node": "n1",
		"frames_in": 2.0, "frames_out": 2.0, "bytes_in": 2 + 4 + 5 + 2 + 4 + 2.0, "bytes_out": 2 + 5 + 2.0,
		"code": 1000.0, "reason": "client_close",
	} {
		if got := line.Fields[key]; got != want {
			t.Errorf("%q is %v; want %v in\n%s", key, got, want, line.Text)
		}
	}
}

// wantReason waits for the log line of a finished tunnel and compares the
// reason that it gives.
func wantReason(t *testing.T, g *gate.Gate, reason string) {
	t.Helper()
	line := g.WaitLine("the line of a tunnel that ended with "+reason, func(l gate.Line) bool { return l.Str("reason") == reason })
	for _, key := range []string{"client", "server_name", "upstream", "node", "duration", "bytes_in", "bytes_out"} {
		if _, ok := line.Fields[key]; !ok {
			t.Errorf("the line of the tunnel has no %q: %s", key, line.Text)
		}
	}
}

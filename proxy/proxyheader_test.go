package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/demo/chat"
)

func v2(command, family byte, body ...byte) string {
	return string(proxyV2Signature) + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + string(body)
}

// Both versions provide the addresses, and nothing after the header is read.
func TestProxyHeader(t *testing.T) {
	v4 := []byte{192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x00, 0x14, 0xAB}
	v6 := append(append(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice()...), 0xC0, 0x00, 0x14, 0xAB)
	for _, test := range []struct{ header, client, local string }{
		{"PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\r\n", "192.0.2.7:49152", "198.51.100.1:5291"},
		{"PROXY TCP6 2001:db8::7 2001:db8::1 49152 5291\r\n", "[2001:db8::7]:49152", "[2001:db8::1]:5291"},
		{"PROXY UNKNOWN\r\n", "", ""},
		{"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", "", ""},
		{v2(0x21, 0x11, v4...), "192.0.2.7:49152", "198.51.100.1:5291"},
		{v2(0x21, 0x11, append(v4, 4, 0, 1, 'x')...), "192.0.2.7:49152", "198.51.100.1:5291"},
		{v2(0x21, 0x21, v6...), "[2001:db8::7]:49152", "[2001:db8::1]:5291"},
		{v2(0x20, 0x00), "", ""},
		{v2(0x20, 0x11, v4...), "", ""},
		{v2(0x21, 0x31, make([]byte, 216)...), "", ""},
	} {
		r := strings.NewReader(test.header + "\x16\x03\x01")
		client, local, err := readProxyHeader(r)
		show := func(a netip.AddrPort) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		if err != nil || show(client) != test.client || show(local) != test.local || r.Len() != 3 {
			t.Errorf("%q: %v, %v, %v, %d bytes left; want %s, %s, 3", test.header, client, local, err, r.Len(), test.client, test.local)
		}
	}
	for _, bad := range []string{
		"", "PROXY ", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01" + strings.Repeat("x", 100),
		"PROXY TCP4 192.0.2.7 198.51.100.1 49152\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\n",
		"PROXY TCP4 2001:db8::7 2001:db8::1 49152 5291\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 70000 5291\r\n",
		"PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
		v2(0x11, 0x11, v4...), v2(0x22, 0x11, v4...), v2(0x21, 0x11, v4[:10]...), v2(0x21, 0x11, v4...)[:20],
		string(proxyV2Signature) + "\x21\x11\xff\xff" + strings.Repeat("x", 70000),
	} {
		if client, local, err := readProxyHeader(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q: %v, %v; want an error", bad, client, local)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\r\n"))
	f.Add([]byte(v2(0x21, 0x11, 192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x00, 0x14, 0xAB)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		client, local, err := readProxyHeader(r)
		if err == nil && client.IsValid() != local.IsValid() {
			t.Errorf("one address only: %v, %v", client, local)
		}
		if used := len(b) - r.Len(); used > 16+maxProxyV2 {
			t.Errorf("read %d bytes", used)
		}
	})
}

// A balancer's header is trusted, and its clients are counted separately. A balancer
// without a header, and another peer with one, get no answer.
func TestProxyHeaderFromBalancer(t *testing.T) {
	up := newUpstream(t, chat.Config{})
	for _, test := range []struct {
		name, network, header string
		good                  bool
	}{
		{"header", "127.0.0.0/8", "PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\r\n", true},
		{"no header", "127.0.0.0/8", "", false},
		{"stranger", "192.0.2.0/24", "PROXY TCP4 192.0.2.7 198.51.100.1 49152 5291\r\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGate(t, up.URL(), func(o *Options) {
				o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix(test.network)}
				o.Settings.PerClient = 1
			})
			front := frontWith(t, g.addr, test.header)
			target := g.target()
			target.Addr = front
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := chat.Dial(ctx, target)
			if (err == nil) != test.good {
				t.Fatalf("err = %v", err)
			}
			header, unexpected := g.ProxyTroubles()
			want := map[string][2]int{"no header": {1, 0}, "stranger": {0, 1}}[test.name]
			if header.Count != want[0] || unexpected.Count != want[1] {
				t.Errorf("troubles are %+v and %+v; want %d of them", header, unexpected, want)
			}
			if err != nil {
				return
			}
			defer c.Abort()
			if got := up.Last().ForwardedFor; got != "192.0.2.7" {
				t.Errorf("upstream saw X-Forwarded-For %q", got)
			}
			if _, err := chat.Dial(ctx, target); err == nil {
				t.Error("a second connection of the same client got in; limits.per_client is 1")
			}
		})
	}
}

// frontWith forwards connections to addr with a header in front.
func frontWith(t *testing.T, addr, header string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				up, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer up.Close()
				up.Write([]byte(header))
				go func() {
					buf := make([]byte, 4096)
					for {
						n, err := c.Read(buf)
						up.Write(buf[:n])
						if err != nil {
							up.Close()
							return
						}
					}
				}()
				buf := make([]byte, 4096)
				for {
					n, err := up.Read(buf)
					c.Write(buf[:n])
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// Only bytes after the header count as sent by the client: a balancer's check has none.
func TestCountsBehindProxyHeader(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Settings.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	local := string(proxyV2Signature) + "\x20\x00\x00\x00"
	named := string(proxyV2Signature) + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\xc3\x50\x14\xab"
	for _, c := range []struct{ what, send, result string }{
		{"nothing", "", "silent"},
		{"v2 LOCAL", local, "silent"},
		{"v2", named, "silent"},
		{"v1", "PROXY TCP4 192.0.2.7 192.0.2.1 50000 5291\r\n", "silent"},
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", "silent"},
		{"half a v1", "PROXY TCP4 192.0.2.7 192", "failed"},
		{"half a v2", named[:20], "failed"},
		{"no header", "GET / HTTP/1.1\r\n\r\n", "proxy_header"},
		{"v1 with a mistake", "PROXY TCP4 192.0.2.7 192.0.2.1 50000\r\n", "proxy_header"},
		{"v2 of another version", string(proxyV2Signature) + "\x30\x00\x00\x00", "proxy_header"},
		{"v2 LOCAL and a byte", local + "\x16", "failed"},
		{"v1 and a byte", "PROXY UNKNOWN\r\n\x16", "failed"},
	} {
		before := g.Counts()
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, c.send)
		conn.Close()
		after := g.eventually(c.what, func(now Counts) bool {
			return !slices.Equal(now.Handshakes, before.Handshakes)
		})
		if handshakesOf(after, c.result, "") != handshakesOf(before, c.result, "")+1 {
			t.Errorf("%s: not counted as %s", c.what, c.result)
		}
	}
}

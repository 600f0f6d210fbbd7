package chat

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxRequest is how much a Server reads before it gives a request up.
const maxRequest = 64 << 10 // bytes

// A Peer is what a Server knows of who connected. It does not change once
// Peers returns it, but for the counts.
type Peer struct {
	ID      int    // 1 for the first conn that a Server saw
	Addr    string // TCP address
	Proxy   string // PROXY v1: the line without CRLF; v2: "v2 LOCAL" or "v2 SRC DST"; empty: there was none
	Request string // the whole opening handshake as it came, blank line included

	Method, Path, Version string
	Host                  string
	ForwardedFor          string // X-Forwarded-For
	Subprotocol           string // the one agreed on

	Count Count
}

// Header returns all values of a header, in their order. The name is compared
// without regard to case.
func (p *Peer) Header(name string) []string {
	var values []string
	for field := range p.fields() {
		if strings.EqualFold(field.name, name) {
			values = append(values, field.value)
		}
	}
	return values
}

type field struct{ name, value string }

func (p *Peer) fields() func(yield func(field) bool) {
	return func(yield func(field) bool) {
		for i, line := range strings.Split(p.Request, "\n") {
			name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":")
			if i > 0 && ok && !yield(field{name, strings.TrimSpace(value)}) {
				return
			}
		}
	}
}

// readRequest reads PROXY header and request, and returns what came behind
// them. With the habit WholeRequest nothing ever does.
func (c *Conn) readRequest() (rest []byte, err error) {
	var buf []byte
	chunk := make([]byte, 4096)
	for len(buf) < maxRequest {
		n, err := c.nc.Read(chunk)
		if buf = append(buf, chunk[:n]...); err != nil {
			return nil, err
		}
		if c.Peer.Proxy == "" {
			var more bool
			if buf, more = c.cutProxy(buf); more {
				continue
			}
			if c.s.cfg.PickyProxy2 && strings.HasPrefix(c.Peer.Proxy, "v2") {
				if c.Peer.Proxy == "v2 LOCAL" {
					return nil, errors.New("a PROXY header's LOCAL form")
				}
				if len(buf) == 0 {
					_, err := io.Copy(io.Discard, c.nc) // until OpenTimeout
					return nil, cmp.Or(err, io.EOF)
				}
			}
		}
		if c.s.cfg.WholeRequest {
			if len(buf) > 100 && bytes.HasSuffix(buf, []byte("\r\n\r\n")) {
				c.Peer.Request = string(buf)
				return nil, nil
			}
			continue
		}
		if i := bytes.Index(buf, []byte("\r\n\r\n")); i >= 0 {
			c.Peer.Request = string(buf[:i+4])
			return buf[i+4:], nil
		}
	}
	return nil, fmt.Errorf("request longer than %d bytes", maxRequest)
}

// proxy2 is how a PROXY header of version 2 begins.
const proxy2 = "\r\n\r\n\x00\r\nQUIT\n"

// cutProxy takes a PROXY header off buf, or asks for more of it.
func (c *Conn) cutProxy(buf []byte) (rest []byte, more bool) {
	if n := min(len(buf), len(proxy2)); string(buf[:n]) == proxy2[:n] {
		if len(buf) < 16 {
			return buf, true
		}
		size := 16 + int(binary.BigEndian.Uint16(buf[14:]))
		if len(buf) < size {
			return buf, true
		}
		c.Peer.Proxy = describeProxy2(buf[:size])
		return buf[size:], false
	}
	if n := min(len(buf), len("PROXY ")); string(buf[:n]) != "PROXY "[:n] {
		return buf, false
	}
	i := bytes.Index(buf, []byte("\r\n"))
	if i < 0 {
		return buf, true
	}
	c.Peer.Proxy = string(buf[:i])
	return buf[i+2:], false
}

func describeProxy2(header []byte) string {
	if header[12]&0xF == 0 {
		return "v2 LOCAL"
	}
	addr, size := header[16:], 4
	if header[13]>>4 == 2 { // AF_INET6
		size = 16
	}
	if len(addr) < 2*size+4 {
		return "v2 short"
	}
	src, _ := netip.AddrFromSlice(addr[:size])
	dst, _ := netip.AddrFromSlice(addr[size : 2*size])
	ports := addr[2*size:]
	return fmt.Sprintf("v2 %s %s",
		netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:])))
}

// answer reads the request's meaning and returns the answer to it. Upgraded
// is false where the answer refuses; a nil answer is a close without a word.
func (c *Conn) answer() (answer []byte, upgraded bool) {
	p, h := c.Peer, c.s.cfg.Habits
	line, _, _ := strings.Cut(p.Request, "\r\n")
	if f := strings.Fields(line); len(f) == 3 {
		p.Method, p.Path, p.Version = f[0], f[1], f[2]
	}
	p.Host = c.header("Host")
	p.ForwardedFor = strings.Join(p.Header("X-Forwarded-For"), ", ")
	key, version := c.header("Sec-WebSocket-Key"), c.header("Sec-WebSocket-Version")

	if h.BlindRequest {
		if _, err := strconv.Atoi(version); err != nil {
			return nil, false
		}
	} else {
		raw, err := base64.StdEncoding.DecodeString(key)
		switch {
		case p.Version != "HTTP/1.1":
			return HTTP("400 Bad Request", "HTTP/1.1 is spoken here\n"), false
		case p.Method != "GET":
			return HTTP("405 Method Not Allowed", "only GET opens a WebSocket\n"), false
		case len(p.Header("Host")) != 1:
			return HTTP("400 Bad Request", "want one Host header\n"), false
		case !hasToken(c.header("Upgrade"), "websocket") || !hasToken(c.header("Connection"), "upgrade"):
			return HTTP("426 Upgrade Required", "this is an XMPP server's WebSocket endpoint\n"), false
		case version != "13" || err != nil || len(raw) != 16:
			return HTTP("400 Bad Request", "not RFC 6455's opening handshake\n"), false
		}
	}

	offered := splitList(c.header("Sec-WebSocket-Protocol"))
	switch {
	case slices.Contains(offered, "xmpp-framing") && h.Refuse10:
		p.Subprotocol = "xmpp-framing"
	case slices.Contains(offered, "xmpp"):
		p.Subprotocol = "xmpp"
	case c.s.cfg.Echo && len(offered) > 0:
		p.Subprotocol = offered[0]
	case c.s.cfg.Echo:
	case h.Refuse10:
		return BadRequest, false
	default:
		return HTTP("400 Bad Request", "the subprotocol \"xmpp\" is wanted\n"), false
	}
	if h.NoSubprotocol {
		p.Subprotocol = ""
	}

	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
	fmt.Fprintf(&b, "Sec-WebSocket-Accept: %s\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	if p.Subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", p.Subprotocol)
	}
	if h.CORS {
		b.WriteString("Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: GET, POST, OPTIONS\r\n" +
			"Access-Control-Allow-Headers: Content-Type\r\nAccess-Control-Max-Age: 86400\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes(), true
}

// header returns what the Server takes a header's value to be.
func (c *Conn) header(name string) string {
	var last string
	var all []string
	for f := range c.Peer.fields() {
		if f.name == name || !c.s.cfg.CaseSensitive && strings.EqualFold(f.name, name) {
			last, all = f.value, append(all, f.value)
		}
	}
	if c.s.cfg.BlindRequest {
		return last
	}
	return strings.Join(all, ", ")
}

func splitList(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

func hasToken(list, token string) bool {
	return slices.ContainsFunc(splitList(list), func(s string) bool { return strings.EqualFold(s, token) })
}

func itoa(n int) string { return strconv.Itoa(n) }

// remoteAddr also works for conns that have none.
func remoteAddr(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

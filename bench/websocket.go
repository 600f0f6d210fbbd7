package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Frames of both ends are whole messages. Clients mask with a key of zeros,
// which no gate can tell from another and which costs the rig nothing.
const (
	opText, opClose, opPing, opPong = 0x1, 0x8, 0x9, 0xa

	maxPayload = 64 << 10 // bytes; the rig sends no more
)

// appendFrame appends a final frame.
func appendFrame(b []byte, opcode byte, payload []byte, mask bool) []byte {
	var masked byte
	if mask {
		masked = 0x80
	}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|opcode, masked|byte(n))
	case n <= 0xffff:
		b = append(b, 0x80|opcode, masked|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, 0x80|opcode, masked|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if mask {
		b = append(b, 0, 0, 0, 0)
	}
	return append(b, payload...)
}

// readFrame reads a frame into buf, which it may replace. It is a whole message.
func readFrame(br *bufio.Reader, buf []byte) (opcode byte, payload []byte, err error) {
	opcode, fin, payload, err := readFragment(br, buf)
	if err == nil && !fin {
		err = errors.New("frame that is not a whole message")
	}
	return opcode, payload, err
}

// readFragment is readFrame for any frame.
func readFragment(br *bufio.Reader, buf []byte) (opcode byte, fin bool, payload []byte, err error) {
	var head [14]byte
	if _, err := io.ReadFull(br, head[:2]); err != nil {
		return 0, false, buf, err
	}
	length, more := int64(head[1]&0x7f), 0
	switch length {
	case 126:
		more = 2
	case 127:
		more = 8
	}
	masked := head[1]&0x80 != 0
	size := more
	if masked {
		size += 4
	}
	if _, err := io.ReadFull(br, head[2:2+size]); err != nil {
		return 0, false, buf, err
	}
	switch more {
	case 2:
		length = int64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		length = int64(binary.BigEndian.Uint64(head[2:]))
	}
	if masked && [4]byte(head[2+more:]) != [4]byte{} {
		return 0, false, buf, fmt.Errorf("frame with masking key %x, want zeros", head[2+more:6+more])
	}
	if length < 0 || length > maxPayload {
		return 0, false, buf, fmt.Errorf("frame that begins with %x", head[:2+size])
	}
	if int64(cap(buf)) < length {
		buf = make([]byte, length)
	}
	buf = buf[:length]
	_, err = io.ReadFull(br, buf)
	return head[0] & 0x0f, head[0]&0x80 != 0, buf, err
}

// message is a frame of a client with a payload of size bytes.
func message(size int) []byte {
	const head, tail = `<message to="juliet@example1.com"><body>`, `</body></message>`
	return appendFrame(nil, opText, []byte(head+strings.Repeat("x", size-len(head)-len(tail))+tail), true)
}

func make16K() []byte { return message(16 << 10) }

// open is the first message of every stream (RFC 7395, section 3.4).
var open = appendFrame(nil, opText,
	[]byte(`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="`+serverName+`" version="1.0"/>`), true)

// features is what an XMPP server says behind its answer to open, and a gate
// that looks for redirects may wait for it.
const features = `<stream:features xmlns:stream="http://etherx.jabber.org/streams">` +
	`<mechanisms xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><mechanism>SCRAM-SHA-256</mechanism></mechanisms></stream:features>`

// requestHead is what a browser sends, more or less.
const requestHead = "GET /xmpp-websocket HTTP/1.1\r\nHost: " + serverName + "\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Sec-WebSocket-Version: 13\r\nOrigin: https://chat." + serverName + "\r\nSec-WebSocket-Protocol: xmpp\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-Fetch-Dest: websocket\r\nSec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-site\r\n" +
	"Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"

// upgrade does a client's opening handshake.
func upgrade(conn net.Conn, br *bufio.Reader) error {
	if _, err := io.WriteString(conn, requestHead); err != nil {
		return err
	}
	answer, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("answered %s, want 101", answer.Status)
	}
	return nil
}

// echo is an upstream's side of one connection: it sends every message back,
// and features behind an open.
func echo(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	var in, out []byte
	for {
		opcode, fin, payload, err := readFragment(br, in)
		if err != nil {
			return
		}
		switch {
		case !fin: // a stranger's; nobody waits for an answer
		case opcode == opText, opcode == opClose, opcode == opPing:
			if opcode == opPing {
				opcode = opPong
			}
			out = appendFrame(out[:0], opcode, payload, false)
			if bytes.HasPrefix(payload, []byte("<open ")) {
				out = appendFrame(out, opText, []byte(features), false)
			}
			if _, err := conn.Write(out); err != nil || opcode == opClose {
				return
			}
		}
		if in = payload; cap(in) > 4096 { // thousands may be idle after a long one
			in, out = nil, nil
		}
	}
}

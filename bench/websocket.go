package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"wssgate/internal/websocket"
)

// clientFrame is a final frame of a client. Its masking key is zero, which no gate can
// tell from another and which costs the rig nothing.
func clientFrame(opcode byte, payload []byte) []byte {
	return websocket.Frame{FIN: true, Op: opcode, Masked: true, ZeroKey: true, Payload: payload}.Append(nil)
}

// readMessage reads a frame, which is a whole message, into buf where it has room.
func readMessage(br *bufio.Reader, buf []byte) (websocket.Frame, error) {
	f, err := websocket.ReadFrameInto(br, buf)
	if err == nil && !f.FIN {
		err = errors.New("frame that is not a whole message")
	}
	return f, err
}

// message is a frame of a client with a payload of size bytes.
func message(size int) []byte {
	const head, tail = `<message to="juliet@example1.com"><body>`, `</body></message>`
	return clientFrame(websocket.Text, []byte(head+strings.Repeat("x", size-len(head)-len(tail))+tail))
}

func make16K() []byte { return message(16 << 10) }

// open is the first message of every stream (RFC 7395, section 3.4).
var open = clientFrame(websocket.Text,
	[]byte(`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="`+serverName+`" version="1.0"/>`))

// features is what an XMPP server says behind its answer to open, and a gate
// that looks for redirects may wait for it.
const features = `<stream:features xmlns:stream="http://etherx.jabber.org/streams">` +
	`<mechanisms xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><mechanism>SCRAM-SHA-256</mechanism></mechanisms></stream:features>`

// requestHead is what a browser sends, more or less.
const requestHead = "GET /xmpp-websocket HTTP/1.1\r\nHost: " + serverName + "\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Sec-WebSocket-Version: 13\r\nOrigin: https://chat." + serverName + "\r\nSec-WebSocket-Protocol: xmpp\r\n" +
	"Sec-WebSocket-Key: " + websocket.Key + "\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-Fetch-Dest: websocket\r\nSec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-site\r\n" +
	"Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"

// upgrade does a client's opening handshake.
func upgrade(w io.Writer, br *bufio.Reader) error { return websocket.Upgrade(w, br, requestHead) }

// echo is an upstream's side of one connection: it sends every message back,
// and features behind an open.
func echo(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil || websocket.SwitchProtocols(conn, req) != nil {
		return
	}
	var in, out []byte
	for {
		f, err := websocket.ReadFrameInto(br, in)
		if err != nil {
			return
		}
		switch {
		case !f.FIN: // a stranger's; nobody waits for an answer
		case f.Op == websocket.Text, f.Op == websocket.Close, f.Op == websocket.Ping:
			if f.Op == websocket.Ping {
				f.Op = websocket.Pong
			}
			f.Masked = false
			out = f.Append(out[:0])
			if bytes.HasPrefix(f.Payload, []byte("<open ")) {
				out = websocket.Frame{FIN: true, Op: websocket.Text, Payload: []byte(features)}.Append(out)
			}
			if _, err := conn.Write(out); err != nil || f.Op == websocket.Close {
				return
			}
		}
		if in = f.Payload; cap(in) > 4096 { // thousands may be idle after a long one
			in, out = nil, nil
		}
	}
}

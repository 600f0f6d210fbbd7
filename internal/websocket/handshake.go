package websocket

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Key is the Sec-WebSocket-Key that Upgrade wants an answer to.
const Key = "dGhlIHNhbXBsZSBub25jZQ=="

// Accept returns the Sec-WebSocket-Accept that answers a key (RFC 6455, section 4.2.2).
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Upgrade sends a client's request, which has Key, and wants a 101 for it with the
// subprotocol xmpp and no extension.
func Upgrade(w io.Writer, r *bufio.Reader, request string) error {
	if _, err := io.WriteString(w, request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return fmt.Errorf("opening handshake: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("opening handshake: %s\n%s", resp.Status, body)
	}
	for name, want := range map[string]string{
		"Upgrade": "websocket", "Connection": "upgrade",
		"Sec-Websocket-Accept": Accept(Key), "Sec-Websocket-Protocol": "xmpp",
		"Sec-Websocket-Extensions": "",
	} {
		if got := resp.Header.Get(name); !strings.EqualFold(got, want) {
			return fmt.Errorf("opening handshake: %s %q; want %q", name, got, want)
		}
	}
	return nil
}

// SwitchProtocols answers a request with 101, as Tigase does.
func SwitchProtocols(w io.Writer, req *http.Request) error {
	_, err := fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Access-Control-Allow-Origin: *\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n",
		Accept(req.Header.Get("Sec-WebSocket-Key")))
	return err
}

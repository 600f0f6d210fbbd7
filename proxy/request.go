package proxy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gobwas/ws"
)

const (
	maxRequestHeader = 16 << 10 // bytes; browsers stay under 8 KiB
	maxFields        = 100      // header fields
)

// Subprotocols that carry XMPP. "xmpp" is from RFC 7395; "xmpp-framing" is from its
// drafts, and some clients still offer it.
const (
	subprotocolXMPP    = "xmpp"
	subprotocolFraming = "xmpp-framing"
)

// A request is a client's opening handshake. It is read strictly: whatever parseRequest
// accepts, net/http reads with the same method, target and host.
type request struct {
	method string
	target string // origin form: path and query
	path   string // target without its query, as received
	host   string // Host, as received

	upgrade     bool   // it asks for an upgrade to WebSocket
	version     string // Sec-WebSocket-Version
	key         string // Sec-WebSocket-Key
	subprotocol string // the chosen one; empty: none is known
	offered     string // all of Sec-WebSocket-Protocol

	origin, userAgent, cookie, authorization, language string
}

// A refusal is the HTTP answer to a request that does not get 101.
type refusal struct {
	status int
	text   string // for people; one line
	header string // further header fields, each ended by CRLF
	err    error  // for the log; may be nil
}

func (r *refusal) Error() string {
	if r.err != nil {
		return r.err.Error()
	}
	return r.text
}

func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, text string) *refusal { return &refusal{status: status, text: text} }

// answer returns the complete HTTP response. A refusal ends the connection, because the
// bytes after the request are for a WebSocket.
func (r *refusal) answer() []byte {
	body := strconv.Itoa(r.status) + " " + http.StatusText(r.status) + "\n\n" + r.text + "\n"
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 " + strconv.Itoa(r.status) + " " + http.StatusText(r.status) + "\r\n")
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n")
	b.WriteString(r.header)
	b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	return b.Bytes()
}

// parseRequest reads the head of a request: all bytes up to and including the blank line.
// If the request is not an upgrade to WebSocket, upgrade is false and there is no error;
// net/http then checks the request. Otherwise an error is a *refusal.
func parseRequest(head []byte) (*request, error) {
	r := &request{}
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	line, fields := lines[0], lines[1:]
	wants, lineErr := asksForWebSocket(fields), r.parseLine(line)
	if !wants {
		return r, nil
	}
	r.upgrade = true
	if lineErr != nil {
		return r, lineErr
	}
	if len(fields) > maxFields {
		return r, refuse(http.StatusRequestHeaderFieldsTooLarge, "The request has more than "+strconv.Itoa(maxFields)+" header fields.")
	}
	if err := r.parseFields(fields); err != nil {
		return r, err
	}
	return r, r.check()
}

// asksForWebSocket looks for "Upgrade: websocket" in fields that may be invalid.
func asksForWebSocket(fields []string) bool {
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		if strings.EqualFold(strings.TrimSpace(name), "Upgrade") && strings.Contains(strings.ToLower(value), "websocket") {
			return true
		}
	}
	return false
}

// parseLine reads "GET /path HTTP/1.1".
func (r *request) parseLine(line string) error {
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) {
		return refuse(http.StatusBadRequest, "The request line is not a method, a target and a version.")
	}
	r.method, r.target = method, target
	if version != "HTTP/1.1" {
		return refuse(http.StatusBadRequest, "WebSocket needs HTTP/1.1.")
	}
	if !strings.HasPrefix(target, "/") || strings.IndexFunc(target, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) >= 0 || !escapesHold(target) {
		return refuse(http.StatusBadRequest, "The target of the request is not a path.")
	}
	r.path, _, _ = strings.Cut(target, "?")
	return nil
}

// escapesHold reports whether each % in the path is followed by two hexadecimal digits.
func escapesHold(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// once has the fields that may appear only once.
var once = map[string]bool{
	"host": true, "upgrade": true, "sec-websocket-key": true, "sec-websocket-version": true,
	"origin": true, "content-length": true, "transfer-encoding": true, "authorization": true,
}

func (r *request) parseFields(fields []string) error {
	seen := map[string]bool{}
	var connection []string
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if !ok || !isToken(name) {
			return refuse(http.StatusBadRequest, "A header field of the request is not a name, a colon and a value.")
		}
		value = strings.Trim(value, " \t")
		if strings.IndexFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) >= 0 {
			return refuse(http.StatusBadRequest, "A header field of the request has a control character.")
		}
		name = strings.ToLower(name)
		if seen[name] && once[name] {
			return refuse(http.StatusBadRequest, "The request has the header field "+http.CanonicalHeaderKey(name)+" twice.")
		}
		seen[name] = true
		switch name {
		case "host":
			if !validHost(value) {
				return refuse(http.StatusBadRequest, "The request's Host is not a host.")
			}
			r.host = value
		case "upgrade":
			if !strings.EqualFold(value, "websocket") {
				return refuse(http.StatusBadRequest, "Upgrade is not just \"websocket\".")
			}
		case "connection":
			connection = append(connection, tokens(value)...)
		case "sec-websocket-key":
			r.key = value
		case "sec-websocket-version":
			r.version = value
		case "sec-websocket-protocol":
			r.offer(value)
		case "content-length":
			if value != "0" {
				return refuse(http.StatusBadRequest, "An opening handshake has no body.")
			}
		case "transfer-encoding", "expect":
			return refuse(http.StatusBadRequest, "An opening handshake has no body.")
		case "origin":
			r.origin = value
		case "user-agent":
			r.userAgent = value
		case "cookie":
			r.cookie = joinNonEmpty(r.cookie, "; ", value)
		case "authorization":
			r.authorization = value
		case "accept-language":
			r.language = joinNonEmpty(r.language, ", ", value)
		}
	}
	if !seen["host"] {
		return refuse(http.StatusBadRequest, "The request has no Host.")
	}
	for _, token := range connection {
		if strings.EqualFold(token, "upgrade") {
			return nil
		}
	}
	return refuse(http.StatusBadRequest, "The request has Upgrade, but Connection does not list it.")
}

func joinNonEmpty(a, sep, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + sep + b
}

// offer reads a list of subprotocols. That of RFC 7395 wins, in any order.
func (r *request) offer(value string) {
	r.offered = joinNonEmpty(r.offered, ", ", value)
	for _, p := range tokens(value) {
		if p == subprotocolXMPP || p == subprotocolFraming && r.subprotocol == "" {
			r.subprotocol = p
		}
	}
}

// check checks the complete request against RFC 6455, section 4.2.1, and RFC 7395,
// section 3.1.
func (r *request) check() error {
	if r.method != http.MethodGet {
		return &refusal{status: http.StatusMethodNotAllowed, text: "An opening handshake uses GET.", header: "Allow: GET\r\n"}
	}
	if r.version != "13" {
		return &refusal{status: http.StatusUpgradeRequired, text: "Only WebSocket version 13 is supported.",
			header: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"}
	}
	if key, err := base64.StdEncoding.DecodeString(r.key); err != nil || len(key) != 16 {
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64.")
	}
	if r.subprotocol == "" {
		ref := refuse(http.StatusBadRequest, `Only XMPP is accepted: the client must offer the subprotocol "xmpp" (RFC 7395).`)
		ref.err = errors.New("offered subprotocols " + strconv.Quote(r.offered) + `, want "xmpp"`)
		return ref
	}
	return nil
}

// switchingProtocols returns the response that accepts a request (RFC 6455, section
// 4.2.2). ws.Upgrader writes it. To rule out two readings of one request, it gets a
// canonical one instead of the client's bytes, and nothing after its blank line. An
// error is a bug of ours.
func (r *request) switchingProtocols() ([]byte, error) {
	canonical := "GET / HTTP/1.1\r\nHost: " + r.host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + r.key + "\r\nSec-WebSocket-Protocol: " + r.subprotocol + "\r\n\r\n"
	var answer bytes.Buffer
	_, err := ws.Upgrader{Protocol: func([]byte) bool { return true }}.Upgrade(struct {
		io.Reader
		io.Writer
	}{strings.NewReader(canonical), &answer})
	return answer.Bytes(), err
}

// hostIs reports whether a request's Host is the TLS server name (RFC 9110, section 7.4),
// so that a connection for one vhost gives no access to another.
func hostIs(host, serverName string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(serverName, "."))
}

// tokens splits a comma-separated list (RFC 9110, section 5.6.1).
func tokens(list string) []string {
	var out []string
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.Trim(t, " \t"); t != "" {
			out = append(out, t)
		}
	}
	return out
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// validHost reports whether s is a name or an IP address, with or without a port. It is
// narrower than RFC 3986: letters, digits, hyphens, dots and underscores.
func validHost(s string) bool {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		addr, port, ok := strings.Cut(rest, "]")
		if ip, err := netip.ParseAddr(addr); !ok || err != nil || !ip.Is6() || ip.Zone() != "" {
			return false
		}
		return port == "" || port[0] == ':' && validPort(port[1:])
	}
	name, port, hasPort := strings.Cut(s, ":")
	if hasPort && !validPort(port) || name == "" || len(name) > 253+1 {
		return false
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && len(s) <= 5
}

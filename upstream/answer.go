package upstream

import (
	"fmt"
	"net/http"
	"strings"
)

const blankLine = "\r\n\r\n"

// An answer is the head of a node's HTTP answer.
type answer struct {
	status int
	reason string
	fields []field
}

type field struct{ name, value string }

// parseAnswer reads a head that ends in a blank line. It is stricter than RFC 9112:
// lines end in CRLF, there is no folding, and values have no control characters.
// net/http reads whatever it accepts as the same.
func parseAnswer(head []byte) (*answer, error) {
	lines := strings.Split(strings.TrimSuffix(string(head), blankLine), "\r\n")
	status, reason, err := parseStatusLine(lines[0])
	if err != nil {
		return nil, notHTTP(head)
	}
	a := &answer{status: status, reason: reason}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || !isFieldValue(value) {
			if status != http.StatusSwitchingProtocols {
				continue // the status is enough
			}
			return nil, &HandshakeError{Status: status, What: fmt.Sprintf("answered 101 with a bad header %q", line)}
		}
		a.fields = append(a.fields, field{name, value})
	}
	return a, nil
}

// parseStatusLine reads "HTTP/1.1 101 Switching Protocols" without its CRLF. It also
// accepts HTTP/1.0, for refusals.
func parseStatusLine(line string) (status int, reason string, err error) {
	version, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" || len(code) != 3 || !isFieldValue(strings.TrimSpace(reason)) {
		return 0, "", fmt.Errorf("status line %q", line)
	}
	for _, c := range []byte(code) {
		if c < '0' || c > '9' {
			return 0, "", fmt.Errorf("status line %q", line)
		}
		status = status*10 + int(c-'0')
	}
	if version == "HTTP/1.0" && status == http.StatusSwitchingProtocols {
		return 0, "", fmt.Errorf("status line %q", line)
	}
	return status, reason, nil
}

// check applies the client's list in RFC 6455, section 4.1, without exceptions.
func (a *answer) check(key, subprotocol string) error {
	if a.status != http.StatusSwitchingProtocols {
		location, _ := a.get("Location")
		return statusError(a.status, a.reason, location)
	}
	bad := func(hint, format string, args ...any) error {
		return &HandshakeError{Status: a.status, Hint: hint, What: "answered 101 " + fmt.Sprintf(format, args...)}
	}
	if v, n := a.get("Upgrade"); n != 1 || !strings.EqualFold(v, "websocket") {
		return bad("", "with Upgrade %q, want one \"websocket\"", v)
	}
	if v, _ := a.get("Connection"); !hasToken(v, "upgrade") {
		return bad("", "with Connection %q, want \"Upgrade\"", v)
	}
	if v, n := a.get("Sec-WebSocket-Accept"); n != 1 || v != AcceptKey(key) {
		return bad("", "with Sec-WebSocket-Accept %q, which does not match our key", v)
	}
	switch v, n := a.get("Sec-WebSocket-Protocol"); {
	case n == 0:
		return bad("is this an XMPP server's WebSocket port?", "without a subprotocol, want %q", subprotocol)
	case n != 1 || v != subprotocol:
		return bad("", "with subprotocol %q, want %q", v, subprotocol)
	}
	if v, n := a.get("Sec-WebSocket-Extensions"); n != 0 {
		return bad("", "with extensions %q, but none were offered", v)
	}
	if v, n := a.get("Transfer-Encoding"); n != 0 {
		return bad("", "with Transfer-Encoding %q", v)
	}
	if v, n := a.get("Content-Length"); n != 0 && v != "0" {
		return bad("", "with Content-Length %q", v)
	}
	return nil
}

// get returns the joined values of a header, and their number.
func (a *answer) get(name string) (value string, n int) {
	for _, f := range a.fields {
		if !strings.EqualFold(f.name, name) {
			continue
		}
		if n++; n > 1 {
			value += ", "
		}
		value += f.value
	}
	return value, n
}

// statusError is the error for an answer other than 101.
func statusError(status int, reason, location string) error {
	if !isFieldValue(reason) || len(reason) > 60 {
		reason = http.StatusText(status)
	}
	e := &HandshakeError{
		Status: status,
		What:   strings.TrimRight(fmt.Sprintf("answered %d %s", status, reason), " ") + " to the opening handshake, want 101",
	}
	switch {
	case location != "":
		e.Hint = fmt.Sprintf("the server redirects to %q; is that the correct URL of the node?", location)
	case status == http.StatusNotFound:
		e.Hint = `is the server's WebSocket module loaded, and is the path right, such as "/xmpp-websocket" or "/ws"?`
	case status == http.StatusBadRequest, status == http.StatusUpgradeRequired:
		e.Hint = "is this the server's WebSocket port?"
	case status == http.StatusForbidden:
		e.Hint = "does the server allow this Origin and Host?"
	}
	return e
}

func hasToken(list, token string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(t, " \t"), token) {
			return true
		}
	}
	return false
}

// isToken reports whether s can be a header name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

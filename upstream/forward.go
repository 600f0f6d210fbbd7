package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A Request is the part of a client's request that is forwarded to its upstream.
//
// It has a field for each header field that is forwarded; all others of the client are
// dropped. The gate sets hop-by-hop fields such as Connection itself.
// Sec-WebSocket-Extensions would let the two ends negotiate frames that the gate cannot
// read. X-Forwarded-* and Forwarded from a client cannot be trusted.
type Request struct {
	// Client and Local are the two ends of the client's connection, for
	// X-Forwarded-For, Forwarded, PROXY and balance = "hash". Zero values: unknown, as
	// with a unix socket.
	Client, Local netip.AddrPort

	ID         string // for X-Request-Id, to match the logs of the gate and the node
	ServerName string // TLS
	Host       string // the client's Host, unchanged
	RequestURI string // origin form, with its query; "" is "/"

	// Subprotocol is the only one offered: "xmpp" or "xmpp-framing". A node that does
	// not select it is refused.
	Subprotocol string

	// These are forwarded if not empty.
	Origin, UserAgent, Cookie, Authorization, AcceptLanguage string
}

// appendRequest appends the request of the opening handshake (RFC 6455, section 4.1).
// Header names are spelled as in the RFC, because Tigase before 8.1 is case-sensitive.
// The result is always longer than 100 bytes; Tigase ignores shorter requests.
func (r *Request) appendRequest(b []byte, loc *NodeURL, hostOfNode bool, key string) ([]byte, error) {
	target, err := r.target(loc.uri)
	if err != nil {
		return nil, err
	}
	host := r.Host
	if hostOfNode || host == "" {
		host = loc.authority
	}
	b = append(b, "GET "...)
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b, err = appendFields(b, []headerField{
		{"Host", host},
		{"Upgrade", "websocket"},
		{"Connection", "Upgrade"},
		{"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Key", key},
		{"Sec-WebSocket-Protocol", r.Subprotocol},
		{"Origin", r.Origin},
		{"User-Agent", r.UserAgent},
		{"Cookie", r.Cookie},
		{"Authorization", r.Authorization},
		{"Accept-Language", r.AcceptLanguage},
	})
	if err == nil {
		b, err = r.AppendForwarded(b)
	}
	if err != nil {
		return nil, err
	}
	return append(b, "\r\n"...), nil
}

// AppendForwarded appends the header fields that tell a node about the client and its
// request. It fails for a value that no field can have.
func (r *Request) AppendForwarded(b []byte) ([]byte, error) {
	return appendFields(b, []headerField{
		{"X-Forwarded-For", r.forwardedFor()},
		{"X-Forwarded-Proto", "https"},
		{"X-Forwarded-Host", r.Host},
		{"Forwarded", r.forwarded()},
		{"X-Request-Id", r.ID},
	})
}

type headerField struct{ name, value string }

// appendFields appends header fields, except those without a value.
func appendFields(b []byte, fields []headerField) ([]byte, error) {
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		if !isFieldValue(f.value) {
			return nil, fmt.Errorf("request: %s %q is not a header value", f.name, f.value)
		}
		b = append(b, f.name...)
		b = append(b, ": "...)
		b = append(b, f.value...)
		b = append(b, "\r\n"...)
	}
	return b, nil
}

var errTarget = errors.New("not a path with an optional query")

// target returns the node's own path, if it has one, with the node's query or else the
// client's. Without a path it returns the client's request target.
func (r *Request) target(own string) (string, error) {
	uri := r.RequestURI
	if uri == "" {
		uri = "/"
	}
	if uri[0] != '/' || strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) {
		return "", fmt.Errorf("request: target %q: %w", r.RequestURI, errTarget)
	}
	if own == "" {
		return uri, nil
	}
	if i := strings.IndexByte(uri, '?'); i >= 0 && !strings.Contains(own, "?") {
		own += uri[i:]
	}
	return own, nil
}

// forwardedFor returns the value of X-Forwarded-For. It omits the port, because readers
// expect addresses.
func (r *Request) forwardedFor() string {
	if !r.Client.IsValid() {
		return ""
	}
	return r.Client.Addr().Unmap().WithZone("").String()
}

// forwarded returns the value of Forwarded (RFC 7239). It also omits the port, which is
// optional and breaks readers that split at the last colon.
func (r *Request) forwarded() string {
	var b strings.Builder
	switch addr := r.Client.Addr().Unmap().WithZone(""); {
	case !addr.IsValid():
		b.WriteString("for=unknown")
	case addr.Is4():
		b.WriteString("for=" + addr.String())
	default:
		b.WriteString(`for="[` + addr.String() + `]"`)
	}
	if r.Host != "" {
		b.WriteString(`;host="` + quotedPairs.Replace(r.Host) + `"`)
	}
	b.WriteString(";proto=https")
	return b.String()
}

// quotedPairs escapes characters for a quoted string (RFC 9110, section 5.6.4).
var quotedPairs = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// isFieldValue reports whether s is a valid header value (RFC 9110, section 5.5)
// without surrounding white space.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}

package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A Request is the part of a client's request that its upstream gets.
//
// It has a field for each header field that is forwarded; all others of the client are
// dropped. The gate sets hop-by-hop fields such as Connection itself.
// Sec-WebSocket-Extensions would let the two ends negotiate frames that the gate cannot
// read. X-Forwarded-* and Forwarded from a client cannot be trusted.
type Request struct {
	// Client and Local are the two ends of the client's connection, for
	// X-Forwarded-For, Forwarded, PROXY and balance = "hash". Zero values:
	// not known, as with a unix socket.
	Client, Local netip.AddrPort

	ServerName string // TLS
	Host       string // the client's Host, unchanged
	RequestURI string // origin form, with its query; "" is "/"

	// Subprotocol is the only one offered: "xmpp" or "xmpp-framing". A node
	// that does not answer with the same is refused.
	Subprotocol string

	// These go through where they are not empty.
	Origin, UserAgent, Cookie, Authorization, AcceptLanguage string
}

// appendRequest appends the opening handshake's request (RFC 6455, section
// 4.1). Names are spelt as in the RFC: Tigase before 8.1 tells upper from
// lower case. The result is always longer than the 100 bytes under which
// Tigase does not even look at it.
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
	for _, f := range [...]struct{ name, value string }{
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
		{"X-Forwarded-For", r.forwardedFor()},
		{"X-Forwarded-Proto", "https"},
		{"X-Forwarded-Host", r.Host},
		{"Forwarded", r.forwarded()},
	} {
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
	return append(b, "\r\n"...), nil
}

var errTarget = errors.New("not a path with an optional query")

// target is the node's own path, if it has one, with the client's query unless
// the node has its own; or else all that the client sent.
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

// forwardedFor leaves the port out: readers of X-Forwarded-For want addresses.
func (r *Request) forwardedFor() string {
	if !r.Client.IsValid() {
		return ""
	}
	return r.Client.Addr().Unmap().WithZone("").String()
}

// forwarded is RFC 7239's form of the same. The port stays out here too: it is
// optional, and readers that split at the last colon would trip over it.
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

// quotedPairs escapes what a quoted string can't hold (RFC 9110, section 5.6.4).
var quotedPairs = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// isFieldValue is true for what RFC 9110, section 5.5 lets a header hold,
// without white space around it.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}

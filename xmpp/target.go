package xmpp

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Target is the destination of a redirect: the URL of a see-other-uri, or the host and
// port of a see-other-host.
type Target struct {
	Scheme string // "ws", "wss", or "" in a see-other-host
	Host   string // a domain or an address in its normal form, see [NormalDomain]
	Port   string // decimal, without leading zeros, or ""
}

// ParseTarget reads either form, and ignores white space around it. It ignores a path:
// a node is identified by its address. Other schemes, a user and a fragment are errors.
func ParseTarget(s string) (Target, error) {
	s = strings.TrimSpace(s)
	rest := s
	var t Target
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			return Target{}, fmt.Errorf("redirect to %q: not a URL", s)
		case u.Scheme != "ws" && u.Scheme != "wss":
			return Target{}, fmt.Errorf("redirect to %q: scheme %q is not ws or wss", s, u.Scheme)
		case u.User != nil || u.Fragment != "":
			return Target{}, fmt.Errorf("redirect to %q: a user or a fragment is not allowed", s)
		}
		t.Scheme, rest = u.Scheme, u.Host
	}
	t.Host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Target{}, fmt.Errorf("redirect to %q: port %q is not in 1 to 65535", s, port)
		}
		t.Host, t.Port = host, strconv.FormatUint(n, 10)
	}
	if strings.Contains(t.Host, ":") && !strings.HasPrefix(t.Host, "[") {
		t.Host = "[" + t.Host + "]" // SplitHostPort removed the brackets
	}
	host, err := NormalDomain(t.Host)
	if err != nil {
		return Target{}, fmt.Errorf("redirect to %q: %w", s, err)
	}
	t.Host = host
	return t, nil
}

// Address returns host:port, with an IPv6 address in brackets, for comparing and
// dialing. The default for the port is that of the scheme, then defaultPort; if that is
// "", the address is the host alone.
func (t Target) Address(defaultPort string) string {
	port := t.Port
	switch {
	case port != "":
	case t.Scheme == "ws":
		port = "80"
	case t.Scheme == "wss":
		port = "443"
	default:
		port = defaultPort
	}
	if port == "" {
		return t.Host
	}
	return t.Host + ":" + port
}

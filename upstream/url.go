package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"wssgate/xmpp"
)

// The only parsers of URLs in a configuration: [ParseNodeURL] for nodes, [ParseURL] for
// URLs that are given to clients, [ParseOrigin] for origins of browsers. Their errors
// follow a colon and the URL.

// ParseURL reads an absolute URL with one of the schemes. It returns the host in normal
// form, because not every client can convert "Bücher". The URL may be written into XML,
// so it must not contain characters that need escaping there.
func ParseURL(s string, schemes ...string) (*url.URL, error) {
	u, err := parseURL(s)
	switch {
	case err != nil:
		return nil, err
	case !slices.Contains(schemes, u.Scheme):
		return nil, fmt.Errorf("scheme %q is not %s", u.Scheme, strings.Join(schemes, " or "))
	case strings.ContainsAny(s, `'"<>&`):
		return nil, errors.New("has a quote, an ampersand or an angle bracket")
	}
	host, port, err := hostOf(u)
	if err != nil {
		return nil, err
	}
	u.Host = joinHost(host, port)
	return u, noZone(host)
}

// noZone rejects a zone, which means nothing on another machine (RFC 4007, section 6).
func noZone(host string) error {
	if strings.Contains(host, "%") {
		return fmt.Errorf("host %q has a zone", host)
	}
	return nil
}

// parseURL is url.Parse for URLs that are dialled or given to clients: a password or a
// fragment is an error.
func parseURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("a URL is required")
	}
	scheme, _, ok := strings.Cut(s, ":")
	if _, known := defaultPorts[scheme]; !strings.Contains(s, "://") && !(ok && known) {
		return nil, errors.New("has no scheme")
	}
	u, err := url.Parse(s)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, err
	}
	switch {
	case u.User != nil:
		return nil, errors.New("has a user or password")
	case strings.Contains(s, "#"):
		return nil, errors.New(`has a fragment, "#"`)
	case u.Opaque != "" || !strings.Contains(s, "://"):
		return nil, errors.New(`has no "//" after the scheme`)
	}
	if u.RawPath != "" {
		u.RawPath = escaped(u.RawPath)
	}
	u.RawQuery = escaped(u.RawQuery)
	return u, nil
}

// escaped replaces only characters that a URL can't have in its path and query. net/url
// would rewrite the whole path for one such byte, with '&' for "%26" and '/' for "%2F",
// and leave queries unchanged, even white space.
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// hostOf returns the host of a URL in normal form, without brackets, and its port in
// decimal, or "".
func hostOf(u *url.URL) (host, port string, err error) {
	host, port = u.Hostname(), u.Port()
	if host == "" {
		return "", "", errors.New("has no host")
	}
	if strings.Contains(host, ":") && u.Host[0] != '[' {
		return "", "", errors.New(`an IPv6 address has brackets, as in "[2001:db8::1]:5290"`)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.String()
	} else if host, err = xmpp.NormalDomain(host); err != nil {
		return "", "", fmt.Errorf("host %q is neither an address nor a name", u.Hostname())
	}
	if port != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", "", fmt.Errorf("port %q is not 1 to 65535", port)
		}
		port = strconv.FormatUint(n, 10)
	}
	return host, port, nil
}

// joinHost joins the results of hostOf.
func joinHost(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	return host
}

// maxSocketPath is the size of sun_path on Linux (unix(7)), without the final NUL.
const maxSocketPath = 107 // bytes

// CheckSocketPath rejects paths that the system would refuse later.
func CheckSocketPath(path string) error {
	switch {
	case len(path) > maxSocketPath:
		return fmt.Errorf("path is %d bytes long; a socket path may have at most %d", len(path), maxSocketPath)
	case strings.Contains(path, "\x00") || !utf8.ValidString(path):
		return fmt.Errorf("path %q is not text", path)
	}
	return nil
}

// An Origin identifies the page that sent a browser's request (RFC 6454, section 6.2),
// or is a pattern for origins in a configuration.
type Origin struct {
	scheme, host, port string // port "": the scheme's default
	wild               bool   // host is the part after "*."
	null               bool   // the word "null"
}

// ParseOrigin reads an origin: scheme, host and, unless it is the scheme's default,
// port; or "null". "*." may replace the first label of the host. Apps have their own
// schemes, whose host is any word, or missing as in "file://".
func ParseOrigin(s string) (Origin, error) {
	if s == "null" {
		return Origin{null: true}, nil
	}
	u, err := parseURL(s)
	if err != nil {
		return Origin{}, err
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery {
		return Origin{}, errors.New("an origin has no path, not even a slash")
	}
	o := Origin{scheme: u.Scheme}
	u.Host, o.wild = strings.CutPrefix(u.Host, "*.")
	switch u.Scheme {
	case "http", "https", "ws", "wss":
		o.host, o.port, err = hostOf(u)
	default:
		o.host, o.port, err = appHost(u)
	}
	if o.port == defaultPorts[u.Scheme] {
		o.port = ""
	}
	if err == nil {
		err = noZone(o.host)
	}
	return o, err
}

var defaultPorts = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}

// appHost is hostOf for schemes other than those of the web, whose host is not a DNS
// name.
func appHost(u *url.URL) (host, port string, err error) {
	if host, port, err := hostOf(u); err == nil {
		return host, port, nil
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`*:[]@%'"<>&\`, r) }) {
		return "", "", fmt.Errorf("host %q is not valid", u.Host)
	}
	return strings.ToLower(u.Host), "", nil
}

// String returns the origin as browsers write it.
func (o Origin) String() string {
	switch {
	case o.null:
		return "null"
	case o.wild:
		return o.scheme + "://*." + joinHost(o.host, o.port)
	}
	return o.scheme + "://" + joinHost(o.host, o.port)
}

// matches reports whether o covers the origin of a browser.
func (o Origin) matches(origin Origin) bool {
	if o.wild {
		_, origin.host, _ = strings.Cut(origin.host, ".")
		origin.wild = true
	}
	return o == origin
}

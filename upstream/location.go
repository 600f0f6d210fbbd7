package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// A location is a node's URL, taken apart.
type location struct {
	url  string // as written
	tls  bool
	unix string // path of the socket, or ""
	srv  bool   // host is a name that has SRV records
	host string // without brackets; "" for unix
	port uint16
	uri  string // request target; "" means the client's own

	// authority is what Host says where the group has host = "node".
	authority string
}

var errNodeScheme = errors.New("scheme is not ws, wss, ws+unix, wss+unix, srv+ws or srv+wss")

// parseLocation reads the URL of a node; see NodeOptions.URL.
func parseLocation(s string) (location, error) {
	loc := location{url: s}
	u, err := url.Parse(s)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return loc, err
	}
	if u.User != nil {
		return loc, errors.New("a user or password is not allowed")
	}
	if u.Fragment != "" {
		return loc, errors.New("a fragment is not allowed")
	}
	scheme := u.Scheme
	if rest, ok := strings.CutPrefix(scheme, "srv+"); ok {
		scheme, loc.srv = rest, true
	}
	scheme, isUnix := strings.CutSuffix(scheme, "+unix")
	switch {
	case scheme != "ws" && scheme != "wss", isUnix && loc.srv:
		return loc, fmt.Errorf("scheme %q: %w", u.Scheme, errNodeScheme)
	case u.Opaque != "":
		return loc, errors.New(`"//" is missing behind the scheme`)
	}
	loc.tls = scheme == "wss"
	if isUnix {
		return loc.withSocket(u)
	}

	loc.host = asciiHost(u.Hostname())
	if loc.host == "" {
		return loc, errors.New("no host")
	}
	loc.authority = strings.Replace(strings.ToLower(u.Host), strings.ToLower(u.Hostname()), loc.host, 1)
	if u.Path != "" || u.RawQuery != "" {
		loc.uri = u.RequestURI()
	}
	if loc.srv {
		_, _, loc.authority = loc.service()
		return loc, loc.checkService(u.Port())
	}
	loc.port = 80
	if loc.tls {
		loc.port = 443
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return loc, fmt.Errorf("port %q is not 1 to 65535", p)
		}
		loc.port = uint16(n)
	}
	return loc, nil
}

// idnaHost maps what a person may write to A-labels.
var idnaHost = idna.New(idna.MapForLookup(), idna.CheckHyphens(false), idna.StrictDomainName(false), idna.Transitional(false))

// asciiHost is a host in lower case and, where it is an internationalized
// name, as DNS and the Host header have it.
func asciiHost(host string) string {
	host = strings.ToLower(host)
	if !strings.ContainsFunc(host, func(c rune) bool { return c > unicode.MaxASCII }) {
		return host
	}
	if ascii, err := idnaHost.ToASCII(host); err == nil {
		return ascii
	}
	return host // DNS will say what it thinks of that
}

// withSocket reads ws+unix:///run/prosody.sock:/xmpp-websocket.
func (loc location) withSocket(u *url.URL) (location, error) {
	if u.Host != "" {
		return loc, fmt.Errorf("host %q before the path of a socket; write three slashes", u.Host)
	}
	socket, path, hasPath := strings.Cut(u.Path, ":")
	if socket == "" || socket == "/" {
		return loc, errors.New("no path of a socket")
	}
	loc.unix, loc.authority = socket, "localhost"
	if !hasPath && u.RawQuery != "" {
		return loc, fmt.Errorf("query %q without a path", u.RawQuery)
	}
	if hasPath {
		if !strings.HasPrefix(path, "/") {
			return loc, fmt.Errorf("path %q does not begin with a slash", path)
		}
		loc.uri = (&url.URL{Path: path, RawQuery: u.RawQuery}).RequestURI()
	}
	return loc, nil
}

func (loc location) checkService(port string) error {
	if port != "" {
		return fmt.Errorf("port %q: SRV records bring their own", port)
	}
	if service, proto, _ := loc.service(); len(service) < 2 || len(proto) < 2 {
		return errors.New("host is not of the form _service._proto.name")
	}
	return nil
}

// service splits "_xmpp-websocket._tcp.example.com" as LookupSRV wants it,
// underscores kept.
func (loc location) service() (service, proto, name string) {
	labels := strings.SplitN(loc.host, ".", 3)
	if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") || labels[2] == "" {
		return "", "", ""
	}
	return labels[0], labels[1], labels[2]
}

// literal is the IP address that the URL names, if it names one.
func (loc location) literal() (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(loc.host)
	return netip.AddrPortFrom(addr.Unmap(), loc.port), err == nil
}

// hostPort is the host with its port, always both; the path of a unix socket.
func (loc location) hostPort() string {
	switch {
	case loc.unix != "":
		return loc.unix
	case loc.srv:
		return loc.host
	}
	return net.JoinHostPort(loc.host, strconv.Itoa(int(loc.port)))
}

// serverName is what a wss node's certificate must be for. With SRV it is the
// name that was asked for, not the target's: DNS is not to be believed here
// (RFC 9525, section 6.1).
func (loc location) serverName() string {
	if loc.srv {
		_, _, name := loc.service()
		return name
	}
	if loc.unix != "" {
		return "localhost"
	}
	return loc.host
}

package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A NodeURL is a parsed node URL.
type NodeURL struct {
	TLS  bool
	Unix string // path of the socket, or ""
	SRV  bool   // Host is a name with SRV records
	Host string // in normal form, without brackets, but with a final dot if it has one; "" for a socket

	url       string // as written
	port      uint16
	uri       string // request target; "" means the client's
	authority string // the Host header if the group has host = "node"
}

// ParseNodeURL reads the URL of a node; see NodeOptions.URL.
func ParseNodeURL(s string) (NodeURL, error) {
	loc := NodeURL{url: s}
	u, err := parseURL(s)
	if err != nil {
		return loc, err
	}
	scheme, isSRV := strings.CutPrefix(u.Scheme, "srv+")
	scheme, isUnix := strings.CutSuffix(scheme, "+unix")
	if scheme != "ws" && scheme != "wss" || isUnix && isSRV {
		return loc, fmt.Errorf("scheme %q is not ws, wss, ws+unix or srv+ws", u.Scheme)
	}
	loc.TLS, loc.SRV = scheme == "wss", isSRV
	if isUnix {
		return loc.withSocket(u)
	}
	host, port, err := hostOf(u)
	if err != nil {
		return loc, err
	}
	loc.Host = host
	if strings.HasSuffix(u.Hostname(), ".") {
		loc.Host += "." // for the resolver: no search domains
	}
	loc.authority = joinHost(loc.Host, port)
	if u.Path != "" || u.RawQuery != "" {
		loc.uri = u.RequestURI()
	}
	if loc.SRV {
		_, _, loc.authority = loc.service()
		return loc, loc.checkService(port)
	}
	if port == "" {
		port = defaultPorts[scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	loc.port = uint16(n)
	return loc, err
}

// withSocket reads ws+unix:///run/prosody.sock:/xmpp-websocket.
func (loc NodeURL) withSocket(u *url.URL) (NodeURL, error) {
	socket, path, hasPath := strings.Cut(u.Path, ":")
	switch {
	case u.Host != "":
		return loc, fmt.Errorf("has host %q before the path of the socket; three slashes are required", u.Host)
	case len(socket) < 2:
		return loc, errors.New("has no socket path")
	case hasPath && !strings.HasPrefix(path, "/"):
		return loc, fmt.Errorf("path %q does not begin with a slash", path)
	case !hasPath && u.RawQuery != "":
		return loc, fmt.Errorf("has query %q without a path; write %q", u.RawQuery, socket+":/?"+u.RawQuery)
	}
	loc.Unix, loc.authority = socket, "localhost"
	if hasPath {
		loc.uri = (&url.URL{Path: path, RawQuery: u.RawQuery}).RequestURI()
	}
	return loc, CheckSocketPath(socket)
}

func (loc NodeURL) checkService(port string) error {
	if service, proto, _ := loc.service(); len(service) < 2 || len(proto) < 2 {
		return errors.New("host is not of the form _xmpp-websocket._tcp.example1.com")
	}
	if port != "" {
		return fmt.Errorf("has port %q, but SRV records contain the port", port)
	}
	return nil
}

// service splits "_xmpp-websocket._tcp.example.com" for LookupSRV, and keeps the
// underscores.
func (loc NodeURL) service() (service, proto, name string) {
	labels := strings.SplitN(loc.Host, ".", 3)
	if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") || labels[2] == "" {
		return "", "", ""
	}
	return labels[0], labels[1], labels[2]
}

// literal returns the IP address in the URL, if it has one.
func (loc NodeURL) literal() (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(loc.Host)
	return netip.AddrPortFrom(addr.Unmap(), loc.port), err == nil
}

// HostPort returns the host with its port, which is never empty, or the path of a unix
// socket.
func (loc NodeURL) HostPort() string {
	switch {
	case loc.Unix != "":
		return loc.Unix
	case loc.SRV:
		return loc.Host
	}
	return net.JoinHostPort(loc.Host, strconv.Itoa(int(loc.port)))
}

// serverName returns the name that a wss node's certificate must have. With SRV it is
// the name of the query, not of the target, because DNS is not trusted here (RFC 9525,
// section 6.1).
func (loc NodeURL) serverName() string {
	if loc.SRV {
		_, _, name := loc.service()
		return name
	}
	if loc.Unix != "" {
		return "localhost"
	}
	return loc.Host
}

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"wssgate/access"
)

// A listener is one address to listen on, as net.Listen wants it.
type listener struct {
	key     keyPath
	network string // "tcp" or "unix"
	address string
}

func (l *Listen) check(ms *mistakes, p keyPath, file string) {
	var all []listener
	addresses := func(key string, list []string) {
		for i, s := range list {
			network, address, err := listenAddress(s)
			if err != nil {
				ms.add(p.key(key), `write ":5291", "127.0.0.1:5291", "[::1]:5291" or "unix:/path/to/socket"`, "%q %v", s, err)
				continue
			}
			if network == "unix" {
				if !filepath.IsAbs(address) {
					address = filepath.Join(filepath.Dir(file), address)
				}
				list[i] = "unix:" + address
				if err := checkSocketPath(address); err != nil {
					ms.add(p.key(key), "", "%q: %v", s, err)
					continue
				}
			}
			this := listener{p.key(key), network, address}
			for _, other := range all {
				if other.collides(this) {
					ms.add(this.key, "", "%q is taken by %s already", s, other.key.shown)
					break
				}
			}
			all = append(all, this)
		}
	}
	if len(l.WSS) == 0 {
		ms.add(p.key("wss"), `write wss = ":5291"`, "there is none, want at least one")
	}
	addresses("wss", l.WSS)
	addresses("http", l.HTTP)
	if l.Admin != "" {
		admin := []string{l.Admin}
		addresses("admin", admin)
		l.Admin = admin[0]
		if network, address, err := listenAddress(l.Admin); err == nil && network == "tcp" && !isLoopback(address) && l.AdminTokenFile == "" {
			ms.add(p.key("admin"), "name a file with a token in admin_token_file, or listen on 127.0.0.1",
				"%q can be reached from outside, and there is no token", l.Admin)
		}
	}
	if l.AdminTokenFile != "" {
		ms.checkFile(p.key("admin_token_file"), l.AdminTokenFile, checkToken)
	}
	for i, s := range l.ProxyProtocol {
		prefix, err := access.ParseNetwork(s)
		if err != nil {
			ms.add(p.key("proxy_protocol"), `write "10.0.0.0/8" or "192.0.2.7"`, "%q %v", s, err)
			continue
		}
		l.ProxyProtocol[i] = prefix.String()
	}
}

// listenAddress turns an address of [listen] into the arguments of
// net.Listen. Its errors complete a sentence that begins with the address.
func listenAddress(s string) (network, address string, err error) {
	if socket, ok := strings.CutPrefix(s, "unix:"); ok {
		if socket == "" {
			return "", "", errors.New("has no path")
		}
		if socket[0] == '@' { // net would take it for an abstract one, which anybody may connect to
			return "", "", errors.New("begins with \"@\", want the path of a file")
		}
		return "unix", socket, nil
	}
	if strings.Contains(s, "://") {
		return "", "", errors.New("is a URL, want an address")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", "", errors.New("is not of the form HOST:PORT")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", "", fmt.Errorf("has port %q, want a number up to 65535", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		if host, err = domainName(host); err != nil {
			return "", "", errors.New("has a host that is neither an address nor a name")
		}
	}
	return "tcp", net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// collides reports whether the system would refuse b beside a. Port 0 is a
// port of the kernel's choice, another one each time.
func (a listener) collides(b listener) bool {
	if a.network != b.network || a.network == "unix" {
		return a == listener{a.key, b.network, b.address}
	}
	hostA, portA, _ := net.SplitHostPort(a.address)
	hostB, portB, _ := net.SplitHostPort(b.address)
	return portA == portB && portA != "0" && (plainHost(hostA) == plainHost(hostB) || isAnyAddress(hostA) || isAnyAddress(hostB))
}

// plainHost is one form for what are the same addresses. Go listens on 127.0.0.1
// for localhost.
func plainHost(host string) string {
	if host == "localhost" {
		return "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

func isAnyAddress(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

func isLoopback(hostPort string) bool {
	host, _, _ := net.SplitHostPort(hostPort)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// A nodeURL is what the checks need to know of a node's URL.
type nodeURL struct {
	tls      bool   // wss
	srv      bool   // host is a name with SRV records
	unix     bool   // hostPort is the path of a socket
	host     string // without brackets
	hostPort string // the node's name by default
}

// parseNodeURL reads the URL of a node, see Node.URL. Its errors follow a
// colon.
func parseNodeURL(s string) (nodeURL, error) {
	if s == "" {
		return nodeURL{}, errors.New("want a URL")
	}
	u, err := parseURL(s)
	if err != nil {
		return nodeURL{}, err
	}
	scheme, isSRV := strings.CutPrefix(u.Scheme, "srv+")
	scheme, isUnix := strings.CutSuffix(scheme, "+unix")
	if scheme != "ws" && scheme != "wss" || isSRV && isUnix {
		return nodeURL{}, fmt.Errorf("scheme %q is not ws, wss, ws+unix or srv+ws", u.Scheme)
	}
	n := nodeURL{tls: scheme == "wss", srv: isSRV, unix: isUnix, host: u.Hostname()}
	switch {
	case isUnix:
		socket, path, hasPath := strings.Cut(u.Path, ":")
		switch {
		case u.Host != "":
			return n, fmt.Errorf("host %q before the path of a socket, want three slashes", u.Host)
		case len(socket) < 2:
			return n, errors.New("no path of a socket")
		case hasPath && !strings.HasPrefix(path, "/"):
			return n, fmt.Errorf("path %q does not begin with a slash", path)
		case !hasPath && u.RawQuery != "":
			return n, fmt.Errorf("query %q without a path, want %q", u.RawQuery, socket+":/?"+u.RawQuery)
		}
		n.hostPort = socket
		return n, checkSocketPath(socket)
	case n.host == "":
		return n, errors.New("no host")
	case isSRV:
		labels := strings.SplitN(n.host, ".", 3)
		if len(labels) < 3 || !isService(labels[0]) || !isService(labels[1]) || labels[2] == "" {
			return n, errors.New("host is not of the form _xmpp-websocket._tcp.example1.com")
		}
		if u.Port() != "" {
			return n, fmt.Errorf("port %q, and SRV records bring their own", u.Port())
		}
		n.hostPort = n.host
		return n, nil
	}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[n.tls]
	}
	n.hostPort = net.JoinHostPort(strings.ToLower(n.host), port)
	if name, err := domainName(n.host); err == nil {
		n.host = name // as DNS has it
	}
	return n, checkHost(u)
}

// maxSocketPath is the size of sun_path of Linux (unix(7)), its final NUL taken off.
const maxSocketPath = 107 // bytes

// checkSocketPath finds what the system would refuse later.
func checkSocketPath(path string) error {
	switch {
	case len(path) > maxSocketPath:
		return fmt.Errorf("path of %d bytes, a socket's may have %d", len(path), maxSocketPath)
	case strings.Contains(path, "\x00") || !utf8.ValidString(path):
		return fmt.Errorf("path %q is not text", path)
	}
	return nil
}

func isService(label string) bool { return len(label) > 1 && label[0] == '_' }

// checkURL checks an absolute URL of one of the schemes. Its errors follow a
// colon.
func checkURL(s string, schemes ...string) error {
	if s == "" {
		return errors.New("want a URL")
	}
	u, err := parseURL(s)
	switch {
	case err != nil:
		return err
	case !slices.Contains(schemes, u.Scheme):
		return fmt.Errorf("scheme %q is not %s", u.Scheme, strings.Join(schemes, " or "))
	case u.Hostname() == "":
		return errors.New("no host")
	case strings.ContainsAny(s, `'"<>&`): // it may be written into XML
		return errors.New("has a quote, an ampersand or an angle bracket")
	}
	return checkHost(u)
}

// publicURL is checkURL for what clients are told. It returns the URL with its
// host in ASCII, for not every client knows how to get there from "Bücher".
func publicURL(s string, schemes ...string) (string, error) {
	if err := checkURL(s, schemes...); err != nil {
		return s, err
	}
	u, err := parseURL(s)
	if err != nil {
		return s, err
	}
	u.Host = asciiHost(u)
	return u.String(), nil
}

// parseURL is url.Parse for URLs that we dial or hand out: nobody's password
// and no place inside a document.
func parseURL(s string) (*url.URL, error) {
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
		return nil, errors.New(`no "//" behind the scheme`)
	}
	return u, nil
}

func checkHost(u *url.URL) error {
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		if _, err := domainName(u.Hostname()); err != nil {
			return fmt.Errorf("host %q is neither an address nor a name", u.Hostname())
		}
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %q is not 1 to 65535", port)
		}
	}
	return nil
}

// asciiHost is the host that checkHost let pass, with its port, as browsers write
// it: lower case, A-labels, an address in its usual form.
func asciiHost(u *url.URL) string {
	host := u.Hostname()
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	} else if name, err := domainName(host); err == nil {
		host = name
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" {
		host += ":" + port
	}
	return host
}

// parseOrigin returns an origin as browsers write it (RFC 6454, section 6.2):
// scheme, host and, where it is not the scheme's own, port; or "null". "*."
// may stand for the first label of the host. Its errors follow a colon.
func parseOrigin(s string) (string, error) {
	if s == "null" {
		return s, nil
	}
	u, err := parseURL(s)
	switch {
	case err != nil:
		return "", err
	case u.Hostname() == "":
		return "", errors.New("no host")
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery:
		return "", errors.New("an origin has no path, not even a slash")
	}
	rest, wildcard := strings.CutPrefix(u.Host, "*.")
	u.Host = rest
	if err := checkHost(u); err != nil {
		return "", err
	}
	host := asciiHost(u)
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		host = strings.TrimSuffix(host, ":"+u.Port())
	}
	if wildcard {
		host = "*." + host
	}
	return u.Scheme + "://" + host, nil
}

package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// ParseAddress converts an address of [listen] to the arguments of net.Listen. Its
// errors complete a sentence that begins with the address.
func ParseAddress(s string) (network, address string, err error) {
	if socket, ok := strings.CutPrefix(s, "unix:"); ok {
		if socket == "" {
			return "", "", errors.New("has no path")
		}
		if socket[0] == '@' { // net would open an abstract socket, to which any user may connect
			return "", "", errors.New("begins with \"@\"; the path of a file is required")
		}
		return "unix", socket, nil
	}
	if strings.Contains(s, "://") {
		return "", "", errors.New("is a URL, not an address")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", "", errors.New("is not of the form HOST:PORT")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", "", fmt.Errorf("has port %q, which is not a number up to 65535", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", "", errors.New("has a host that is neither an address nor a name")
		}
	}
	return "tcp", net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

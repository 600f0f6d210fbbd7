package xmpp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Maximum sizes of a domain in normal form (RFC 1035, section 2.3.4), and as written
// (RFC 7622, section 3.2).
const (
	maxLabel     = 63
	maxDomain    = 253
	maxAsWritten = 1023
)

// mapping converts a domain as people write it to A-labels (RFC 5895; UTS #46,
// nontransitional). checkLabels checks hyphens and lengths.
var mapping = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.CheckHyphens(false),
	idna.StrictDomainName(false),
	idna.BidiRule(),
)

// NormalDomain returns the form in which domains are compared: lower case, A-labels, no
// trailing dot. An IPv4 address is in dotted decimal, an IPv6 address in brackets and
// in the form of RFC 5952. The normal form of a normal form is itself.
//
// It accepts underscores, which are not allowed in host names but occur inside
// container networks. It refuses a user, a resource, a port, an empty label, and a
// number as the last label unless the whole is an IPv4 address.
func NormalDomain(s string) (string, error) {
	if len(s) > maxAsWritten {
		return "", fmt.Errorf("domain of %d bytes: longer than %d", len(s), maxAsWritten)
	}
	if !utf8.ValidString(s) { // idna would replace it by U+FFFD, which has an A-label
		return "", fmt.Errorf("domain %q: not UTF-8", s)
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		if !ok || err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", fmt.Errorf("domain %q: not an IPv6 address in brackets", s)
		}
		return "[" + ip.String() + "]", nil
	}
	domain := strings.ToLower(s)
	if !isASCII(s) || strings.Contains(domain, "xn--") {
		var err error
		if domain, err = mapping.ToASCII(s); err != nil {
			return "", fmt.Errorf("domain %q: %w", s, err)
		}
	}
	domain = strings.TrimSuffix(domain, ".") // RFC 7622, section 3.2
	if err := checkLabels(domain); err != nil {
		return "", fmt.Errorf("domain %q: %w", s, err)
	}
	return domain, nil
}

// checkLabels checks a domain that is otherwise in normal form.
func checkLabels(domain string) error {
	if len(domain) > maxDomain {
		return fmt.Errorf("longer than %d bytes", maxDomain)
	}
	numeric := false
	for label := range strings.SplitSeq(domain, ".") {
		switch {
		case label == "":
			return errors.New("a label is empty")
		case len(label) > maxLabel:
			return fmt.Errorf("a label is longer than %d bytes", maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("a label begins or ends with a hyphen")
		}
		numeric = true
		for i := range len(label) {
			switch b := label[i]; {
			case b >= '0' && b <= '9':
			case b >= 'a' && b <= 'z', b == '-', b == '_':
				numeric = false
			default:
				return fmt.Errorf("%q can't be in a domain", b)
			}
		}
	}
	if numeric {
		if ip, err := netip.ParseAddr(domain); err != nil || !ip.Is4() {
			return errors.New("neither a name nor an IPv4 address")
		}
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

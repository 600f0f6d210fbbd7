package certstore

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	maxName  = 253  // bytes of a name in presentation form without its last dot; RFC 1035, section 2.3.4
	maxLabel = 63   // bytes of one label; RFC 1035, section 2.3.4
	maxInput = 1024 // bytes; a client may send 64 KiB, and IDNA mapping is expensive
)

var (
	errNameEmpty  = errors.New("is empty")
	errNameLong   = errors.New("longer than 253 bytes")
	errLabelEmpty = errors.New("has an empty label")
	errLabelLong  = errors.New("has a label longer than 63 bytes")
	errNameByte   = errors.New("has a character that is not allowed in a DNS name")
	errNameIDNA   = errors.New("is not a valid internationalized name")
	errNameIP     = errors.New("is an IP address, not a name")
	errWildcard   = errors.New("has a wildcard that is not the whole leftmost label")
)

// lookup maps user input to A-labels. It handles case, width and composition,
// but omits the rules that only registries enforce.
var lookup = idna.New(idna.MapForLookup(), idna.CheckHyphens(false), idna.Transitional(false))

// ServerName returns the normal form of a server name (RFC 6066, section 3):
// lower case, A-labels, no trailing dot. The normal form of a normal form is
// itself. IP addresses are rejected, because RFC 6066 does not permit them.
func ServerName(s string) (string, error) {
	name, err := normalName(s)
	if err != nil {
		return "", fmt.Errorf("server name %q: %w", s, err)
	}
	return name, nil
}

// Pattern is like ServerName, but also accepts a wildcard: a star as the whole
// leftmost label and nowhere else (RFC 9525, section 6.3).
func Pattern(s string) (string, error) {
	rest, wild := strings.CutPrefix(s, "*.")
	name, err := normalName(rest)
	if err != nil && strings.Contains(rest, "*") {
		err = errWildcard
	}
	if err != nil {
		return "", fmt.Errorf("server name %q: %w", s, err)
	}
	if wild {
		return "*." + name, nil
	}
	return name, nil
}

// normalName is ServerName with errors that do not allocate, because any client
// can cause them. It returns a name in normal form without a copy.
func normalName(s string) (string, error) {
	switch {
	case s == "":
		return "", errNameEmpty
	case len(s) > maxInput:
		return "", errNameLong
	}
	upper := false
	for i := range len(s) {
		if c := s[i]; c >= 0x80 {
			mapped, err := lookup.ToASCII(s)
			if err != nil || !utf8.ValidString(s) { // idna accepts invalid UTF-8
				return "", errNameIDNA
			}
			s, upper = mapped, true
			break
		} else if 'A' <= c && c <= 'Z' {
			upper = true
		}
	}
	if upper {
		s = strings.ToLower(s)
	}
	s = strings.TrimSuffix(s, ".") // only the root's dot: "0000.." has an empty label
	if len(s) > maxName {
		return "", errNameLong
	}
	label := 0 // bytes in the label so far
	digits := true
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return "", errLabelEmpty
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', c == '-', c == '_':
			digits = false
		case '0' <= c && c <= '9':
		default:
			return "", errNameByte
		}
		if label++; label > maxLabel {
			return "", errLabelLong
		}
	}
	if label == 0 {
		return "", errLabelEmpty
	}
	if digits {
		if _, err := netip.ParseAddr(s); err == nil {
			return "", errNameIP
		}
	}
	return s, nil
}

// parent returns the name without its leftmost label. It is the part of a
// matching wildcard after "*.".
func parent(name string) (string, bool) {
	_, rest, ok := strings.Cut(name, ".")
	return rest, ok
}

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// serverName returns a TLS server name in its normal form: lower case,
// A-labels, no dot at the end. "*." may stand for the first label (RFC 9525,
// section 6.3). Its errors complete a sentence that begins with the name.
func serverName(s string) (string, error) {
	rest, wildcard := strings.CutPrefix(s, "*.")
	name, err := domainName(rest)
	if err != nil {
		return "", err
	}
	if wildcard {
		return "*." + name, nil
	}
	return name, nil
}

// domainName is serverName without a wildcard.
func domainName(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return "", errors.New("is an address, want a name")
	}
	if strings.Contains(name, "*") {
		return "", errors.New(`has a "*" that is not its whole first label`)
	}
	if strings.Contains(name, "://") {
		return "", errors.New("is a URL, want a name")
	}
	name, err := idna.Lookup.ToASCII(name)
	switch {
	case err != nil || strings.HasSuffix(name, "."):
		return "", errors.New("is not a name")
	case name == "":
		return "", errors.New("is no name")
	case len(name) > 253:
		return "", errors.New("is longer than 253 bytes")
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return "", errors.New("has an empty label")
		case len(label) > 63:
			return "", errors.New("has a label longer than 63 bytes")
		case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return "", fmt.Errorf("has a label %q, want letters, digits and hyphens", label)
		}
	}
	return name, nil
}

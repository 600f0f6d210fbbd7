package config

import (
	"errors"
	"strings"

	"wssgate/certstore"
	"wssgate/xmpp"
)

// ServerName returns the normal form of a TLS server name, by which
// certificates are looked up. Its first label may be "*". The text of an error
// completes a sentence that begins with the name.
func ServerName(s string) (string, error) {
	name, err := certstore.Pattern(s)
	return name, errors.Unwrap(err)
}

// domainName is ServerName without wildcards: for hosts.
func domainName(s string) (string, error) {
	name, err := certstore.ServerName(s)
	return name, errors.Unwrap(err)
}

// domainPattern returns the normal form of an XMPP domain, in which `to` is
// compared. Its first label may be "*".
func domainPattern(s string) (string, error) {
	rest, wild := strings.CutPrefix(s, "*.")
	domain, err := xmpp.NormalDomain(rest)
	if wild && err == nil {
		domain = "*." + domain
	}
	return domain, err
}

package config

import (
	"errors"
	"strings"

	"wssgate/certstore"
	"wssgate/xmpp"
)

// ServerName returns a TLS server name in its normal form, which is the one
// that certificates are looked up by; "*." may stand for the first label. Its
// errors complete a sentence that begins with the name.
func ServerName(s string) (string, error) {
	name, err := certstore.Pattern(s)
	return name, errors.Unwrap(err)
}

// domainName is ServerName without a wildcard: for hosts.
func domainName(s string) (string, error) {
	name, err := certstore.ServerName(s)
	return name, errors.Unwrap(err)
}

// domainPattern returns an XMPP domain in its normal form, which is the one that
// `to` is compared in; "*." may stand for the first label.
func domainPattern(s string) (string, error) {
	rest, wild := strings.CutPrefix(s, "*.")
	domain, err := xmpp.NormalDomain(rest)
	if wild && err == nil {
		domain = "*." + domain
	}
	return domain, err
}

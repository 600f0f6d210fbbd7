package main

import (
	"errors"

	"wssgate/certstore"
)

// serverName returns a TLS server name in its normal form, which is the one
// that certificates are looked up by; "*." may stand for the first label. Its
// errors complete a sentence that begins with the name.
func serverName(s string) (string, error) {
	name, err := certstore.Pattern(s)
	return name, errors.Unwrap(err)
}

// domainName is serverName without a wildcard: for hosts and XMPP domains.
func domainName(s string) (string, error) {
	name, err := certstore.ServerName(s)
	return name, errors.Unwrap(err)
}

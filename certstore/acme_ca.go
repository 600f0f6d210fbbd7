package certstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
)

// An ACMECA says which CA to ask, and with which account.
type ACMECA struct {
	Directory   string         // URL of the CA's directory, https
	Roots       *x509.CertPool // for the CA's server; nil: the system's roots
	Email       string         // contact of the account; may be empty
	AcceptTerms bool           // the operator accepts the CA's terms of service
	Profile     string         // of the CA, for orders; empty: the CA's default
	EABKeyID    string         // external account binding (RFC 8555, section 7.3.4); empty: none
	EABKey      []byte         // its MAC key, decoded
}

// check returns all mistakes.
func (c *ACMECA) check() (errs []error) {
	if u, err := url.Parse(c.Directory); err != nil {
		errs = append(errs, fmt.Errorf("acme: directory %q: %w", c.Directory, err))
	} else if u.Scheme != "https" || u.Host == "" {
		// RFC 8555, section 6.1.
		errs = append(errs, fmt.Errorf("acme: directory %q: not an https URL", c.Directory))
	}
	if (c.EABKeyID == "") != (len(c.EABKey) == 0) {
		errs = append(errs, errors.New("acme: external account binding needs both the key id and the key"))
	}
	return errs
}

// An acmeCA is one CA with the account that this gate has there.
type acmeCA struct {
	*ACME
	ACMECA
	http *http.Client

	account     chan acmeAccount // capacity 1; taken while it is registered
	accountSeen acmeSighting     // of the lease of the account's key; belongs to the goroutine that took account

	renewalInfo atomic.Pointer[string] // URL, without the last slash; nil: not known; empty: the CA has none

	replaced atomic.Bool // a deactivated account was, see replaceAccount
}

func newACMECA(a *ACME, which ACMECA) *acmeCA {
	c := &acmeCA{ACME: a, ACMECA: which, http: acmeHTTPClient(which.Roots, a.opts.transport), account: make(chan acmeAccount, 1)}
	c.account <- acmeAccount{}
	return c
}

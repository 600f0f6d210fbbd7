package certstore

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
)

// An ACMECA is a CA with the account to use there.
type ACMECA struct {
	Directory   string         // URL of the CA's directory, https
	Roots       *x509.CertPool // for the CA's server; nil: the system's roots
	Email       string         // contact of the account; may be empty
	AcceptTerms bool           // the operator accepts the CA's terms of service
	Profile     string         // the CA's profile for orders; empty: the CA's default
	Chain       string         // common name of the issuer of the last certificate in the chain; empty: the CA's default chain
	EABKeyID    string         // external account binding (RFC 8555, section 7.3.4); empty: none
	EABKey      []byte         // its MAC key, decoded
	Unread      error          // Roots or EABKey could not be read yet, and nothing is asked of this CA; nil: they were
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

// An acmeCA is a CA with this gate's account there.
type acmeCA struct {
	*ACME
	ACMECA
	http    *http.Client
	keyFile string // of the account

	account     chan acmeAccount // capacity 1; empty while the account is being registered
	accountSeen acmeSighting     // of the lease of the account's key; belongs to the goroutine that took account

	renewalInfo atomic.Pointer[string] // URL, without the last slash; nil: unknown; empty: the CA has none

	toldIssuers atomic.Pointer[[]string] // the CA's names in DNS, see issuers; nil: unknown

	replaced atomic.Bool // a deactivated account was replaced, see replaceAccount
}

// newACMECAs returns the CAs of the options, in order of preference. Each has a
// key of its own: a rollover at one does not affect the others.
func newACMECAs(a *ACME) (cas []*acmeCA) {
	for i, which := range append([]ACMECA{a.opts.ACMECA}, a.opts.Fallback...) {
		file := acmeAccountFile
		if i > 0 {
			sum := sha256.Sum256([]byte(which.Directory))
			file += "+ca-" + hex.EncodeToString(sum[:4])
		}
		cas = append(cas, newACMECA(a, which, file))
	}
	return cas
}

// unread returns why no CA can be asked yet: none of them has all of its files. An order
// would fail, and its back-off would last longer than that. It is nil if one can.
func (a *ACME) unread() (err error) {
	for _, c := range a.cas {
		if c.Unread == nil {
			return nil
		}
		err = c.Unread
	}
	return err
}

func newACMECA(a *ACME, which ACMECA, keyFile string) *acmeCA {
	c := &acmeCA{ACME: a, ACMECA: which, keyFile: keyFile, http: acmeHTTPClient(which, a.opts.transport), account: make(chan acmeAccount, 1)}
	c.account <- acmeAccount{}
	return c
}

// keyFiles returns the files that may contain the account's key. New keys go to
// the first.
func (c *acmeCA) keyFiles() []string {
	if c.keyFile == acmeAccountFile {
		return []string{acmeAccountFile, acmeAccountFileLegacy}
	}
	return []string{c.keyFile}
}

// host is the CA's name in messages if there are several CAs.
func (c *acmeCA) host() string {
	u, err := url.Parse(c.Directory)
	if err != nil { // check has already parsed it
		return c.Directory
	}
	return u.Host
}

// issuer returns the CA with a directory URL from a record, or nil if it is not
// configured. An empty URL counts as the first CA.
func (a *ACME) issuer(directory string) *acmeCA {
	if directory == "" {
		return a.cas[0]
	}
	if i := slices.IndexFunc(a.cas, func(c *acmeCA) bool { return c.Directory == directory }); i >= 0 {
		return a.cas[i]
	}
	return nil
}

// directories identifies the CAs in records of failures. A change of the CAs is
// a reason to try again.
func (a *ACME) directories() string {
	var urls []string
	for _, c := range a.cas {
		urls = append(urls, c.Directory)
	}
	return strings.Join(urls, " ")
}

// accountWell ends the back-off of the accounts, because an operator requested
// an attempt.
func (a *ACME) accountWell() {
	for _, c := range a.cas {
		c.accountWell()
	}
}

// An acmeLimit is a time before which a CA refuses orders for a name.
type acmeLimit struct {
	until time.Time
	err   error
}

// obtain orders a certificate from the first CA. If a CA fails for a reason of
// its own, obtain asks the next one. It skips CAs with a limit, unless all have
// one. The caller must hold the lease.
func (k *acmeKeeper) obtain(ctx context.Context) (*acmeIssued, error) {
	cas := k.a.cas
	if len(cas) == 1 {
		return cas[0].order(ctx, k.names, k.did(), k.replaces(cas[0]))
	}
	var causes []error
	var soonest time.Time // when one of them accepts orders again
	waiting := 0          // CAs that were skipped because of a limit
	missing := 0          // CAs for which a DNS record is missing
	for _, c := range cas {
		limit, until := k.limits[c], time.Now()
		err := limit.err
		if until.Before(limit.until) {
			until = limit.until
			waiting++
		} else {
			var issued *acmeIssued
			issued, err = c.order(ctx, k.names, k.did(), k.replaces(c))
			if err == nil {
				if len(causes) > 0 {
					k.a.opts.Log.Warn("acme: certificate of a fallback CA", "server_name", k.name, "ca", c.Directory, "err", acmeFailure{k.names, causes})
				}
				return issued, nil
			}
			if _, lacks := err.(acmeRecordMissing); lacks {
				missing++
			}
			if wait, waits := errors.AsType[acmeAccountWait](err); waits {
				until = wait.until
				waiting++
			} else if d := min(acmeRateLimit(err), acmeBackoffMax); d > 0 {
				until = time.Now().Add(d)
				k.limits[c] = acmeLimit{until, err}
			}
		}
		if soonest.IsZero() || until.Before(soonest) {
			soonest = until
		}
		why := err
		if failure, ok := errors.AsType[acmeFailure](err); ok {
			why = acmeCauses(failure.causes)
		}
		causes = append(causes, acmeCause{c.host(), why})
		if ctx.Err() != nil || !acmeCAsFault(err) {
			break
		}
	}
	failure := acmeFailure{k.names, causes}
	switch {
	case waiting == len(cas):
		return nil, acmeAccountWait{soonest, failure}
	case missing > 0 && waiting+missing == len(cas):
		return nil, acmeRecordMissing{failure}
	}
	return nil, acmeSeveralFailed{failure, max(time.Until(soonest), 0)}
}

// An acmeSeveralFailed is a failure with several CAs. It tells when the first
// of them accepts orders again.
type acmeSeveralFailed struct {
	acmeFailure
	after time.Duration
}

// acmeCAsFault reports whether an order failed because of the CA, such as an
// outage or a rate limit, and not because of the names. Another CA may then
// succeed.
func acmeCAsFault(err error) bool {
	if failure, ok := errors.AsType[acmeFailure](err); ok && len(failure.causes) > 0 {
		err = failure.causes[len(failure.causes)-1] // the last attempt
	}
	if causes, ok := errors.AsType[acmeCauses](err); ok { // several names failed
		return !slices.ContainsFunc(causes, func(err error) bool { return !acmeCAsFault(err) })
	}
	if errors.Is(err, errACMENotOffered) {
		return false
	}
	if authz, ok := errors.AsType[*acme.AuthorizationError](err); ok {
		return len(authz.Errors) > 0 && !slices.ContainsFunc(authz.Errors, func(err error) bool { return !acmeInternal(err) })
	}
	if order, ok := errors.AsType[*acme.OrderError](err); ok && order.Problem != nil {
		err = order.Problem
	}
	problem, ok := errors.AsType[*acme.Error](err)
	if !ok || acmeInternal(err) || problem.StatusCode >= 500 {
		return true // no answer, or an invalid one
	}
	if cause, ok := errors.AsType[acmeCause](err); ok && cause.doing == "account" {
		return true
	}
	if len(problem.Subproblems) > 0 { // one for each name
		return false
	}
	switch acmeProblemType(problem.ProblemType) {
	case "dns", "caa", "connection", "tls", "incorrectResponse", "rejectedIdentifier", "unsupportedIdentifier":
		return false
	case "unauthorized":
		return acmeAccountWide(err)
	}
	return true
}

// acmeInternal reports whether a problem is the CA's internal error.
func acmeInternal(err error) bool {
	problem, ok := errors.AsType[*acme.Error](err)
	return ok && (acmeProblemType(problem.ProblemType) == "serverInternal" || acmeIsRateLimit(problem))
}

package certstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// ACMEOptions are the certificates to obtain, their CAs, and the cache. NewACME
// copies the options; later changes have no effect.
type ACMEOptions struct {
	ACMECA // the first CA to ask

	// Fallback are the CAs to ask, in this order, if all CAs before failed to
	// issue a certificate for reasons of their own. Each renewal asks the first
	// CA again.
	Fallback []ACMECA

	Names        []string   // server names, each with its own certificate; addresses and single labels are rejected; wildcards need a DNS record, see DNSRecords
	Together     [][]string // lists of server names that share one certificate; Names must not contain them
	Cache        string     // folder; other gates may share it; created with mode 0700
	Certificates string     // the Store's directory, which must be separate from Cache; may be empty
	KeyType      string     // of certificates: "ecdsa" (P-256) or "rsa" (2048 bits); empty: ecdsa

	// DNSServer is the address and port that is asked for the records of wildcards; empty:
	// the system's resolver.
	DNSServer string

	// TLSALPN and HTTP01 tell how the CA can reach a gate: on port 443, with a
	// listener that calls ChallengeCertificate, or on port 80, with
	// HTTPHandler. An order tries those that are set, tls-alpn-01 first. An
	// order with a wildcard uses dns-persist-01.
	TLSALPN bool
	HTTP01  bool

	// Install receives each certificate before it is served, even an expired
	// one: the Store decides whether one from the directory is better. id is
	// the certificate's name, or identifies the list of Together. Another
	// certificate with the same id replaces it. Remove receives the id of a
	// certificate to remove; it may be nil. Calls for one id never overlap.
	// Neither function may block, call the ACME, or change the certificate.
	Install func(id string, cert *tls.Certificate)
	Remove  func(id string)

	Poll time.Duration // interval for reading the cache; 0: 30 s
	Log  *slog.Logger  // nil: no log

	wall      func() time.Time                                         // for tests with a clock that jumps
	transport http.RoundTripper                                        // for tests with a CA in memory
	lookupTXT func(ctx context.Context, name string) ([]string, error) // for tests of DNS; nil: the system's resolver
	writes    func() error                                             // for tests of a full disk; nil: writes succeed
}

const acmePoll = 30 * time.Second // default of ACMEOptions.Poll

func (o *ACMEOptions) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = acmePoll
	}
	if o.wall == nil {
		o.wall = time.Now
	}
	if o.lookupTXT == nil {
		o.lookupTXT = acmeResolver(o.DNSServer).LookupTXT
	}
	if o.Remove == nil {
		o.Remove = func(string) {}
	}
}

// check returns all mistakes in the options, except those in names.
func (o *ACMEOptions) check() (errs []error) {
	errs = o.ACMECA.check()
	for i, c := range o.Fallback {
		errs = append(errs, c.check()...)
		if c.Directory == o.Directory || slices.ContainsFunc(o.Fallback[:i], func(other ACMECA) bool { return other.Directory == c.Directory }) {
			errs = append(errs, fmt.Errorf("acme: directory %q: is there twice", c.Directory))
		}
	}
	if o.Cache == "" {
		errs = append(errs, errors.New("acme: no cache folder"))
	}
	if o.Install == nil {
		errs = append(errs, errors.New("acme: no Install function"))
	}
	if !slices.Contains([]string{"", "ecdsa", "rsa"}, o.KeyType) {
		errs = append(errs, fmt.Errorf("acme: key type %q: neither \"ecdsa\" nor \"rsa\"", o.KeyType))
	}
	if !o.TLSALPN && !o.HTTP01 {
		errs = append(errs, errors.New("acme: no challenge can be answered: neither tls-alpn-01 nor http-01 has a listener"))
	}
	return errs
}

// acmeLists returns the names of each certificate in normal form. It returns
// errors for invalid names and for names in two certificates. A repetition
// within names is allowed.
func acmeLists(names []string, together [][]string) (lists [][]string, errs []error) {
	seen := map[string]bool{}
	for _, name := range names {
		n, err := acmeName(name)
		if err != nil {
			errs = append(errs, err)
		} else if !seen[n] {
			seen[n] = true
			lists = append(lists, []string{n})
		}
	}
	for _, names := range together {
		var list []string
		for _, name := range names {
			n, err := acmeName(name)
			switch {
			case err != nil:
				errs = append(errs, err)
			case seen[n]:
				errs = append(errs, fmt.Errorf("acme: name %q: is listed twice", name))
			default:
				seen[n] = true
				list = append(list, n)
			}
		}
		if len(list) > 0 {
			lists = append(lists, list)
		}
	}
	return lists, errs
}

// acmeName returns a name's normal form, or why no CA issues a certificate for it. The
// name may be a wildcard.
func acmeName(name string) (string, error) {
	domain, wildcard := strings.CutPrefix(name, "*.")
	normal, err := normalName(domain)
	if err != nil {
		return "", fmt.Errorf("acme: name %q: %w", name, err)
	}
	if !strings.Contains(normal, ".") {
		return "", fmt.Errorf("acme: name %q: has one label only", name)
	}
	// The Manager requires host names, which exclude underscores, for example.
	if host, err := idna.Lookup.ToASCII(normal); err != nil || host != normal {
		return "", fmt.Errorf("acme: name %q: is not a host name", name)
	}
	if wildcard {
		normal = "*." + normal
	}
	return normal, nil
}

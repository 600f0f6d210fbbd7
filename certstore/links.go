package certstore

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
	"unique"
)

// links describe a chain without its leaf, up to the first issuer that a root
// of this system has issued. Clients that know the root ignore the rest, such
// as an expired cross-certificate of it. links never change; certificates with
// the same chain share them.
type links struct {
	judged      int    // number of issuers that count
	broken      error  // why a client would reject one of the signatures
	from, until int64  // Unix seconds; all of its certificates are valid between them
	begins      string // the certificate that sets from
	ends        string // the certificate that sets until

	public      bool   // it leads to a root of this system
	constrained bool   // it has name constraints
	tooLong     bool   // an issuer's path length is exceeded (RFC 5280, section 4.2.1.9)
	doubts      uint32 // see issuerDoubts
}

// noLinks describe an empty chain.
var noLinks = &links{from: math.MinInt64, until: math.MaxInt64 - 1}

// linksCache holds the links of recent chains. Few chains differ.
var linksCache struct {
	sync.Mutex
	of       map[unique.Handle[string]]*links
	notRoots map[string]bool // subjects of issuers
}

const maxChains = 1024 // in each map of linksCache

// fromRoot reports whether a root of this system has issued the leaf.
func fromRoot(leaf *x509.Certificate) bool {
	linksCache.Lock()
	defer linksCache.Unlock()
	if linksCache.notRoots[string(leaf.RawIssuer)] {
		return false
	}
	if fromTrusted(leaf) {
		return true
	}
	if linksCache.notRoots == nil || len(linksCache.notRoots) >= maxChains {
		linksCache.notRoots = map[string]bool{}
	}
	linksCache.notRoots[string(leaf.RawIssuer)] = true
	return false
}

// fromTrusted reports whether a root of this system has issued a certificate.
// The certificate may have expired, or outlive the root.
func fromTrusted(c *x509.Certificate) bool {
	at := time.Now()
	if at.After(c.NotAfter) {
		at = c.NotAfter
	} else if at.Before(c.NotBefore) {
		at = c.NotBefore
	}
	return trusted([]*x509.Certificate{c}, at)
}

func linksOf(chain unique.Handle[string]) *links {
	if chain == noChain {
		return noLinks
	}
	linksCache.Lock()
	defer linksCache.Unlock()
	if l := linksCache.of[chain]; l != nil {
		return l
	}
	if linksCache.of == nil || len(linksCache.of) >= maxChains {
		linksCache.of = map[unique.Handle[string]]*links{}
	}
	l := newLinks(chain.Value())
	linksCache.of[chain] = l
	return l
}

func newLinks(der string) *links {
	l := &links{from: math.MinInt64, until: math.MaxInt64 - 1}
	chain, err := x509.ParseCertificates([]byte(der))
	if err != nil {
		l.broken = fmt.Errorf("chain: %w", err)
		return l
	}
	below := 0 // intermediates
	for i, c := range chain {
		if i > 0 && l.broken == nil {
			l.broken = unsigned(chain[i-1], c)
		}
		if t := c.NotBefore.Unix(); t > l.from {
			l.from, l.begins = t, printable(c.Subject.String())
		}
		if t := c.NotAfter.Unix(); t < l.until {
			l.until, l.ends = t, printable(c.Subject.String())
		}
		l.constrained = l.constrained || len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
			len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0
		l.tooLong = l.tooLong || c.BasicConstraintsValid && (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen
		if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			below++
		}
		l.doubts |= issuerDoubts(c)
		l.judged = i + 1
		if l.public = fromTrusted(c); l.public {
			break
		}
	}
	return l
}

// unsigned returns the reason why a client would reject the issuer's signature.
func unsigned(c, issuer *x509.Certificate) error {
	err := c.CheckSignatureFrom(issuer)
	if err == nil || errors.Is(err, x509.ErrUnsupportedAlgorithm) { // some clients may support it
		return nil
	}
	if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); weak { // a rule reports it
		return nil
	}
	return fmt.Errorf("the chain is broken: %q has not signed what it should have: %w", printable(issuer.Subject.String()), err)
}

// dateError returns an error if the chain is outside its validity period.
func (l *links) dateError(now time.Time) error {
	switch t := now.Unix(); {
	case t > l.until:
		return fmt.Errorf("the chain has expired: %q ended %s", l.ends, time.Unix(l.until, 0).UTC().Format(time.RFC3339))
	case t < l.from:
		return fmt.Errorf("the chain is not valid yet: %q begins %s", l.begins, time.Unix(l.from, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

func (l *links) valid(now time.Time) bool { t := now.Unix(); return l.from <= t && t <= l.until }

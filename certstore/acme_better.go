package certstore

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
	"unique"
)

// acmeWorse returns the reason why next must not replace held, or nil if it
// may. Two valid certificates are equally good: a shorter lifetime may come
// from another profile or CA, and the operator may want the older one. names
// are the names to serve.
func acmeWorse(next, held *tls.Certificate, now time.Time, names ...string) error {
	if held == nil || next.Leaf.Equal(held.Leaf) {
		return nil
	}
	if acmeInDates(held.Leaf, now) {
		switch leaf := next.Leaf; {
		case now.After(leaf.NotAfter):
			return fmt.Errorf("expired %s", leaf.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(leaf.NotBefore):
			return fmt.Errorf("is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		for _, name := range names {
			if held.Leaf.VerifyHostname(name) == nil && next.Leaf.VerifyHostname(name) != nil {
				return acmeLacks(name)
			}
		}
	}
	return acmeChainWorse(next, held, now)
}

// An acmeLacks is a required name that a certificate lacks.
type acmeLacks string

func (l acmeLacks) Error() string { return fmt.Sprintf("lacks the name %q", string(l)) }

// acmeChainWorse returns the flaw of next's chain if held is valid and has none, or
// nil.
func acmeChainWorse(next, held *tls.Certificate, now time.Time) error {
	if held == nil || !acmeInDates(held.Leaf, now) {
		return nil
	}
	err := acmeBrokenChain(next, now)
	switch {
	case err == nil && len(next.Certificate) == 1 && acmeHasIntermediate(held) && bytes.Equal(next.Leaf.RawIssuer, held.Leaf.RawIssuer):
		err = missingIssuer(next.Leaf)
	case err != nil && acmeBrokenChain(held, now) != nil:
		err = nil
	}
	return err
}

// acmeHasIntermediate reports whether clients need more than their roots to
// verify cert.
func acmeHasIntermediate(cert *tls.Certificate) bool {
	if len(cert.Certificate) < 2 {
		return false
	}
	issuer, err := x509.ParseCertificate(cert.Certificate[1])
	return err == nil && !selfSigned(issuer)
}

func acmeBrokenChain(cert *tls.Certificate, now time.Time) error {
	chain, err := x509.ParseCertificates(bytes.Join(cert.Certificate, nil))
	if err != nil {
		return err
	}
	return broken(chain, linksOf(unique.Make(string(bytes.Join(cert.Certificate[1:], nil)))), now)
}

// acmeOlder reports whether a was issued before b, independently of the clock.
func acmeOlder(a, b *x509.Certificate) bool {
	return !a.NotAfter.After(b.NotAfter) && !a.NotBefore.After(b.NotBefore) && !(a.NotAfter.Equal(b.NotAfter) && a.NotBefore.Equal(b.NotBefore))
}

func acmeInDates(leaf *x509.Certificate, now time.Time) bool {
	return !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter)
}

// adopt installs a certificate from the cache or the CA, unless the one in use
// is better. It keeps a certificate that is not valid yet for later.
func (k *acmeKeeper) adopt(cert *tls.Certificate) (worse error) {
	k.mu.Lock()
	held := k.cert
	k.mu.Unlock()
	if worse = acmeWorse(cert, held, k.a.opts.wall(), k.names...); worse == nil {
		k.pending = nil
		k.install(cert)
		return nil
	}
	if _, lacks := errors.AsType[acmeLacks](worse); !lacks { // waiting does not add a name
		k.pending = cert
	}
	return worse
}

// putBack overwrites an older certificate in the cache with the one in use. The
// caller must hold the lease.
func (k *acmeKeeper) putBack() {
	k.mu.Lock()
	held := k.cert
	k.mu.Unlock()
	file, err := acmeEncode(held.PrivateKey, held.Certificate)
	if err == nil {
		err = k.a.cache.put(k.ctx, k.key, file)
	}
	if err != nil {
		k.trust(err)
		return
	}
	k.setFile(file)
}

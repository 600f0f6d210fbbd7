package certstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// A flaw is a defect in a certificate's chain. A certificate with one does not replace
// one without, and is served only if there is no other.
type flaw struct{ text string }

func (f *flaw) Error() string { return f.text }

func newFlaw(format string, args ...any) *flaw { return &flaw{fmt.Sprintf(format, args...)} }

// isUnreadLabel reports whether a PEM block has certificates in a form that is not
// read.
func isUnreadLabel(label string) bool {
	return label == "TRUSTED CERTIFICATE" || label == "PKCS7" || label == "CMS"
}

// systemRoots is nil if they cannot be read. It is rarely needed.
var systemRoots = sync.OnceValue(func() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil
	}
	return pool
})

// judge looks for flaws by comparison with the previous certificate. It checks only
// changed files, because verifying ten thousand chains at every start would take
// seconds.
func (p *pairing) judge() {
	if len(p.changed) == 0 {
		return
	}
	before := map[string][]*certificate{} // by file, as from gave; few files
	for _, c := range p.folder.out {
		if p.changed[c.base] {
			before[c.base] = append(before[c.base], c)
		}
	}
	for _, c := range p.out {
		if !p.changed[c.base] || c.flaw != nil || c.self() {
			continue
		}
		var old *certificate
		for _, o := range before[c.base] {
			if o == c { // it is in a table, so it must not change
				old = nil
				break
			}
			if o.flaw == nil && o.family() == c.family() && o.names.share(c.names) && (old == nil || o.names == c.names) {
				old = o
			}
		}
		if old != nil {
			c.flaw = c.worseThan(old, p.now)
		}
	}
}

// share reports whether they have a name in common.
func (n names) share(o names) bool {
	if n == o {
		return true
	}
	for name := range n.all() {
		if strings.Contains(" "+string(o)+" ", " "+name+" ") {
			return true
		}
	}
	return false
}

// worseThan returns in what way the chain of c is worse than that of old, which c is to
// replace, or nil.
func (c *certificate) worseThan(old *certificate, now time.Time) *flaw {
	chain, err := c.certificates()
	if err != nil {
		return newFlaw("chain: %v", err)
	}
	before, err := old.certificates()
	if err != nil || old.self() {
		return nil
	}
	if err := broken(chain, now); err != nil && broken(before, now) == nil {
		return &flaw{err.Error()}
	}
	last := chain[len(chain)-1]
	if !c.whole && trusted(before, now) && !trusted(chain, now) {
		return missingIssuer(last)
	}
	if c.whole || len(before) == 1 {
		return nil
	}
	end := authorityOf(last).Value()
	lost := len(chain) == 1 && !sameAuthority(end, authorityOf(before[len(before)-1]).Value())
	for _, i := range before[1:] {
		lost = lost || end.subject == string(i.RawSubject)
	}
	if !lost || trusted(chain, now) {
		return nil
	}
	return missingIssuer(last)
}

func sameAuthority(a, b authority) bool {
	return a.subject == b.subject && (a.keyID == "" || b.keyID == "" || a.keyID == b.keyID)
}

func missingIssuer(of *x509.Certificate) *flaw {
	return newFlaw("the chain lacks its issuer %q, which is not a root of this system; add it to the file, also if it is the root of your own CA", issuerName(of))
}

// certificates parses the leaf and its chain.
func (c *certificate) certificates() ([]*x509.Certificate, error) {
	return x509.ParseCertificates(append(c.leaf.bytes(), c.chain.Value()...))
}

// broken returns why a client would reject a link of the chain.
func broken(chain []*x509.Certificate, now time.Time) error {
	for i, issuer := range chain[1:] {
		name := printable(issuer.Subject.String())
		switch err := chain[i].CheckSignatureFrom(issuer); {
		case errors.Is(err, x509.ErrUnsupportedAlgorithm): // others may support it
		case err != nil:
			return fmt.Errorf("the chain is broken: %q has not signed what it should have: %w", name, err)
		}
		switch {
		case now.After(issuer.NotAfter):
			return fmt.Errorf("the chain has expired: %q ended %s", name, issuer.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(issuer.NotBefore):
			return fmt.Errorf("the chain is not valid yet: %q begins %s", name, issuer.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// trusted reports whether a chain ends at a root of this system.
func trusted(chain []*x509.Certificate, now time.Time) bool {
	roots := systemRoots()
	if roots == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, i := range chain[1:] {
		between.AddCert(i)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// alone returns the flaw of a leaf without a chain, as far as it can be seen.
func (l *leafPart) alone() *flaw {
	if !l.stray && !l.missing.Value().elsewhere {
		return nil // of a private CA, whose root clients have
	}
	chain, err := l.certificates()
	if err != nil || trusted(chain, time.Now()) {
		return nil
	}
	f := missingIssuer(chain[0])
	if l.stray {
		f.text += "; the intermediate in the file is of another CA"
	}
	return f
}

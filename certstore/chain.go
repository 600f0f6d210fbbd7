package certstore

import (
	"bytes"
	"cmp"
	"crypto/x509"
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

// orBroken returns f or, if it is nil, a signature of the chain that is wrong.
func (f *flaw) orBroken(l *links) *flaw {
	if f == nil && l.broken != nil {
		return &flaw{l.broken.Error()}
	}
	return f
}

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

// judge looks for flaws by comparison with the previous certificate, and for a leaf
// that its issuer has not signed. It checks only changed files, because verifying ten
// thousand leaves at every start would take seconds; those of the first few folders it
// does verify.
func (p *pairing) judge() {
	if len(p.changed) == 0 {
		return
	}
	if len(p.folder.out) == 0 { // so none of them is in a table
		for _, c := range p.out {
			if c.flaw == nil && !c.self() && c.chain != noChain && p.verify > 0 {
				p.verify--
				c.flaw = c.unsigned()
			}
		}
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
	if err := broken(chain, c.links, now); err != nil && broken(before, old.links, now) == nil {
		return &flaw{err.Error()}
	}
	last := chain[len(chain)-1]
	if !c.whole && trusted(before, now) && !trusted(chain, now) {
		return missingIssuer(last)
	}
	for _, i := range before[1:] {
		if altered(last, i) && old.sound(now) && !trusted(chain, now) {
			return newFlaw("the chain is damaged: %q has the key and the serial number or signature of the one before, but is another certificate; if the one before is the damaged one, remove the file and write it again",
				printable(last.Subject.String()))
		}
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

// altered reports whether two certificates of one key differ in what no CA would issue
// twice. So damage shows in the last certificate of a chain, whose issuer is unknown.
func altered(a, b *x509.Certificate) bool {
	return !a.Equal(b) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) &&
		(a.SerialNumber.Cmp(b.SerialNumber) == 0 || bytes.Equal(a.Signature, b.Signature))
}

// broken returns why a client would reject a link of the chain. l are those of its
// issuers.
func broken(chain []*x509.Certificate, l *links, now time.Time) error {
	if len(chain) > 1 {
		if err := unsigned(chain[0], chain[1]); err != nil {
			return err
		}
	}
	return cmp.Or(l.broken, l.dateError(now))
}

// unsigned returns the flaw that the first issuer of the chain has not signed the leaf.
func (c *certificate) unsigned() *flaw {
	chain, err := c.certificates()
	if err == nil {
		err = unsigned(chain[0], chain[1])
	}
	if err != nil {
		return &flaw{err.Error()}
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

package certstore

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A flaw is a defect in a certificate's chain. A certificate with a flaw never
// replaces one without, and is served only if there is no other.
type flaw struct{ text string }

func (f *flaw) Error() string { return f.text }

func newFlaw(format string, args ...any) *flaw { return &flaw{fmt.Sprintf(format, args...)} }

// orBroken returns f or, if f is nil, the flaw of an invalid signature in the
// chain.
func (f *flaw) orBroken(l *links) *flaw {
	if f == nil && l.broken != nil {
		return &flaw{l.broken.Error()}
	}
	return f
}

// isUnreadLabel reports whether a PEM block holds certificates in a form that
// wssgate does not read.
func isUnreadLabel(label string) bool {
	return label == "TRUSTED CERTIFICATE" || label == "PKCS7" || label == "CMS"
}

// systemRoots returns nil if they cannot be read. Few trees need them.
var systemRoots = sync.OnceValue(func() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil
	}
	return pool
})

// judge looks for flaws in the certificates that are new in work. It reports a
// leaf that its issuer has not signed, and a chain that is worse than that of
// another certificate for the same name, in any file of the tree. It compares
// those other certificates again as well, and adds their folders to work. The
// first reading verifies only leaves that share a name and a few more:
// verifying ten thousand takes about a second.
func (t *tree) judge(work map[*folder]*pairing, now time.Time, first bool) {
	var fresh []*certificate
	for _, p := range work {
		for _, c := range p.out {
			if c.judged == 0 {
				fresh = append(fresh, c)
			}
		}
	}
	if len(fresh) == 0 {
		return
	}
	t.round++
	for _, c := range fresh {
		c.judged = t.round
	}
	rivals := t.rivals(fresh, work)
	flaws := map[*certificate]*flaw{}
	for _, c := range fresh {
		list := rivals.of(c, now)
		if len(list) == 0 && first {
			if t.verify == 0 {
				continue
			}
			t.verify--
		}
		for _, c := range append(list, c) {
			if !c.verified && !rivals.gone[c] {
				if c.verified = true; c.flaw == nil {
					if f := c.unsigned(); f != nil {
						flaws[c] = f
					}
				}
			}
		}
	}
	bad := maps.Clone(flaws)
	for _, c := range fresh {
		for _, o := range rivals.of(c, now) {
			if bad[c] != nil || bad[o] != nil {
				continue
			}
			if f := c.worseThan(o, rivals.gone[o], now); f != nil && flaws[c] == nil {
				flaws[c] = f
			}
			if !rivals.gone[o] && flaws[o] == nil {
				if f := o.worseThan(c, false, now); f != nil {
					flaws[o] = f
				}
			}
		}
	}
	for c, f := range flaws {
		if c.judged == t.round {
			c.flaw = f
		} else {
			t.blame(c, f, work, now)
		}
	}
}

// blame records a flaw. A certificate in a table must not change, so blame
// replaces it with a copy.
func (t *tree) blame(c *certificate, flaw *flaw, work map[*folder]*pairing, now time.Time) {
	f := t.folders[c.dir]
	if f == nil {
		return
	}
	file := f.files.get(c.base)
	if file == nil {
		return
	}
	for i, part := range file.parts {
		var old *certificate
		switch part := part.(type) {
		case *certificate:
			old = part
		case *leafPart:
			old = part.certificate
		}
		if old == nil || old.chain != c.chain || !old.leaf.equal(c.leaf) {
			continue
		}
		next := old.copy()
		next.flaw = flaw
		if leaf, ok := part.(*leafPart); ok {
			leaf.certificate = next
		} else {
			file.parts[i] = next
		}
		if p := work[f]; p != nil {
			if i := slices.Index(p.out, old); i >= 0 {
				p.out[i] = next
			}
		}
	}
	if work[f] == nil {
		f.dirty = true
		work[f] = f.pair(t, now)
	}
}

// rivals are certificates that serve, or have served, names of other
// certificates.
type rivals struct {
	named map[rivalKey][]*certificate
	gone  map[*certificate]bool // served before, no longer in any file
}

// A rivalKey is a name with the kind of its certificates.
type rivalKey struct {
	name string // exact, or without "*."
	as   rivalAs
}

type rivalAs byte

const (
	asExact rivalAs = iota
	asWild
	asBelow // exact names below it whose certificates are gone
)

// maxRivals bounds the comparisons for each name of a certificate.
const maxRivals = 8

// rivals returns the rivals of the certificates in fresh. It visits every name
// in the tree, so it must not allocate for each.
func (t *tree) rivals(fresh []*certificate, work map[*folder]*pairing) rivals {
	r := rivals{make(map[rivalKey][]*certificate, len(fresh)), map[*certificate]bool{}}
	for _, c := range fresh {
		for name := range c.names.all() {
			for _, key := range rivalKeys(name) {
				r.named[key] = nil
			}
		}
	}
	add := func(key rivalKey, c *certificate) {
		if list, ok := r.named[key]; ok {
			r.named[key] = append(list, c)
		}
	}
	addAll := func(c *certificate, gone bool) {
		for rest := string(c.names); rest != ""; {
			var name string
			name, rest, _ = strings.Cut(rest, " ")
			above, wild := strings.CutPrefix(name, "*.")
			if wild {
				add(rivalKey{above, asWild}, c)
				continue
			}
			add(rivalKey{name, asExact}, c)
			if above, ok := parent(name); ok && gone {
				add(rivalKey{above, asBelow}, c)
			}
		}
	}
	for _, f := range t.folders {
		out := f.out
		if p := work[f]; p != nil {
			out = p.out
		}
		for _, c := range out {
			c.seen = t.round
			addAll(c, false)
		}
	}
	for _, c := range t.have.Load().all {
		if c.seen != t.round {
			r.gone[c] = true
			addAll(c, true)
		}
	}
	return r
}

// rivalKeys returns the keys of a pattern's rivals. A wildcard may also replace
// certificates that are gone.
func rivalKeys(name string) [2]rivalKey {
	if above, wild := strings.CutPrefix(name, "*."); wild {
		return [2]rivalKey{{above, asWild}, {above, asBelow}}
	}
	above, _ := parent(name)
	return [2]rivalKey{{name, asExact}, {above, asWild}}
}

// of returns the certificates to compare with c, the best ones for each name.
func (r rivals) of(c *certificate, now time.Time) (out []*certificate) {
	for name := range c.names.all() {
		for _, key := range rivalKeys(name) {
			list := r.named[key]
			if len(list) > maxRivals {
				slices.SortFunc(list, func(a, b *certificate) int {
					if r.gone[a] != r.gone[b] {
						return before(r.gone[a])
					}
					order, _ := prefer(candidate{a, false}, candidate{b, false}, now)
					return order
				})
				list = list[:maxRivals]
				r.named[key] = list
			}
			for _, o := range list {
				if o != c && !slices.Contains(out, o) {
					out = append(out, o)
				}
			}
		}
	}
	return out
}

// share reports whether some server name matches both.
func (n names) share(o names) bool {
	if n == o {
		return true
	}
	for a := range n.all() {
		for b := range o.all() {
			if a == b || covers(a, b) || covers(b, a) {
				return true
			}
		}
	}
	return false
}

func covers(wild, name string) bool {
	rest, ok := strings.CutPrefix(wild, "*.")
	above, _ := parent(name)
	return ok && above == rest
}

// worseThan returns how the chain of c is worse than that of old, or nil. gone
// means that c takes the place of old.
func (c *certificate) worseThan(old *certificate, gone bool, now time.Time) *flaw {
	if c.flaw != nil || old.flaw != nil || old.self() || old.rejected() && !c.rejected() {
		return nil
	}
	if gone && c.self() { // otherwise prefer decides, here and below
		return newFlaw("it is self-signed, and the one before is from a CA")
	}
	if why := c.rejection(); gone && why != "" && !old.rejected() {
		return newFlaw("%s", why)
	}
	if c.self() {
		return nil
	}
	err := c.links.broken
	if err == nil && gone {
		err = c.links.dateError(now)
	}
	if err != nil && old.links.broken == nil && old.links.valid(now) {
		return &flaw{err.Error()}
	}
	if c.public() || c.chain == old.chain && c.whole == old.whole && c.facts.Value().issuer == old.facts.Value().issuer {
		return nil
	}
	chain, err := c.certificates()
	if err != nil {
		return newFlaw("chain: %v", err)
	}
	before, err := old.certificates()
	if err != nil {
		return nil
	}
	last := chain[len(chain)-1]
	if !c.whole && old.public() {
		return missingIssuer(last)
	}
	for _, i := range before[1:] {
		if altered(last, i) && old.sound(now) {
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
	if !lost {
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

// altered reports whether two certificates of one key differ in a way that no
// CA would issue. It finds damage in the last certificate of a chain, whose
// issuer is unknown.
func altered(a, b *x509.Certificate) bool {
	return !a.Equal(b) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) &&
		(a.SerialNumber.Cmp(b.SerialNumber) == 0 || bytes.Equal(a.Signature, b.Signature))
}

// broken returns the reason why a client would reject a link of the chain. l
// describes its issuers.
func broken(chain []*x509.Certificate, l *links, now time.Time) error {
	if len(chain) > 1 {
		if err := unsigned(chain[0], chain[1]); err != nil {
			return err
		}
	}
	return cmp.Or(l.broken, l.dateError(now))
}

// unsigned returns a flaw if the first issuer of the chain has not signed the
// leaf.
func (c *certificate) unsigned() *flaw {
	if c.self() || c.chain == noChain || c.facts.Value().public {
		return nil
	}
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

// alone returns the flaw of a leaf without a chain, as far as the leaf shows
// it.
func (l *leafPart) alone() *flaw {
	if !l.stray && !l.missing.Value().elsewhere {
		return nil // from a private CA, whose root its clients have
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

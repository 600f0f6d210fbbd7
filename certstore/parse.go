package certstore

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unique"
)

// maxFile bounds the bytes read from one file. A chain with an RSA 4096 key is
// below 16 KiB; a bundle of all public roots is 220 KiB.
const maxFile = 1 << 20

// A part is one thing in a file. Pairing combines parts into certificates
// (pair.go). A part never changes. It is one of:
//
//	*certificate           leaf and private key, both in the file
//	*leafPart              a leaf whose key is elsewhere
//	*keyPart               a private key whose leaf is elsewhere
//	unique.Handle[issuer]  another certificate, if the file has no leaf of its own
//	ocspPart               the OCSP response in a .ocsp file
//	foreignPart            anything else
type part any

// A leafPart is a leaf without its key. Once it is paired, its certificate is
// served and no longer changes.
type leafPart struct {
	*certificate
	ownChain unique.Handle[string]    // the part of the chain in the leaf's own file
	missing  unique.Handle[authority] // issuer of the last certificate in ownChain, unless that is a root
	choices  issuers                  // of its own file, if the chain depends on the time; otherwise nil
	optional bool                     // a CA's certificate, which may lack a key
	stray    bool                     // its own file has an intermediate, but not the leaf's issuer
	ownFlaw  *flaw                    // a flaw of its own file
}

// A keyPart is a private key without its leaf.
type keyPart struct {
	der      der // in the form that readKey returns
	id       publicID
	readable bool // see certificate.readable
}

type ocspPart []byte

// An issuer is an intermediate or a root. It is stored once, as a
// unique.Handle.
type issuer struct {
	der     string
	subject string // DER
	keyID   string // subject key identifier; may be empty
	next    unique.Handle[authority]
	root    bool // self-issued
	key     publicID
	named   bool     // it has a server name
	public  publicID // its key, in the form of the certificate
	weak    bool     // signed with SHA-1 or a weaker hash

	notBefore, notAfter int64 // Unix seconds
}

// mayBeLeaf reports whether a file with these keys may use the issuer as a
// leaf: "openssl req -x509" makes a CA's certificate that serves its common
// name.
func (i issuer) mayBeLeaf(keys []*keyPart) bool {
	return i.named && (i.root || keyOf(keys, i.key) >= 0)
}

// issuers are indexed by subject. They complete chains.
type issuers map[string][]unique.Handle[issuer]

func (is issuers) add(i unique.Handle[issuer]) {
	if subject := i.Value().subject; !slices.Contains(is[subject], i) {
		is[subject] = append(is[subject], i)
	}
}

// have reports whether one of the issuers has the key.
func (is issuers) have(key publicID) bool {
	for _, same := range is {
		if slices.ContainsFunc(same, func(i unique.Handle[issuer]) bool { return i.Value().key == key }) {
			return true
		}
	}
	return false
}

// An authority identifies an issuer, by its subject and, if both sides have one, its
// key identifier (RFC 5280, sections 4.1.2.4 and 4.2.1.1). It also records whether the
// issuer can be downloaded.
type authority struct {
	subject, keyID string
	elsewhere      bool
}

// nobody is the missing issuer of a complete chain.
var nobody = unique.Make(authority{})

func (a authority) is(i issuer) bool {
	return sameAuthority(a, authority{subject: i.subject, keyID: i.keyID})
}

// A reader reads files and reuses its buffers. It is not safe for concurrent
// use.
type reader struct {
	scratch []byte
	blocks  []block
	arena   arena
	issuers map[string]unique.Handle[issuer] // by DER; what one scan has seen
}

func newReader() *reader { return &reader{issuers: map[string]unique.Handle[issuer]{}} }

// parse splits the contents of the PEM file base in dir into parts. Its error
// does not name the file.
func (r *reader) parse(dir, base string, data []byte) ([]part, error) {
	var err error
	r.blocks, r.scratch, err = readBlocks(data, r.blocks[:0], r.scratch)
	switch {
	case err == errNoPEM:
		return nil, notPEM(filepath.Join(dir, base), data)
	case err != nil:
		return nil, err
	}
	if !slices.ContainsFunc(r.blocks, block.isOurs) {
		f, err := foreign(filepath.Join(dir, base), r.blocks)
		if err != nil {
			return nil, err
		}
		return []part{f}, nil
	}
	keys, err := r.readKeys()
	if err != nil {
		if err == errEncrypted {
			err = advice{err, "remove its password with openssl pkey"}
		}
		return nil, err
	}
	var (
		parts    []part
		leaves   []*leafPart
		others   []unique.Handle[issuer]
		chains   = issuers{}
		leafErr  error
		bad      *flaw // the first one in the file
		usedKeys = make([]bool, len(keys))
		keyless  map[*leafPart]authority // leaves without a key in the file, except those of CAs
		mistaken []*leafPart             // leaves that are the issuer of another one
	)
	for n, b := range r.blocks {
		if bad == nil && isUnreadLabel(b.label) {
			bad = newFlaw("block %d, %q, is not read; the label of a certificate is CERTIFICATE", n+1, b.label)
		}
		if !b.isCertificate() {
			continue
		}
		if slices.ContainsFunc(r.blocks[:n], func(o block) bool { return bytes.Equal(o.der, b.der) }) {
			continue // cert.pem and fullchain.pem were concatenated
		}
		if known, ok := r.issuers[string(b.der)]; ok && !known.Value().mayBeLeaf(keys) {
			others = append(others, known)
			continue
		}
		cert, err := x509.ParseCertificate(b.der)
		if err != nil {
			leafErr = errors.Join(leafErr, fmt.Errorf("certificate: %w", err))
			if bad == nil {
				bad = newFlaw("block %d, %q, cannot be read: %v", n+1, b.label, err)
			}
			continue
		}
		self := selfSigned(cert)
		c, id, err := newCertificate(cert, SourceDirectory, self)
		k := keyOf(keys, id)
		switch {
		case err == nil && (k >= 0 || !cert.IsCA || self):
			leaf := &leafPart{certificate: c, missing: nobody, optional: cert.IsCA && k < 0}
			if !cert.IsCA && k < 0 {
				if keyless == nil {
					keyless = map[*leafPart]authority{}
				}
				keyless[leaf] = authority{subject: string(cert.RawSubject), keyID: string(cert.SubjectKeyId)}
			}
			c.leaf, c.id = r.arena.put(b.der), id
			if !self {
				leaf.missing = authorityOf(cert)
			}
			leaves = append(leaves, leaf)
		case err != nil && !cert.IsCA && !self:
			leafErr = errors.Join(leafErr, err)
			continue
		}
		if cert.IsCA || self {
			others = append(others, r.issuer(cert, id, self, err == nil))
		}
	}
	for _, i := range others {
		chains.add(i)
	}
	own, now := false, time.Now()
	for _, leaf := range leaves {
		leaf.dir, leaf.base = dir, base
		by := leaf.missing
		leaf.chain, leaf.missing = extend(leaf.leaf, noChain, by, chains, now)
		leaf.ownChain = leaf.chain
		leaf.whole = leaf.missing == nobody
		leaf.setChain(leaf.chain)
		leaf.ownFlaw = bad
		leaf.flaw = leaf.ownFlaw.orBroken(leaf.links)
		leaf.stray = leaf.chain == noChain && !leaf.whole && slices.ContainsFunc(others, func(i unique.Handle[issuer]) bool {
			return !i.Value().root && i.Value().key != leaf.id
		})
		for o, subject := range keyless {
			if o != leaf && leaf.missing != nobody && sameAuthority(leaf.missing.Value(), subject) {
				leaf.ownFlaw = newFlaw("the chain is broken: the certificate for %q in it is not a CA's", strings.Fields(string(o.names))[0])
				leaf.flaw = leaf.ownFlaw
				mistaken = append(mistaken, o)
			}
		}
		if leaf.chain != noChain && chains.ambiguous() {
			leaf.choices, leaf.ownChain, leaf.missing = chains, noChain, by
			parts = append(parts, leaf)
			continue
		}
		// With an intermediate the chain is complete, because only the root can
		// be missing. Without one, the folder may have it.
		if k := keyOf(keys, leaf.id); k >= 0 && (leaf.missing == nobody || leaf.chain != noChain) {
			usedKeys[k], own = true, true
			leaf.setKey(keys[k], base)
			parts = append(parts, leaf.certificate)
		} else {
			parts = append(parts, leaf)
		}
	}
	if mistaken != nil {
		parts = slices.DeleteFunc(parts, func(p part) bool { leaf, ok := p.(*leafPart); return ok && slices.Contains(mistaken, leaf) })
	}
	for i, k := range keys {
		if !usedKeys[i] {
			parts = append(parts, k)
		}
	}
	if !own {
		for _, i := range others {
			parts = append(parts, i)
		}
	}
	if len(leaves) == 0 && leafErr != nil {
		return nil, leafErr
	}
	return slices.Clip(parts), nil
}

// isCertificate reports whether the block is a certificate.
func (b block) isCertificate() bool {
	return b.label == "CERTIFICATE" || b.label == "X509 CERTIFICATE"
}

// isOurs reports whether the block is a certificate or an unencrypted private
// key.
func (b block) isOurs() bool {
	return b.isCertificate() || isKeyLabel(b.label) && !b.isEncrypted() && b.label != "OPENSSH PRIVATE KEY"
}

// readKeys checks each private key, so that a handshake never finds a broken
// one.
func (r *reader) readKeys() ([]*keyPart, error) {
	var keys []*keyPart
	for _, b := range r.blocks {
		if !isKeyLabel(b.label) {
			continue
		}
		if b.isEncrypted() {
			return nil, errEncrypted
		}
		public, kept, err := readKey(b.der)
		if err != nil {
			return nil, err
		}
		id, _, _, err := identify(public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, &keyPart{der: r.arena.put(kept), id: id})
	}
	return keys, nil
}

func keyOf(keys []*keyPart, id publicID) int {
	for i, k := range keys {
		if k.id == id {
			return i
		}
	}
	return -1
}

// issuer returns the shared issuer with these bytes, which it copies. named
// tells whether it may be a leaf.
func (r *reader) issuer(cert *x509.Certificate, key publicID, root, named bool) unique.Handle[issuer] {
	i := unique.Make(issuer{
		der:     string(cert.Raw),
		subject: string(cert.RawSubject),
		keyID:   string(cert.SubjectKeyId),
		next:    authorityOf(cert),
		root:    root,
		public:  publicIDOf(cert.RawSubjectPublicKeyInfo),
		weak:    sha1(cert),
		key:     key,
		named:   named,

		notBefore: cert.NotBefore.Unix(),
		notAfter:  cert.NotAfter.Unix(),
	})
	if cert.IsCA {
		r.issuers[i.Value().der] = i
	}
	return i
}

// authorityOf returns a shared value: most leaves have the same few issuers.
func authorityOf(cert *x509.Certificate) unique.Handle[authority] {
	return unique.Make(authority{string(cert.RawIssuer), string(cert.AuthorityKeyId), len(cert.IssuingCertificateURL) > 0})
}

func (c *certificate) setKey(k *keyPart, base string) {
	c.key, c.keyBase, c.readable = k.der, base, k.readable
}

// noChain is the chain of a leaf whose issuer every client knows.
var noChain = unique.Make("")

// pair gives the leaf its key, and completes its chain. If nothing changes, it keeps
// the certificate.
func (l *leafPart) pair(k *keyPart, base string, from issuers, now time.Time) {
	chain, missing := extend(l.leaf, l.ownChain, l.missing, l.choices, now)
	chain, missing = extend(l.leaf, chain, missing, from, now)
	whole := missing == nobody
	if l.key.equal(k.der) && l.keyBase == base && l.readable == k.readable && l.chain == chain && l.whole == whole {
		return
	}
	if l.keyBase != "" { // then it may be in a table
		l.certificate = l.copy()
		l.judged, l.verified = 0, false
	}
	l.setKey(k, base)
	l.setChain(chain)
	l.whole = whole
	l.flaw = l.ownFlaw.orBroken(l.links)
	if l.flaw == nil && chain == noChain && !whole {
		l.flaw = l.alone()
	}
}

// extend appends issuers to the chain of a leaf, as far as it finds them, and
// returns the issuer that is still missing. It omits the root: a client that
// trusts the root has it (RFC 8446, section 4.4.2).
func extend(leaf der, chain unique.Handle[string], missing unique.Handle[authority], from issuers, now time.Time) (unique.Handle[string], unique.Handle[authority]) {
	var found []unique.Handle[issuer]
	for missing != nobody {
		next, ok := from.find(missing.Value(), found, now, func() (*x509.Certificate, error) {
			if len(found) > 0 {
				return x509.ParseCertificate([]byte(found[len(found)-1].Value().der))
			}
			all, err := x509.ParseCertificates(append(leaf.bytes(), chain.Value()...))
			if err != nil {
				return nil, err
			}
			return all[len(all)-1], nil
		})
		if !ok {
			break
		}
		if next.Value().root {
			missing = nobody
			break
		}
		found = append(found, next)
		missing = next.Value().next
	}
	if len(found) == 0 {
		return chain, missing
	}
	der := []byte(chain.Value())
	for _, i := range found {
		der = append(der, i.Value().der...)
	}
	return unique.Make(string(der)), missing
}

// ambiguous reports whether two issuers have the same subject.
func (is issuers) ambiguous() bool {
	for _, list := range is {
		if len(list) > 1 {
			return true
		}
	}
	return false
}

// find returns the issuer of a certificate. If there are several, it prefers
// the one that signed the certificate, then one that clients accept now, then
// an intermediate over a root (the file to be served contains a cross-signed
// root), then the one that expires last.
func (is issuers) find(want authority, used []unique.Handle[issuer], now time.Time, of func() (*x509.Certificate, error)) (found unique.Handle[issuer], ok bool) {
	var all []unique.Handle[issuer]
	for _, i := range is[want.subject] {
		if !want.is(i.Value()) || slices.Contains(used, i) {
			continue
		}
		if all == nil {
			found, ok = i, true
		}
		all = append(all, i)
	}
	if len(all) < 2 {
		return found, ok
	}
	var signed *x509.Certificate
	if slices.ContainsFunc(all, func(i unique.Handle[issuer]) bool { return i.Value().public != found.Value().public }) {
		signed, _ = of()
	}
	rank := func(i issuer) (n int) {
		if signed != nil {
			if cert, err := x509.ParseCertificate([]byte(i.der)); err == nil && unsigned(signed, cert) == nil {
				n += 4
			}
		}
		if t := now.Unix(); i.notBefore <= t && t <= i.notAfter && !i.weak {
			n += 2
		}
		if !i.root {
			n++
		}
		return n
	}
	best := -1
	for _, i := range all {
		if n := rank(i.Value()); n > best || n == best && i.Value().notAfter > found.Value().notAfter {
			found, best = i, n
		}
	}
	return found, true
}

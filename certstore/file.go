package certstore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"unique"
)

// maxFile bounds what is read from one file, in bytes. A chain with an RSA
// 4096 key is below 16 KiB; a bundle of all public roots is 220 KiB.
const maxFile = 1 << 20

// A content is what one file holds, in the parts that are put together into
// certificates (pair.go). It never changes.
type content struct {
	own    []*certificate // leaf and private key both in the file
	leaves []leafPart     // leaves whose key is elsewhere
	keys   []keyPart      // private keys whose leaf is elsewhere
	issuer []*issuer      // the other certificates, where the file has no leaf of its own
	ocsp   []byte         // the OCSP response that a .ocsp file is
}

// A leafPart is a leaf that waits for its key. Once paired, its certificate is
// the one that is served, and so does not change any more.
type leafPart struct {
	*certificate
	id       publicID
	ownChain unique.Handle[string] // what the leaf's own file has of the chain
	missing  authority             // issuer of the last certificate in it, where that is no root
	optional bool                  // a CA's certificate: that it has no key here is ordinary
}

// A keyPart is a private key that waits for its leaf.
type keyPart struct {
	der der
	id  publicID
}

// An issuer is an intermediate or a root. One in many files is held once.
type issuer struct {
	der     string
	subject string // DER
	keyID   string // subject key identifier; may be empty
	next    authority
	root    bool // issued by itself
}

// An authority says which issuer is meant: by its subject and, where both
// sides have one, its key identifier (RFC 5280, sections 4.1.2.4 and 4.2.1.1).
type authority struct{ subject, keyID string }

func (a authority) is(i *issuer) bool {
	return a.subject == i.subject && (a.keyID == "" || i.keyID == "" || a.keyID == i.keyID)
}

// A reader reads files one after the other and reuses its buffers. It is not
// safe for concurrent use.
type reader struct {
	scratch []byte
	blocks  []block
	arena   arena
	issuers map[string]*issuer // by DER; what one scan has seen
}

func newReader() *reader { return &reader{issuers: map[string]*issuer{}} }

// parse takes the bytes of the PEM file at path apart. The error does not name
// the file.
func (r *reader) parse(path string, data []byte) (*content, error) {
	var err error
	r.blocks, r.scratch, err = readBlocks(data, r.blocks[:0], r.scratch)
	if err != nil {
		return nil, err
	}
	keys, err := r.readKeys()
	if err != nil {
		return nil, err
	}
	var (
		out      content
		leaves   []leafPart
		issuers  []*issuer
		leafErr  error
		usedKeys = make([]bool, len(keys))
	)
	for _, b := range r.blocks {
		if b.label != "CERTIFICATE" && b.label != "X509 CERTIFICATE" {
			continue
		}
		if known := r.issuers[string(b.der)]; known != nil {
			issuers = append(issuers, known)
			continue
		}
		cert, err := x509.ParseCertificate(b.der)
		if err != nil {
			leafErr = errors.Join(leafErr, fmt.Errorf("certificate: %w", err))
			continue
		}
		c, id, err := newCertificate(cert)
		k := keyOf(keys, id)
		switch {
		case err == nil && (k >= 0 || !cert.IsCA || selfIssued(cert)):
			c.leaf = r.arena.put(b.der)
			leaves = append(leaves, leafPart{certificate: c, id: id, missing: authorityOf(cert), optional: cert.IsCA && k < 0})
		case err != nil && !cert.IsCA && !selfIssued(cert):
			leafErr = errors.Join(leafErr, err)
			continue
		}
		if cert.IsCA || selfIssued(cert) {
			issuers = append(issuers, r.issuer(cert))
		}
	}
	for _, leaf := range leaves {
		leaf.file, leaf.source = path, SourceDirectory
		if leaf.self {
			leaf.missing = authority{}
		}
		leaf.chain, leaf.missing = extend(noChain, leaf.missing, issuers)
		leaf.ownChain = leaf.chain
		// With an intermediate it is whole, for what is missing will be the
		// root. Without one the folder may have it.
		if k := keyOf(keys, leaf.id); k >= 0 && (leaf.missing.subject == "" || leaf.chain != noChain) {
			usedKeys[k] = true
			leaf.setKey(keys[k], path)
			out.own = append(out.own, leaf.certificate)
		} else {
			out.leaves = append(out.leaves, leaf)
		}
	}
	for i, k := range keys {
		if !usedKeys[i] {
			out.keys = append(out.keys, k)
		}
	}
	if len(out.own) == 0 {
		out.issuer = issuers
	}
	if len(leaves) == 0 && leafErr != nil {
		return nil, leafErr
	}
	return &out, nil
}

// readKeys checks each private key, so that a broken one is found now and not
// in a client's handshake.
func (r *reader) readKeys() ([]keyPart, error) {
	var keys []keyPart
	for _, b := range r.blocks {
		if !isKeyLabel(b.label) {
			continue
		}
		if b.label == "ENCRYPTED PRIVATE KEY" {
			return nil, errEncrypted
		}
		public, err := publicKey(b.der)
		if err != nil {
			return nil, err
		}
		id, _, _, err := identify(public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, keyPart{r.arena.put(b.der), id})
	}
	return keys, nil
}

func keyOf(keys []keyPart, id publicID) int {
	for i, k := range keys {
		if k.id == id {
			return i
		}
	}
	return -1
}

// issuer returns the one issuer of these bytes, which it copies.
func (r *reader) issuer(cert *x509.Certificate) *issuer {
	der := unique.Make(string(cert.Raw)).Value()
	if have := r.issuers[der]; have != nil {
		return have
	}
	i := &issuer{
		der:     der,
		subject: string(cert.RawSubject),
		keyID:   string(cert.SubjectKeyId),
		next:    authorityOf(cert),
		root:    selfIssued(cert),
	}
	if cert.IsCA && len(cert.DNSNames) == 0 { // else it could be a leaf elsewhere
		r.issuers[der] = i
	}
	return i
}

func authorityOf(cert *x509.Certificate) authority {
	return authority{
		unique.Make(string(cert.RawIssuer)).Value(), // leaves have few different ones
		unique.Make(string(cert.AuthorityKeyId)).Value(),
	}
}

func (c *certificate) setKey(k keyPart, path string) {
	c.key, c.keyFile = k.der, path
}

// noChain is the chain of a leaf that its client knows the issuer of.
var noChain = unique.Make("")

// pair gives the leaf its key, and its chain what its own file has not got.
// Where that changes nothing the certificate stays the same one.
func (l *leafPart) pair(k keyPart, path string, issuers []*issuer) {
	chain := l.ownChain
	if l.missing.subject != "" && len(issuers) > 0 {
		chain, _ = extend(chain, l.missing, issuers)
	}
	if l.key.equal(k.der) && l.keyFile == path && l.chain == chain {
		return
	}
	if l.keyFile != "" { // it may be in a table
		l.certificate = l.copy()
	}
	l.setKey(k, path)
	l.chain = chain
}

// extend puts behind a chain what can be found among issuers, as far as it
// goes, and returns what is missing then. The root is left out: a client that
// trusts it has it (RFC 8446, section 4.4.2).
func extend(chain unique.Handle[string], missing authority, issuers []*issuer) (unique.Handle[string], authority) {
	var found []*issuer
	for missing.subject != "" {
		next := findIssuer(issuers, missing, found)
		if next == nil {
			break
		}
		if next.root {
			missing = authority{}
			break
		}
		found = append(found, next)
		missing = next.next
	}
	if len(found) == 0 {
		return chain, missing
	}
	der := []byte(chain.Value())
	for _, i := range found {
		der = append(der, i.der...)
	}
	return unique.Make(string(der)), missing
}

// findIssuer prefers an intermediate over a root of the same name and key:
// who cross-signed a root put that into the file so that it be served.
func findIssuer(issuers []*issuer, want authority, used []*issuer) *issuer {
	var root *issuer
next:
	for _, i := range issuers {
		if !want.is(i) {
			continue
		}
		for _, u := range used {
			if u == i {
				continue next
			}
		}
		if !i.root {
			return i
		}
		root = i
	}
	return root
}

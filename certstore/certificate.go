package certstore

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unique"
)

// Sources of certificates, as Entry.Source shows them.
const (
	SourceDirectory = "directory"
	SourceACME      = "acme"
)

// A certificate is a leaf with its chain and its private key, held as DER with
// the few facts that the choice among several needs: ten thousand of them cost
// little more than their files. What crypto/tls wants is parsed at the first
// handshake and may be dropped again (cache.go).
//
// It never changes after it came into a table, but for the parsed form.
type certificate struct {
	leaf  der
	key   der                   // in any form that parseKey reads; empty: pinned has it
	chain unique.Handle[string] // issuers as one run of DER, in order, without the root; shared by all that have the same

	names     []string // patterns in normal form, as Pattern returns them
	notBefore int64    // Unix seconds
	notAfter  int64    // Unix seconds
	family    family
	kind      string // "ECDSA P-256"
	issuer    string // shared by all that have the same
	self      bool   // signed by itself
	common    bool   // the name is the common name, for want of a SAN
	kept      bool   // the file has been replaced by something worse

	source  string
	file    string
	keyFile string
	staple  *staple

	round  uint32                 // of the last table it was in; Store.swap guards it
	pinned *tls.Certificate       // installed as it is; never dropped
	parsed atomic.Pointer[parsed] // nil until the first handshake, and again once dropped
}

// newCertificate reads what the table needs from a leaf. The result has
// neither leaf nor key nor chain yet.
func newCertificate(leaf *x509.Certificate) (*certificate, publicID, error) {
	id, family, kind, err := identify(leaf.PublicKey)
	if err != nil {
		return nil, id, err
	}
	c := &certificate{
		chain:     noChain,
		notBefore: leaf.NotBefore.Unix(),
		notAfter:  leaf.NotAfter.Unix(),
		family:    family,
		kind:      kind,
		issuer:    issuerName(leaf),
		self:      selfIssued(leaf),
	}
	c.names, c.common, err = serverNames(leaf)
	return c, id, err
}

var errNoName = errors.New("is for no server name: neither a DNS name nor a usable common name")

// serverNames returns the patterns that the leaf is for: its DNS names, or,
// where it has no subject alternative name at all, its common name. IP
// addresses are left out, for no server name is one.
func serverNames(leaf *x509.Certificate) (names []string, common bool, err error) {
	for _, san := range leaf.DNSNames {
		if name, err := Pattern(san); err == nil && !contains(names, name) {
			names = append(names, name)
		}
	}
	if names == nil && !hasSAN(leaf) {
		if name, err := Pattern(leaf.Subject.CommonName); err == nil {
			return []string{name}, true, nil
		}
	}
	if names == nil {
		return nil, false, errNoName
	}
	return names, false, nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

func hasSAN(leaf *x509.Certificate) bool {
	for _, ext := range leaf.Extensions {
		if ext.Id.Equal(oidSAN) {
			return true
		}
	}
	return false
}

// issuerName is how people call the issuer.
func issuerName(leaf *x509.Certificate) string {
	name := leaf.Issuer.CommonName
	switch org := leaf.Issuer.Organization; {
	case len(org) > 0 && name != "" && name != org[0]:
		name = org[0] + " " + name
	case len(org) > 0 && name == "":
		name = org[0]
	case name == "":
		name = leaf.Issuer.String()
	}
	return unique.Make(name).Value()
}

// selfIssued reports whether issuer and subject are the same: so are a root
// and a leaf that signed itself.
func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

// state says in a word how the certificate stands at a time.
func (c *certificate) state(now time.Time) string {
	switch t := now.Unix(); {
	case t < c.notBefore:
		return StateNotYetValid
	case t > c.notAfter:
		return StateExpired
	}
	return StateOK
}

func (c *certificate) valid(now time.Time) bool { return c.state(now) == StateOK }

// same reports whether both would be the same to a client and to an operator.
func (c *certificate) same(o *certificate) bool {
	return c.file == o.file && c.keyFile == o.keyFile && c.chain == o.chain && c.kept == o.kept &&
		c.leaf.equal(o.leaf) && c.key.equal(o.key) && c.staple.same(o.staple)
}

// copy returns c without its parsed form, for its maker to change.
func (c *certificate) copy() *certificate {
	return &certificate{
		leaf: c.leaf, key: c.key, chain: c.chain,
		names: c.names, notBefore: c.notBefore, notAfter: c.notAfter,
		family: c.family, kind: c.kind, issuer: c.issuer, self: c.self, common: c.common, kept: c.kept,
		source: c.source, file: c.file, keyFile: c.keyFile, staple: c.staple,
	}
}

// parse makes what crypto/tls wants. It needs neither disk nor lock. Leaf
// stays nil: a server never looks at it, and it would be the largest part.
func (c *certificate) parse() (*tls.Certificate, error) {
	key, err := parseKey(c.key.bytes())
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", c.file, err)
	}
	out := &tls.Certificate{Certificate: [][]byte{c.leaf.bytes()}, PrivateKey: key}
	for rest := []byte(c.chain.Value()); len(rest) > 0; {
		var der asn1.RawValue
		after, err := asn1.Unmarshal(rest, &der)
		if err != nil {
			return nil, fmt.Errorf("certificate %q: chain: %w", c.file, err)
		}
		out.Certificate = append(out.Certificate, rest[:len(rest)-len(after)])
		rest = after
	}
	return out, nil
}

// fromTLS makes a certificate of one that is ready for use.
func fromTLS(source string, cert *tls.Certificate) (*certificate, error) {
	if cert == nil || len(cert.Certificate) == 0 {
		return nil, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, err
	}
	c, id, err := newCertificate(leaf)
	if err != nil {
		return nil, err
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("no private key")
	}
	keyID, _, _, err := identify(signer.Public())
	if err != nil {
		return nil, err
	}
	if keyID != id {
		return nil, errors.New("private key belongs to another certificate")
	}
	c.leaf = onHeap(cert.Certificate[0])
	c.chain = unique.Make(string(bytes.Join(cert.Certificate[1:], nil)))
	c.source, c.pinned = source, cert
	return c, nil
}

package certstore

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unique"
)

// Sources of certificates, as Entry.Source shows them.
const (
	SourceDirectory = "directory"
	SourceACME      = "acme"
)

// A certificate is a leaf with its chain and private key, held as DER with the
// few facts that choosing needs: ten thousand cost little more than their
// files. The first handshake parses it for crypto/tls; the cache may drop that
// form again (cache.go).
//
// A certificate in a table never changes, except for its parsed form.
type certificate struct {
	leaf  der
	id    publicID              // of the leaf; zero for an installed certificate
	key   der                   // in the form that readKey returns; empty if pinned is set
	chain unique.Handle[string] // issuers as one run of DER, in order, without the root; shared by all certificates that have the same ones
	links *links
	names names

	notBefore int64 // Unix seconds
	notAfter  int64 // Unix seconds
	facts     unique.Handle[facts]

	dir     string // folder of the files; shared by all certificates in it
	base    string // name of the leaf's file; empty: installed
	keyBase string // name of the key's file; often the same

	readable bool  // every user can read the key's file
	kept     bool  // the file has been replaced by something worse
	whole    bool  // the root at the end of the chain has been read
	outside  bool  // see isOutside
	flaw     *flaw // of the chain; nil: none known
	staple   *staple

	// Only the tree's jobs use these.
	judged   uint32 // the round of tree.judge; 0: not yet
	seen     uint32 // the last round that found it in a file
	verified bool   // the leaf's signature has been checked

	round  uint32                 // of the latest table that contains it; guarded by Store.swap
	pinned *tls.Certificate       // set for an installed certificate; never dropped
	parsed atomic.Pointer[parsed] // nil until the first handshake, and again once dropped
}

// facts are what many certificates have in common, and share.
type facts struct {
	source string
	issuer string
	kind   string // "ECDSA P-256"
	family family
	self   bool // self-signed
	common bool // the name is the common name; the leaf has no SAN
	public bool // issued by a root of this system
	doubts uint32
}

func (c *certificate) family() family { return c.facts.Value().family }
func (c *certificate) self() bool     { return c.facts.Value().self }
func (c *certificate) source() string { return c.facts.Value().source }

// file returns the path of the leaf's file, keyFile that of the private key.
// Both are empty for an installed certificate.
func (c *certificate) file() string    { return c.path(c.base) }
func (c *certificate) keyFile() string { return c.path(c.keyBase) }

func (c *certificate) path(base string) string {
	if base == "" {
		return ""
	}
	return filepath.Join(c.dir, base)
}

// names are patterns in normal form, as Pattern returns them, separated by
// spaces. They are one string; the keys of a table point into it.
type names string

func (n names) all() iter.Seq[string] { return strings.SplitSeq(string(n), " ") }

// newCertificate reads the facts from a leaf. self is the result of selfSigned.
// The certificate that it returns still lacks leaf, key and chain.
func newCertificate(leaf *x509.Certificate, source string, self bool) (*certificate, publicID, error) {
	id, family, kind, err := identify(leaf.PublicKey)
	if err != nil {
		return nil, id, err
	}
	names, common, err := serverNames(leaf)
	if err != nil {
		return nil, id, err
	}
	return &certificate{
		chain:     noChain,
		links:     noLinks,
		names:     names,
		notBefore: leaf.NotBefore.Unix(),
		notAfter:  leaf.NotAfter.Unix(),
		facts: unique.Make(facts{
			source: source,
			issuer: issuerName(leaf),
			kind:   kind,
			family: family,
			self:   self,
			common: common,
			public: fromRoot(leaf),
			doubts: doubts(leaf),
		}),
	}, id, nil
}

var errNoName = errors.New("has no server name: neither a DNS name nor a usable common name")

// serverNames returns the patterns in a leaf: its DNS names or, if it has no
// subject alternative name, its common name. IP addresses are omitted: they are
// not server names.
func serverNames(leaf *x509.Certificate) (_ names, common bool, err error) {
	var list []string
	for _, san := range leaf.DNSNames {
		if name, err := Pattern(san); err == nil && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	if list == nil && !hasSAN(leaf) {
		if name, err := Pattern(leaf.Subject.CommonName); err == nil {
			list, common = []string{name}, true
		}
	}
	if list == nil {
		return "", false, errNoName
	}
	return names(strings.Join(list, " ")), common, nil
}

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

func hasSAN(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSAN) })
}

// issuerName returns the issuer's name in readable form.
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
	return printable(name)
}

// printable turns foreign text into one printable line. Such text is a CA's
// answer, which may be a proxy's HTML page, or a name in a certificate, which
// may contain terminal escapes.
func printable(s string) string {
	const most = 1000 // bytes; Let's Encrypt's longest details have about 300
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// selfSigned reports whether a certificate is signed by its own key, as a root
// is, and not by another certificate of the same name. It may have to check a
// signature, so call it once.
func selfSigned(c *x509.Certificate) bool {
	switch {
	case !bytes.Equal(c.RawIssuer, c.RawSubject):
		return false
	case len(c.AuthorityKeyId) > 0 && len(c.SubjectKeyId) > 0:
		return bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId)
	case c.IsCA:
		return true
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	_, weak := errors.AsType[x509.InsecureAlgorithmError](err)
	return err == nil || weak || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}

// state returns one of the State constants.
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

// timely reports whether the certificate and its chain are valid.
func (c *certificate) timely(now time.Time) bool { return c.valid(now) && c.links.valid(now) }

// sound reports whether clients may accept the certificate: apart from its own
// dates, no reason is known why all of them would reject it.
func (c *certificate) sound(now time.Time) bool {
	return c.flaw == nil && c.links.valid(now) && !c.rejected()
}

// same reports whether c and o look the same to clients and operators.
func (c *certificate) same(o *certificate) bool {
	return c.dir == o.dir && c.base == o.base && c.keyBase == o.keyBase && c.chain == o.chain && c.kept == o.kept && c.readable == o.readable && c.flaw == o.flaw &&
		c.leaf.equal(o.leaf) && c.key.equal(o.key) && c.staple.same(o.staple)
}

// setChain sets the chain and what is known about it. The leaf must be set.
func (c *certificate) setChain(chain unique.Handle[string]) {
	c.chain, c.links = chain, noLinks
	if !c.facts.Value().public { // with a public root, clients may do without the chain
		c.links = linksOf(chain)
	}
	c.outside = c.isOutside()
}

// copy returns c without its parsed form, for changes.
func (c *certificate) copy() *certificate {
	return &certificate{
		leaf: c.leaf, id: c.id, key: c.key, chain: c.chain, links: c.links,
		names: c.names, notBefore: c.notBefore, notAfter: c.notAfter, facts: c.facts,
		dir: c.dir, base: c.base, keyBase: c.keyBase, kept: c.kept, whole: c.whole, outside: c.outside, readable: c.readable, flaw: c.flaw, staple: c.staple,
		judged: c.judged, verified: c.verified,
	}
}

// parse converts the certificate for crypto/tls. It uses neither a disk nor a
// lock. Leaf stays nil: servers do not use it, and it would be the largest
// part.
func (c *certificate) parse() (*tls.Certificate, error) {
	key, err := openKey(c.key.bytes())
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", c.file(), err)
	}
	out := &tls.Certificate{Certificate: [][]byte{c.leaf.bytes()}, PrivateKey: key}
	for rest := []byte(c.chain.Value()); len(rest) > 0; {
		var der asn1.RawValue
		after, err := asn1.Unmarshal(rest, &der)
		if err != nil {
			return nil, fmt.Errorf("certificate %q: chain: %w", c.file(), err)
		}
		out.Certificate = append(out.Certificate, rest[:len(rest)-len(after)])
		rest = after
	}
	return out, nil
}

// fromTLS converts a tls.Certificate.
func fromTLS(source string, cert *tls.Certificate) (*certificate, error) {
	if cert == nil || len(cert.Certificate) == 0 {
		return nil, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, err
	}
	c, id, err := newCertificate(leaf, source, selfSigned(leaf))
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
	c.setChain(unique.Make(string(bytes.Join(cert.Certificate[1:], nil))))
	c.pinned = cert
	return c, nil
}

// Package minica makes certificate authorities and leaf certificates for
// tests, rigs and the demo. Nothing here is for production: keys live in
// memory, serial numbers are random, and nobody revokes anything.
//
// All functions are safe for concurrent use; a CA never changes after it was
// made.
package minica

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// A CA signs certificates. Chain holds its own certificate first, then its
// issuers, the root last.
type CA struct {
	Cert  *x509.Certificate
	Key   crypto.Signer
	Chain []*x509.Certificate
}

// A Pair is a leaf certificate with its private key and its issuers, the root
// last. A self-signed pair has no issuers.
type Pair struct {
	Cert    *x509.Certificate
	Key     crypto.Signer
	Issuers []*x509.Certificate
}

// A Spec says what a leaf is to be. The zero value of each field is a usable
// default.
type Spec struct {
	Names     []string                // DNS names or IP addresses; the first is the common name too
	RSA       bool                    // RSA 2048 instead of ECDSA P-256
	Key       crypto.Signer           // use this key instead of a new one
	NotBefore time.Time               // default: one hour ago
	NotAfter  time.Time               // default: in 90 days
	Edit      func(*x509.Certificate) // last word on the template
}

// NewCA makes a root of the given common name, valid for ten years.
func NewCA(name string) *CA {
	key := newKey(false)
	tmpl := caTemplate(name)
	cert := sign(tmpl, tmpl, key.Public(), key)
	return &CA{Cert: cert, Key: key, Chain: []*x509.Certificate{cert}}
}

// Intermediate makes a CA below ca.
func (ca *CA) Intermediate(name string) *CA {
	key := newKey(false)
	cert := sign(caTemplate(name), ca.Cert, key.Public(), ca.Key)
	return &CA{Cert: cert, Key: key, Chain: append([]*x509.Certificate{cert}, ca.Chain...)}
}

// Issue makes an ECDSA leaf for the names, valid for 90 days.
func (ca *CA) Issue(names ...string) *Pair { return ca.IssueSpec(Spec{Names: names}) }

// IssueSpec makes the leaf that spec describes.
func (ca *CA) IssueSpec(spec Spec) *Pair {
	tmpl, key := leaf(spec)
	cert := sign(tmpl, ca.Cert, key.Public(), ca.Key)
	return &Pair{Cert: cert, Key: key, Issuers: ca.Chain}
}

// SelfSigned makes a leaf that signed itself, as Tigase does for a vhost
// without a certificate.
func SelfSigned(spec Spec) *Pair {
	tmpl, key := leaf(spec)
	return &Pair{Cert: sign(tmpl, tmpl, key.Public(), key), Key: key}
}

// Pool returns a pool with the CA's root.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Chain[len(ca.Chain)-1])
	return pool
}

// RootPEM returns the root in PEM.
func (ca *CA) RootPEM() []byte { return CertPEM(ca.Chain[len(ca.Chain)-1]) }

// TLS returns the pair as crypto/tls wants it, without the root.
func (p *Pair) TLS() *tls.Certificate {
	c := &tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key, Leaf: p.Cert}
	for _, issuer := range p.Issuers {
		if issuer.CheckSignatureFrom(issuer) != nil { // not self-signed: no root
			c.Certificate = append(c.Certificate, issuer.Raw)
		}
	}
	return c
}

// ChainPEM returns the leaf and its issuers in PEM, without the root, as
// certbot's fullchain.pem has it.
func (p *Pair) ChainPEM() []byte {
	var out []byte
	for _, der := range p.TLS().Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// KeyPEM returns the private key as PKCS#8 in PEM.
func (p *Pair) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// KeyPEMClassic returns the private key as PKCS#1 (RSA) or SEC 1 (ECDSA).
func (p *Pair) KeyPEMClassic() []byte {
	switch key := p.Key.(type) {
	case *rsa.PrivateKey:
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		check(err)
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	}
	panic(fmt.Sprintf("minica: no classic form for %T", p.Key))
}

// PEM returns chain and key in one file.
func (p *Pair) PEM() []byte { return append(p.ChainPEM(), p.KeyPEM()...) }

// CertPEM returns one certificate in PEM.
func CertPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func leaf(spec Spec) (*x509.Certificate, crypto.Signer) {
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    or(spec.NotBefore, now.Add(-time.Hour)),
		NotAfter:     or(spec.NotAfter, now.AddDate(0, 0, 90)),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range spec.Names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	if len(spec.Names) > 0 {
		tmpl.Subject = pkix.Name{CommonName: spec.Names[0]}
	}
	if spec.Edit != nil {
		spec.Edit(tmpl)
	}
	key := spec.Key
	if key == nil {
		key = newKey(spec.RSA)
	}
	return tmpl, key
}

func caTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name, Organization: []string{"wssgate test"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	if tmpl.IsCA {
		spki, err := x509.MarshalPKIXPublicKey(pub)
		check(err)
		sum := sha256.Sum256(spki)
		tmpl.SubjectKeyId = sum[:20]
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	return cert
}

func newKey(useRSA bool) crypto.Signer {
	if useRSA {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		check(err)
		return key
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	check(err)
	return n
}

func or(t, def time.Time) time.Time {
	if t.IsZero() {
		return def
	}
	return t
}

// check panics: what fails here is the test's own mistake or an empty entropy
// pool, and neither has a caller that could do better.
func check(err error) {
	if err != nil {
		panic("minica: " + err.Error())
	}
}

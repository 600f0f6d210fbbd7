package certstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// minRSA is the shortest key that crypto/rsa signs with, in bits.
const minRSA = 1024

// A family is a group of keys that a ClientHello can tell apart. A name may
// have one certificate of each family. The order here is the order of
// preference.
type family uint8

const (
	familyECDSA family = iota
	familyEd25519
	familyRSA
	families
)

// A publicID identifies a public key in any encoding. It is half of a SHA-256
// sum: finding a second key for one is infeasible.
type publicID [sha256.Size / 2]byte

func publicIDOf(key []byte) publicID {
	sum := sha256.Sum256(key)
	return publicID(sum[:])
}

// identify returns what is needed to find the leaf of a key and to describe it.
// It rejects keys that crypto/tls cannot use.
func identify(public crypto.PublicKey) (id publicID, f family, kind string, err error) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return id, 0, "", fmt.Errorf("key on curve %s: TLS has P-256, P-384 and P-521", key.Params().Name)
		}
		point, err := key.Bytes()
		if err != nil {
			return id, 0, "", fmt.Errorf("key: %w", err)
		}
		return publicIDOf(point), familyECDSA, ecdsaKind(key.Curve), nil
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		if bits < minRSA {
			return id, 0, "", fmt.Errorf("RSA key of %d bits: too short, want %d", bits, minRSA)
		}
		return publicIDOf(key.N.Bytes()), familyRSA, rsaKind(bits), nil
	case ed25519.PublicKey:
		return publicIDOf(key), familyEd25519, "Ed25519", nil
	}
	return id, 0, "", fmt.Errorf("key of type %T: TLS cannot use it", public)
}

func ecdsaKind(curve elliptic.Curve) string {
	switch curve {
	case elliptic.P256():
		return "ECDSA P-256"
	case elliptic.P384():
		return "ECDSA P-384"
	}
	return "ECDSA P-521"
}

func rsaKind(bits int) string {
	switch bits { // constants for the usual sizes save memory
	case 2048:
		return "RSA 2048"
	case 3072:
		return "RSA 3072"
	case 4096:
		return "RSA 4096"
	}
	return fmt.Sprintf("RSA %d", bits)
}

// isKeyLabel reports whether a PEM block of this label holds a private key.
func isKeyLabel(label string) bool {
	return label == "PRIVATE KEY" || strings.HasSuffix(label, " PRIVATE KEY")
}

// isEncrypted reports whether the block is a private key that needs a password.
func (b block) isEncrypted() bool { return b.encrypted || b.label == "ENCRYPTED PRIVATE KEY" }

// openKey reverses readKey.
func openKey(kept []byte) (crypto.Signer, error) {
	if len(kept) > 0 && kept[0] == packedRSA {
		return unpackRSA(kept)
	}
	return parseKey(kept)
}

// readKey checks a private key in any form that parseKey accepts. It returns
// the public key, and the private key in its stored form.
func readKey(der []byte) (public crypto.PublicKey, kept []byte, err error) {
	if key, ok := checkRSA(der); ok {
		return &key.PublicKey, packRSA(key), nil
	}
	key, err := parseKey(der)
	if err != nil {
		return nil, nil, err
	}
	return key.Public(), der, nil
}

// parseKey reads a private key in PKCS#8, PKCS#1 or SEC 1 form, whatever the
// PEM label is. Its errors never quote the key.
func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("private key of type %T: TLS cannot use it", key)
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("private key is neither PKCS#8 nor PKCS#1 nor SEC 1")
}

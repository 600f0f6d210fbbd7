// Package ech keeps the keys of Encrypted Client Hello (RFC 9849), by which clients hide
// the server name that they ask for. It makes and replaces the keys in a folder that
// several gates may share (keeper.go), and writes the DNS records from which clients
// learn them (dns.go). crypto/tls does the rest; package proxy gives it the keys.
package ech

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Code points of an ECHConfig (RFC 9849, section 4; RFC 9180, section 7).
const (
	version      = 0xfe0d
	kemX25519    = 0x0020 // DHKEM(X25519, HKDF-SHA256), which all clients have
	kdfSHA256    = 1
	aeadAES128   = 1
	aeadChaCha20 = 3
	mandatory    = 1 << 15 // bit of an extension's type

	// maxNameLength is what clients pad server names to, so that their length does not
	// show which one it is.
	maxNameLength = 64
)

// A Suite is a pair of algorithms that a client encrypts with.
type Suite struct{ KDF, AEAD uint16 }

// known reports whether crypto/tls has the suite: it breaks off the handshake of a client
// that offers another.
func (s Suite) known() bool { return s.KDF >= 1 && s.KDF <= 3 && s.AEAD >= 1 && s.AEAD <= 3 }

// A Key is an ECHConfig with its private key. It does not change.
type Key struct {
	File       string    // without the folder
	Made       time.Time // in seconds
	PublicName string

	id      uint8
	suites  []Suite
	config  []byte // an ECHConfig
	private []byte
}

// list returns the ECHConfigList of the key alone.
func (k *Key) list() []byte {
	return append([]byte{byte(len(k.config) >> 8), byte(len(k.config))}, k.config...)
}

// newKey makes a key whose id none of the others has, if possible.
func newKey(publicName string, now time.Time, others []*Key) (*Key, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	var r [4]byte
	for range 64 {
		rand.Read(r[:])
		if !slices.ContainsFunc(others, func(k *Key) bool { return k.id == r[0] }) {
			break
		}
	}
	var b cryptobyte.Builder
	b.AddUint16(version)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(r[0])
		b.AddUint16(kemX25519)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(private.PublicKey().Bytes()) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, aead := range []uint16{aeadAES128, aeadChaCha20} {
				b.AddUint16(kdfSHA256)
				b.AddUint16(aead)
			}
		})
		b.AddUint8(maxNameLength)
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(publicName)) })
		b.AddUint16(0) // extensions
	})
	config, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	k, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	k.private = private.Bytes()
	k.Made = now.UTC().Truncate(time.Second)
	k.File = fmt.Sprintf("%s-%x%s", k.Made.Format(fileTime), r[:], fileSuffix)
	return k, nil
}

// parseConfig reads an ECHConfig, and nothing behind it.
func parseConfig(config []byte) (*Key, error) {
	bad := errors.New("is not an ECHConfig")
	s := cryptobyte.String(config)
	var v, kem uint16
	var body, public, suites, name, extensions cryptobyte.String
	k := &Key{config: bytes.Clone(config)}
	var length uint8
	if !s.ReadUint16(&v) || !s.ReadUint16LengthPrefixed(&body) || !s.Empty() {
		return nil, bad
	}
	if v != version {
		return nil, fmt.Errorf("version 0x%04x of ECHConfig is not known", v)
	}
	if !body.ReadUint8(&k.id) || !body.ReadUint16(&kem) || !body.ReadUint16LengthPrefixed(&public) ||
		!body.ReadUint16LengthPrefixed(&suites) || !body.ReadUint8(&length) ||
		!body.ReadUint8LengthPrefixed(&name) || !body.ReadUint16LengthPrefixed(&extensions) || !body.Empty() {
		return nil, bad
	}
	if kem != kemX25519 {
		return nil, fmt.Errorf("KEM 0x%04x is not X25519", kem)
	}
	for !suites.Empty() {
		var suite Suite
		if !suites.ReadUint16(&suite.KDF) || !suites.ReadUint16(&suite.AEAD) {
			return nil, bad
		}
		if suite.known() {
			k.suites = append(k.suites, suite)
		}
	}
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return nil, bad
		}
		if kind&mandatory != 0 {
			return nil, fmt.Errorf("has the unknown mandatory extension 0x%04x", kind)
		}
	}
	switch {
	case len(k.suites) == 0:
		return nil, errors.New("has no usable cipher suite")
	case len(name) == 0:
		return nil, errors.New("has no public name")
	}
	if _, err := ecdh.X25519().NewPublicKey(public); err != nil {
		return nil, errors.New("has no X25519 public key")
	}
	k.PublicName = string(name)
	return k, nil
}

// publicKey returns the public key in a config that parseConfig has read.
func publicKey(config []byte) []byte { return config[9 : 9+32] }

// Types of PEM blocks (RFC 9934).
const (
	pemPrivate = "PRIVATE KEY"
	pemConfig  = "ECHCONFIG" // an ECHConfigList
)

// encode returns the contents of a key's file.
func (k *Key) encode() ([]byte, error) {
	private, err := ecdh.X25519().NewPrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: pemConfig, Bytes: k.list()})...), nil
}

// decode undoes encode. Its errors complete a sentence that begins with the file.
func decode(file string, data []byte) (*Key, error) {
	made, ok := madeAt(file)
	if !ok {
		return nil, errors.New("has a name of another kind")
	}
	var private *ecdh.PrivateKey
	var k *Key
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch block.Type {
		case pemPrivate:
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("has a private key that can't be read")
			}
			if private, ok = parsed.(*ecdh.PrivateKey); !ok || private.Curve() != ecdh.X25519() {
				return nil, errors.New("has a private key that is not an X25519 key")
			}
		case pemConfig:
			s := cryptobyte.String(block.Bytes)
			var one cryptobyte.String
			if !s.ReadUint16LengthPrefixed(&one) || !s.Empty() {
				return nil, errors.New("has an ECHConfigList that is damaged")
			}
			var err error
			if k, err = parseConfig(one); err != nil {
				return nil, fmt.Errorf("its ECHConfig %w", err)
			}
		}
	}
	switch {
	case private == nil || k == nil:
		return nil, fmt.Errorf("has no %q and %q in PEM", pemPrivate, pemConfig)
	case !bytes.Equal(publicKey(k.config), private.PublicKey().Bytes()):
		return nil, errors.New("has an ECHConfig that belongs to another key")
	}
	k.File, k.Made, k.private = file, made, private.Bytes()
	return k, nil
}

// A Ring has the keys that clients may use at one time. It does not change.
type Ring struct {
	keys []*Key // oldest first
	now  *Key   // the one to publish; nil: none
}

// For returns the keys that may decrypt what a client encrypted for an id by a suite, in
// the form for crypto/tls. There is usually one, or none. So a client that sends random
// bytes (GREASE, RFC 9849, section 6.2) costs no computation.
func (r *Ring) For(id uint8, suite Suite) (out []tls.EncryptedClientHelloKey) {
	for _, k := range r.keys {
		if k.id == id && slices.Contains(k.suites, suite) {
			out = append(out, tls.EncryptedClientHelloKey{Config: k.config, PrivateKey: k.private})
		}
	}
	return out
}

// Retry returns the key that clients are told to use instead, in the form for crypto/tls.
func (r *Ring) Retry() []tls.EncryptedClientHelloKey {
	if r.now == nil {
		return nil
	}
	return []tls.EncryptedClientHelloKey{{Config: r.now.config, PrivateKey: r.now.private, SendAsRetry: true}}
}

// Current returns the key to publish; nil: none.
func (r *Ring) Current() *Key { return r.now }

// List returns the ECHConfigList to publish, for "ech=" and host-meta; nil: none.
func (r *Ring) List() []byte {
	if r.now == nil {
		return nil
	}
	return r.now.list()
}

// Keys returns the number of keys that clients may use.
func (r *Ring) Keys() int { return len(r.keys) }

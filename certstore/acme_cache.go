package certstore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"wssgate/files"
)

// Files of the cache folder. The first five have the names and contents of
// autocert. NAME+rsa, an RSA key of 2048 bits that autocert made for old
// clients, is left alone.
//
//	acme_account+key    the account's private key
//	acme_account+key+ca-*  the same for a fallback CA; also with the following suffixes
//	acme_account+key+state, +deactivated, +next: acmeTold; key of a deactivated account; key of an unfinished rollover
//	NAME                private key, certificate, chain; PEM; NAME is the first of several names, see acmeFile
//	NAME+token          certificate that answers a tls-alpn-01 challenge
//	TOKEN+http-01       answer to an http-01 challenge
//	NAME+rsa            unused
//	NAME+state          acmeRecord
//	NAME+lease          acmeLease
//	.wssgate            acmeMark
//	.tmp-*              being written
const (
	acmeAccountFile       = "acme_account+key"
	acmeAccountFileLegacy = "acme_account.key" // from older versions of autocert
	acmeTokenSuffix       = "+token"
	acmeHTTPSuffix        = "+http-01"
	acmeStateSuffix       = "+state"
	acmeLeaseSuffix       = "+lease"
	acmeTempPrefix        = ".tmp-"
)

// acmeStale is the age at which leftovers of a crash are deleted. It is longer
// than any order takes, even with a wrong clock.
const acmeStale = 7 * 24 * time.Hour

// acmeCache is the folder. It is compatible with autocert.DirCache, but writes
// survive a power failure, and errors name the file. Any number of goroutines
// and processes may share a folder. Every call is a job of the folder's Place:
// callers never wait longer than their context, or for a folder that hangs
// (files.ErrHangs).
type acmeCache struct {
	dir    string
	place  *files.Place
	writes func() error // see ACMEOptions
}

// maxACMEFile bounds the bytes read from one file of the cache.
const maxACMEFile = maxFile

// acmeOpenCache creates the folder if it is missing. It does not change an existing
// one, because the caller may only want to read it. A folder that hangs is not an error:
// the keepers wait for it.
func acmeOpenCache(ctx context.Context, dir, certificates string, writes func() error, log *slog.Logger) (acmeCache, error) {
	c := acmeCache{dir: dir, place: files.At("acme: cache", dir, log), writes: writes}
	if err := c.apart(ctx, certificates); err != nil {
		return c, err
	}
	err := c.do(ctx, func() error {
		if err := c.place.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return c.own()
	})
	if errors.Is(err, files.ErrHangs) {
		err = nil
	}
	return c, err
}

// do is files.Do for a job that returns only an error.
func (c acmeCache) do(ctx context.Context, job func() error) error {
	_, err := files.Do(ctx, c.place, func() (struct{}, error) { return struct{}{}, job() })
	return acmeCacheError(err)
}

func acmeCacheError(err error) error {
	if err == nil || err == autocert.ErrCacheMiss {
		return err
	}
	return fmt.Errorf("acme: cache: %w", err)
}

// tidy removes other users' access, and deletes the leftovers of crashed gates.
func (c acmeCache) tidy(ctx context.Context, log *slog.Logger) {
	c.do(ctx, func() error { // the keepers report problems
		info, err := c.place.Stat(c.dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			// A volume may have another owner, or its driver may not support
			// modes.
			if err := c.place.Chmod(c.dir, 0o700); err != nil {
				log.Warn("acme: cache folder is open to others", "file", c.dir, "mode", info.Mode().String(), "err", err)
			}
		}
		entries, err := c.place.ReadDir(c.dir)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), acmeTempPrefix) && !strings.HasSuffix(e.Name(), acmeHTTPSuffix) {
				continue
			}
			path := c.path(e.Name())
			if info, err := c.place.Lstat(path); err == nil && time.Since(info.ModTime()) > acmeStale {
				c.place.Remove(path)
			}
		}
		return err
	})
}

func (c acmeCache) path(key string) string { return filepath.Join(c.dir, key) }

// read returns a file's contents, or autocert.ErrCacheMiss if only the file is
// missing. A missing folder is another error: it shows that a volume has
// disappeared, and not that someone deleted a certificate.
func (c acmeCache) read(ctx context.Context, key string) ([]byte, error) {
	data, err := files.Do(ctx, c.place, func() ([]byte, error) {
		data, err := c.place.Read(c.path(key), maxACMEFile)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
		if _, err := c.place.Stat(c.dir); err != nil {
			return nil, err
		}
		return nil, autocert.ErrCacheMiss
	})
	return data, acmeCacheError(err)
}

// emptied returns an error if the folder is empty. If it had a certificate
// before, its volume has probably been unmounted.
func (c acmeCache) emptied(ctx context.Context) error {
	return c.do(ctx, func() error {
		entries, err := c.place.ReadDir(c.dir)
		if err == nil && len(entries) == 0 {
			err = fmt.Errorf("%q is empty; is its volume mounted?", c.dir)
		}
		return err
	})
}

// put writes a file with mode 0600, atomically and durably against power
// failures. It does nothing if ctx is done.
func (c acmeCache) put(ctx context.Context, key string, data []byte) error {
	return c.write(ctx, key, data, true)
}

// note is put for files that a power failure may destroy: leases, records,
// answers.
func (c acmeCache) note(ctx context.Context, key string, data []byte) error {
	return c.write(ctx, key, data, false)
}

func (c acmeCache) write(ctx context.Context, key string, data []byte, sync bool) error {
	return c.do(ctx, func() error {
		if err := c.writable(); err != nil {
			return err
		}
		// A write that was delayed by a hanging folder must not replace newer files.
		return c.place.Replace(c.path(key), acmeTempPrefix, data, sync, func() bool { return ctx.Err() == nil })
	})
}

// writable returns the error of a test's disk.
func (c acmeCache) writable() error {
	if c.writes == nil {
		return nil
	}
	return c.writes()
}

// remove deletes a file. A missing file is not an error.
func (c acmeCache) remove(ctx context.Context, key string) error {
	return c.do(ctx, func() error {
		err := c.place.Remove(c.path(key))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
}

// acmeEncode returns a certificate in autocert's format: the key, then the
// chain with the leaf first.
func acmeEncode(key crypto.PrivateKey, chain [][]byte) ([]byte, error) {
	data, err := acmeEncodeKey(key)
	if err != nil {
		return nil, err
	}
	for _, der := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return data, nil
}

// acmeEncodeKey encodes a key as autocert does, or as PKCS #8 if autocert does
// not support its type.
func acmeEncodeKey(key crypto.PrivateKey) ([]byte, error) {
	var kind string
	var der []byte
	var err error
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		kind = "EC PRIVATE KEY"
		der, err = x509.MarshalECPrivateKey(key)
	case *rsa.PrivateKey:
		kind = "RSA PRIVATE KEY"
		der = x509.MarshalPKCS1PrivateKey(key)
	default:
		kind = "PRIVATE KEY"
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("acme: key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil
}

// acmeDecode reverses acmeEncode, for keys of any type. It checks the name and
// the key, but not the dates.
func acmeDecode(name string, data []byte) (*tls.Certificate, error) {
	cert, err := acmeDecodeAny(data)
	if err == nil {
		err = cert.Leaf.VerifyHostname(name)
	}
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// acmeDecodeAny is acmeDecode for a certificate of any name.
func acmeDecodeAny(data []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &cert, nil
}

// acmeDecodeKey reads an account's key, in any form that autocert reads.
func acmeDecodeKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errors.New("no private key in PEM")
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not an ECDSA or RSA private key")
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign for an account", key)
}

func acmeNewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// acmeNewLeafKey generates the key of a certificate.
func acmeNewLeafKey(kind string) (crypto.Signer, error) {
	if kind == "rsa" {
		return rsa.GenerateKey(rand.Reader, 2048) // a longer key slows each handshake, and gains little for a key that lives for weeks
	}
	return acmeNewKey()
}

// acmeCheckIssued checks that the CA sent the certificate that we ordered.
func acmeCheckIssued(names []string, key crypto.Signer, chain [][]byte, now time.Time) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("issued certificate: is for another key")
	}
	for _, name := range names {
		if err := leaf.VerifyHostname(name); err != nil {
			return nil, fmt.Errorf("issued certificate: %w", err)
		}
	}
	if now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("issued certificate: expired %s; is the clock right?", leaf.NotAfter.Format(time.RFC3339))
	}
	for _, der := range chain[1:] {
		if _, err := x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("issued chain: %w", err)
		}
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

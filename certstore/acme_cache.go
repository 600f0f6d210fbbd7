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
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// Files of the cache folder. The first five are autocert's, names and contents;
// a key of 2048 bits RSA that autocert made for old clients (NAME+rsa) is left
// alone.
//
//	acme_account+key    the account's private key
//	NAME                private key, certificate, chain; PEM
//	NAME+token          certificate that answers a tls-alpn-01 challenge
//	TOKEN+http-01       answer to an http-01 challenge
//	NAME+rsa            unused
//	NAME+state          acmeRecord
//	NAME+lease          acmeLease
//	.tmp-*              being written
const (
	acmeAccountFile       = "acme_account+key"
	acmeAccountFileLegacy = "acme_account.key" // of older versions of autocert
	acmeTokenSuffix       = "+token"
	acmeHTTPSuffix        = "+http-01"
	acmeStateSuffix       = "+state"
	acmeLeaseSuffix       = "+lease"
	acmeTempPrefix        = ".tmp-"
)

// acmeStale is the age at which a file that only a crash leaves behind is
// swept: longer than any order lasts on any clock.
const acmeStale = 7 * 24 * time.Hour

// acmeCache is an autocert.DirCache whose writes also survive a power cut, and
// whose errors say what they are about. It has no state; any number of
// goroutines and processes may use one folder.
type acmeCache struct {
	autocert.DirCache
}

var _ autocert.Cache = acmeCache{}

// acmeOpenCache makes the folder where it is missing. What is in one that is
// there it leaves as it is, for it may be somebody who only looks.
func acmeOpenCache(dir string) (acmeCache, error) {
	c := acmeCache{autocert.DirCache(dir)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, fmt.Errorf("acme: cache: %w", err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return c, fmt.Errorf("acme: cache: %w", err)
	}
	return c, nil
}

// tidy closes the folder to others, and sweeps what crashed gates left behind.
func (c acmeCache) tidy(log *slog.Logger) {
	dir := string(c.DirCache)
	info, err := os.Stat(dir)
	if err != nil {
		return // keepers say what is wrong with it
	}
	if info.Mode().Perm()&0o077 != 0 {
		// A volume may belong to somebody else, or its driver may know no modes.
		if err := os.Chmod(dir, 0o700); err != nil {
			log.Warn("acme: cache folder is open to others", "file", dir, "mode", info.Mode().String(), "err", err)
		}
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), acmeTempPrefix) && !strings.HasSuffix(e.Name(), acmeHTTPSuffix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > acmeStale {
			os.Remove(c.path(e.Name()))
		}
	}
}

func (c acmeCache) path(key string) string { return filepath.Join(string(c.DirCache), key) }

// read returns a file's contents, or autocert.ErrCacheMiss where the folder is
// there and the file is not. A folder that is gone is another error: nobody
// deletes certificates that way, but volumes do vanish.
func (c acmeCache) read(key string) ([]byte, error) {
	data, err := os.ReadFile(c.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(string(c.DirCache)); err != nil {
			return nil, fmt.Errorf("acme: cache: %w", err)
		}
		return nil, autocert.ErrCacheMiss
	}
	if err != nil {
		return nil, fmt.Errorf("acme: cache: %w", err)
	}
	return data, nil
}

// emptied returns an error where the folder has nothing in it. A folder that had a
// certificate is a mount point without its volume then.
func (c acmeCache) emptied() error {
	entries, err := os.ReadDir(string(c.DirCache))
	if err == nil && len(entries) == 0 {
		err = fmt.Errorf("%q is empty; is its volume mounted?", string(c.DirCache))
	}
	if err != nil {
		return fmt.Errorf("acme: cache: %w", err)
	}
	return nil
}

// Put implements autocert.Cache. The file has mode 0600, and appears whole or
// not at all, even after a power cut.
func (c acmeCache) Put(_ context.Context, key string, data []byte) error {
	if err := c.write(key, data, (*os.File).Sync); err != nil {
		return fmt.Errorf("acme: cache: %w", err)
	}
	// Not every file system can sync a folder; the file is whole in any case.
	if dir, err := os.Open(string(c.DirCache)); err == nil {
		dir.Sync()
		dir.Close()
	}
	return nil
}

// note is Put for what a power cut may take: leases, records, answers.
func (c acmeCache) note(key string, data []byte) error {
	if err := c.write(key, data, func(*os.File) error { return nil }); err != nil {
		return fmt.Errorf("acme: cache: %w", err)
	}
	return nil
}

func (c acmeCache) write(key string, data []byte, sync func(*os.File) error) (err error) {
	f, err := os.CreateTemp(string(c.DirCache), acmeTempPrefix) // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, sync(f), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), c.path(key))
}

// acmeEncode returns a certificate as autocert keeps it: key first, then the
// chain, leaf first.
func acmeEncode(key *ecdsa.PrivateKey, chain [][]byte) ([]byte, error) {
	data, err := acmeEncodeKey(key)
	if err != nil {
		return nil, err
	}
	for _, der := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return data, nil
}

func acmeEncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("acme: key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// acmeDecode is the reverse of acmeEncode, for keys of any type. The certificate
// is for name and belongs to the key; its dates are not looked at.
func acmeDecode(name string, data []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	if err := cert.Leaf.VerifyHostname(name); err != nil {
		return nil, err
	}
	return &cert, nil
}

// acmeDecodeKey reads the key of an account, in any form that autocert reads.
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

// acmeCheckIssued tells whether what the CA sent is what we asked for.
func acmeCheckIssued(name string, key *ecdsa.PrivateKey, chain [][]byte, now time.Time) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("issued certificate: is for another key")
	}
	if err := leaf.VerifyHostname(name); err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
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

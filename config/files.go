package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"wssgate/files"
	"wssgate/panics"
)

// Place is the file system of the configuration and of the small files that it
// names. A running gate reads them in jobs (files.Do).
var Place = files.New("configuration", nil).CountedBy(panics.Config)

// checkFile reports an error of check about a file that the configuration
// names, and keeps the contents for Config.Files. Messages never show the
// contents: most of these files are secrets.
func (ms *mistakes) checkFile(p keyPath, file string, check func(data []byte) error) {
	data, err := ms.read(file)
	if err != nil {
		ms.add(p, "", "%q: %v", file, err)
	} else if err := check(data); err != nil {
		ms.add(p, "", "%q: %v", file, err)
	}
}

func (ms *mistakes) read(file string) ([]byte, error) {
	if data, ok := ms.files[file]; ok {
		return data, nil
	}
	data, err := Place.Read(file, MaxFile)
	if err != nil {
		return nil, cause(err)
	}
	if ms.files == nil {
		ms.files = map[string][]byte{}
	}
	ms.files[file] = data
	return data, nil
}

func checkRoots(data []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return errors.New("has no certificate in PEM")
	}
	return nil
}

// CheckToken returns the reason why data cannot be the contents of a token
// file, or nil.
func CheckToken(data []byte) error {
	if token := strings.TrimSpace(string(data)); len(token) < minToken {
		return fmt.Errorf("has a token of %d bytes; at least %d are required", len(token), minToken)
	} else if strings.ContainsAny(token, " \t\r\n") {
		return errors.New("has more than one word")
	}
	return nil
}

// minToken is the minimum length of a token, in bytes. 16 random bytes in hex
// are twice as long.
const minToken = 16

// keyPairWith returns a check that a certificate matches the key in another
// file.
func (ms *mistakes) keyPairWith(keyFile string) func(data []byte) error {
	return func(certificate []byte) error {
		if ms.unread[keyFile] != nil {
			return nil
		}
		key, err := ms.read(keyFile)
		if err != nil {
			return fmt.Errorf("key %q: %w", keyFile, err)
		}
		if _, err := tls.X509KeyPair(certificate, key); err != nil {
			return fmt.Errorf("key %q: %s", keyFile, strings.TrimPrefix(err.Error(), "tls: "))
		}
		return nil
	}
}

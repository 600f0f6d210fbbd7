package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"wssgate/certstore"
	"wssgate/upstream"
)

func (a *ACME) check(ms *mistakes, p keyPath) {
	for i, name := range a.Names {
		normal, err := ServerName(name)
		switch {
		case err != nil:
			ms.add(p.key("names"), nameHint(name, ServerName), "%q %v", name, err)
		case strings.HasPrefix(normal, "*."):
			ms.add(p.key("names"), "let another ACME client write it into certificates.directory",
				"%q is a wildcard, which a CA issues for dns-01 only", name)
		case !strings.Contains(normal, "."):
			ms.add(p.key("names"), "", "%q has a single label; a public CA issues for full domain names only", name)
		case !isHostName(normal):
			ms.add(p.key("names"), "", "%q is not a host name", name)
		case slices.Contains(a.Names[:i], normal):
			ms.add(p.key("names"), "", "%q is listed twice", name)
		}
		a.Names[i] = normal
	}
	if a.Email != "" && strings.Count(a.Email, "@") != 1 {
		ms.add(p.key("email"), "", "%q is not a mail address", a.Email)
	}
	ms.eitherBoth(p, "eab_key_id", a.EABKeyID, "eab_key_file", a.EABKeyFile)
	if len(a.Names) == 0 {
		return // ACME is off
	}
	if !a.AcceptTerms {
		ms.add(p.key("accept_terms"), "read the CA's terms of service, then write accept_terms = true",
			"is false; a CA requires that you accept its terms")
	}
	if _, err := upstream.ParseURL(a.CA, "https"); err != nil {
		ms.add(p.key("ca"), "", "%q: %v", a.CA, err)
	}
	if a.Cache == "" {
		ms.add(p.key("cache"), "", "is empty")
	}
	if a.CARoot != "" {
		ms.checkFile(p.key("ca_root"), a.CARoot, checkRoots)
	}
	if a.EABKeyFile != "" {
		ms.checkFile(p.key("eab_key_file"), a.EABKeyFile, func(data []byte) error {
			_, err := decodeEABKey(data)
			return err
		})
	}
}

// isHostName reports whether a name in normal form may be a host name: unlike other DNS
// names it has no underscores, for example.
func isHostName(name string) bool {
	host, err := idna.Lookup.ToASCII(name)
	return err == nil && host == name
}

// ACMEOptions converts [acme]. Certificates go into store. Do not call it if ACME is
// off.
func (c *Config) ACMEOptions(store *certstore.Store, log *slog.Logger) (certstore.ACMEOptions, error) {
	a := c.ACME
	o := certstore.ACMEOptions{
		ACMECA: certstore.ACMECA{
			Directory:   a.CA,
			Email:       a.Email,
			AcceptTerms: a.AcceptTerms,
			Profile:     a.Profile,
			EABKeyID:    a.EABKeyID,
		},
		Names:        a.Names,
		Cache:        a.Cache,
		Certificates: c.Certificates.Directory,
		KeyType:      a.KeyType,
		TLSALPN:      true, // only the CA knows whether it can reach port 443
		HTTP01:       len(c.Listen.HTTP) > 0,
		Log:          log,
		Install: func(name string, cert *tls.Certificate) {
			if err := store.Install(certstore.SourceACME, name, cert); err != nil {
				log.Error("acme: cannot serve the certificate", "server_name", name, "err", err)
			}
		},
		Remove: func(name string) { store.Remove(certstore.SourceACME, name) },
	}
	if a.CARoot != "" {
		o.Roots = x509.NewCertPool()
		if !o.Roots.AppendCertsFromPEM(c.Files[a.CARoot]) {
			return o, fmt.Errorf("acme.ca_root: no certificate in %q", a.CARoot)
		}
	}
	if a.EABKeyFile != "" {
		var err error
		if o.EABKey, err = decodeEABKey(c.Files[a.EABKeyFile]); err != nil {
			return o, fmt.Errorf("acme.eab_key_file: %q %w", a.EABKeyFile, err)
		}
	}
	return o, nil
}

// decodeEABKey decodes a key in base64url, with or without padding.
func decodeEABKey(data []byte) ([]byte, error) {
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(string(data)), "="))
	if err != nil {
		return nil, errors.New("is not base64url")
	}
	if len(key) == 0 {
		return nil, errors.New("is empty")
	}
	return key, nil
}

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
	seen := map[string]bool{}
	checkACMENames(ms, p.key("names"), a.Names, seen)
	for i, c := range a.Certificate {
		first := ""
		if len(c.Names) > 0 {
			first = c.Names[0]
		}
		names := p.key("certificate").item(i, first).key("names")
		switch n := len(c.Names); {
		case n == 0:
			ms.add(names, "", "is required")
		case n > maxACMENames:
			ms.add(names, "make several certificates of it", "has %d names; at most %d are allowed in one certificate", n, maxACMENames)
		}
		checkACMENames(ms, names, c.Names, seen)
	}
	if a.Email != "" && strings.Count(a.Email, "@") != 1 {
		ms.add(p.key("email"), "", "%q is not a mail address", a.Email)
	}
	ms.eitherBoth(p, "eab_key_id", a.EABKeyID, "eab_key_file", a.EABKeyFile)
	if !a.On() {
		return
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

// maxACMENames is how many names Let's Encrypt allows in one certificate.
const maxACMENames = 100

// checkACMENames checks names and brings them into their normal form. seen are those of
// other certificates.
func checkACMENames(ms *mistakes, p keyPath, names []string, seen map[string]bool) {
	for i, name := range names {
		normal, err := ServerName(name)
		switch {
		case err != nil:
			ms.add(p, nameHint(name, ServerName), "%q %v", name, err)
		case strings.HasPrefix(normal, "*."):
			ms.add(p, "let another ACME client write it into certificates.directory",
				"%q is a wildcard, which a CA issues for dns-01 only", name)
		case !strings.Contains(normal, "."):
			ms.add(p, "", "%q has a single label; a public CA issues for full domain names only", name)
		case !isHostName(normal):
			ms.add(p, "", "%q is not a host name", name)
		case seen[normal]:
			ms.add(p, "", "%q is listed twice", name)
		}
		names[i], seen[normal] = normal, true
	}
}

// On reports whether there is a name to obtain a certificate for.
func (a *ACME) On() bool { return len(a.Names)+len(a.Certificate) > 0 }

// Together are the names of the certificates that have several.
func (a *ACME) Together() (lists [][]string) {
	for _, c := range a.Certificate {
		lists = append(lists, c.Names)
	}
	return lists
}

// AllNames are the names of all certificates.
func (a *ACME) AllNames() []string {
	return slices.Concat(append([][]string{a.Names}, a.Together()...)...)
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
		Together:     a.Together(),
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

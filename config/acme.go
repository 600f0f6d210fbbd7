package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
			ms.add(names, "split it into several certificates", "has %d names; at most %d are allowed in one certificate", n, maxACMENames)
		}
		checkACMENames(ms, names, c.Names, seen)
	}
	first := a.first()
	first.check(ms, p, a.On())
	urls := []string{a.CA}
	for i, f := range a.Fallback {
		at := p.key("fallback").item(i, "")
		f.check(ms, at, a.On())
		if slices.Contains(urls, f.CA) {
			ms.add(at.key("ca"), "", "%q is listed twice", f.CA)
		}
		urls = append(urls, f.CA)
	}
	if a.On() && a.Cache == "" {
		ms.add(p.key("cache"), "", "is empty")
	}
	if _, err := netip.ParseAddrPort(a.Resolver); err != nil && a.Resolver != "" {
		ms.add(p.key("resolver"), `write "192.0.2.53:53" or "[2001:db8::53]:53"`, "%q is not an IP address with a port", a.Resolver)
	}
}

// first returns the CA that is asked first.
func (a *ACME) first() *ACMEFallback {
	return &ACMEFallback{a.CA, a.Email, a.CARoot, a.AcceptTerms, a.Profile, a.Chain, a.EABKeyID, a.EABKeyFile}
}

func (f *ACMEFallback) check(ms *mistakes, p keyPath, on bool) {
	if f.Email != "" && strings.Count(f.Email, "@") != 1 {
		ms.add(p.key("email"), "", "%q is not a mail address", f.Email)
	}
	ms.eitherBoth(p, "eab_key_id", f.EABKeyID, "eab_key_file", f.EABKeyFile)
	if !on {
		return
	}
	if !f.AcceptTerms {
		ms.add(p.key("accept_terms"), "read the CA's terms of service, then write accept_terms = true",
			"is false; a CA requires that you accept its terms")
	}
	if _, err := upstream.ParseURL(f.CA, "https"); err != nil {
		ms.add(p.key("ca"), "", "%q: %v", f.CA, err)
	}
	if f.CARoot != "" {
		ms.checkDeferrable(p.key("ca_root"), f.CARoot, checkRoots)
	}
	if f.EABKeyFile != "" {
		ms.checkDeferrable(p.key("eab_key_file"), f.EABKeyFile, func(data []byte) error {
			_, err := decodeEABKey(data)
			return err
		})
	}
}

// Files returns the names of the files that affect which CAs are asked, and
// how.
func (a *ACME) Files() (files []string) {
	for _, f := range append([]*ACMEFallback{a.first()}, a.Fallback...) {
		files = append(files, f.CARoot, f.EABKeyFile)
	}
	return files
}

// options converts f. where is its table, for errors.
func (f *ACMEFallback) options(c *Config, where string) (o certstore.ACMECA, err error) {
	o = certstore.ACMECA{Directory: f.CA, Email: f.Email, AcceptTerms: f.AcceptTerms, Profile: f.Profile, Chain: f.Chain}
	if o.Unread = errors.Join(c.Unread(f.CARoot), c.Unread(f.EABKeyFile)); o.Unread != nil {
		return o, nil
	}
	o.EABKeyID = f.EABKeyID
	if f.CARoot != "" {
		o.Roots = x509.NewCertPool()
		if !o.Roots.AppendCertsFromPEM(c.Files[f.CARoot]) {
			return o, fmt.Errorf("%s.ca_root: no certificate in %q", where, f.CARoot)
		}
	}
	if f.EABKeyFile != "" {
		if o.EABKey, err = decodeEABKey(c.Files[f.EABKeyFile]); err != nil {
			return o, fmt.Errorf("%s.eab_key_file: %q %w", where, f.EABKeyFile, err)
		}
	}
	return o, nil
}

// maxACMENames is the limit of names in one certificate of Let's Encrypt.
const maxACMENames = 100

// checkACMENames checks names and replaces each with its normal form. seen are
// those of other certificates.
func checkACMENames(ms *mistakes, p keyPath, names []string, seen map[string]bool) {
	for i, name := range names {
		normal, err := ServerName(name)
		switch {
		case err != nil:
			ms.add(p, nameHint(name, ServerName), "%q %v", name, err)
		case !strings.Contains(strings.TrimPrefix(normal, "*."), "."):
			ms.add(p, "", "%q has a single label; a public CA issues for full domain names only", name)
		case !isHostName(strings.TrimPrefix(normal, "*.")):
			ms.add(p, "", "%q is not a host name", name)
		case seen[normal]:
			ms.add(p, "", "%q is listed twice", name)
		}
		names[i], seen[normal] = normal, true
	}
}

// On reports whether [acme] names a certificate to obtain.
func (a *ACME) On() bool { return len(a.Names)+len(a.Certificate) > 0 }

// Together returns the names of each certificate that has several.
func (a *ACME) Together() (lists [][]string) {
	for _, c := range a.Certificate {
		lists = append(lists, c.Names)
	}
	return lists
}

// AllNames returns the names of all certificates.
func (a *ACME) AllNames() []string {
	return slices.Concat(append([][]string{a.Names}, a.Together()...)...)
}

// isHostName reports whether a name in normal form can be a host name. Unlike
// other DNS names, host names have no underscores, for example.
func isHostName(name string) bool {
	host, err := idna.Lookup.ToASCII(name)
	return err == nil && host == name
}

// ACMEOptions converts [acme]. Certificates are installed in store. Call it
// only if ACME is on. The error is about a file that [acme] names.
func (c *Config) ACMEOptions(store *certstore.Store, log *slog.Logger) (certstore.ACMEOptions, error) {
	a := c.ACME
	o := certstore.ACMEOptions{
		Names:        a.Names,
		Together:     a.Together(),
		Cache:        a.Cache,
		Certificates: c.Certificates.Directory,
		KeyType:      a.KeyType,
		DNSServer:    a.Resolver,
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
	var err error
	if o.ACMECA, err = a.first().options(c, "acme"); err != nil {
		return o, err
	}
	for _, f := range a.Fallback {
		other, err := f.options(c, "acme.fallback")
		if err != nil {
			return o, err
		}
		o.Fallback = append(o.Fallback, other)
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

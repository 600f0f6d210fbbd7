package certstore

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A Warning explains why some clients reject a certificate that is served.
type Warning struct {
	Rule string // one of RuleNames
	File string // file of the leaf; empty for an installed certificate
	Text string // also names the certificate
	Hint string
}

// A rule detects certificates that some clients reject. It examines a leaf when
// it is read, an issuer once for each chain, or the fields of a certificate.
type rule struct {
	name   string
	leaf   func(*x509.Certificate) bool // nil: the rule does not examine the leaf
	issuer func(*x509.Certificate) bool // nil: the rule does not examine issuers
	kept   func(*certificate) bool      // nil: leaf and issuer decide
	fatal  bool                         // all clients reject it
	others bool                         // applies only if the name has no certificate with another kind of key
	text   func(*certificate) string
	hint   string
}

var rules = [...]rule{
	{
		name: "server_auth",
		leaf: func(leaf *x509.Certificate) bool { return !forServers(leaf) }, fatal: true,
		text: says("its extended key usage lacks serverAuth, so that no client accepts it"),
		hint: "have it issued anew for a TLS server",
	}, {
		name: "any_usage",
		leaf: onlyAnyUsage,
		text: says("its extended key usage has anyExtendedKeyUsage, but not serverAuth, so that OpenSSL and others reject it"),
		hint: "have it issued anew with serverAuth",
	}, {
		name: "key_usage",
		leaf: func(leaf *x509.Certificate) bool {
			return leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0
		},
		text: says("its key usage lacks digitalSignature, without which browsers reject it"),
		hint: "have it issued anew with digitalSignature",
	}, {
		name: "critical_extension",
		leaf: unknownCritical, issuer: unknownCritical, fatal: true,
		text: says("it or an intermediate has a critical extension that clients do not know, so that they reject it"),
		hint: "have it issued anew for a TLS server",
	}, {
		name: "path_length",
		kept: func(c *certificate) bool { return c.links.tooLong }, fatal: true,
		text: says("below an intermediate are more than its path length allows, so that clients reject it"),
		hint: "use the chain that its CA sent",
	}, {
		name:   "issuer_server_auth",
		issuer: func(c *x509.Certificate) bool { return !forServers(c) }, fatal: true,
		text: says("the extended key usage of an intermediate lacks serverAuth, so that no client accepts it"),
		hint: "have it issued by a CA for TLS servers",
	}, {
		name: "name_constraints",
		kept: func(c *certificate) bool { return c.outside }, fatal: true,
		text: says("an intermediate may not issue for one of its names (name constraints), so that clients reject it"),
		hint: "have it issued without that name, or by another CA",
	}, {
		name: "sha1",
		leaf: sha1, fatal: true,
		text: says("its signature uses SHA-1, which clients reject"),
		hint: "have it issued anew, with SHA-256",
	}, {
		name:   "issuer_sha1",
		issuer: sha1, fatal: true,
		text: says("the signature of an intermediate uses SHA-1, which clients reject"),
		hint: "use a newer intermediate of its CA",
	}, {
		name: "rsa_short",
		leaf: shortRSA,
		text: func(c *certificate) string {
			return fmt.Sprintf("its key is %s; browsers and OpenSSL want 2048 bits", c.facts.Value().kind)
		},
		hint: "make a new key, ECDSA P-256 or RSA 2048",
	}, {
		name:   "issuer_rsa_short",
		issuer: shortRSA,
		text:   says("the RSA key of an intermediate is shorter than 2048 bits, which browsers and OpenSSL reject"),
		hint:   "use a newer intermediate of its CA",
	}, {
		name:   "p521",
		kept:   func(c *certificate) bool { return c.facts.Value().kind == "ECDSA P-521" },
		others: true,
		text:   says("its key is ECDSA P-521, which Chrome and other browsers reject"),
		hint:   "use ECDSA P-256 or P-384, or put an RSA certificate beside it",
	}, {
		name:   "ed25519",
		kept:   func(c *certificate) bool { return c.family() == familyEd25519 },
		others: true,
		text:   says("its key is Ed25519, which browsers reject"),
		hint:   "use ECDSA P-256, or put such a certificate beside it",
	}, {
		name:   "issuer_ed25519",
		issuer: func(c *x509.Certificate) bool { return c.PublicKeyAlgorithm == x509.Ed25519 },
		text:   says("the key of an intermediate is Ed25519, which browsers reject"),
		hint:   "have it issued by an intermediate with an ECDSA or RSA key",
	}, {
		name: "self_signed",
		kept: func(c *certificate) bool { return c.self() },
		text: says("it is self-signed; only clients that were told to trust it accept it"),
		hint: "have it issued by a CA, for instance by [acme]",
	}, {
		name: "common_name",
		kept: func(c *certificate) bool { return c.facts.Value().common },
		text: says("its name is only its common name, which browsers do not accept"),
		hint: "have it issued with a subject alternative name",
	}, {
		name: "lifetime",
		kept: func(c *certificate) bool { return c.lifetime() > c.lifetimeLimit() },
		text: func(c *certificate) string {
			return fmt.Sprintf("it is valid for %d days; browsers take %d", c.lifetime(), c.lifetimeLimit())
		},
		hint: "have it issued for a shorter time, and renewed automatically",
	}, {
		name: "key_readable",
		kept: func(c *certificate) bool { return c.readable },
		text: func(c *certificate) string {
			return fmt.Sprintf("every user of this machine can read its private key %q", c.keyFile())
		},
		hint: "chmod o-r the file; if others may have read the key, make a new one",
	},
}

func says(text string) func(*certificate) string { return func(*certificate) string { return text } }

// RuleNames returns all values that Warning.Rule can have.
func RuleNames() (names []string) {
	for _, r := range rules {
		names = append(names, r.name)
	}
	return names
}

func forServers(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func sha1(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA:
		return !selfSigned(c) // clients do not check the signature of a root
	}
	return false
}

func shortRSA(c *x509.Certificate) bool {
	key, ok := c.PublicKey.(*rsa.PublicKey)
	return ok && key.N.BitLen() < 2048
}

func onlyAnyUsage(c *x509.Certificate) bool {
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}

// unknownCritical accepts the extensions of RFC 5280 even where crypto/x509
// does not know them.
func unknownCritical(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return len(id) < 3 || !id[:3].Equal(asn1.ObjectIdentifier{2, 5, 29})
	})
}

const day = 24 * 60 * 60 // seconds

// lifetime returns the validity period in days, as the limits count it. Both
// dates belong to the period (RFC 5280, section 4.1.2.5), and any part of a day
// counts as a day (CA/Browser Forum's Baseline Requirements, section 6.3.2).
// Apple compares only the dates.
func (c *certificate) lifetime() int64 {
	seconds := c.notAfter - c.notBefore
	if c.public() {
		seconds++
	}
	return (seconds + day - 1) / day
}

// lifetimeLimit returns the most days that browsers accept. For public CAs it
// is in the Baseline Requirements, section 6.3.2. For all others Apple has a
// limit since 2019-07-01 (https://support.apple.com/103769).
func (c *certificate) lifetimeLimit() int64 {
	if !c.public() {
		if c.notBefore < time.Date(2019, 7, 1, 0, 0, 0, 0, time.UTC).Unix() {
			return math.MaxInt64
		}
		return 825
	}
	for _, l := range [...]struct {
		from time.Time
		days int64
	}{
		{time.Date(2029, 3, 15, 0, 0, 0, 0, time.UTC), 47},
		{time.Date(2027, 3, 15, 0, 0, 0, 0, time.UTC), 100},
		{time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC), 200},
		{time.Date(2020, 9, 1, 0, 0, 0, 0, time.UTC), 398},
	} {
		if c.notBefore >= l.from.Unix() {
			return l.days
		}
	}
	return math.MaxInt64
}

// public reports whether the chain leads to a root of this system.
func (c *certificate) public() bool { return c.links.public || c.facts.Value().public }

// doubts returns one bit for each rule that the leaf violates.
func doubts(leaf *x509.Certificate) (bits uint32) {
	for i, r := range rules {
		if r.leaf != nil && r.leaf(leaf) {
			bits |= 1 << i
		}
	}
	return bits
}

// issuerDoubts is doubts for an issuer.
func issuerDoubts(c *x509.Certificate) (bits uint32) {
	for i, r := range rules {
		if r.issuer != nil && r.issuer(c) {
			bits |= 1 << i
		}
	}
	return bits
}

// fatal has a bit for each fatal rule.
var fatal = func() (bits uint32) {
	for i, r := range rules {
		if r.fatal {
			bits |= 1 << i
		}
	}
	return bits
}()

func (c *certificate) breaks(i int) bool {
	if rules[i].kept != nil {
		return rules[i].kept(c)
	}
	return (c.facts.Value().doubts|c.links.doubts)&(1<<i) != 0
}

// rejected reports whether all clients reject the certificate, apart from its
// dates. It is cheap enough for handshakes.
func (c *certificate) rejected() bool {
	return (c.facts.Value().doubts|c.links.doubts)&fatal != 0 || c.outside
}

// rejection returns the text of the rule that makes all clients reject the
// certificate, or "".
func (c *certificate) rejection() string {
	for i, r := range rules {
		if r.fatal && c.breaks(i) {
			return r.text(c)
		}
	}
	return ""
}

// isOutside reports whether the chain's name constraints exclude a name of the leaf (RFC
// 5280, section 4.2.1.10).
func (c *certificate) isOutside() bool {
	if !c.links.constrained {
		return false
	}
	chain, err := c.certificates()
	if err != nil {
		return false
	}
	chain = chain[:1+c.links.judged]
	end, between := x509.NewCertPool(), x509.NewCertPool()
	end.AddCert(chain[len(chain)-1])
	for _, i := range chain[1 : len(chain)-1] {
		between.AddCert(i)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: end, Intermediates: between, CurrentTime: middle(c),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.CANotAuthorizedForThisName
}

// middle returns a time at which the certificate and its chain are valid, if
// there is one.
func middle(c *certificate) time.Time {
	from, until := max(c.notBefore, c.links.from), min(c.notAfter, c.links.until)
	return time.Unix(from+(until-from)/2, 0)
}

// Warnings returns the reasons why some clients reject a certificate that is
// chosen for some name, ordered by file.
func (s *Store) Warnings() (out []Warning) {
	t, now := s.table(), time.Now()
	for _, c := range t.all {
		for i, r := range rules {
			if c.breaks(i) && t.serves(c, r.others, now) {
				out = append(out, Warning{r.name, c.file(), fmt.Sprintf("certificate %s: %s", c.quoted(), r.text(c)), r.hint})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Warning) int { return cmp.Compare(a.File, b.File) })
	return out
}

// serves reports whether a certificate is chosen for some name. With alone, it
// counts only names that have no chosen certificate that browsers accept.
func (t *table) serves(c *certificate, alone bool, now time.Time) bool {
	for name := range c.names.all() {
		same, wild := t.lookupPattern(name)
		if chosen := choose(same, wild, now); slices.Contains(chosen, c) && !(alone && slices.ContainsFunc(chosen, func(o *certificate) bool { return o.forBrowsers(now) })) {
			return true
		}
	}
	return false
}

// forBrowsers reports whether browsers accept the certificate, judging by its
// dates, its chain and its kind of key.
func (c *certificate) forBrowsers(now time.Time) bool {
	return c.timely(now) && c.sound(now) && c.family() != familyEd25519 && c.facts.Value().kind != "ECDSA P-521"
}

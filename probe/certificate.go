package probe

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"wssgate/human"
)

// soon is when an expiry is worth a note. ACME clients renew a 90-day
// certificate 30 days ahead, so at a week something has been failing for long.
const soon = 7 * 24 * time.Hour

// TLS is what was agreed in the handshake.
type TLS struct {
	Protocol string `json:"protocol"`
	Cipher   string `json:"cipher"`
	Group    string `json:"group"` // of the key exchange
	ALPN     string `json:"alpn,omitempty"`
}

// A Certificate describes the leaf and the chain that came with it.
type Certificate struct {
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"` // negative once expired
	Key       string    `json:"key"`
	Chain     []string  `json:"chain"` // subjects, leaf first, as sent
}

func describe(chain []*x509.Certificate, now time.Time) *Certificate {
	leaf := chain[0]
	c := &Certificate{
		Issuer:    name(leaf.Issuer.CommonName, leaf.Issuer.Organization),
		NotBefore: leaf.NotBefore,
		NotAfter:  leaf.NotAfter,
		DaysLeft:  int(leaf.NotAfter.Sub(now).Hours() / 24),
		Key:       keyType(leaf),
	}
	for _, dns := range leaf.DNSNames {
		c.Names = append(c.Names, printable([]byte(dns)))
	}
	for _, ip := range leaf.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	for _, cert := range chain {
		c.Chain = append(c.Chain, name(cert.Subject.CommonName, cert.Subject.Organization))
	}
	return c
}

// facts returns the lines for a person to read.
func (c *Certificate) facts() []string {
	names := c.Names
	if len(names) > 6 {
		names = append(slices.Clone(names[:5]), fmt.Sprintf("and %d more", len(names)-5))
	}
	when := "valid until " + c.NotAfter.Format(time.DateOnly)
	if c.DaysLeft >= 0 {
		when += fmt.Sprintf(", %s left", human.Duration(time.Until(c.NotAfter)))
	}
	return []string{
		strings.Join(names, ", ") + " (" + c.Key + ")",
		when,
		"chain: " + strings.Join(c.Chain, " ← ") + "; issued by " + c.Issuer,
	}
}

// name returns a subject's common name, or its organization where there is
// none.
func name(cn string, org []string) string {
	switch {
	case cn != "":
		return printable([]byte(cn))
	case len(org) > 0:
		return printable([]byte(org[0]))
	}
	return "(no name)"
}

func keyType(cert *x509.Certificate) string {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return cert.PublicKeyAlgorithm.String()
}

// verify returns all that is wrong with a chain: name, dates and trust by
// themselves, where crypto/x509 stops at the first.
func verify(chain []*x509.Certificate, host string, roots *x509.CertPool, now time.Time) []Problem {
	var problems []Problem
	leaf := chain[0]
	if leaf.VerifyHostname(host) != nil {
		names := describe(chain, now).Names
		problem := Problem{Text: fmt.Sprintf("certificate is for %s, not for %q", quoteAll(names), host)}
		if len(names) == 0 {
			problem.Text = fmt.Sprintf("certificate names no host at all, so none is %q", host)
		}
		problem.Hint = "the server has no certificate for this name and presents another; " +
			"put one for it into the certificates' directory, and see `wssgate certs`"
		if isIP(host) {
			problem.Hint = "an IP address is seldom in a certificate: probe wss://NAME/ with -connect " + host
		}
		problems = append(problems, problem)
	}
	at := now
	switch {
	case now.After(leaf.NotAfter):
		at = leaf.NotAfter.Add(-time.Second)
		problems = append(problems, Problem{
			Text: fmt.Sprintf("certificate expired %s, %s ago", leaf.NotAfter.Format(time.DateOnly), human.Duration(now.Sub(leaf.NotAfter))),
			Hint: "renew it; if that was done, the server still has the old one: reload it",
		})
	case now.Before(leaf.NotBefore):
		at = leaf.NotBefore.Add(time.Second)
		problems = append(problems, Problem{
			Text: fmt.Sprintf("certificate is not valid before %s", leaf.NotBefore.Format(time.RFC3339)),
			Hint: "is one of the two clocks wrong?",
		})
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at}); err != nil {
		problems = append(problems, distrust(chain, err))
	}
	return problems
}

// distrust says why a chain leads to no root.
func distrust(chain []*x509.Certificate, err error) Problem {
	leaf, last := chain[0], chain[len(chain)-1]
	if _, ok := err.(x509.UnknownAuthorityError); !ok {
		return Problem{Text: "chain: " + strings.TrimPrefix(err.Error(), "x509: ")}
	}
	switch {
	case leaf.CheckSignatureFrom(leaf) == nil || len(chain) == 1 && leaf.Issuer.String() == leaf.Subject.String():
		return Problem{
			Text: "certificate is self-signed, so no client trusts it",
			Hint: "Tigase makes such ones for itself; put a real one in its place, or name it with -ca to test",
		}
	case len(chain) == 1:
		return Problem{
			Text: fmt.Sprintf("unknown authority %q, and the server sent the leaf alone", name(leaf.Issuer.CommonName, leaf.Issuer.Organization)),
			Hint: "if the CA is a public one, the intermediate certificate is missing: serve the full chain; if it is your own, name its root with -ca FILE",
		}
	}
	return Problem{
		Text: fmt.Sprintf("unknown authority %q", name(last.Issuer.CommonName, last.Issuer.Organization)),
		Hint: "if this is your own CA, name its root with -ca FILE",
	}
}

func quoteAll(names []string) string {
	quoted := make([]string, 0, len(names))
	for i, n := range names {
		if i == 5 && len(names) > 6 {
			return strings.Join(quoted, ", ") + fmt.Sprintf(" and %d more", len(names)-5)
		}
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	return strings.Join(quoted, ", ")
}

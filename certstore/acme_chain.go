package certstore

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"strings"

	"golang.org/x/crypto/acme"
)

// acmeMaxChains bounds the chains to examine. CAs offer two or three.
const acmeMaxChains = 10

// preferred returns the certificate's chain that ends at the configured issuer.
// If the CA does not offer it, preferred returns chain, which is good for most
// clients. at is the certificate's URL (RFC 8555, section 7.4.2).
func (c *acmeCA) preferred(ctx context.Context, client *acme.Client, name, at string, chain [][]byte) [][]byte {
	if c.Chain == "" || acmeEnds(chain) == c.Chain {
		return chain
	}
	offered := []string{fmt.Sprintf("%q", printable(acmeEnds(chain)))}
	others, err := client.ListCertAlternates(ctx, at)
	for _, url := range others[:min(len(others), acmeMaxChains)] {
		var other [][]byte
		if other, err = client.FetchCert(ctx, url, true); err != nil {
			break
		}
		if !bytes.Equal(other[0], chain[0]) {
			continue // it has another leaf, which violates the RFC
		}
		if acmeEnds(other) == c.Chain {
			return other
		}
		offered = append(offered, fmt.Sprintf("%q", printable(acmeEnds(other))))
	}
	why := "the CA offers " + strings.Join(offered, ", ")
	if err != nil {
		why = acmeWords(err)
	}
	c.opts.Log.Warn("acme: no chain to the preferred issuer; using the CA's default chain", "server_name", name, "issuer", c.Chain, "err", why)
	return chain
}

// acmeEnds returns the common name of the issuer of a chain's last certificate.
func acmeEnds(chain [][]byte) string {
	last, err := x509.ParseCertificate(chain[len(chain)-1])
	if err != nil {
		return ""
	}
	return last.Issuer.CommonName
}

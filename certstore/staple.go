package certstore

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ocsp"
)

// A staple is an OCSP response for a certificate (RFC 6960; RFC 8446, section
// 4.4.2.1). Most certificates have a nil staple.
type staple struct {
	response []byte // DER
	from     int64  // Unix seconds: thisUpdate
	until    int64  // Unix seconds: nextUpdate
}

// newStaple reads the response for a certificate. It rejects a response that
// clients would reject: one for another certificate, not signed on behalf of
// the issuer, with a status other than good, or without nextUpdate. Freshness
// is checked later.
func newStaple(c *certificate, response []byte) (*staple, error) {
	leaf, err := x509.ParseCertificate(c.leaf.bytes())
	if err != nil {
		return nil, err
	}
	issuers, err := x509.ParseCertificates([]byte(c.chain.Value()))
	if err != nil {
		return nil, err
	}
	var issuer *x509.Certificate // unknown if the chain omits the root
	if len(issuers) > 0 {
		issuer = issuers[0]
	}
	r, err := ocsp.ParseResponseForCert(response, leaf, issuer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("OCSP response: %w", err)
	case r.Status == ocsp.Revoked:
		return nil, fmt.Errorf("OCSP response: the certificate was revoked %s", r.RevokedAt.Format(time.DateOnly))
	case r.Status != ocsp.Good:
		return nil, errors.New("OCSP response: status is neither good nor revoked")
	case r.NextUpdate.IsZero():
		return nil, errors.New("OCSP response: has no nextUpdate")
	}
	return &staple{response, r.ThisUpdate.Unix(), r.NextUpdate.Unix()}, nil
}

func (s *staple) fresh(now time.Time) bool {
	return s != nil && s.from <= now.Unix() && now.Unix() < s.until
}

func (s *staple) same(o *staple) bool {
	return s == o || s != nil && o != nil && bytes.Equal(s.response, o.response)
}

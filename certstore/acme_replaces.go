package certstore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"golang.org/x/crypto/acme"
)

// An acmeReplaces adds to a new order the certificate that it replaces (RFC
// 9773, section 5). CAs exempt such orders from limits, and learn that a
// certificate that they will revoke is out of use.
//
// acme.Client cannot do this: x/crypto 0.58 and 0.59 have no option for it, and
// other packages cannot implement acme.OrderOption. So the request is changed
// on its way, and signed again.
type acmeReplaces struct {
	url string            // for new orders
	id  string            // acmeCertID
	key *ecdsa.PrivateKey // of the account, P-256
}

type acmeReplacesKey struct{}

// replacing returns a context for a new order that replaces a certificate. It
// returns ctx if the field cannot be added.
func (c *acmeCA) replacing(ctx context.Context, client *acme.Client, id string) context.Context {
	dir, err := client.Discover(ctx)
	key, ok := client.Key.(*ecdsa.PrivateKey)
	base := c.renewalInfo.Load()
	if id == "" || err != nil || !ok || key.Curve != elliptic.P256() || base == nil || *base == "" {
		return ctx
	}
	return context.WithValue(ctx, acmeReplacesKey{}, acmeReplaces{dir.OrderURL, id, key})
}

// acmeReplacing returns the request to send for r.
func acmeReplacing(r *http.Request) (*http.Request, error) {
	with, ok := r.Context().Value(acmeReplacesKey{}).(acmeReplaces)
	if !ok || r.Method != http.MethodPost || r.URL.String() != with.url {
		return r, nil
	}
	data, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err == nil {
		data, err = with.add(data)
	}
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return r, nil
}

// add adds the field to a JWS of acme.Client (RFC 7515, section 7.2.2).
func (p acmeReplaces) add(data []byte) ([]byte, error) {
	var jws struct {
		Protected string `json:"protected"`
		Payload   string `json:"payload"`
		Signature string `json:"signature"`
	}
	var order map[string]any
	err := json.Unmarshal(data, &jws)
	if err == nil {
		data, err = base64.RawURLEncoding.DecodeString(jws.Payload)
	}
	if err == nil {
		err = json.Unmarshal(data, &order)
	}
	if err != nil {
		return nil, err
	}
	order["replaces"] = p.id
	if data, err = json.Marshal(order); err != nil {
		return nil, err
	}
	jws.Payload = base64.RawURLEncoding.EncodeToString(data)
	sum := sha256.Sum256([]byte(jws.Protected + "." + jws.Payload))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		return nil, err
	}
	var sig [64]byte // ES256 (RFC 7518, section 3.4)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	jws.Signature = base64.RawURLEncoding.EncodeToString(sig[:])
	return json.Marshal(jws)
}

// acmeRefusesReplaces reports whether the CA may accept a refused order without
// the field. The certificate may belong to another account, may have been
// replaced already, or may trip up the CA.
func acmeRefusesReplaces(err error) bool {
	var problem *acme.Error
	return errors.As(err, &problem) && problem.StatusCode != http.StatusTooManyRequests
}

package certstore

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// These are an operator's requests for a name, besides the schedule. Renew and
// Retry record a request, and the keeper carries it out. Revoke asks the CA
// itself.

// Errors of Renew, Retry, Revoke and Rollover, for errors.Is.
var (
	ErrACMEUnknown = errors.New("is not in acme.names, nor in an [[acme.certificate]]")
	ErrACMEState   = errors.New("not possible now")
	ErrACMERefused = errors.New("not revoked")

	ErrACMEUnchanged = errors.New("is not changed") // of Rollover
)

// An acmeWish is an operator's request that the keeper has not carried out yet.
type acmeWish struct {
	retry, renew bool
	of           *x509.Certificate // what renew is to replace; nil: there was none
}

// acmeReasons are the revocation reasons that an operator may give (RFC 5280,
// section 5.3.1), by name.
var acmeReasons = map[string]acme.CRLReasonCode{
	"unspecified":          acme.CRLReasonUnspecified,
	"keyCompromise":        acme.CRLReasonKeyCompromise,
	"affiliationChanged":   acme.CRLReasonAffiliationChanged,
	"superseded":           acme.CRLReasonSuperseded,
	"cessationOfOperation": acme.CRLReasonCessationOfOperation,
}

// ask returns the keeper of the name in an operator's request.
func (a *ACME) ask(name string) (*acmeKeeper, error) {
	if normal, err := acmeName(name); err == nil {
		if k := a.names.Load().byName[normal]; k != nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%q %w", name, ErrACMEUnknown)
}

// Renew orders a new certificate for a name, whatever the dates of the current
// one are. It does not wait for the order. It returns an error that wraps
// ErrACMEState if so many certificates were replaced early in the last day that
// the CA's limits are near (acmeEarlyADay).
func (a *ACME) Renew(name string) error {
	k, err := a.ask(name)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if wait := k.earlyWait(); wait > 0 {
		return fmt.Errorf("%q has had %d certificates before their time in a day; because of the CA's limits it may have another in %v: %w",
			k.name, acmeEarlyADay, wait.Round(time.Minute), ErrACMEState)
	}
	k.wants(acmeWish{retry: true, renew: true})
	return nil
}

// Retry ends the back-off of a name whose orders have failed. It does not wait
// for the order.
func (a *ACME) Retry(name string) error {
	k, err := a.ask(name)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.record.Failures == 0 {
		return fmt.Errorf("no order for %q has failed since its last certificate: %w", k.name, ErrACMEState)
	}
	k.wants(acmeWish{retry: true})
	return nil
}

// Revoke asks the CA to revoke the current certificate of a name, and removes
// it from the cache. The keeper then orders another one at once, with a new
// key; until it arrives, the revoked one is still served. Revoke returns the
// certificate's serial number in hex.
func (a *ACME) Revoke(ctx context.Context, name, reason string) (serial string, err error) {
	code, known := acmeReasons[reason]
	if !known {
		return "", fmt.Errorf("reason %q is not one of %s: %w", reason, strings.Join(ACMEReasons(), ", "), ErrACMEState)
	}
	k, err := a.ask(name)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	cert, issuer := k.cert, k.record.Issuer
	k.mu.Unlock()
	select { // the second of two at once must not revoke, or delete, what the first one ordered
	case k.revoking <- struct{}{}:
		defer func() { <-k.revoking }()
	case <-ctx.Done():
		return "", fmt.Errorf("%q %w: %w", k.name, ErrACMERefused, ctx.Err())
	}
	k.mu.Lock()
	done := cert != nil && (k.cert != cert || cert.Leaf.Equal(k.revoked))
	k.mu.Unlock()
	c := a.issuer(issuer)
	switch {
	case done:
		return "", fmt.Errorf("the certificate of %q has been revoked or replaced meanwhile: %w", k.name, ErrACMEState)
	case cert == nil:
		return "", fmt.Errorf("%q has no certificate of the CA: %w", k.name, ErrACMEState)
	case c == nil:
		return "", fmt.Errorf("the certificate of %q is from another CA, %s: %w", k.name, issuer, ErrACMEState)
	}
	client, err := c.client(ctx)
	if err != nil {
		return "", fmt.Errorf("%q %w: %s", k.name, ErrACMERefused, acmeWords(err))
	}
	err = client.RevokeCert(ctx, nil, cert.Certificate[0], code)
	if key, ok := cert.PrivateKey.(crypto.Signer); err != nil && ok { // the certificate belongs to another account
		if again := client.RevokeCert(ctx, key, cert.Certificate[0], code); again == nil {
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("%q %w: %s", k.name, ErrACMERefused, acmeWords(acmeStep("the revocation", c.Directory, err)))
	}
	serial = fmt.Sprintf("%x", cert.Leaf.SerialNumber)
	k.mu.Lock()
	k.revoked = cert.Leaf
	k.mu.Unlock()
	a.opts.Log.Warn("acme: certificate revoked", "server_name", k.name, "serial", serial, "reason", reason)
	if err := k.removeFromCache(ctx, cert); err != nil { // the CA's renewal information may report it later
		a.opts.Log.Error("acme: a revoked certificate stays in the cache", "server_name", k.name, "file", a.cache.path(k.key), "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wants(acmeWish{retry: true, renew: k.cert == cert})
	return serial, nil
}

// removeFromCache deletes the file of the name if it has cert: there may be a better one
// by now, of this gate or of another.
func (k *acmeKeeper) removeFromCache(ctx context.Context, cert *tls.Certificate) error {
	c := k.a.cache
	return c.do(ctx, func() error {
		data, err := c.place.Read(c.path(k.key), maxACMEFile)
		if has, bad := acmeDecodeAny(data); err == nil && bad == nil && !has.Leaf.Equal(cert.Leaf) {
			return nil
		}
		if err = c.place.Remove(c.path(k.key)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
}

// ACMEReasons returns the names of the revocation reasons.
func ACMEReasons() []string {
	var names []string
	for name := range acmeReasons {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// wants records a request and wakes the keeper. The caller must hold k.mu.
func (k *acmeKeeper) wants(w acmeWish) {
	k.wish.retry = k.wish.retry || w.retry
	if w.renew {
		k.wish.renew, k.wish.of = true, k.leaf()
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// heed carries out an operator's requests.
func (k *acmeKeeper) heed() {
	k.mu.Lock()
	wish, record, leaf := k.wish, k.record, k.leaf()
	k.wish = acmeWish{}
	k.mu.Unlock()
	if wish.renew && wish.of == leaf { // otherwise an order that was under way has done it
		k.anew = acmeWanted
	}
	if wish.retry { // the failure may be hidden: one CA failed and another one did not
		clear(k.limits)
		k.a.accountWell()
	}
	if wish.retry && record.Failures > 0 {
		k.remember(acmeRecord{Issuer: record.Issuer, Did: record.Did})
	}
}

// leaf returns the certificate in use; nil: none. The caller holds k.mu.
func (k *acmeKeeper) leaf() *x509.Certificate {
	if k.cert == nil {
		return nil
	}
	return k.cert.Leaf
}

// earlyWait returns how long to wait before a certificate may be replaced early
// again: a revoked one may once more than others. The caller must hold k.mu.
func (k *acmeKeeper) earlyWait() time.Duration {
	allowed := acmeEarlyADay
	if k.cert != nil && k.cert.Leaf.Equal(k.revoked) {
		allowed = acmeEarlyRevoked
	}
	n := len(k.early)
	if n < allowed {
		return 0
	}
	return max(time.Until(k.early[n-allowed].Add(24*time.Hour)), 0)
}

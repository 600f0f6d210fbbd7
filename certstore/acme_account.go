package certstore

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// An acmeAccount is the state of this gate's account at the CA.
type acmeAccount struct {
	client   *acme.Client // registered; nil: not yet
	failures int          // consecutive refusals of the account itself
	until    time.Time    // no attempt before; only used with failures
	err      error        // the last refusal
}

// An acmeAccountWait means that the CA was not asked: it recently refused the
// account, and would refuse every name.
type acmeAccountWait struct {
	until time.Time
	err   error
}

func (w acmeAccountWait) Error() string { return w.err.Error() }
func (w acmeAccountWait) Unwrap() error { return w.err }

// client returns the client of the registered account. If there is none yet,
// one goroutine registers the account while the others wait.
func (c *acmeCA) client(ctx context.Context) (client *acme.Client, err error) {
	var now acmeAccount
	select {
	case now = <-c.account:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.account <- now }()
	if now.failures > 0 && time.Now().Before(now.until) {
		return nil, acmeAccountWait{now.until, now.err}
	}
	if now.client != nil && c.hasKey(ctx, now.client) {
		return now.client, nil
	}
	limited, cancel := context.WithTimeout(ctx, acmeOrderTimeout)
	defer cancel()
	fresh, err := c.register(limited)
	if acmeDeactivated(err) {
		if err = c.replaceAccount(limited, err); err == nil {
			fresh, err = c.register(limited)
		}
	}
	if err != nil {
		err = acmeCause{"account", err}
		if ctx.Err() == nil {
			now.refuse(err)
		}
		return nil, err
	}
	now = acmeAccount{client: fresh}
	return fresh, nil
}

// refuse counts a refusal of the account.
func (n *acmeAccount) refuse(err error) {
	n.failures++
	n.err = err
	n.until = time.Now().Add(min(acmeBackoff(n.failures, 0, acmeRateLimit(err)), max(acmeAccountMax, acmeRateLimit(err))))
}

// acmeAccountMax bounds how long all names wait after the account was refused,
// unless the CA sets another time. After an operator has fixed the cause, they
// must not wait for half a day.
const acmeAccountMax = time.Hour

// accountRefused makes all names wait after the CA refused the account to one
// of them.
func (c *acmeCA) accountRefused(err error) {
	now := <-c.account
	if now.failures == 0 || !time.Now().Before(now.until) { // but not for an order that began earlier
		now.refuse(err)
	}
	c.account <- now
}

// accountWell ends the back-off: the CA accepted an order, or an operator
// requested an attempt.
func (c *acmeCA) accountWell() {
	now := <-c.account
	c.account <- acmeAccount{client: now.client}
}

// forget makes the next order register again, if client is still in use.
func (c *acmeCA) forget(client *acme.Client) {
	now := <-c.account
	if now.client == client {
		now.client = nil
	}
	c.account <- now
}

// register creates the account, or finds it by its key (RFC 8555, section 7.3).
func (c *acmeCA) register(ctx context.Context) (*acme.Client, error) {
	if err := c.settleRollover(ctx); err != nil {
		return nil, err
	}
	key, err := c.accountKey(ctx)
	if err != nil {
		return nil, err
	}
	client := c.newClient(key)
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, acmeStep("the directory", c.Directory, err)
	}
	if dir.Terms != "" && !c.AcceptTerms {
		return nil, fmt.Errorf("the CA's terms of service are not accepted: %s", dir.Terms)
	}
	account := &acme.Account{}
	if c.Email != "" {
		account.Contact = []string{"mailto:" + c.Email}
	}
	if c.EABKeyID != "" {
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: c.EABKeyID, Key: c.EABKey}
	}
	print, err := acme.JWKThumbprint(key.Public())
	if err != nil {
		return nil, err
	}
	told := acmeTold{CA: c.Directory, Key: print, Email: c.Email}
	switch _, err := client.Register(ctx, account, autocert.AcceptTOS); {
	case errors.Is(err, acme.ErrAccountAlreadyExists):
		if c.told(ctx) == told || c.Email == "" {
			return client, nil
		}
		if _, err := client.UpdateReg(ctx, account); acmeDeactivated(err) {
			return nil, err
		} else if err != nil { // orders do not depend on the contact
			c.opts.Log.Warn("acme: the CA did not take the account's contact", "err", acmeWords(err))
			return client, nil
		}
		c.opts.Log.Info("acme: the CA has the account's new contact")
	case err != nil:
		return nil, acmeStep("the account", c.Directory, err)
	}
	if data, err := json.Marshal(told); err == nil {
		c.cache.note(ctx, c.keyFile+acmeStateSuffix, append(data, '\n')) // if this fails, the contact is sent again
	}
	return client, nil
}

func (c *acmeCA) newClient(key crypto.Signer) *acme.Client {
	return &acme.Client{
		Key:          key,
		HTTPClient:   c.http,
		DirectoryURL: c.Directory,
		UserAgent:    acmeUserAgent,
		RetryBackoff: acmeRetry,
	}
}

// An acmeTold is the account data last sent to a CA.
type acmeTold struct {
	CA    string `json:"ca"`    // directory URL
	Key   string `json:"key"`   // thumbprint (RFC 7638) of the account's key
	Email string `json:"email"` // contact; empty: none
}

// told reads the data last sent to the CA. The zero value means unknown.
func (c *acmeCA) told(ctx context.Context) (t acmeTold) {
	if data, err := c.cache.read(ctx, c.keyFile+acmeStateSuffix); err != nil || json.Unmarshal(data, &t) != nil {
		return acmeTold{}
	}
	return t
}

// tellContact sends a new contact to the CA, without an order, and waits for
// the answer.
func (c *acmeCA) tellContact() {
	for c.ctx.Err() == nil {
		if _, err := c.savedAccountKey(c.ctx); err != nil {
			return // the first order creates the account
		}
		if t := c.told(c.ctx); c.Email == "" || t.Email == c.Email && t.CA == c.Directory {
			return
		}
		if _, err := c.client(c.ctx); err == nil {
			return
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(acmeAccountMax):
		}
	}
}

// acmeOldSuffix marks the key of an account that the CA has deactivated.
const acmeOldSuffix = "+deactivated"

// replaceAccount moves the key of a deactivated account away, so that a new
// account is registered. It does so once in the life of this ACME: if the CA
// deactivates the new account as well, it has another reason.
func (c *acmeCA) replaceAccount(ctx context.Context, cause error) error {
	if c.replaced.Swap(true) {
		return cause
	}
	lease, err := c.cache.acquire(ctx, c.keyFile+acmeLeaseSuffix, c.owner, &c.accountSeen)
	if err != nil || lease == nil {
		return errors.Join(cause, err)
	}
	defer lease.release()
	for _, file := range c.keyFiles() {
		data, err := c.cache.read(ctx, file)
		if err == autocert.ErrCacheMiss {
			continue
		}
		if err == nil {
			err = c.cache.put(ctx, c.keyFile+acmeOldSuffix, data)
		}
		if err == nil {
			err = c.cache.remove(ctx, file)
		}
		if err != nil {
			return errors.Join(cause, err)
		}
		c.opts.Log.Warn("acme: the CA has deactivated the account; registering a new one", "file", c.cache.path(c.keyFile+acmeOldSuffix), "err", acmeWords(cause))
		return nil
	}
	return nil
}

// accountKey returns the account's key, which all gates on the cache share. The
// first gate creates it, under a lease. A file that is not a key is an error: a
// disk error must not cost the account.
func (c *acmeCA) accountKey(ctx context.Context) (crypto.Signer, error) {
	for {
		key, err := c.savedAccountKey(ctx)
		if err != autocert.ErrCacheMiss {
			return key, err
		}
		lease, err := c.cache.acquire(ctx, c.keyFile+acmeLeaseSuffix, c.owner, &c.accountSeen)
		if err != nil {
			return nil, err
		}
		if lease != nil {
			defer lease.release()
			return c.makeAccountKey(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(acmeLeaseAgain):
		}
	}
}

// sightAccountLease watches the lease of the account's key while a keeper waits
// for another lease. A gate that dies in its first order leaves both; this way,
// the gate that takes over waits for both at once. It does nothing while the
// account is in use.
func (c *acmeCA) sightAccountLease(ctx context.Context) {
	select {
	case now := <-c.account:
		defer func() { c.account <- now }()
	default:
		return
	}
	if f, err := c.cache.lease(ctx, c.keyFile+acmeLeaseSuffix); err == nil {
		c.accountSeen.dead(f)
	}
}

// makeAccountKey is the part of accountKey that needs the lease.
func (c *acmeCA) makeAccountKey(ctx context.Context) (crypto.Signer, error) {
	// Another gate may have created it before we got the lease.
	if key, err := c.savedAccountKey(ctx); err != autocert.ErrCacheMiss {
		return key, err
	}
	key, err := acmeNewKey()
	if err != nil {
		return nil, err
	}
	file, err := acmeEncodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, c.cache.put(ctx, c.keyFile, file)
}

// savedAccountKey returns autocert.ErrCacheMiss, unwrapped, if no key is saved.
func (c *acmeCA) savedAccountKey(ctx context.Context) (crypto.Signer, error) {
	for _, file := range c.keyFiles() {
		data, err := c.cache.read(ctx, file)
		if err == autocert.ErrCacheMiss {
			continue
		}
		if err != nil {
			return nil, err
		}
		key, err := acmeDecodeKey(data)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", c.cache.path(file), err)
		}
		return key, nil
	}
	return nil, autocert.ErrCacheMiss
}

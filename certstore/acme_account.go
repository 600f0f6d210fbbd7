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

// An acmeAccount is how this gate and the CA stand.
type acmeAccount struct {
	client   *acme.Client // registered; nil: not yet
	failures int          // refusals of the account itself, in a row
	until    time.Time    // not before; of no meaning without failures
	err      error        // the last of them
}

// An acmeAccountWait means that the CA was not asked, because it has refused the
// account a short while ago, and so would refuse every name.
type acmeAccountWait struct {
	until time.Time
	err   error
}

func (w acmeAccountWait) Error() string { return w.err.Error() }
func (w acmeAccountWait) Unwrap() error { return w.err }

// client returns the client of the registered account, which it makes first
// where there is none yet. One goroutine does that, the others wait for it.
func (a *ACME) client(ctx context.Context) (client *acme.Client, err error) {
	var now acmeAccount
	select {
	case now = <-a.account:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { a.account <- now }()
	if now.failures > 0 && time.Now().Before(now.until) {
		return nil, acmeAccountWait{now.until, now.err}
	}
	if now.client != nil {
		return now.client, nil
	}
	limited, cancel := context.WithTimeout(ctx, acmeOrderTimeout)
	defer cancel()
	fresh, err := a.register(limited)
	if acmeDeactivated(err) {
		if err = a.replaceAccount(limited, err); err == nil {
			fresh, err = a.register(limited)
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

// refuse counts a refusal.
func (c *acmeAccount) refuse(err error) {
	c.failures++
	c.err = err
	c.until = time.Now().Add(min(acmeBackoff(c.failures, 0, acmeRateLimit(err)), max(acmeAccountMax, acmeRateLimit(err))))
}

// acmeAccountMax is the longest that all names wait after the account was refused,
// unless the CA says another time: when its operator has mended that, nobody waits
// for half a day.
const acmeAccountMax = time.Hour

// accountRefused makes all names wait because of what one of them heard.
func (a *ACME) accountRefused(err error) {
	now := <-a.account
	if now.failures == 0 || !time.Now().Before(now.until) { // not of an order that began before
		now.refuse(err)
	}
	a.account <- now
}

// accountWell ends the back-off: an order was accepted, or an operator wants a try.
func (a *ACME) accountWell() {
	now := <-a.account
	a.account <- acmeAccount{client: now.client}
}

// forget makes the next order register again, if client is still the one in use.
func (a *ACME) forget(client *acme.Client) {
	now := <-a.account
	if now.client == client {
		now.client = nil
	}
	a.account <- now
}

// register creates the account, or finds it by its key (RFC 8555, section 7.3).
func (a *ACME) register(ctx context.Context) (*acme.Client, error) {
	key, err := a.accountKey(ctx)
	if err != nil {
		return nil, err
	}
	client := &acme.Client{
		Key:          key,
		HTTPClient:   a.http,
		DirectoryURL: a.opts.Directory,
		UserAgent:    "wssgate",
		RetryBackoff: acmeRetry,
	}
	dir, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	if dir.Terms != "" && !a.opts.AcceptTerms {
		return nil, fmt.Errorf("the CA's terms of service are not accepted: %s", dir.Terms)
	}
	account := &acme.Account{}
	if a.opts.Email != "" {
		account.Contact = []string{"mailto:" + a.opts.Email}
	}
	if a.opts.EABKeyID != "" {
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: a.opts.EABKeyID, Key: a.opts.EABKey}
	}
	print, err := acme.JWKThumbprint(key.Public())
	if err != nil {
		return nil, err
	}
	told := acmeTold{CA: a.opts.Directory, Key: print, Email: a.opts.Email}
	switch _, err := client.Register(ctx, account, autocert.AcceptTOS); {
	case errors.Is(err, acme.ErrAccountAlreadyExists):
		if a.told(ctx) == told || a.opts.Email == "" {
			return client, nil
		}
		if _, err := client.UpdateReg(ctx, account); acmeDeactivated(err) {
			return nil, err
		} else if err != nil { // what it is told is no condition of an order
			a.opts.Log.Warn("acme: the CA did not take the account's contact", "err", acmeWords(err))
			return client, nil
		}
		a.opts.Log.Info("acme: the CA has the account's new contact")
	case err != nil:
		return nil, err
	}
	if data, err := json.Marshal(told); err == nil {
		a.cache.note(ctx, acmeAccountFile+acmeStateSuffix, append(data, '\n')) // it would be told once more
	}
	return client, nil
}

// An acmeTold is what a CA was last told about an account.
type acmeTold struct {
	CA    string `json:"ca"`    // directory URL
	Key   string `json:"key"`   // thumbprint (RFC 7638) of the account's key
	Email string `json:"email"` // contact; empty: none
}

// told reads what the CA was told; the zero value where nobody knows.
func (a *ACME) told(ctx context.Context) (t acmeTold) {
	if data, err := a.cache.read(ctx, acmeAccountFile+acmeStateSuffix); err != nil || json.Unmarshal(data, &t) != nil {
		return acmeTold{}
	}
	return t
}

// tellContact tells the CA of a new contact, which no order has to come before. It
// ends when the CA has answered.
func (a *ACME) tellContact() {
	for a.ctx.Err() == nil {
		if _, err := a.savedAccountKey(a.ctx); err != nil {
			return // the first order makes it
		}
		if t := a.told(a.ctx); a.opts.Email == "" || t.Email == a.opts.Email && t.CA == a.opts.Directory {
			return
		}
		if _, err := a.client(a.ctx); err == nil {
			return
		}
		select {
		case <-a.ctx.Done():
		case <-time.After(acmeAccountMax):
		}
	}
}

// acmeAccountOld is where the key of an account goes that its CA has deactivated.
const acmeAccountOld = acmeAccountFile + "+deactivated"

// replaceAccount puts away the key of a deactivated account, so that a new one is
// made. It does so once for each key, and once in the life of this ACME: a CA that
// deactivates the new one as well means something else.
func (a *ACME) replaceAccount(ctx context.Context, cause error) error {
	if a.replaced.Swap(true) {
		return cause
	}
	var seen acmeSighting
	lease, err := a.cache.acquire(ctx, acmeAccountFile+acmeLeaseSuffix, a.owner, &seen)
	if err != nil || lease == nil {
		return errors.Join(cause, err)
	}
	defer lease.release()
	for _, file := range []string{acmeAccountFile, acmeAccountFileLegacy} {
		data, err := a.cache.read(ctx, file)
		if err == autocert.ErrCacheMiss {
			continue
		}
		if err == nil {
			err = a.cache.put(ctx, acmeAccountOld, data)
		}
		if err == nil {
			err = a.cache.remove(ctx, file)
		}
		if err != nil {
			return errors.Join(cause, err)
		}
		a.opts.Log.Warn("acme: the CA has deactivated the account; registering a new one", "file", a.cache.path(acmeAccountOld), "err", acmeWords(cause))
		return nil
	}
	return nil
}

// accountKey returns the key of the account that all gates on the cache share.
// The first one makes it, under a lease; a file that is there but is no key is
// an error, as an account must not be lost by a scratch on a disk.
func (a *ACME) accountKey(ctx context.Context) (crypto.Signer, error) {
	var seen acmeSighting
	for {
		key, err := a.savedAccountKey(ctx)
		if err != autocert.ErrCacheMiss {
			return key, err
		}
		lease, err := a.cache.acquire(ctx, acmeAccountFile+acmeLeaseSuffix, a.owner, &seen)
		if err != nil {
			return nil, err
		}
		if lease != nil {
			defer lease.release()
			return a.makeAccountKey(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(acmeLeaseAgain):
		}
	}
}

// makeAccountKey is the part of accountKey that needs the lease.
func (a *ACME) makeAccountKey(ctx context.Context) (crypto.Signer, error) {
	// Another gate may have made it before we got the lease.
	if key, err := a.savedAccountKey(ctx); err != autocert.ErrCacheMiss {
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
	return key, a.cache.put(ctx, acmeAccountFile, file)
}

// savedAccountKey returns autocert.ErrCacheMiss, unwrapped, if there is none.
func (a *ACME) savedAccountKey(ctx context.Context) (crypto.Signer, error) {
	for _, file := range []string{acmeAccountFile, acmeAccountFileLegacy} {
		data, err := a.cache.read(ctx, file)
		if err == autocert.ErrCacheMiss {
			continue
		}
		if err != nil {
			return nil, err
		}
		key, err := acmeDecodeKey(data)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", a.cache.path(file), err)
		}
		return key, nil
	}
	return nil, autocert.ErrCacheMiss
}

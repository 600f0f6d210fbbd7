package certstore

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// A rollover replaces the account's key (RFC 8555, section 7.3.5). The CA's
// answer may be lost, and the gate may die between that answer and the write of
// the new key. So the new key is saved first, in a file of its own. Both files
// stay until the CA has been asked which of the keys it has: the gate looks up
// the account of the new one.
//
// A gate that finds the new key's file does this before anything else. A CA
// that has not answered may still be working on the request. So that it is not
// asked too early, the lease is then left as if the gate had died: for a
// minute, which is longer than a request may take.

// acmeNextSuffix marks the file with the key that the account may already have.
const acmeNextSuffix = "+next"

// Rollover replaces the account's key at each CA. did lists the directory URLs
// of the CAs that now have the new key, also after an error. CAs without an
// account are skipped; it is an error if no CA has one. Current orders continue
// with the new key. After an error, the key in the cache may be the old one or
// the new one; the next use of the account finds out.
func (a *ACME) Rollover(ctx context.Context) (did []string, err error) {
	var none []error
	for _, c := range a.cas {
		switch cerr := c.rollover(ctx); {
		case cerr == nil:
			did = append(did, c.Directory)
		case errors.Is(cerr, errACMENone):
			none = append(none, cerr)
		default:
			err = errors.Join(err, cerr)
		}
	}
	if err == nil && did == nil {
		err = errors.Join(none...)
	}
	return did, err
}

// errACMENone means that there is no account.
var errACMENone = fmt.Errorf("there is no account yet: %w", ErrACMEState)

// rollover replaces the key of the account at one CA.
func (c *acmeCA) rollover(ctx context.Context) error {
	var now acmeAccount
	select {
	case now = <-c.account:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { c.account <- now }()
	if _, err := c.savedAccountKey(ctx); err == autocert.ErrCacheMiss {
		return fmt.Errorf("%s: %w", c.Directory, errACMENone)
	} else if err != nil {
		return err
	}
	client, err := c.register(ctx) // the client of current orders must keep its key
	if err != nil {
		return c.notRolled(acmeCause{"account", err})
	}
	lease, err := c.cache.acquire(ctx, c.keyFile+acmeLeaseSuffix, c.owner, &c.accountSeen)
	if err != nil {
		return err
	}
	if lease == nil {
		return fmt.Errorf("another gate is changing the account's key: %w", ErrACMEState)
	}
	end := lease.release
	defer func() { end() }()
	if !c.hasKey(ctx, client) {
		return fmt.Errorf("another gate has just changed the account's key: %w", ErrACMEState)
	}
	next, err := acmeNewKey()
	if err != nil {
		return err
	}
	file, err := acmeEncodeKey(next)
	if err == nil {
		err = c.cache.put(ctx, c.keyFile+acmeNextSuffix, file)
	}
	if err != nil {
		return err
	}
	refused := client.AccountKeyRollover(ctx, next)
	// From here on the outcome must be found out, even if the caller stops
	// waiting.
	ctx, cancel := context.WithTimeout(c.ctx, acmeRequestTimeout)
	defer cancel()
	taken, then := refused == nil, "it still had the old one"
	if !taken {
		taken, err = c.knows(ctx, next)
	}
	switch {
	case taken:
		now.client = nil
		return c.takeNextKey(ctx, next, file)
	case err == nil && acmeRefused(refused):
		return errors.Join(c.notRolled(acmeStep("the key change", c.Directory, refused)), c.cache.remove(ctx, c.keyFile+acmeNextSuffix))
	case err != nil:
		then = acmeWords(err)
	}
	end = lease.leave
	return fmt.Errorf("the account's key at %s may be another one now; both are kept until the CA says which it has: %s; then %s",
		c.Directory, acmeWords(acmeStep("the key change", c.Directory, refused)), then)
}

func (c *acmeCA) notRolled(err error) error {
	return fmt.Errorf("the account's key at %s %w: %s", c.Directory, ErrACMEUnchanged, acmeWords(err))
}

// settleRollover completes an interrupted rollover, if there is one.
func (c *acmeCA) settleRollover(ctx context.Context) error {
	for {
		_, err := c.cache.read(ctx, c.keyFile+acmeNextSuffix)
		if err == autocert.ErrCacheMiss {
			return nil
		}
		if err != nil {
			return err
		}
		lease, err := c.cache.acquire(ctx, c.keyFile+acmeLeaseSuffix, c.owner, &c.accountSeen)
		if err != nil {
			return err
		}
		if lease == nil { // another gate works on it, or died doing so
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for the end of a change of the key, up to %v after its last sign: %w", acmeLeaseTTL, ctx.Err())
			case <-time.After(acmeLeaseAgain):
			}
			continue
		}
		defer lease.release()
		file, err := c.cache.read(ctx, c.keyFile+acmeNextSuffix)
		if err == autocert.ErrCacheMiss {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := acmeDecodeKey(file)
		if err != nil { // it was written durably before the CA was asked: no CA has it
			c.opts.Log.Warn("acme: the account's next key is none; keeping the old one", "file", c.cache.path(c.keyFile+acmeNextSuffix), "err", err)
			return c.cache.remove(ctx, c.keyFile+acmeNextSuffix)
		}
		switch taken, err := c.knows(ctx, next); {
		case err != nil:
			return err
		case taken:
			return c.takeNextKey(ctx, next, file)
		}
		return c.cache.remove(ctx, c.keyFile+acmeNextSuffix)
	}
}

// knows asks the CA whether an account has the key.
func (c *acmeCA) knows(ctx context.Context, key crypto.Signer) (bool, error) {
	_, err := c.newClient(key).GetReg(ctx, "")
	switch {
	case err == nil, acmeDeactivated(err):
		return true, nil
	case acmeNoAccount(err):
		return false, nil
	}
	return false, acmeStep("the account", c.Directory, err)
}

// acmeRefused reports whether an error is the CA's refusal. An error of a
// proxy, or of a CA in trouble, may still mean that the request was carried
// out.
func acmeRefused(err error) bool {
	problem, ok := errors.AsType[*acme.Error](err)
	return ok && problem.StatusCode < http.StatusInternalServerError
}

// takeNextKey makes the next key, which the CA has, the account's key.
func (c *acmeCA) takeNextKey(ctx context.Context, next crypto.Signer, file []byte) error {
	told := c.told(ctx)
	if err := c.cache.put(ctx, c.keyFile, file); err != nil {
		return err
	}
	c.opts.Log.Info("acme: the account has another key", "file", c.cache.path(c.keyFile))
	// The old key is useless now, and so is a leftover of the new one.
	err := c.cache.remove(ctx, c.keyFile+acmeNextSuffix)
	for _, old := range c.keyFiles()[1:] {
		err = errors.Join(err, c.cache.remove(ctx, old))
	}
	if print, perr := acme.JWKThumbprint(next.Public()); perr == nil && told.CA == c.Directory {
		told.Key = print
		if data, merr := json.Marshal(told); merr == nil {
			c.cache.note(ctx, c.keyFile+acmeStateSuffix, append(data, '\n'))
		}
	}
	return err
}

// hasKey reports whether the client uses the account's key. It does not if
// another gate or an operator has replaced the key in the cache, or if an
// unfinished rollover may have replaced it at the CA. A cache without a key, or
// one that cannot be read, changes nothing.
func (c *acmeCA) hasKey(ctx context.Context, client *acme.Client) bool {
	if _, err := c.cache.read(ctx, c.keyFile+acmeNextSuffix); err == nil {
		return false
	}
	key, err := c.savedAccountKey(ctx)
	if err != nil {
		return true
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return !ok || pub.Equal(client.Key.Public())
}

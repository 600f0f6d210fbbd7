package certstore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// client returns the client of the registered account, which it makes first
// where there is none yet. One goroutine does that, the others wait for it.
func (a *ACME) client(ctx context.Context) (client *acme.Client, err error) {
	select {
	case client = <-a.account:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { a.account <- client }()
	if client != nil {
		return client, nil
	}
	ctx, cancel := context.WithTimeout(ctx, acmeOrderTimeout)
	defer cancel()
	fresh, err := a.register(ctx)
	if err != nil {
		return nil, acmeCause{"account", err}
	}
	client = fresh
	return client, nil
}

// forget makes the next order register again, if client is still the one in use.
func (a *ACME) forget(client *acme.Client) {
	if now := <-a.account; now == client {
		a.account <- nil
	} else {
		a.account <- now
	}
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
	if _, err := client.Register(ctx, account, autocert.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, err
	}
	return client, nil
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
	// Another gate may have made it before we had the lease.
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

// savedAccountKey returns autocert.ErrCacheMiss, bare, where there is none.
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

package certstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"slices"

	"wssgate/files"
)

// When a list of names changes, its certificate's file is missing or has a
// certificate for other names, while certificates of other lists have some of
// the names. Those are served until the new certificate arrives, also after a
// restart: standIn finds them in the cache.

// several identifies the names in records, if there is more than one.
func (k *acmeKeeper) several() string {
	if len(k.names) == 1 {
		return ""
	}
	return k.id
}

// lacking returns the names that a certificate, which may be nil, lacks.
func (k *acmeKeeper) lacking(cert *tls.Certificate) (names []string) {
	for _, name := range k.names {
		if cert == nil || cert.Leaf.VerifyHostname(name) != nil {
			names = append(names, name)
		}
	}
	return names
}

// unserved returns the names that a certificate cannot serve: those that it
// lacks, or all of them outside its validity period.
func (k *acmeKeeper) unserved(cert *tls.Certificate) []string {
	if cert != nil && !acmeInDates(cert.Leaf, k.a.opts.wall()) {
		return k.names
	}
	return k.lacking(cert)
}

// forOthers reports whether the certificate in the cache is for other names, so
// that another one must be ordered. If gates with different lists share a cache
// during a rollout, they must not order alternately. So a certificate with all
// names of the one in use is enough, and extra names count only at the start.
func (k *acmeKeeper) forOthers(cert *tls.Certificate) bool {
	k.mu.Lock()
	held := k.cert
	k.mu.Unlock()
	if len(k.lacking(cert)) > 0 {
		return len(k.lacking(held)) > 0
	}
	return held == nil && len(k.names) > 1 &&
		slices.ContainsFunc(cert.Leaf.DNSNames, func(name string) bool { return !slices.Contains(k.names, name) })
}

// standIn finds certificates in the cache for names that the keeper's own
// certificate cannot serve. A name's own file, for instance, may have expired
// while the name was in another list.
func (k *acmeKeeper) standIn(others func(context.Context) []*tls.Certificate) {
	k.mu.Lock()
	unserved := k.unserved(k.cert)
	k.mu.Unlock()
	if len(unserved) == 0 {
		return
	}
	var found []*tls.Certificate
	all := others(k.ctx)
	for _, name := range unserved {
		var best *tls.Certificate
		for _, cert := range all {
			if cert.Leaf.VerifyHostname(name) == nil && acmeInDates(cert.Leaf, k.a.opts.wall()) &&
				(best == nil || cert.Leaf.NotAfter.After(best.Leaf.NotAfter)) {
				best = cert
			}
		}
		if best != nil && !slices.Contains(found, best) {
			found = append(found, best)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired {
		return
	}
	k.others = found
	if !k.hidden { // the cache was slow
		k.showOthers()
	}
}

// otherID is the id of one of k.others, for Install and Remove.
func (k *acmeKeeper) otherID(i int) string { return fmt.Sprintf("%s (before, %d)", k.id, i) }

// showOthers installs k.others. The caller must hold k.mu.
func (k *acmeKeeper) showOthers() {
	for i, cert := range k.others {
		k.a.opts.Install(k.otherID(i), cert)
	}
}

// dropOthers removes k.others. The caller must hold k.mu.
func (k *acmeKeeper) dropOthers() {
	if !k.hidden {
		for i := range k.others {
			k.a.opts.Remove(k.otherID(i))
		}
	}
	k.others = nil
}

// others returns a function whose first call reads all certificates in the
// cache. Further callers wait for that call, but not longer than their context.
func (a *ACME) others() func(context.Context) []*tls.Certificate {
	read := make(chan *[]*tls.Certificate, 1) // nil: not read yet; not a mutex, because a disk may hang
	read <- nil
	return func(ctx context.Context) []*tls.Certificate {
		select {
		case all := <-read:
			defer func() { read <- all }()
			if all == nil {
				all = new(a.cache.certificates(a.ctx))
			}
			return *all
		case <-ctx.Done():
			return nil
		}
	}
}

// certificates returns all readable certificates in the folder.
func (c acmeCache) certificates(ctx context.Context) (all []*tls.Certificate) {
	entries, err := files.Do(ctx, c.place, func() ([]fs.DirEntry, error) { return c.place.ReadDir(c.dir) })
	if err != nil {
		return nil // the keepers report it
	}
	for _, e := range entries {
		if e.IsDir() || !acmeIsName(e.Name()) {
			continue
		}
		data, err := c.read(ctx, e.Name())
		if err != nil {
			continue
		}
		if cert, err := acmeDecodeAny(data); err == nil {
			all = append(all, cert)
		}
	}
	return all
}

package certstore

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// An acmeKeeper maintains one certificate, for one name or several. It reads
// the cache periodically and orders when the certificate is due. Fields without
// a lock belong to lookFirst, and then to keep.
type acmeKeeper struct {
	a      *ACME
	id     string
	name   string // the first of names
	key    string // the file of the certificate, see acmeFile
	names  []string
	ctx    context.Context // done when the name is no longer configured, or after Close
	cancel context.CancelFunc
	first  chan struct{} // closed when the cache has been read for the first time
	wake   chan struct{} // capacity 1; signals a request

	revoking chan struct{} // capacity 1; has one while Revoke is under way

	file     [sha256.Size]byte // hash of the cache file as last read
	anew     acmeReason        // why the certificate is due whatever its dates are; empty: it is not
	earliest time.Time         // no renewal before; keeps a CA whose certificates are due at once from being asked continuously
	early    []time.Time       // times at which a certificate was replaced early
	unsaved  []byte            // file that could not be written to the cache
	pending  *tls.Certificate  // newer than the one in use, but not better yet; nil: none
	recorded bool              // the cache has the current record
	seen     acmeSighting
	limits   map[*acmeCA]acmeLimit // if there are several CAs
	complain string                // latest problem of the cache, so that each is logged once

	mu      sync.Mutex // guards the fields below; never held across disk or network access
	hidden  bool       // until Commit: nothing is installed
	retired bool
	cert    *tls.Certificate   // installed; nil: none
	revoked *x509.Certificate  // the last one that Revoke has revoked; nil: none
	others  []*tls.Certificate // from the cache, installed for names that cert cannot serve
	record  acmeRecord
	trouble string    // problem of the cache; empty: none
	failing time.Time // when it began, by the monotonic clock; zero: the cache works
	next    time.Time
	asked   acmeAsked
	wish    acmeWish
	doing   ACMEState
	holder  string // of the lease, while doing is ACMEElsewhere
}

// An acmeReason is a reason to replace a certificate early.
type acmeReason string

const (
	acmeMissing  acmeReason = "none in the cache" // it never existed, or was deleted, which is how an operator requests a new one
	acmeBad      acmeReason = "bad in the cache"
	acmeOtherCA  acmeReason = "from another CA"
	acmeRestored acmeReason = "older in the cache" // than the one in use, which is put back
	acmeWanted   acmeReason = "wanted"             // by an operator

	acmeOtherNames acmeReason = "for other names"

	// These bound the least time from an order to the renewal of its
	// certificate, which is a third of its remaining life. It matters if a new
	// certificate is due at once, because the CA behaves oddly or our clock is
	// ahead: continuous orders would reach the CA's limits, for a week.
	acmePauseMin = time.Second
	acmePauseMax = 12 * time.Hour

	// acmeAloneAfter is how long the cache must have failed before a gate renews
	// without it.
	acmeAloneAfter = time.Hour

	// acmeEarlyADay limits the early replacements of a certificate per day. An
	// operator deletes a file once; a broken clean-up job does so every hour.
	acmeEarlyADay = 3

	// acmeEarlyRevoked is the same for a certificate that is revoked: the last one of a
	// day is kept for it.
	acmeEarlyRevoked = acmeEarlyADay + 1
)

func newACMEKeeper(a *ACME, names []string) *acmeKeeper {
	k := &acmeKeeper{a: a, id: acmeID(names), name: names[0], key: acmeFile(names[0]), names: names, limits: map[*acmeCA]acmeLimit{}, recorded: true, hidden: true, first: make(chan struct{}), wake: make(chan struct{}, 1), revoking: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(a.ctx)
	return k
}

// lookFirst reads the cache for the first time, until the keeper's context is
// done. others returns all certificates in the cache.
func (k *acmeKeeper) lookFirst(others func(context.Context) []*tls.Certificate) {
	defer close(k.first)
	k.look()
	k.due()
	k.standIn(others)
}

// show installs the current certificate, and lets later ones be installed.
func (k *acmeKeeper) show() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hidden = false
	if k.retired {
		return
	}
	if k.cert != nil {
		k.a.opts.Install(k.id, k.cert)
	}
	k.showOthers()
}

// keep is the keeper's goroutine.
func (k *acmeKeeper) keep() {
	<-k.first
	for k.ctx.Err() == nil {
		wait := k.turn()
		if wait <= 0 {
			continue
		}
		var back <-chan struct{} // closed when a hanging cache answers again
		if k.a.cache.place.Hangs() != nil {
			back = k.a.cache.place.Back()
		}
		select {
		case <-k.ctx.Done():
		case <-back:
		case <-k.wake:
		case <-time.After(wait):
		}
	}
}

// turn does the work that is due, and returns how long to wait before the next
// call. The regular calls also detect jumps of the wall clock and files from
// other gates.
func (k *acmeKeeper) turn() time.Duration {
	k.heed()
	readable := k.look()
	due := k.due()
	if !readable {
		if due > 0 || !k.goesAlone() {
			return k.a.opts.Poll // the unreadable file may be a good certificate
		}
	} else if due > 0 {
		k.now("", "")
		if k.unsaved == nil && k.recorded {
			k.worked()
		}
		return min(due, k.a.opts.Poll)
	}
	if err := k.a.unread(); err != nil {
		k.trust(err)
		return k.a.opts.Poll
	}
	select {
	case k.a.orders <- struct{}{}:
		defer func() { <-k.a.orders }()
	case <-k.ctx.Done():
		return 0
	}
	lease, err := k.a.cache.acquire(k.ctx, k.key+acmeLeaseSuffix, k.a.owner, &k.seen)
	if err != nil {
		k.trust(err)
		if !k.goesAlone() {
			return k.a.opts.Poll
		}
		k.a.opts.Log.Warn("acme: renewing without the cache, because the certificate expires soon", "server_name", k.name, "err", err)
		k.order(k.ctx)
		return 0
	}
	if lease == nil {
		k.now(ACMEElsewhere, k.seen.file.Owner)
		for _, c := range k.a.cas {
			c.sightAccountLease(k.ctx)
		}
		return min(acmeLeaseAgain, k.a.opts.Poll)
	}
	defer lease.release()
	if readable {
		k.worked() // the cache can be written, too
		// The previous owner of the lease may have done the work.
		if !k.look() || k.due() > 0 {
			return 0
		}
		if k.anew == acmeRestored {
			k.putBack()
			return k.a.opts.Poll
		}
	}
	k.order(lease.ctx)
	return 0
}

// order orders, and applies the result unless ctx, that of the lease, has ended: the gate
// was closed, the name is not configured any more, or the lease was lost.
func (k *acmeKeeper) order(ctx context.Context) {
	k.now(ACMEOrdering, "")
	issued, err := k.obtain(ctx)
	k.now("", "")
	switch {
	case err == nil:
		k.accept(issued)
	case ctx.Err() != nil:
		k.a.opts.Log.Info("acme: order abandoned", "server_name", k.name, "err", context.Cause(ctx))
	default:
		k.fail(err)
	}
}

// goesAlone reports whether to renew though the cache does not work: the certificate
// would soon expire or be revoked, and the cache has failed for an hour. Each gate on the
// cache then orders for itself. Without a certificate the keeper waits for the cache, so
// that a gate that keeps nothing does not order at each start.
func (k *acmeKeeper) goesAlone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failing.IsZero() || time.Since(k.failing) < acmeAloneAfter || k.cert == nil {
		return false
	}
	now, leaf := k.a.opts.wall(), k.cert.Leaf
	return now.After(acmeLatest(leaf)) || k.asked.leaf == leaf && k.asked.over(now)
}

// look reads the files of the name, and installs the certificate if it has
// changed. It reports whether the files could be read.
func (k *acmeKeeper) look() bool {
	if !k.flush() {
		return true // our unsaved certificate is newer than the file
	}
	k.mu.Lock()
	first := k.cert == nil
	k.mu.Unlock()
	data, err := k.a.cache.read(k.ctx, k.key)
	if err == autocert.ErrCacheMiss && !first {
		if empty := k.a.cache.emptied(k.ctx); empty != nil {
			err = empty
		}
	}
	if err != nil && err != autocert.ErrCacheMiss {
		k.trust(err)
		return false
	}
	record, rerr := k.readRecord()
	if rerr != nil {
		k.trust(rerr)
		return false
	}
	k.mu.Lock()
	k.record = record
	k.mu.Unlock()
	if err == autocert.ErrCacheMiss {
		k.anew = acmeMissing
		return true
	}
	if sum := sha256.Sum256(data); sum != k.file {
		k.file = sum
		cert, err := acmeDecodeAny(data)
		if err == nil && len(k.lacking(cert)) == len(k.names) {
			err = cert.Leaf.VerifyHostname(k.name)
		}
		if err != nil {
			k.anew = acmeBad
			k.a.opts.Log.Warn("acme: bad certificate in the cache; ordering a new one",
				"server_name", k.name, "file", k.a.cache.path(k.key), "err", err)
			return true
		}
		k.anew = ""
		if first && k.a.issuer(record.Issuer) == nil {
			// Only once: during a rollout, gates with the old and the new
			// configuration must not order alternately.
			k.anew = acmeOtherCA
		} else if k.forOthers(cert) {
			k.anew = acmeOtherNames
		}
		if worse := k.adopt(cert); worse != nil {
			k.mu.Lock()
			older := acmeOlder(cert.Leaf, k.cert.Leaf)
			k.mu.Unlock()
			text := "acme: the certificate in the cache is worse than the one in use, which is kept"
			if older {
				k.anew, k.pending = acmeRestored, nil
				text = "acme: the certificate in the cache is worse than the one in use, which is put back"
			}
			k.a.opts.Log.Warn(text, "server_name", k.name, "file", k.a.cache.path(k.key), "err", worse)
		}
		return true
	}
	if k.anew == acmeMissing {
		k.anew = "" // the same certificate is back
	}
	if k.pending != nil {
		k.adopt(k.pending) // it may be valid by now
	}
	return true
}

// due returns how long to wait before the next order: until renewal, and until
// the end of the back-off.
func (k *acmeKeeper) due() time.Duration {
	now := k.a.opts.wall()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = now
	if k.cert != nil {
		// The pause never outlasts the certificate: the monotonic clock stops
		// while a machine sleeps.
		pause := min(time.Until(k.earliest), k.cert.Leaf.NotAfter.Sub(now))
		leaf := k.cert.Leaf
		if k.pending != nil && k.pending.Leaf.NotBefore.Before(leaf.NotAfter) && acmeChainWorse(k.pending, k.cert, now) == nil {
			leaf = k.pending.Leaf // it takes over before the other one expires
		}
		renew, early := acmeRenewAt(leaf, k.a.owner), k.anew != ""
		if said := k.asked; said.leaf == leaf && !said.End.IsZero() {
			switch at := said.moment(leaf); {
			case said.over(now):
				early = true
			case at.Before(renew):
				renew = at
			case said.postpones():
				renew = acmeEarlier(at, acmeLatest(leaf))
			}
		}
		renew = acmeLater(renew, now.Add(pause))
		switch {
		case !early:
			k.next = renew
		case k.anew == acmeRestored: // costs no order
		default: // unless it has become due in the meantime
			k.next = acmeEarlier(acmeLater(renew, now), now.Add(k.earlyWait()))
		}
	}
	k.next = acmeLater(k.next, now.Add(k.record.wait(now)))
	return k.next.Sub(now)
}

func acmeLater(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func acmeEarlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// accept applies the result of an order.
func (k *acmeKeeper) accept(issued *acmeIssued) {
	k.mu.Lock()
	held := k.cert
	k.mu.Unlock()
	if err := acmeChainWorse(issued.cert, held, k.a.opts.wall()); err != nil {
		k.fail(fmt.Errorf("acme: order for %q: issued certificate: %w", k.name, err))
		return
	}
	k.a.opts.Log.Info("acme: certificate obtained", "server_name", k.name,
		"issuer", issued.cert.Leaf.Issuer.String(), "not_after", issued.cert.Leaf.NotAfter)
	k.mu.Lock()
	if k.cert != nil && (k.anew != "" || k.asked.leaf == k.cert.Leaf && k.asked.over(k.a.opts.wall())) {
		k.early = append(k.early[max(len(k.early)-acmeEarlyRevoked+1, 0):], time.Now())
	}
	k.mu.Unlock()
	if worse := k.adopt(issued.cert); worse != nil {
		k.a.opts.Log.Warn("acme: the certificate obtained is worse than the one in use, which is kept; is the clock right?",
			"server_name", k.name, "err", worse)
	}
	k.setFile(issued.file)
	k.unsaved = issued.file
	left := issued.cert.Leaf.NotAfter.Sub(k.a.opts.wall())
	k.earliest = time.Now().Add(min(max(left/3, acmePauseMin), acmePauseMax))
	k.remember(acmeRecord{Issuer: issued.ca.Directory, Did: issued.challenge})
}

// setFile records the contents of the cache file, written or to be written.
func (k *acmeKeeper) setFile(file []byte) { k.file, k.anew = sha256.Sum256(file), "" }

// install passes a certificate on, unless the name is no longer configured.
func (k *acmeKeeper) install(cert *tls.Certificate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired {
		return
	}
	k.cert = cert
	if !k.hidden {
		k.a.opts.Install(k.id, cert)
	}
	if len(k.unserved(cert)) == 0 {
		k.dropOthers()
	}
}

// retire stops the keeper without waiting. Install is not called again.
func (k *acmeKeeper) retire() {
	k.cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = true
	k.a.opts.Remove(k.id)
	k.dropOthers()
}

// now sets what Status shows of the current order.
func (k *acmeKeeper) now(doing ACMEState, holder string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doing, k.holder = doing, holder
}

// status returns the state of the name.
func (k *acmeKeeper) status() ACMEStatus {
	now := k.a.opts.wall()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := ACMEStatus{
		Name:       k.name,
		Names:      k.names,
		State:      k.doing,
		NextTry:    k.next,
		Failures:   k.record.Failures,
		Since:      k.record.First,
		Err:        k.record.Err,
		LeaseOwner: k.holder,
	}
	if k.doing == ACMEOrdering {
		s.LeaseOwner = k.a.owner
	}
	if k.trouble != "" {
		s.Err = k.trouble
	}
	if k.cert != nil {
		s.NotAfter, s.CA, s.Revoked = k.cert.Leaf.NotAfter, k.record.Issuer, k.cert.Leaf.Equal(k.revoked)
		if k.asked.leaf == k.cert.Leaf {
			s.Renewal = k.asked.ACMERenewal
		}
	}
	switch {
	case k.doing != "":
	case k.cert == nil:
		s.State = ACMEWaiting
	case now.After(k.cert.Leaf.NotAfter) || now.Before(k.cert.Leaf.NotBefore):
		s.State = ACMEExpired
	default:
		s.State = ACMEValid
	}
	return s
}

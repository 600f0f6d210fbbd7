package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"wssgate/files"
)

// An acmeRecord is the state of a name besides its certificate. It is the cache
// file NAME+state, which all gates read and write. Removing the file requests
// an immediate attempt.
type acmeRecord struct {
	Issuer   string    `json:"issuer,omitempty"`   // directory URL of the certificate's CA; empty: unknown
	Did      string    `json:"did,omitempty"`      // type of the challenge that Issuer accepted
	CA       string    `json:"ca,omitempty"`       // directory URLs of the configured CAs, see directories
	For      string    `json:"for,omitempty"`      // names that failed, if there are several
	Failures int       `json:"failures,omitempty"` // consecutive, at CA, for these names
	First    time.Time `json:"first,omitzero"`     // time of the first failure
	Last     time.Time `json:"last,omitzero"`      // time of the last failure
	Next     time.Time `json:"next,omitzero"`      // no attempt before; only used with failures
	Err      string    `json:"error,omitempty"`    // of the last failure
}

// at returns the part of the record for ca and names. A refusal by other CAs,
// or of another list of names, does not apply to these. mine is the previous
// state: if gates with two configurations share a cache, each overwrites the
// failures of the other, and must remember its own.
func (r acmeRecord) at(ca, names string, mine acmeRecord) acmeRecord {
	switch {
	case r.CA == ca && r.For == names:
		return r
	case r.CA == "" || mine.CA != ca || mine.For != names:
		return acmeRecord{Issuer: r.Issuer, Did: r.Did}
	}
	mine.Issuer, mine.Did = r.Issuer, r.Did
	return mine
}

// acmeSkew is how far ahead the clock of another gate on the cache may be. Up
// to that, the longest back-off that it wrote still applies here.
const acmeSkew = time.Hour

// wait returns how long failures rule out another attempt. It ignores a time
// that is further away than any back-off, because it comes from a wrong clock.
func (r acmeRecord) wait(now time.Time) time.Duration {
	if r.Failures == 0 {
		return 0
	}
	d := r.Next.Sub(now)
	if d > acmeBackoffMax+acmeSkew {
		return 0
	}
	return max(d, 0)
}

func (r acmeRecord) encode() []byte {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		panic("certstore: " + err.Error()) // a struct of strings and times
	}
	return append(data, '\n')
}

// readRecord reads NAME+state. A missing or invalid file counts as empty. If
// the record could not be written, the one in memory is used.
func (k *acmeKeeper) readRecord() (acmeRecord, error) {
	k.mu.Lock()
	mine := k.record
	k.mu.Unlock()
	if !k.recorded {
		return mine, nil
	}
	var r acmeRecord
	data, err := k.a.cache.read(k.ctx, k.key+acmeStateSuffix)
	if err == autocert.ErrCacheMiss {
		if mine.Failures > 0 { // an operator requests an attempt
			clear(k.limits)
			k.a.accountWell()
		}
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if json.Unmarshal(data, &r) != nil {
		r = acmeRecord{}
	}
	return r.at(k.a.directories(), k.several(), mine), nil
}

// did returns the type of challenge that succeeded last.
func (k *acmeKeeper) did() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record.Did
}

// acmeBefore separates a rate limit from its cause.
const acmeBefore = "; before that: "

// fail counts a failure, for all gates.
func (k *acmeKeeper) fail(err error) {
	now := k.a.opts.wall()
	k.mu.Lock()
	r := k.record
	var left time.Duration
	if k.cert != nil {
		left = k.cert.Leaf.NotAfter.Sub(now)
	}
	k.mu.Unlock()
	r.CA, r.For = k.a.directories(), k.several()
	if r.Failures == 0 {
		r.First = now.UTC()
	}
	if wait, waits := err.(acmeAccountWait); waits { // only at the top level: another CA may have been asked
		r.Failures = max(r.Failures, 1) // the account counts its own failures
		r.Last = now.UTC()
		r.Next = r.Last.Add(time.Until(wait.until) + time.Duration(rand.Int64N(int64(time.Minute))))
		r.Err = err.Error()
		k.remember(r)
		return
	}
	if _, missing := err.(acmeRecordMissing); missing { // the CA was not asked
		r.Failures = max(r.Failures, 1)
		r.Last = now.UTC()
		r.Next = r.Last.Add(acmeLookupAgain)
		if r.Err != err.Error() {
			r.Err = err.Error()
			k.a.opts.Log.Error("acme: no certificate ordered", "server_name", k.name, "err", err)
		}
		k.remember(r)
		return
	}
	r.Failures++
	r.Last = now.UTC()
	asked := acmeRateLimit(err)
	if several, ok := err.(acmeSeveralFailed); ok {
		asked = several.after
	}
	r.Next = r.Last.Add(acmeBackoff(r.Failures, left, asked))
	text := err.Error()
	if acmeIsRateLimit(err) && r.Err != "" {
		// The limit is a consequence; keep its cause visible.
		cause := r.Err
		if _, earlier, found := strings.Cut(r.Err, acmeBefore); found {
			cause = earlier
		}
		text += acmeBefore + cause
	}
	r.Err = text
	k.remember(r)
	log := k.a.opts.Log.Error
	if left > 0 {
		log = k.a.opts.Log.Warn
	}
	log("acme: no certificate obtained", "server_name", k.name, "failures", r.Failures, "next_try", r.Next, "err", err)
}

// remember replaces the record, in memory and in the cache.
func (k *acmeKeeper) remember(r acmeRecord) {
	k.mu.Lock()
	k.record = r
	k.mu.Unlock()
	k.recorded = false
	k.flush()
}

// flush writes what is unsaved, and reports whether nothing is left to write.
func (k *acmeKeeper) flush() bool {
	var err error
	if k.unsaved != nil {
		if err = k.a.cache.put(k.ctx, k.key, k.unsaved); err == nil {
			k.unsaved = nil
		}
	}
	if err == nil && !k.recorded {
		k.mu.Lock()
		data := k.record.encode()
		k.mu.Unlock()
		if err = k.a.cache.note(k.ctx, k.key+acmeStateSuffix, data); err == nil {
			k.recorded = true
		}
	}
	if err != nil {
		k.trust(err)
	}
	return k.unsaved == nil
}

// trust records a problem with the cache, and logs it once.
func (k *acmeKeeper) trust(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	k.mu.Lock()
	k.trouble = err.Error()
	if k.failing.IsZero() {
		k.failing = time.Now()
	}
	text := k.trouble
	k.mu.Unlock()
	if errors.Is(err, files.ErrHangs) {
		return // reported once for the whole cache
	}
	if text != k.complain {
		k.a.opts.Log.Error("acme: cache failed", "server_name", k.name, "err", err)
	}
	k.complain = text
}

// worked records that the cache was read and can be written.
func (k *acmeKeeper) worked() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trouble, k.failing, k.complain = "", time.Time{}, ""
}

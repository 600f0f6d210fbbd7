package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"wssgate/files"
	"wssgate/panics"
)

// Several gates may share a cache folder, often on a network file system, where
// flock is unreliable, clocks differ, and dead processes are invisible. So a
// lease is a plain file, NAME+lease, that its owner rewrites during the order:
//
//   - A gate takes the lease by creating the file exclusively: only one gate
//     succeeds (also on NFS).
//   - The owner is alive as long as its beat increases. A gate that has seen the
//     same beat for acmeLeaseTTL, by its own monotonic clock, may take the lease
//     over. So wall clocks do not matter, and an order that a crash interrupts is
//     taken up a minute later by another gate, or by the same one after a restart.
//   - A gate takes over by renaming a new file over the old one. It holds the
//     lease only if its file is still there after acmeLeaseSettle: if two gates
//     take over at once, the last one wins and the first one notices.
//   - An owner that finds another id in the file, or that could not write its
//     beat for acmeLeaseTTL, has lost the lease and abandons its order.
//
// Two gates can own a lease at once only if one of them is frozen for longer
// than acmeLeaseSettle between checking and renaming, and then until the next
// beat. The cost is one extra order.
const (
	acmeLeaseBeat   = 10 * time.Second
	acmeLeaseTTL    = time.Minute // several beats, to allow for slow disks
	acmeLeaseSettle = 2 * time.Second

	// acmeLeaseAgain is how often a gate checks whether the owner has finished.
	acmeLeaseAgain = 3 * time.Second
)

// errACMELeaseLost is the cause when the context of an order ends because
// another gate has the lease.
var errACMELeaseLost = errors.New("acme: lease lost to another gate")

// acmeLeaseFile is the content of a lease. Only ID and Beat matter; the rest is
// information for operators.
type acmeLeaseFile struct {
	ID      string    `json:"id"`      // random; new for each acquisition
	Beat    int       `json:"beat"`    // increases while the owner is alive
	Owner   string    `json:"owner"`   // host/pid/random, for operators
	Written time.Time `json:"written"` // by the owner's clock, for operators
	Expires time.Time `json:"expires"` // by the owner's clock, for operators; gates use Beat
}

// An acmeSighting is what a keeper knows about another gate's lease. The zero
// value has seen no lease.
type acmeSighting struct {
	file  acmeLeaseFile
	since time.Time // when this beat was first seen
}

// dead records an observation, and reports whether the owner must be dead.
func (s *acmeSighting) dead(f acmeLeaseFile) bool {
	if s.since.IsZero() || f.ID != s.file.ID || f.Beat != s.file.Beat {
		s.file, s.since = f, time.Now()
	}
	return time.Since(s.since) >= acmeLeaseTTL
}

// An acmeLease is held from acquire to release. Its context ends if the lease
// is lost.
type acmeLease struct {
	cache  acmeCache
	key    string
	file   acmeLeaseFile
	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  chan struct{} // beat has returned
}

// acquire tries to take the lease called key. If another gate holds it, acquire
// returns nil, nil and updates seen. It waits only when it takes over from a
// dead owner.
func (c acmeCache) acquire(ctx context.Context, key, owner string, seen *acmeSighting) (*acmeLease, error) {
	l := &acmeLease{cache: c, key: key, file: acmeLeaseFile{ID: acmeRandom(), Owner: owner}, ended: make(chan struct{})}
	created, err := l.create(ctx)
	if err != nil {
		return nil, fmt.Errorf("acme: lease: %w", err)
	}
	if !created {
		f, err := c.lease(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // released just now: the caller soon tries again
		}
		if err != nil {
			return nil, fmt.Errorf("acme: lease: %w", err)
		}
		if !seen.dead(f) {
			return nil, nil
		}
		if won, err := l.takeOver(ctx); !won {
			return nil, err
		}
	}
	*seen = acmeSighting{}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	go func() {
		defer close(l.ended)
		panics.Keep(l.ctx.Done(), panics.ACME, l.beat)
	}()
	return l, nil
}

// create creates the file if it does not exist.
func (l *acmeLease) create(ctx context.Context) (bool, error) {
	data, path := l.next(), l.cache.path(l.key)
	// Until it is written, others see an empty file, which is a lease with beat 0. If
	// it is created after the caller has stopped waiting, it expires like the lease of
	// a dead owner.
	_, err := files.Do(ctx, l.cache.place, func() (struct{}, error) {
		if err := l.cache.writable(); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, l.cache.place.Create(path, data)
	})
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// takeOver replaces the file of a dead owner.
func (l *acmeLease) takeOver(ctx context.Context) (bool, error) {
	if err := l.cache.note(ctx, l.key, l.next()); err != nil {
		return false, err
	}
	select {
	case <-ctx.Done():
		l.remove()
		return false, ctx.Err()
	case <-time.After(acmeLeaseSettle):
	}
	f, err := l.cache.lease(ctx, l.key)
	return err == nil && f.ID == l.file.ID, nil
}

// next returns the file's content for the next beat.
func (l *acmeLease) next() []byte {
	l.file.Beat++
	l.file.Written = time.Now().UTC().Truncate(time.Second)
	l.file.Expires = l.file.Written.Add(acmeLeaseTTL)
	data, err := json.Marshal(l.file)
	if err != nil {
		panic("certstore: " + err.Error()) // a struct of strings and times
	}
	return append(data, '\n')
}

// beat renews the lease until the lease's context is done.
func (l *acmeLease) beat() {
	tick := time.NewTicker(acmeLeaseBeat)
	defer tick.Stop()
	for good := time.Now(); ; {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		f, err := l.cache.lease(l.ctx, l.key)
		if errors.Is(err, fs.ErrNotExist) || err == nil && f.ID != l.file.ID {
			l.cancel(errACMELeaseLost)
			return
		}
		if err == nil {
			err = l.cache.note(l.ctx, l.key, l.next())
		}
		if err == nil {
			good = time.Now()
		} else if time.Since(good) >= acmeLeaseTTL {
			l.cancel(errACMELeaseLost)
			return
		}
	}
}

// release ends the lease and waits for its goroutine.
func (l *acmeLease) release() {
	l.leave()
	l.remove()
}

// leave is release, but makes the lease look as if its owner had died: no gate
// can take it for acmeLeaseTTL.
func (l *acmeLease) leave() {
	l.cancel(context.Canceled)
	<-l.ended
}

// remove deletes the file if it is still ours.
func (l *acmeLease) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), acmeGoodbye)
	defer cancel()
	if f, err := l.cache.lease(ctx, l.key); err == nil && f.ID == l.file.ID {
		l.cache.remove(ctx, l.key)
	}
}

// acmeGoodbye bounds the clean-up at the end.
const acmeGoodbye = time.Second

// lease reads a lease. An invalid file, such as an empty one, is a lease
// without an owner.
func (c acmeCache) lease(ctx context.Context, key string) (acmeLeaseFile, error) {
	var f acmeLeaseFile
	data, err := files.Do(ctx, c.place, func() ([]byte, error) { return c.place.Read(c.path(key), maxACMEFile) })
	if err != nil {
		return f, err
	}
	if json.Unmarshal(data, &f) != nil {
		f = acmeLeaseFile{}
	}
	return f, nil
}

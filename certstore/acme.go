package certstore

// ACME obtains and renews certificates from a CA (RFC 8555).
//
// It uses golang.org/x/crypto/acme/autocert for two things: autocert's Manager answers
// challenges (acme_answer.go), and defines the names and contents of the files in the
// cache, so that an existing autocert cache works. Orders use acme.Client, on which the
// Manager is built (acme_order.go), because the Manager orders during a handshake,
// tries tls-alpn-01 even if nothing listens on 443, never replaces its key, forgets
// failures and their reasons, renews only names that were requested, and cannot be
// closed. So the Manager never sees an ordinary ClientHello.
//
// Each certificate, for one name or for several, has a keeper (acme_keeper.go), one
// goroutine, and is in one of these states:
//
//	state          certificate          the keeper waits for
//	ACMEWaiting    none                 the end of the back-off
//	ACMEOrdering   none or the old one  the CA
//	ACMEElsewhere  none or the old one  another gate, which has the lease
//	ACMEValid      in use               the time of renewal, or the end of the back-off
//	ACMEExpired    in use all the same  the end of the back-off
//
// A certificate stays in use until there is a better one.
//
// If the cache folder hangs, each keeper waits until it is back and keeps its
// certificate; nothing waits for keepers (acmeCache).
//
// Gates share only the cache folder. It is read again every ACMEOptions.Poll. A lease
// (acme_lease.go) lets one gate order at a time, and failures are counted in the folder
// for all gates (acme_record.go).

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"wssgate/files"
	"wssgate/panics"
)

// ACME keeps a certificate for each configured name. Make one with NewACME. All
// methods are safe for concurrent use.
type ACME struct {
	opts    ACMEOptions
	cache   acmeCache
	answers *acmeAnswers
	manager *autocert.Manager // only answers challenges
	cas     []*acmeCA         // in the order in which they are asked
	owner   string            // names this process in leases and in Status
	orders  chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // keepers

	folder atomic.Pointer[acmeCacheState] // nil: the cache can be used

	reload sync.Mutex // one SetNames, Start or Close at a time; never taken by a handshake
	names  atomic.Pointer[acmeNames]
	runs   bool // guarded by reload
	closed bool // guarded by reload
}

// An acmeNames is a set of configured names. It never changes.
type acmeNames struct {
	lists  [][]string
	byID   map[string]*acmeKeeper
	byName map[string]*acmeKeeper
}

func (s *acmeNames) add(list []string, k *acmeKeeper) {
	s.lists = append(s.lists, list)
	s.byID[k.id] = k
	for _, name := range list {
		s.byName[name] = k
	}
}

func newACMENames() *acmeNames {
	return &acmeNames{byID: map[string]*acmeKeeper{}, byName: map[string]*acmeKeeper{}}
}

// An ACMEState is the state of one certificate.
type ACMEState string

const (
	ACMEWaiting   ACMEState = "waiting"   // no certificate; tried again at NextTry
	ACMEOrdering  ACMEState = "ordering"  // an order of this gate is under way
	ACMEElsewhere ACMEState = "elsewhere" // an order of LeaseOwner is under way
	ACMEValid     ACMEState = "valid"     // has a certificate; renewed at NextTry
	ACMEExpired   ACMEState = "expired"   // has a certificate, outside its dates; tried again at NextTry
)

// ACMEStatus describes one certificate.
type ACMEStatus struct {
	Name       string   // the first of Names
	Names      []string // that it is for
	State      ACMEState
	NotAfter   time.Time // of the installed certificate; zero: none
	NextTry    time.Time // when the next order is due; in the past: now
	Failures   int       // consecutive failed orders, over all gates
	Since      time.Time // of the first of them; zero: not known
	Err        string    // why the latest order failed, in the CA's words; empty: it did not
	LeaseOwner string    // gate that is ordering; empty: none

	CA string // directory URL of the CA that the installed certificate is from; empty: not known

	Revoked bool // the installed certificate has been revoked by Revoke of this ACME

	Renewal ACMERenewal // what the CA says of the installed certificate
}

// acmeOrders is the limit of concurrent orders: enough to obtain a hundred certificates
// in minutes, few enough not to look like an attack.
const acmeOrders = 4

// NewACME checks the options, reads the cache and installs its certificates. It does
// not use the network or write to an existing cache; Start does. It waits for a cache
// that hangs or is slow as PrepareNames does. The error contains every mistake.
func NewACME(opts ACMEOptions) (*ACME, error) {
	opts.setDefaults()
	_, errs := acmeLists(opts.Names, opts.Together)
	errs = append(errs, opts.check()...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cache, err := acmeOpenCache(ctx, opts.Cache, opts.Certificates, opts.Log)
	if err != nil {
		cancel()
		cache.place.Leave()
		return nil, err
	}
	a := &ACME{
		opts:    opts,
		cache:   cache,
		answers: newACMEAnswers(cache),
		owner:   acmeOwner(),
		orders:  make(chan struct{}, acmeOrders),
		ctx:     ctx,
		cancel:  cancel,
	}
	a.cas = newACMECAs(a)
	a.manager = &autocert.Manager{
		Prompt:     func(string) bool { return false }, // it never registers
		Cache:      a.answers,
		HostPolicy: a.allow,
	}
	a.names.Store(newACMENames())
	if err := a.SetNames(opts.Names, opts.Together...); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Start begins to obtain and to renew, in the background. It does nothing after
// Close, or the second time.
func (a *ACME) Start() {
	a.reload.Lock()
	defer a.reload.Unlock()
	if a.runs || a.closed {
		return
	}
	a.runs = true
	a.wg.Go(func() { panics.Keep(a.ctx.Done(), panics.ACME, a.watchCache) })
	for _, c := range a.cas {
		a.wg.Go(func() { panics.Keep(a.ctx.Done(), panics.ACME, c.tellContact) })
		a.wg.Go(func() { panics.Keep(a.ctx.Done(), panics.ACME, c.watchRenewals) })
	}
	for _, k := range a.names.Load().byID {
		a.wg.Go(func() {
			defer k.cancel()
			panics.Keep(k.ctx.Done(), panics.ACME, k.keep)
		})
	}
}

// Close ends all work and returns when every goroutine has ended. It abandons an order
// under way and releases its lease. Installed certificates stay where they are. A
// second call does nothing. A cache that hangs delays Close by at most acmeGoodbye.
func (a *ACME) Close() {
	a.reload.Lock()
	defer a.reload.Unlock()
	if !a.closed {
		defer a.cache.place.Leave()
	}
	a.closed = true
	a.cancel()
	a.wg.Wait()
	for _, c := range a.cas {
		c.http.CloseIdleConnections()
	}
}

// ACMENames is a set of names whose new members have been looked up in the cache. It
// has no effect before Commit. Call Commit or Abandon once.
type ACMENames struct {
	a     *ACME
	lists [][]string
	fresh map[string]*acmeKeeper // by id
}

// PrepareNames looks up new names in the cache, as in ACMEOptions. It waits for that for
// at most files.Patience in all; certificates that are read later are installed then. If
// a name is refused, the error says why.
func (a *ACME) PrepareNames(names []string, together ...[]string) (*ACMENames, error) {
	lists, errs := acmeLists(names, together)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	n := &ACMENames{a, lists, map[string]*acmeKeeper{}}
	others := a.others()
	a.reload.Lock()
	old := a.names.Load()
	for _, list := range lists {
		if id := acmeID(list); old.byID[id] == nil && !a.closed {
			k := newACMEKeeper(a, list)
			n.fresh[id] = k
			a.wg.Go(func() { panics.Catch(panics.ACME, func() { k.lookFirst(others) }) })
		}
	}
	a.reload.Unlock()
	n.await()
	return n, nil
}

// await waits until the fresh names have been looked up, or their time is over.
func (n *ACMENames) await() {
	began, late := time.Now(), time.NewTimer(files.Patience)
	defer late.Stop()
	for _, list := range n.lists {
		k := n.fresh[acmeID(list)]
		if k == nil {
			continue
		}
		select {
		case <-k.first:
		case <-late.C:
			looked := make(chan struct{})
			n.a.wg.Go(func() {
				defer close(looked)
				for _, k := range n.fresh {
					<-k.first
				}
			})
			n.a.cache.place.GoneOnWithout(n.a.cache.path(k.name), began, looked)
			return
		}
	}
}

// Abandon discards the names.
func (n *ACMENames) Abandon() {
	for _, k := range n.fresh {
		k.cancel()
	}
}

// Commit replaces the configured names, and does not block. For a new name, or another
// list of names, it installs what the cache has. It removes what is no longer configured
// and abandons its order; its files stay in the cache. Others are not affected.
func (n *ACMENames) Commit() {
	a := n.a
	a.reload.Lock()
	defer a.reload.Unlock()
	if a.closed {
		return
	}
	old, now := a.names.Load(), newACMENames()
	for _, list := range n.lists {
		k := old.byID[acmeID(list)]
		if k == nil {
			k = n.fresh[acmeID(list)]
		}
		if k != nil { // otherwise it has been removed since
			now.add(list, k)
		}
	}
	a.names.Store(now)
	for id, k := range n.fresh {
		if now.byID[id] == k {
			k.show()
		}
	}
	// Not earlier: challenges are answered only for configured names, and the CA may
	// come at once.
	if a.runs {
		for id, k := range n.fresh {
			if now.byID[id] == k {
				a.wg.Go(func() {
					defer k.cancel()
					panics.Keep(k.ctx.Done(), panics.ACME, k.keep)
				})
			}
		}
	}
	for id, k := range old.byID { // last, so that no name is without a certificate meanwhile
		if now.byID[id] == nil {
			k.retire()
		}
	}
}

// SetNames is PrepareNames and Commit.
func (a *ACME) SetNames(names []string, together ...[]string) error {
	n, err := a.PrepareNames(names, together...)
	if err == nil {
		n.Commit()
	}
	return err
}

// Status returns the state of each certificate, ordered by name. It never waits for an
// order.
func (a *ACME) Status() []ACMEStatus {
	names := a.names.Load().byID
	out := make([]ACMEStatus, 0, len(names))
	for _, id := range slices.Sorted(maps.Keys(names)) {
		out = append(out, names[id].status())
	}
	return out
}

// keeper returns the keeper of a name in any form, and the normal form; nil if it is not
// configured.
func (a *ACME) keeper(name string) (*acmeKeeper, string) {
	normal, err := normalName(name)
	if err != nil {
		return nil, ""
	}
	return a.names.Load().byName[normal], normal
}

// acmeID identifies a certificate by its names.
func acmeID(names []string) string { return strings.Join(names, " ") }

// acmeOwner identifies this process, also for people.
func acmeOwner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), acmeRandom())
}

// acmeRandom returns 64 random bits in hex.
func acmeRandom() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

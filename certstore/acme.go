package certstore

// ACME obtains and renews certificates from a CA (RFC 8555).
//
// It uses golang.org/x/crypto/acme/autocert for two things. autocert's Manager
// answers challenges (acme_answer.go), and it defines the names and contents of
// the files in the cache, so that an existing autocert cache works. Orders use
// acme.Client, on which the Manager is built (acme_order.go). The Manager
// itself orders during a handshake, tries tls-alpn-01 even if nothing listens
// on 443, never replaces its key, forgets failures and their reasons, renews
// only names that were requested, and cannot be closed. So the Manager never
// sees an ordinary ClientHello.
//
// Each certificate, for one name or for several, has a keeper (acme_keeper.go),
// which is one goroutine, and is in one of these states:
//
//	state          certificate          the keeper waits for
//	ACMEWaiting    none                 the end of the back-off
//	ACMEOrdering   none or the old one  the CA
//	ACMEElsewhere  none or the old one  another gate, which has the lease
//	ACMEValid      in use               the time of renewal, or the end of the back-off
//	ACMEExpired    still in use         the end of the back-off
//
// A certificate stays in use until there is a better one.
//
// If the cache folder hangs, each keeper keeps its certificate and waits until
// the folder answers; nothing waits for keepers (acmeCache).
//
// Gates share only the cache folder. Each reads it again every
// ACMEOptions.Poll. A lease (acme_lease.go) lets one gate order at a time, and
// the folder counts the failures of all gates (acme_record.go).

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

// ACME keeps a certificate for each configured name. Create it with NewACME.
// All methods are safe for concurrent use.
type ACME struct {
	opts    ACMEOptions
	cache   acmeCache
	answers *acmeAnswers
	manager *autocert.Manager // only answers challenges
	cas     []*acmeCA         // in the order in which they are tried
	owner   string            // identifies this process in leases and in Status
	orders  chan struct{}

	ctx    context.Context // done after Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // keepers

	folder atomic.Pointer[acmeCacheState] // nil: the cache can be used

	reload sync.Mutex // for one SetNames, Start or Close at a time; handshakes never take it
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
	Names      []string // all names of the certificate
	State      ACMEState
	NotAfter   time.Time // of the installed certificate; zero: none
	NextTry    time.Time // when the next order is due; may be in the past
	Failures   int       // consecutive failed orders, of all gates
	Since      time.Time // of the first failure; zero: unknown
	Err        string    // why the latest order failed, in the CA's words; empty: it succeeded
	LeaseOwner string    // gate that is ordering; empty: none

	CA string // directory URL of the installed certificate's CA; empty: unknown

	Revoked bool // Revoke has revoked the installed certificate

	Renewal ACMERenewal // what the CA says about renewing the installed certificate
}

// acmeOrders limits concurrent orders. Four obtain a hundred certificates in
// minutes and do not look like an attack.
const acmeOrders = 4

// NewACME checks the options, reads the cache and installs its certificates. It
// does not use the network or write to an existing cache; Start does. Like
// PrepareNames, it waits up to files.Patience for a cache that hangs or is
// slow. The error contains every mistake.
func NewACME(opts ACMEOptions) (*ACME, error) {
	opts.setDefaults()
	_, errs := acmeLists(opts.Names, opts.Together)
	errs = append(errs, opts.check()...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cache, err := acmeOpenCache(ctx, opts.Cache, opts.Certificates, opts.writes, opts.Log)
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

// Start begins to obtain and renew certificates in the background. It does
// nothing after Close, or if it was called before.
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

// Close ends all work and returns when every goroutine has ended. It abandons
// current orders and releases their leases. Installed certificates stay. A
// second call does nothing. A cache that hangs delays Close by at most
// acmeGoodbye.
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

// ACMENames is a new set of names, of which the cache has been read. It has no
// effect before Commit. Call Commit or Abandon exactly once.
type ACMENames struct {
	a     *ACME
	lists [][]string
	fresh map[string]*acmeKeeper // by id
}

// PrepareNames checks the names and reads the certificates of new ones from the
// cache. names and together are as in ACMEOptions. It waits for the cache at
// most files.Patience in all; certificates that are read later are installed
// then. It returns an error if a name is invalid.
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

// await waits until the certificates of the new names have been read or the
// time is over.
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
			n.a.cache.place.GoneOnWithout(n.a.cache.path(k.key), began, looked)
			return
		}
	}
}

// Abandon discards the set of names.
func (n *ACMENames) Abandon() {
	for _, k := range n.fresh {
		k.cancel()
	}
}

// Commit replaces the configured names. It does not block. It installs the
// certificate from the cache for each new name or list of names. It removes the
// certificates of names that are no longer configured and abandons their
// orders; their files stay in the cache. Other names are not affected.
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
		if k != nil { // otherwise it has been removed since then
			now.add(list, k)
		}
	}
	a.names.Store(now)
	for id, k := range n.fresh {
		if now.byID[id] == k {
			k.show()
		}
	}
	// Not earlier: challenges are answered only for configured names, and the
	// CA may validate at once.
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
	for id, k := range old.byID { // last, so that every name always has a certificate
		if now.byID[id] == nil {
			k.retire()
		}
	}
}

// SetNames calls PrepareNames and Commit.
func (a *ACME) SetNames(names []string, together ...[]string) error {
	n, err := a.PrepareNames(names, together...)
	if err == nil {
		n.Commit()
	}
	return err
}

// Status returns the state of each certificate, ordered by name. It never waits
// for an order.
func (a *ACME) Status() []ACMEStatus {
	names := a.names.Load().byID
	out := make([]ACMEStatus, 0, len(names))
	for _, id := range slices.Sorted(maps.Keys(names)) {
		out = append(out, names[id].status())
	}
	return out
}

// keeper returns the keeper of a name in any form, and the normal form. The
// keeper is nil if the name is not configured.
func (a *ACME) keeper(name string) (*acmeKeeper, string) {
	normal, err := normalName(name)
	if err != nil {
		return nil, ""
	}
	return a.names.Load().byName[normal], normal
}

// acmeID identifies a certificate by its names.
func acmeID(names []string) string { return strings.Join(names, " ") }

// acmeOwner identifies this process in a readable form.
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

package certstore

// ACME obtains and renews certificates from a CA that speaks RFC 8555.
//
// It stands on golang.org/x/crypto/acme/autocert, behind rules of ours.
// autocert's Manager gives the answers to challenges (acme_answer.go) and
// defines the cache, names and contents of its files included, so that a folder
// that a program with autocert has filled goes on working. Orders are made with
// acme.Client, which the Manager itself stands on (acme_order.go), because the
// Manager orders inside a handshake, tries tls-alpn-01 where nobody listens on
// 443, keeps one key for ever, forgets failures and their reasons, starts
// renewals only for names that were asked for, and cannot be closed. So the
// Manager never sees an ordinary ClientHello.
//
// Each name has a keeper (acme_keeper.go), one goroutine. What it is in the
// middle of, and what it has, give the name's state:
//
//	ACMEWaiting ──due──▶ ACMEOrdering ──issued──▶ ACMEValid ──due──▶ ACMEOrdering …
//	   ▲   │                  │                      │
//	   │   │ another gate     │ refused: back to     │ not renewed in time
//	   │   │ has the lease    │ what it was before   ▼
//	   │   └▶ ACMEElsewhere   ▼                   ACMEExpired ──due──▶ ACMEOrdering …
//	   └──────────────────────┘
//
// A certificate that is in use stays in use in all of them until there is a
// better one.
//
// The cache folder is the only thing that gates share. It is read again every
// ACMEOptions.Poll; a lease (acme_lease.go) lets one gate order at a time, and
// failures are counted there for all of them (acme_schedule.go).

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
)

// ACMEOptions says what to obtain, from whom, and where to keep it. NewACME
// copies it; later changes have no effect.
type ACMEOptions struct {
	Names       []string       // server names; a wildcard, an address and a single label are refused
	Email       string         // contact of the account; may be empty
	Directory   string         // URL of the CA's directory, https
	Roots       *x509.CertPool // whom to trust on the way to the CA; nil: the system's roots
	Cache       string         // folder, may be shared with other gates; created with mode 0700
	AcceptTerms bool           // the operator accepts the CA's terms of service
	EABKeyID    string         // external account binding (RFC 8555, section 7.3.4); empty: none
	EABKey      []byte         // its MAC key, decoded

	// TLSALPN and HTTP01 say how the CA can reach a gate: at port 443 with the
	// listener that asks ChallengeCertificate, at port 80 with one that serves
	// HTTPHandler. An order tries what is set, tls-alpn-01 first.
	TLSALPN bool
	HTTP01  bool

	// Install is told of each certificate before it is served, an expired one
	// included: whether a directory certificate is better is the Store's
	// business. Remove is told that a name is no longer configured. Calls for
	// one name never overlap, and no Install follows a Remove. Neither may call
	// back into the ACME, nor wait for anything. The certificate must not be
	// changed. Remove may be nil.
	Install func(name string, cert *tls.Certificate)
	Remove  func(name string)

	Poll time.Duration // how often the cache is read again; 0: 30 s
	Log  *slog.Logger  // nil: no log

	wall      func() time.Time  // for tests of a clock that jumps
	transport http.RoundTripper // for tests with a CA in memory
}

// ACME keeps a certificate for each configured name. Make one with NewACME. All
// methods are safe for concurrent use.
type ACME struct {
	opts    ACMEOptions
	cache   acmeCache
	answers *acmeAnswers
	manager *autocert.Manager // answers challenges, nothing else
	http    *http.Client
	owner   string // who we are in a lease and in Status
	orders  chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // keepers

	account chan *acme.Client // capacity 1: the registered client, nil before; taken while it is made

	reload sync.Mutex // one SetNames, Start or Close at a time; never taken by a handshake
	names  atomic.Pointer[map[string]*acmeKeeper]
	runs   bool // guarded by reload
	closed bool // guarded by reload
}

// An ACMEState is the state of one name.
type ACMEState string

const (
	ACMEWaiting   ACMEState = "waiting"   // no certificate; tried again at NextTry
	ACMEOrdering  ACMEState = "ordering"  // an order of this gate is under way
	ACMEElsewhere ACMEState = "elsewhere" // an order of LeaseOwner is under way
	ACMEValid     ACMEState = "valid"     // has a certificate; renewed at NextTry
	ACMEExpired   ACMEState = "expired"   // has a certificate, outside its dates; tried again at NextTry
)

// ACMEStatus says how one name is doing.
type ACMEStatus struct {
	Name       string
	State      ACMEState
	NotAfter   time.Time // of the certificate that was installed; zero: none
	NextTry    time.Time // when the next order is due; in the past: now
	Failures   int       // orders that failed since the last that did not, of all gates
	Err        string    // why the last one failed, in the CA's own words; empty: it did not
	LeaseOwner string    // gate that orders now; empty: none
}

const (
	acmePoll = 30 * time.Second // default of ACMEOptions.Poll

	// acmeOrders is how many orders are under way at once: enough to bring up a
	// hundred names in minutes, too few to look like an attack.
	acmeOrders = 4
)

// NewACME checks the options, takes what the cache has and installs it. It does
// not touch the network; Start does. The error holds every mistake found.
func NewACME(opts ACMEOptions) (*ACME, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Poll <= 0 {
		opts.Poll = acmePoll
	}
	if opts.wall == nil {
		opts.wall = time.Now
	}
	if opts.Remove == nil {
		opts.Remove = func(string) {}
	}
	names, errs := acmeNames(opts.Names)
	errs = append(errs, opts.check()...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cache, err := acmeOpenCache(opts.Cache, opts.Log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &ACME{
		opts:    opts,
		cache:   cache,
		answers: newACMEAnswers(cache),
		http:    acmeHTTPClient(opts),
		owner:   acmeOwner(),
		orders:  make(chan struct{}, acmeOrders),
		ctx:     ctx,
		cancel:  cancel,
		account: make(chan *acme.Client, 1),
	}
	a.account <- nil
	a.manager = &autocert.Manager{
		Prompt:     func(string) bool { return false }, // it never registers
		Cache:      a.answers,
		HostPolicy: a.allow,
	}
	a.names.Store(new(map[string]*acmeKeeper))
	a.set(names)
	return a, nil
}

// check returns what is wrong with the options, names aside.
func (o *ACMEOptions) check() (errs []error) {
	if u, err := url.Parse(o.Directory); err != nil {
		errs = append(errs, fmt.Errorf("acme: directory %q: %w", o.Directory, err))
	} else if u.Scheme != "https" || u.Host == "" {
		// RFC 8555, section 6.1.
		errs = append(errs, fmt.Errorf("acme: directory %q: not an https URL", o.Directory))
	}
	if o.Cache == "" {
		errs = append(errs, errors.New("acme: no cache folder"))
	}
	if o.Install == nil {
		errs = append(errs, errors.New("acme: no Install function"))
	}
	if (o.EABKeyID == "") != (len(o.EABKey) == 0) {
		errs = append(errs, errors.New("acme: external account binding needs both the key id and the key"))
	}
	if !o.TLSALPN && !o.HTTP01 {
		errs = append(errs, errors.New("acme: no challenge can be answered: neither tls-alpn-01 nor http-01 has a listener"))
	}
	return errs
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
	for _, k := range *a.names.Load() {
		a.wg.Go(k.keep)
	}
}

// Close ends all work and returns when every goroutine has ended. An order
// under way is given up, its lease given back. Certificates that were installed
// stay where they are. It is fine to call it twice.
func (a *ACME) Close() {
	a.reload.Lock()
	defer a.reload.Unlock()
	a.closed = true
	a.cancel()
	a.wg.Wait()
	a.http.CloseIdleConnections()
}

// SetNames replaces the configured names. What the cache has for a new name is
// installed before SetNames returns; a name that is gone is removed, its order
// given up, its files left in the cache. Names that stay notice nothing. Where
// one name is refused, the error says why and nothing changes.
func (a *ACME) SetNames(names []string) error {
	normal, errs := acmeNames(names)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	if !a.closed {
		a.set(normal)
	}
	return nil
}

// set is SetNames for names in their normal form, with reload held.
func (a *ACME) set(names []string) {
	old, now := *a.names.Load(), map[string]*acmeKeeper{}
	for _, name := range names {
		if k := old[name]; k != nil {
			now[name] = k
			continue
		}
		k := newACMEKeeper(a, name)
		k.look()
		k.due()
		now[name] = k
		if a.runs {
			a.wg.Go(k.keep)
		}
	}
	a.names.Store(&now)
	for name, k := range old {
		if now[name] == nil {
			k.retire()
		}
	}
}

// Status tells how each configured name is doing, in the order of names. It
// never waits for an order.
func (a *ACME) Status() []ACMEStatus {
	names := *a.names.Load()
	out := make([]ACMEStatus, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		out = append(out, names[name].status())
	}
	return out
}

// acmeNames returns the normal forms, each once, and what is wrong with the rest.
func acmeNames(names []string) (normal []string, errs []error) {
	for _, name := range names {
		n, err := acmeName(name)
		if err != nil {
			errs = append(errs, err)
		} else if !slices.Contains(normal, n) {
			normal = append(normal, n)
		}
	}
	return normal, errs
}

// acmeName returns a name's normal form, or why no CA gives a certificate for it
// by the challenges that we have.
func acmeName(name string) (string, error) {
	if strings.HasPrefix(name, "*.") {
		return "", fmt.Errorf("acme: name %q: a wildcard needs dns-01; let an external client write it into the directory", name)
	}
	normal, err := normalName(name)
	if err != nil {
		return "", fmt.Errorf("acme: name %q: %w", name, err)
	}
	if !strings.Contains(normal, ".") {
		return "", fmt.Errorf("acme: name %q: has one label only", name)
	}
	// The Manager insists on names of hosts: no underscore, for example.
	if host, err := idna.Lookup.ToASCII(normal); err != nil || host != normal {
		return "", fmt.Errorf("acme: name %q: is no name of a host", name)
	}
	return normal, nil
}

// keeper returns the keeper of a name in any form, nil if it is not configured.
func (a *ACME) keeper(name string) *acmeKeeper {
	normal, err := normalName(name)
	if err != nil {
		return nil
	}
	return (*a.names.Load())[normal]
}

// acmeOwner names this process for people, and no other process.
func acmeOwner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), acmeID())
}

// acmeID returns 64 random bits in hex.
func acmeID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/admin"
	"wssgate/certstore"
	"wssgate/config"
	"wssgate/panics"
)

// An obtainer runs the gate's ACME client, if it is configured. Its handlers
// may be called at any time. install, begin and close belong to one goroutine;
// prepare runs in one at a time.
type obtainer struct {
	store *certstore.Store
	log   *slog.Logger
	on    atomic.Pointer[acmeRun] // nil: off
}

// An acmeRun is a running ACME client and the settings it was made from.
type acmeRun struct {
	acme *certstore.ACME
	cfg  config.ACME
	with []string // see acmeFiles
	http bool     // http-01 has a listener
}

func newACMERun(acme *certstore.ACME, cfg *config.Config) *acmeRun {
	return &acmeRun{acme, cfg.ACME, acmeFiles(cfg), len(cfg.Listen.HTTP) > 0}
}

// acmeFiles returns the contents of the files that [acme] names. A file that
// was corrected in place needs a new client, although the configuration is the
// same.
func acmeFiles(cfg *config.Config) (contents []string) {
	for _, file := range cfg.ACME.Files() {
		contents = append(contents, string(cfg.Files[file]))
	}
	return contents
}

func newObtainer(store *certstore.Store, log *slog.Logger) *obtainer {
	return &obtainer{store: store, log: log}
}

// An acmeChange is the result of prepare. Pass it to install and then begin, or to
// abandon.
type acmeChange struct {
	next  *acmeRun             // nil: ACME is off, or only its names change
	names *certstore.ACMENames // for the current client; nil: there is none
	last  *acmeRun             // replaced by next and closed by begin; nil: none
	serve func(name string, cert *tls.Certificate)

	mu     sync.Mutex
	cached map[string]*tls.Certificate // certificates that next found before install; nil afterwards
}

// prepare makes the ACME client of cfg beside the current one. It reads the
// cache, which may take some time. It neither orders a certificate nor serves
// one. After an error, the change must be abandoned.
func (o *obtainer) prepare(cfg *config.Config) (*acmeChange, error) {
	p := &acmeChange{cached: map[string]*tls.Certificate{}}
	now := o.on.Load()
	switch {
	case !cfg.ACME.On() && now == nil:
		return p, nil
	case !cfg.ACME.On() || !now.fits(cfg):
		if now == nil {
			break
		}
		var err error
		// Names that stay keep their old certificates until better ones arrive.
		// If they are in another list now, the next client finds them in the
		// cache.
		p.names, err = now.acme.PrepareNames(slices.DeleteFunc(slices.Clone(now.cfg.Names), func(name string) bool {
			return !slices.Contains(cfg.ACME.Names, name)
		}), slices.DeleteFunc(now.cfg.Together(), func(list []string) bool {
			return !slices.ContainsFunc(cfg.ACME.Together(), func(names []string) bool { return slices.Equal(names, list) })
		})...)
		if err != nil || !cfg.ACME.On() {
			return p, err
		}
	default:
		var err error
		p.names, err = now.acme.PrepareNames(cfg.ACME.Names, cfg.ACME.Together()...)
		return p, err
	}
	options, err := cfg.ACMEOptions(o.store, o.log)
	if err != nil {
		return p, err
	}
	p.serve = options.Install
	options.Install = p.install
	acme, err := certstore.NewACME(options)
	if err != nil {
		return p, err
	}
	p.next = newACMERun(acme, cfg)
	return p, nil
}

// install is next's Install callback.
func (p *acmeChange) install(name string, cert *tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cached != nil {
		p.cached[name] = cert
	} else {
		p.serve(name, cert)
	}
}

// show installs the certificates that next has found, and lets it install later
// ones.
func (p *acmeChange) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, cert := range p.cached {
		p.serve(name, cert)
	}
	p.cached = nil
}

// fits reports whether the ACME client of r also suits cfg, apart from the
// names.
func (r *acmeRun) fits(cfg *config.Config) bool {
	if r == nil {
		return false
	}
	old, wanted := r.cfg, cfg.ACME
	old.Names, wanted.Names = nil, nil
	old.Certificate, wanted.Certificate = nil, nil
	return reflect.DeepEqual(old, wanted) && slices.Equal(r.with, acmeFiles(cfg)) && r.http == (len(cfg.Listen.HTTP) > 0)
}

// abandon undoes prepare. p may be nil.
func (o *obtainer) abandon(p *acmeChange) {
	if p != nil && p.names != nil {
		p.names.Abandon()
	}
	if p != nil && p.next != nil {
		p.next.acme.Close()
	}
}

// install applies the change that prepare made for cfg, except for orders: it
// serves the cached certificates of new names, and stops serving those of
// removed names. It does not wait for files.
func (o *obtainer) install(p *acmeChange, cfg *config.Config) {
	now := o.on.Load()
	p.show() // first, so that every name always has a certificate
	if p.names != nil {
		p.names.Commit()
	}
	if p.next != nil || !cfg.ACME.On() {
		p.last = now
		o.on.Store(p.next)
		return
	}
	o.on.Store(newACMERun(now.acme, cfg)) // with the new names
}

// begin orders missing certificates and closes the old client. The listeners,
// which the CA's challenges need, are open by now.
//
// It does not wait: an abandoned order releases its lease in the cache. The
// channel is closed when everything is done.
func (o *obtainer) begin(p *acmeChange) <-chan struct{} {
	done := make(chan struct{})
	go panics.Catch(panics.ACME, func() {
		defer close(done)
		if p.last != nil {
			p.last.acme.Close()
		}
		if p.next != nil {
			p.next.acme.Start()
		}
	})
	return done
}

// close ends all orders.
func (o *obtainer) close() {
	if now := o.on.Load(); now != nil {
		now.acme.Close()
	}
}

// challengeCertificate is for proxy.Options.
func (o *obtainer) challengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if now := o.on.Load(); now != nil {
		return now.acme.ChallengeCertificate(hello)
	}
	return nil, nil
}

// status returns the state of each name, or nothing while ACME is off.
func (o *obtainer) status() []certstore.ACMEStatus {
	if now := o.on.Load(); now != nil {
		return now.acme.Status()
	}
	return nil
}

// caPatience bounds how long a CA may take to revoke a certificate or to change
// a key. It is shorter than the console's limit for an answer.
const caPatience = 25 * time.Second

// do carries out an operator's request and describes the result.
func (o *obtainer) do(ctx context.Context, r admin.ACMERequest) (string, error) {
	now := o.on.Load()
	if now == nil {
		return "", fmt.Errorf("ACME is off: acme.names is empty, and there is no [[acme.certificate]]: %q is %w", r.Name, admin.ErrUnknown)
	}
	var said string
	var err error
	switch r.Do {
	case "renew":
		said, err = "a new certificate is ordered", now.acme.Renew(r.Name)
	case "retry":
		said, err = "is tried again", now.acme.Retry(r.Name)
	case "revoke":
		ctx, cancel := context.WithTimeout(ctx, caPatience)
		defer cancel()
		var serial string
		serial, err = now.acme.Revoke(ctx, r.Name, r.Reason)
		said = fmt.Sprintf("certificate %s is revoked, and a new one is ordered", serial)
	case "rollover":
		ctx, cancel := context.WithTimeout(ctx, caPatience)
		defer cancel()
		var did []string
		did, err = now.acme.Rollover(ctx)
		said = "has a new key at " + strings.Join(did, " and ")
		if err != nil && did != nil {
			err = fmt.Errorf("%s, but not at the other CAs: %w", said, err)
		}
	case "dns-records":
		ctx, cancel := context.WithTimeout(ctx, caPatience)
		defer cancel()
		records, err := now.acme.DNSRecords(ctx)
		return dnsRecords(records), err
	default:
		err = admin.ErrNotSupported
	}
	switch {
	case errors.Is(err, certstore.ErrACMEUnknown):
		err = marked{err, admin.ErrUnknown}
	case errors.Is(err, certstore.ErrACMEState):
		err = marked{err, admin.ErrConflict}
	}
	return r.Name + ": " + said, err
}

// dnsRecords formats records as lines of a zone file.
func dnsRecords(records []certstore.ACMERecord) string {
	if len(records) == 0 {
		return "; no record is needed: no certificate of [acme] has a wildcard"
	}
	var lines []string
	for _, r := range records {
		state := "is there"
		if r.Err != "" {
			state = r.Err
		}
		lines = append(lines, fmt.Sprintf("; for %s from %s: %s", strings.Join(r.For, ", "), r.CA, state), r.String())
	}
	return strings.Join(lines, "\n")
}

// marked is an error that also matches another one, whose text it does not
// repeat.
type marked struct {
	error
	as error
}

func (m marked) Unwrap() []error { return []error{m.error, m.as} }

// problem returns the problem of the cache folder in the form of a file's, or
// nil.
func (o *obtainer) problem() *admin.FileProblem {
	now := o.on.Load()
	if now == nil {
		return nil
	}
	since, err := now.acme.CacheProblem()
	if err == nil {
		return nil
	}
	return &admin.FileProblem{File: now.cfg.Cache, Err: err.Error(), Since: since}
}

// handler answers http-01 while ACME is on, and passes all other requests to
// next.
func (o *obtainer) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if now := o.on.Load(); now != nil {
			now.acme.HTTPHandler(next).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

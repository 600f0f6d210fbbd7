package main

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"

	"wssgate/certstore"
)

// An obtainer is the gate's ACME: off, or on with what the configuration says.
// Its handlers may be called at any time; prepare, commit and close come from
// one goroutine.
type obtainer struct {
	store *certstore.Store
	log   *slog.Logger
	on    atomic.Pointer[acmeRun] // nil: off
}

// An acmeRun is an ACME that has been started, and what it was made from.
type acmeRun struct {
	acme *certstore.ACME
	cfg  ACME
	http bool // http-01 has a listener
}

func newObtainer(store *certstore.Store, log *slog.Logger) *obtainer {
	return &obtainer{store: store, log: log}
}

// An acmeChange is what prepare made, for commit. Next is nil where the file
// leaves things as they are, but for the names, or turns ACME off.
type acmeChange struct{ next *acmeRun }

// prepare makes what cfg demands beside what runs now: its certificates are
// installed as far as the cache has them, and nothing is ordered yet.
func (o *obtainer) prepare(cfg *Config) (*acmeChange, error) {
	now := o.on.Load()
	if len(cfg.ACME.Names) == 0 || now != nil && now.fits(cfg) {
		return &acmeChange{}, nil
	}
	options, err := cfg.acmeOptions(o.store, o.log)
	if err != nil {
		return nil, err
	}
	acme, err := certstore.NewACME(options)
	if err != nil {
		return nil, err
	}
	return &acmeChange{&acmeRun{acme, cfg.ACME, options.HTTP01}}, nil
}

// fits reports whether cfg wants nothing of an ACME but perhaps other names.
func (r *acmeRun) fits(cfg *Config) bool {
	old, wanted := r.cfg, cfg.ACME
	old.Names, wanted.Names = nil, nil
	return reflect.DeepEqual(old, wanted) && r.http == (len(cfg.Listen.HTTP) > 0)
}

// abandon undoes prepare: of the certificates that it installed those stay whose
// names are in force already.
func (o *obtainer) abandon(p *acmeChange) {
	if p == nil || p.next == nil {
		return
	}
	var kept []string
	if now := o.on.Load(); now != nil {
		kept = now.cfg.Names
	}
	o.retire(p.next, kept)
}

// commit puts in force what prepare made for cfg: names that are new are
// ordered, names that are gone are forgotten. Listeners are open by now, for the
// CA comes back to them.
func (o *obtainer) commit(p *acmeChange, cfg *Config) {
	old := o.on.Load()
	switch {
	case p.next != nil:
		o.on.Store(p.next)
		o.retire(old, cfg.ACME.Names)
		p.next.acme.Start()
	case old == nil:
	case len(cfg.ACME.Names) == 0:
		o.on.Store(nil)
		o.retire(old, nil)
	default:
		o.setNames(old.acme, cfg.ACME.Names)
		o.on.Store(&acmeRun{old.acme, cfg.ACME, old.http})
	}
}

// retire ends an ACME. Of the certificates that it installed those of the names
// in kept stay.
func (o *obtainer) retire(old *acmeRun, kept []string) {
	if old == nil {
		return
	}
	o.setNames(old.acme, slices.DeleteFunc(slices.Clone(old.cfg.Names), func(name string) bool {
		return !slices.Contains(kept, name)
	}))
	old.acme.Close()
}

func (o *obtainer) setNames(acme *certstore.ACME, names []string) {
	if err := acme.SetNames(names); err != nil { // names that are checked are taken
		o.log.Error("acme", "err", err)
	}
}

// close gives up what is being ordered.
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

// status is how each name is doing; none while ACME is off.
func (o *obtainer) status() []certstore.ACMEStatus {
	if now := o.on.Load(); now != nil {
		return now.acme.Status()
	}
	return nil
}

// handler answers http-01 while ACME is on, and hands on all else.
func (o *obtainer) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if now := o.on.Load(); now != nil {
			now.acme.HTTPHandler(next).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

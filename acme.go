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

// An acmeChange is what prepare made, for install and then begin, or for abandon.
type acmeChange struct {
	next   *acmeRun                    // nil: the file leaves things as they are, but for the names, or turns ACME off
	cached map[string]*tls.Certificate // what next found, and nobody sees before install; nil after that
	serve  func(name string, cert *tls.Certificate)
	last   *acmeRun // what next replaces, for begin to end; nil: nothing
}

// prepare makes what cfg demands beside what runs now. It reads the cache; nothing
// is ordered yet, and no certificate served.
func (o *obtainer) prepare(cfg *Config) (*acmeChange, error) {
	p := &acmeChange{cached: map[string]*tls.Certificate{}}
	now := o.on.Load()
	if len(cfg.ACME.Names) == 0 || now != nil && now.fits(cfg) {
		return p, nil
	}
	options, err := cfg.acmeOptions(o.store, o.log)
	if err != nil {
		return nil, err
	}
	p.serve = options.Install
	options.Install = func(name string, cert *tls.Certificate) {
		if p.cached != nil {
			p.cached[name] = cert
		} else {
			p.serve(name, cert)
		}
	}
	acme, err := certstore.NewACME(options)
	if err != nil {
		return nil, err
	}
	p.next = &acmeRun{acme, cfg.ACME, options.HTTP01}
	return p, nil
}

// fits reports whether cfg wants nothing of an ACME but perhaps other names.
func (r *acmeRun) fits(cfg *Config) bool {
	old, wanted := r.cfg, cfg.ACME
	old.Names, wanted.Names = nil, nil
	return reflect.DeepEqual(old, wanted) && r.http == (len(cfg.Listen.HTTP) > 0)
}

// abandon undoes prepare; p may be nil.
func (o *obtainer) abandon(p *acmeChange) {
	if p != nil && p.next != nil {
		p.next.acme.Close()
	}
}

// install puts in force what prepare made for cfg, but for orders: the certificates
// of new names that the cache has are served, those of names that are gone are not
// any more. Of names that stay the old ones are served until there are better ones.
func (o *obtainer) install(p *acmeChange, cfg *Config) {
	now := o.on.Load()
	switch {
	case p.next != nil || len(cfg.ACME.Names) == 0:
		if now != nil {
			o.setNames(now.acme, slices.DeleteFunc(slices.Clone(now.cfg.Names), func(name string) bool {
				return !slices.Contains(cfg.ACME.Names, name)
			}))
		}
		cached := p.cached
		p.cached, p.last = nil, now
		for name, cert := range cached {
			p.serve(name, cert)
		}
		o.on.Store(p.next)
	default:
		o.setNames(now.acme, cfg.ACME.Names)
		o.on.Store(&acmeRun{now.acme, cfg.ACME, now.http})
	}
}

// begin orders what is missing, and ends what does so no more. Listeners are open
// by now, for the CA comes back to them.
func (o *obtainer) begin(p *acmeChange) {
	if p.last != nil {
		p.last.acme.Close()
	}
	if p.next != nil {
		p.next.acme.Start()
	}
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

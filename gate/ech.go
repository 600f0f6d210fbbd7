package gate

import (
	"crypto/tls"
	"sync/atomic"

	"wssgate/admin"
	"wssgate/config"
	"wssgate/ech"
	"wssgate/panics"
	"wssgate/proxy"
)

// An echKeys is the gate's Keeper of ECH keys, or none. install and close come from one
// goroutine; other methods may be called at any time.
type echKeys struct {
	on atomic.Pointer[echRun] // nil: off
}

// An echRun is a running Keeper and the settings it was made from.
type echRun struct {
	keeper *ech.Keeper
	cfg    config.ECH
}

// prepare opens the Keeper for cfg beside the current one, if it is another; pass the
// result to install or abandon. It waits for files, but not for those that hang.
func (k *echKeys) prepare(g *gate, cfg *config.Config) *echRun {
	now := k.on.Load()
	switch {
	case !cfg.ECH.On():
		return nil
	case now != nil && now.cfg == cfg.ECH:
		return now
	}
	return &echRun{ech.Open(cfg.ECHOptions(g.log)), cfg.ECH}
}

// abandon undoes prepare.
func (k *echKeys) abandon(next *echRun) {
	if next != nil && next != k.on.Load() {
		next.close()
	}
}

// install replaces the current Keeper by what prepare returned.
func (k *echKeys) install(next *echRun) {
	before := k.on.Swap(next)
	if before == next {
		return
	}
	if next != nil {
		next.keeper.Start()
	}
	before.close()
}

func (k *echKeys) close() { k.install(nil) }

func (r *echRun) close() {
	if r != nil {
		go panics.Catch(panics.Certificates, r.keeper.Close) // it may wait for a folder that hangs
	}
}

// options are for the server; nil: off.
func (r *echRun) options() *proxy.ECH {
	if r == nil {
		return nil
	}
	return &proxy.ECH{
		PublicName: r.cfg.PublicName,
		Keys: func(id uint8, kdf, aead uint16) []tls.EncryptedClientHelloKey {
			return r.keeper.Ring().For(id, ech.Suite{KDF: kdf, AEAD: aead})
		},
		Retry: func() []tls.EncryptedClientHelloKey { return r.keeper.Ring().Retry() },
	}
}

// describe is for the admin page; nil: off.
func (r *echRun) describe(hasCertificate func(name string) bool) *admin.ECH {
	if r == nil {
		return nil
	}
	ring := r.keeper.Ring()
	out := &admin.ECH{PublicName: r.cfg.PublicName, Folder: r.cfg.Keys, Keys: ring.Keys(), Certificate: hasCertificate(r.cfg.PublicName)}
	if now := ring.Current(); now != nil {
		out.Current, out.Made = now.File, now.Made
	}
	if since, err := r.keeper.Problem(); err != nil {
		out.Err, out.Since = err.Error(), since
	}
	return out
}

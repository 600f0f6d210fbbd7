package config

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"wssgate/files"
	"wssgate/panics"
)

// An unread is a file that closes no door: without it an upstream or a CA is not used,
// and nobody gets in who should not. If its file system hangs, a gate starts without it,
// and each reload tries it again.
//
// It has its own Place, so that it delays neither the other files nor a reload.
type unread struct {
	file  string
	place *files.Place
	late  atomic.Pointer[contents] // of a read that took too long
}

type contents struct {
	data []byte
	err  error
}

// maxUnread bounds how many Places of unread files there are, because each that hangs
// costs a thread. The files beyond share the last one.
const maxUnread = 64

// read is Place.Read. If a file is slow each time, the contents that the last read
// returned in the end count.
func (u *unread) read() ([]byte, error) {
	data, err := files.Do(context.Background(), u.place, func() ([]byte, error) {
		data, err := u.place.Read(u.file, MaxFile)
		u.late.Store(&contents{data, err})
		return data, err
	})
	if late := u.late.Load(); late != nil && files.IsHang(err) {
		return late.data, late.err
	}
	return data, err
}

// deferrable are the paths of the files that close no door, each once.
func (c *Config) deferrable() []string {
	var list []string
	if c.ACME.On() {
		list = c.ACME.Files()
	}
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		u := c.Upstream[name]
		list = append(list, u.CA, u.ClientCertificate, u.ClientKey)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(file string) bool { return file == "" })
}

// readAll reads files at the same time, and keeps what is read for Config.Files. It
// returns those that hang; the errors of the others are found again when they are
// checked.
func (ms *mistakes) readAll(list []*unread) (hang []*unread) {
	var wg sync.WaitGroup
	read := make([]contents, len(list))
	for i, u := range list {
		read[i].err = errors.ErrUnsupported // if it panics
		wg.Go(func() { panics.Catch(panics.Config, func() { read[i].data, read[i].err = u.read() }) })
	}
	wg.Wait()
	ms.files, ms.unread = map[string][]byte{}, map[string]error{}
	for i, u := range list {
		switch err := read[i].err; {
		case files.IsHang(err):
			ms.unread[u.file] = err
			hang = append(hang, u)
		case err == nil:
			ms.files[u.file] = read[i].data
		}
	}
	return hang
}

// newUnread makes the list for a start.
func newUnread(paths []string) (list []*unread) {
	for i, path := range paths {
		place := files.At("configuration", paths[min(i, maxUnread-1)], nil).CountedBy(panics.Config)
		list = append(list, &unread{file: path, place: place})
	}
	return list
}

// checkDeferrable is checkFile for a file that closes no door. One that hangs is not
// checked.
func (ms *mistakes) checkDeferrable(p keyPath, file string, check func(data []byte) error) {
	if ms.unread[file] == nil {
		ms.checkFile(p, file, check)
	}
}

// Unread returns why a file of the configuration has not been read, which is a
// *files.HangError, or nil.
func (c *Config) Unread(file string) error { return c.unreadErrs[file] }

// UnreadUpstreams returns the upstreams that are out because a file of theirs has not
// been read, and why.
func (c *Config) UnreadUpstreams() map[string]error {
	out := map[string]error{}
	for name, u := range c.Upstream {
		if err := c.unreadOf(u); err != nil {
			out[name] = err
		}
	}
	return out
}

func (c *Config) unreadOf(u *Upstream) error {
	var errs []error
	for _, file := range []string{u.CA, u.ClientCertificate, u.ClientKey} {
		errs = append(errs, c.Unread(file))
	}
	return errors.Join(errs...)
}

// Back returns a channel that is closed when a file that has not been read can be; nil
// if there is none.
func (c *Config) Back() <-chan struct{} {
	if len(c.unread) == 0 {
		return nil
	}
	back := make(chan struct{})
	once := sync.OnceFunc(func() { close(back) })
	for _, err := range c.unreadErrs {
		free := files.FreeAfter(err)
		go panics.Catch(panics.Config, func() {
			select {
			case <-free:
				once()
			case <-c.left:
			}
		})
	}
	return back
}

// Leave gives up a configuration that next has replaced; nil: nothing has.
func (c *Config) Leave(next *Config) {
	for _, u := range c.unread {
		if next == nil || !slices.Contains(next.unread, u) {
			u.place.Leave()
		}
	}
	close(c.left)
}

// refuse is a TLS configuration with which every handshake of a client fails.
//
// InsecureSkipVerify only has the handshake come as far as VerifyConnection, which
// crypto/tls calls for resumed sessions too, and which says why. Without that, the empty
// RootCAs would trust nobody.
func refuse(why error) *tls.Config {
	return &tls.Config{
		RootCAs:            x509.NewCertPool(),
		InsecureSkipVerify: true,
		VerifyConnection:   func(tls.ConnectionState) error { return fmt.Errorf("not used: %w", why) },
	}
}

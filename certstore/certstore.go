// Package certstore chooses the certificate for a ClientHello.
//
// A Store holds the certificates from a directory, in any of the usual layouts, and
// those added with Install. It never generates one and has no default certificate.
// ACME, in the same package, obtains certificates and installs them.
//
// # States and owners
//
//	tree    the directory as it is read; one job at a time touches it (package files)
//	harvest what the last job on the tree has left; immutable
//	table   what handshakes see; immutable, swapped whole, read without a lock
//	view    has the newest table until the next Change, then stays as it is
//	cache   the few certificates that are parsed; its lock is held for moments
//
// From the disk to a handshake there is one way down; each file calls those below it:
//
//	watch.go    something may have changed, or view.go: another directory is prepared
//	scan.go     which folders and files that may be about
//	folder.go   a folder is listed
//	read.go     a file is read, where it is not as it was
//	parse.go    its bytes are taken apart
//	harvest.go  the job ends, and every folder that changed is
//	pair.go     put together: leaves, keys, chains
//	publish.go  the table is swapped
//	table.go    a name is looked up
//	choose.go   one of several certificates is chosen
//	cache.go    and parsed, if need be
//
// tree.go has the state of the first five, and elsewhere.go what is on other file
// systems. A handshake begins at the table, with a server name in normal form
// (name.go), and so waits neither for a disk nor for a reload.
//
// A directory may hang. Whoever has it read then waits no longer than files.Patience;
// the job goes on when the directory is back, and publishes what it finds by itself.
// Until then the certificates that were read before are served: at the start none,
// which Reading tells.
//
// Tables that the watcher, Reload, Install and Remove make are seen at once. What
// belongs to a new configuration is prepared as a Change, and then seen by those
// who take its View with the rest of that configuration (view.go).
//
// All methods of a Store are safe for concurrent use.
package certstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"wssgate/files"
	"wssgate/watch"
)

// Options say where a Store finds certificates. The zero value is a Store
// without a directory.
type Options struct {
	Directory string       // empty: only installed certificates
	Watch     bool         // notice changes by itself; else only Reload does
	Log       *slog.Logger // nil: slog.Default()

	quiet time.Duration // for tests: as in watch.Options
}

// A Store knows all certificates. Open makes one; Close ends it.
type Store struct {
	log   *slog.Logger
	quiet time.Duration        // of watchers
	view  atomic.Pointer[View] // replaced by a Commit only
	cache cache

	swap      sync.Mutex     // held for moments, never while the system is called
	tree      *tree          // nil without a directory
	watcher   *watch.Watcher // nil unless the directory is watched
	closed    bool
	read      *harvest // of tree, as published last
	installed map[installedName]*certificate
	nextDate  int64 // Unix seconds: when the next certificate becomes valid or expires; 0: never
}

type installedName struct{ source, name string }

// Open reads the directory once and returns a Store that serves its good certificates.
// Problems lists the bad ones. The only error is a directory that cannot be listed. A
// directory that hangs is not an error: see Reading.
func Open(o Options) (*Store, error) {
	s := &Store{
		log:       o.Log,
		quiet:     o.quiet,
		read:      new(harvest),
		installed: map[installedName]*certificate{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.view.Store(s.newView(new(table)))
	c, err := s.prepare(o.Directory, o.Watch, true)
	if err != nil {
		return nil, err
	}
	c.Commit()
	return s, nil
}

// View returns the newest View.
func (s *Store) View() *View { return s.view.Load() }

// table returns the newest table.
func (s *Store) table() *table { return s.View().table.Load() }

// GetCertificate calls GetCertificate of the newest View.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.View().GetCertificate(hello)
}

// Has calls Has of the newest View.
func (s *Store) Has(serverName string) bool { return s.View().Has(serverName) }

// Reload checks the whole directory, reads what changed, and returns when handshakes
// use it. Problems lists bad files. The error is for a directory that cannot be listed
// or hangs; all certificates then stay.
func (s *Store) Reload() error {
	t, _ := s.inUse()
	if t == nil {
		return nil
	}
	err := t.do(context.Background(), t.all, func() { s.publish(t, false) })
	if err != nil {
		return fmt.Errorf("certificates: directory %q: %w", t.root, plainError(err))
	}
	return nil
}

// inUse returns the tree and its watcher.
func (s *Store) inUse() (*tree, *watch.Watcher) {
	s.swap.Lock()
	defer s.swap.Unlock()
	return s.tree, s.watcher
}

// Reading returns an error while the directory hangs and nothing of it has been read
// yet, and nil otherwise.
func (s *Store) Reading() *files.HangError {
	t, _ := s.inUse()
	if t == nil || t.done.Load() {
		return nil
	}
	return t.place.Hangs()
}

// Install puts a certificate beside those of the directory; it takes part in
// the choice as they do. source and name together identify it, and the next
// Install of both replaces it. It is for its own names, whatever name says.
// The caller must not change cert afterwards.
func (s *Store) Install(source, name string, cert *tls.Certificate) error {
	c, err := fromTLS(source, cert)
	if err != nil {
		return fmt.Errorf("certificate for %q from %s: %w", name, source, err)
	}
	s.swap.Lock()
	defer s.swap.Unlock()
	s.installed[installedName{source, name}] = c
	s.replaceTable(false)
	return nil
}

// Remove removes the certificate that Install added under the same source and name.
func (s *Store) Remove(source, name string) {
	s.swap.Lock()
	defer s.swap.Unlock()
	delete(s.installed, installedName{source, name})
	s.replaceTable(false)
}

// Close stops watching. Handshakes are still answered.
func (s *Store) Close() error {
	s.swap.Lock()
	w := s.watcher
	s.watcher, s.closed = nil, true
	if s.tree != nil {
		s.tree.watcher.Store(nil)
		s.tree.leave()
	}
	s.swap.Unlock()
	if w == nil {
		return nil
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("certificates: watching: %w", err)
	}
	return nil
}

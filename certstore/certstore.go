// Package certstore chooses the certificate for a ClientHello.
//
// A Store holds the certificates from a directory, in any of the usual layouts,
// and those added with Install. It never generates a certificate and has no
// default one. ACME, in the same package, obtains certificates and installs
// them.
//
// # States and owners
//
//	tree    the directory as it was last read; one job at a time uses it (package files)
//	harvest the result of the last job on the tree; immutable
//	table   what handshakes use; immutable, swapped whole, read without a lock
//	view    has the newest table until the next Change, then stays as it is
//	cache   the few certificates that are parsed; its lock is held for moments
//
// Data goes one way, from the disk to a handshake. Each of these files calls
// only those below it:
//
//	watch.go    something may have changed, or view.go: another directory is prepared
//	scan.go     selects the folders and files to look at
//	folder.go   lists a folder
//	read.go     reads a file if it has changed
//	parse.go    splits it into leaves, keys and issuers
//	harvest.go  ends the job and pairs each folder that has changed
//	pair.go     combines leaves, keys and chains
//	publish.go  swaps the table
//	table.go    looks up a name
//	choose.go   chooses one of several certificates
//	cache.go    parses it, unless it is parsed already
//
// tree.go holds the state of the first five files; elsewhere.go deals with
// other file systems. A handshake starts at the table, with a server name in
// normal form (name.go). It never waits for a disk or a reload.
//
// A directory may hang. A caller waits for it no longer than files.Patience.
// The job continues when the directory answers again, and then publishes its
// result. Until then the Store serves the certificates that it read before. At
// the start there are none, and Reading returns the error.
//
// Tables that the watcher, Reload, Install and Remove make take effect at once.
// The certificates of a new configuration are prepared as a Change; its View
// replaces the current one together with the rest of that configuration
// (view.go).
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

// Options configure a Store. The zero value is for a Store without a directory.
type Options struct {
	Directory string       // empty: only installed certificates
	Watch     bool         // notice changes automatically; otherwise only Reload does
	Log       *slog.Logger // nil: slog.Default()

	quiet time.Duration // for tests: as in watch.Options
}

// A Store serves certificates by server name. Create one with Open; Close stops
// it.
type Store struct {
	log   *slog.Logger
	quiet time.Duration        // of watchers
	view  atomic.Pointer[View] // replaced only by Commit
	cache cache

	swap      sync.Mutex     // held for moments, never during a system call
	tree      *tree          // nil without a directory
	watcher   *watch.Watcher // nil if the directory is not watched
	closed    bool
	read      *harvest // the tree's result that was published last
	installed map[installedName]*certificate
	nextDate  int64 // Unix seconds: when the next certificate becomes valid or expires; 0: never
}

type installedName struct{ source, name string }

// Open reads the directory once and returns a Store that serves its good
// certificates. Problems lists the bad ones. Open fails only if the directory
// cannot be listed. A directory that hangs is not an error: see Reading.
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

func (s *Store) table() *table { return s.View().table.Load() }

// GetCertificate calls GetCertificate of the newest View.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.View().GetCertificate(hello)
}

// Has calls Has of the newest View.
func (s *Store) Has(serverName string) bool { return s.View().Has(serverName) }

// Reload checks the whole directory and reads what has changed. When it
// returns, handshakes use the result. Problems lists bad files. Reload fails if
// the directory hangs or cannot be listed; all certificates then stay in use.
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

func (s *Store) inUse() (*tree, *watch.Watcher) {
	s.swap.Lock()
	defer s.swap.Unlock()
	return s.tree, s.watcher
}

// Reading returns an error while the directory hangs and none of it has been
// read yet. Otherwise it returns nil.
func (s *Store) Reading() *files.HangError {
	t, _ := s.inUse()
	if t == nil || t.done.Load() {
		return nil
	}
	return t.place.Hangs()
}

// Install adds a certificate to those of the directory; both kinds are chosen
// by the same rules. source and name together identify it: the next Install
// with both replaces it. The certificate serves the names that it contains,
// whatever name is. The caller must not change cert afterwards.
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

// Remove removes the certificate that was installed with this source and name.
func (s *Store) Remove(source, name string) {
	s.swap.Lock()
	defer s.swap.Unlock()
	delete(s.installed, installedName{source, name})
	s.replaceTable(false)
}

// Close stops watching the directory. GetCertificate still works afterwards.
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

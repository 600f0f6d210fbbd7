// Package certstore answers one question: which certificate does this
// ClientHello get?
//
// A Store holds the certificates that it found in a directory, in any of the
// layouts that people already have, and those that were handed to it with
// Install. It never makes one up, has no default certificate, and asks nobody
// else; what obtains certificates stands beside it.
//
// # States and owners
//
//	tree    the directory as last read; only a reload touches it, under scan
//	table   what handshakes see; immutable, swapped whole, read without a lock
//	cache   the few certificates that are parsed; its lock is held for moments
//
// A reload lists the directory (scan.go), reads the files that are not as they
// were (read.go), takes them apart (file.go), puts leaves and keys together folder
// by folder (pair.go), and swaps the table (table.go). A handshake normalises
// the server name (name.go), looks it up, chooses among several (choose.go), parses
// the chosen one if need be (cache.go), and so waits neither for a
// disk nor for a reload.
//
// All methods of a Store are safe for concurrent use.
package certstore

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options say where a Store finds certificates. The zero value is a Store
// without a directory.
type Options struct {
	Directory string       // empty: only installed certificates
	Watch     bool         // notice changes by itself; else only Reload does
	Log       *slog.Logger // nil: slog.Default()
}

// A Store knows all certificates. Open makes one; Close ends it.
type Store struct {
	log   *slog.Logger
	table atomic.Pointer[table]
	cache cache

	scan    sync.Mutex // held while the directory is read
	tree    *tree      // nil without a directory
	watcher *watcher   // nil unless the directory is watched
	closed  bool

	swap      sync.Mutex // held for moments, after scan where both are
	read      []*certificate
	faults    []fault
	installed map[installedName]*certificate
	nextDate  int64 // Unix seconds: when the next certificate becomes valid or expires; 0: never
}

type installedName struct{ source, name string }

// Open reads the directory once and returns a Store that serves what was good
// in it. What was not is in Problems; only a directory that cannot be listed
// is an error.
func Open(o Options) (*Store, error) {
	s := &Store{
		log:       o.Log,
		installed: map[installedName]*certificate{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.table.Store(new(table))
	if err := s.SetDirectory(o.Directory, o.Watch); err != nil {
		return nil, err
	}
	return s, nil
}

// GetCertificate is for tls.Config.GetCertificate; that Config must have no
// Certificates.
//
// It answers nil, nil where it has none for the server name, or where the
// client sent no server name: crypto/tls then sends the alert
// unrecognized_name (RFC 6066, section 3), where an error would reach the
// client as internal_error. Where the client can use none of the name's
// certificates, it gets one regardless and with it a handshake_failure.
// The caller must not change the certificate.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, err := normalName(hello.ServerName)
	if err != nil {
		return nil, nil
	}
	return s.table.Load().pick(hello, name, s.cache.get)
}

// Has reports whether GetCertificate has an answer for the server name,
// be it an expired one.
func (s *Store) Has(serverName string) bool {
	name, err := normalName(serverName)
	if err != nil {
		return false
	}
	exact, wild := s.table.Load().lookup(name)
	return len(exact)+len(wild) > 0
}

// Reload looks at the whole directory, reads what changed, and returns when
// handshakes see it. Files that are bad are in Problems; the error is for a
// directory that cannot be listed, and then all certificates stay.
func (s *Store) Reload() error {
	s.scan.Lock()
	defer s.scan.Unlock()
	if s.tree == nil {
		return nil
	}
	err := s.tree.scan()
	s.tree.bad()
	s.publish(false)
	if err != nil {
		return fmt.Errorf("certificates: directory %q: %w", s.tree.root, plainError(err))
	}
	return nil
}

// SetDirectory takes another directory, and whether to watch it. Where it
// cannot be listed, that is an error and the old one stays in use, its
// certificates and all. Between the two no handshake sees an empty table.
func (s *Store) SetDirectory(dir string, watch bool) error {
	s.scan.Lock()
	old, err := s.setDirectory(dir, watch)
	s.scan.Unlock()
	if old != nil {
		old.close() // it may be waiting for scan
	}
	return err
}

// setDirectory returns the watcher that is to be closed after scan, which the
// caller holds, is free.
func (s *Store) setDirectory(dir string, watch bool) (old *watcher, err error) {
	if s.closed {
		watch = false
	}
	var next *tree
	if dir != "" {
		next = newTree(dir)
		if s.tree != nil && s.tree.root == next.root {
			next = s.tree // so that what it kept stays
		}
	}
	w := s.watcher
	if next != s.tree || watch != (w != nil) {
		w = nil
		if watch && next != nil {
			w = newWatcher(s.log, s.look)
		}
	}
	if next != nil {
		before := next.watcher
		next.watcher = w
		if err := next.scan(); err != nil {
			next.watcher = before
			if w != before {
				old = w
				go w.watchFiles() // close waits for its end
			}
			return old, fmt.Errorf("certificates: directory %q: %w", dir, plainError(err))
		}
	}
	if w != s.watcher {
		old = s.watcher
		s.watcher = w
		if w != nil {
			go w.watchFiles()
		}
	}
	s.tree = next
	s.publish(false)
	return old, nil
}

// look is what a watcher calls.
func (s *Store) look(w *watcher, what looking) {
	s.scan.Lock()
	defer s.scan.Unlock()
	if s.watcher != w || s.tree == nil { // closed or replaced meanwhile
		return
	}
	if what.all {
		s.tree.scan() // a root that cannot be listed becomes a problem
	} else {
		s.tree.changed(what.names)
	}
	if what.again {
		s.tree.bad()
	}
	s.publish(!what.again)
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

// Remove takes away what Install put there under the same source and name.
func (s *Store) Remove(source, name string) {
	s.swap.Lock()
	defer s.swap.Unlock()
	delete(s.installed, installedName{source, name})
	s.replaceTable(false)
}

// Close ends watching. Handshakes are still answered.
func (s *Store) Close() error {
	s.scan.Lock()
	w := s.watcher
	s.watcher, s.closed = nil, true
	if s.tree != nil {
		s.tree.watcher = nil
	}
	s.scan.Unlock()
	if w == nil {
		return nil
	}
	return w.close()
}

// publish makes handshakes see the tree where it is not as it was; hasty is as
// in problems. The caller holds scan.
func (s *Store) publish(hasty bool) {
	now := time.Now()
	var all []*certificate
	var faults []fault
	changed := s.tree == nil
	if s.tree != nil {
		all, faults, changed = s.tree.collect(now)
	}
	s.swap.Lock()
	defer s.swap.Unlock()
	date := s.nextDate != 0 && now.Unix() >= s.nextDate
	unlogged := slices.ContainsFunc(s.table.Load().problems, func(p Problem) bool { return !p.logged })
	if !changed && !date && !unlogged {
		return
	}
	s.read, s.faults = all, faults
	s.replaceTable(hasty)
	if changed {
		t := s.table.Load()
		s.log.Info("certificates: loaded", "certificates", len(t.all), "names", t.size(), "problems", len(t.problems))
	}
}

// replaceTable swaps the table once. The caller holds swap.
func (s *Store) replaceTable(hasty bool) {
	all := slices.Clip(s.read)
	for _, c := range s.installed {
		all = append(all, c)
	}
	old := s.table.Load()
	next := newTable(old, all)
	next.problems = s.problems(next, old.problems, hasty)
	s.nextDate = next.nextDate(time.Now())
	s.table.Store(next)
}

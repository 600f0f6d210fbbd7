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
// A reload lists the directory, reads the files that are not as they were
// (scan.go), takes them apart (file.go), puts leaves and keys together folder
// by folder (pair.go), and swaps the table (table.go). A handshake normalises
// the server name (name.go), looks it up, chooses among several, and parses
// the chosen one if need be (cache.go). So a handshake waits neither for a
// disk nor for a reload.
//
// All methods of a Store are safe for concurrent use.
package certstore

import (
	"cmp"
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

	scan sync.Mutex // held while the directory is read
	tree *tree      // nil without a directory

	swap      sync.Mutex // held for moments, after scan where both are
	read      []*certificate
	faults    []fault
	installed map[installedName]*certificate
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
	s.table.Store(newTable(nil))
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

// Reload reads what changed in the directory and returns when handshakes see
// it. Files that are bad are in Problems; the error is for a directory that
// cannot be listed, and then everything stays as it was.
func (s *Store) Reload() error {
	s.scan.Lock()
	defer s.scan.Unlock()
	if s.tree == nil {
		return nil
	}
	if err := s.tree.scan(); err != nil {
		return fmt.Errorf("certificates: directory %q: %w", s.tree.root, plainError(err))
	}
	s.publish()
	return nil
}

// SetDirectory takes another directory, and whether to watch it. Where it
// cannot be listed, that is an error and the old one stays in use, its
// certificates and all. Between the two no handshake sees an empty table.
func (s *Store) SetDirectory(dir string, watch bool) error {
	s.scan.Lock()
	defer s.scan.Unlock()
	var next *tree
	if dir != "" {
		next = newTree(dir)
		if s.tree != nil && s.tree.root == next.root {
			next = s.tree // so that what it kept stays
		}
		if err := next.scan(); err != nil {
			return fmt.Errorf("certificates: directory %q: %w", dir, plainError(err))
		}
	}
	s.tree = next
	s.publish()
	return nil
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
	s.replaceTable()
	return nil
}

// Remove takes away what Install put there under the same source and name.
func (s *Store) Remove(source, name string) {
	s.swap.Lock()
	defer s.swap.Unlock()
	delete(s.installed, installedName{source, name})
	s.replaceTable()
}

// Close ends watching. Handshakes are still answered.
func (s *Store) Close() error { return nil }

// publish makes handshakes see the tree. The caller holds scan.
func (s *Store) publish() {
	var all []*certificate
	var faults []fault
	if s.tree != nil {
		all, faults = s.tree.collect(time.Now())
	}
	s.swap.Lock()
	defer s.swap.Unlock()
	s.read, s.faults = all, faults
	s.replaceTable()
}

// replaceTable swaps the table once. The caller holds swap.
func (s *Store) replaceTable() {
	all := slices.Clip(s.read)
	for _, c := range s.installed {
		all = append(all, c)
	}
	t := newTable(all)
	t.problems = s.problems(s.table.Load().problems)
	s.table.Store(t)
}

// problems makes the list of problems, each with the time when it was first
// seen, and logs what came and what went.
func (s *Store) problems(before []Problem) []Problem {
	old := make(map[string]Problem, len(before))
	for _, p := range before {
		old[p.Err.Error()] = p
	}
	out := make([]Problem, 0, len(s.faults))
	for _, f := range s.faults {
		p := Problem{File: f.path, Err: f.err, Since: time.Now(), Kept: f.kept}
		if was, ok := old[f.err.Error()]; ok {
			p.Since = was.Since
		} else {
			s.log.Error("certificate file cannot be used", "file", f.path, "err", f.err, "old_one_served", f.kept)
		}
		delete(old, f.err.Error())
		out = append(out, p)
	}
	for _, p := range old {
		if !slices.ContainsFunc(out, func(q Problem) bool { return q.File == p.File }) {
			s.log.Info("certificate file mended or removed", "file", p.File)
		}
	}
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Err.Error(), b.Err.Error()))
	})
	return out
}

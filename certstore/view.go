package certstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"wssgate/files"
	"wssgate/watch"
)

// A View answers handshakes. It follows the Store's changes until a Change is
// committed. Then the Change's View takes over, and this one no longer changes;
// connections that started with it keep it. Its methods are safe for concurrent
// use and do not block.
type View struct {
	table atomic.Pointer[table]
	cache *cache
}

func (s *Store) newView(t *table) *View {
	v := &View{cache: &s.cache}
	v.table.Store(t)
	return v
}

// GetCertificate is for tls.Config.GetCertificate; that Config must have no
// Certificates.
//
// It returns nil, nil if it has no certificate for the server name, or if the
// client sent no server name. crypto/tls then sends the alert unrecognized_name
// (RFC 6066, section 3); an error would reach the client as internal_error. A
// client that supports none of the name's certificates gets one of them, and so
// the alert handshake_failure. The caller must not change the certificate.
func (v *View) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name, err := normalName(hello.ServerName)
	if err != nil {
		return nil, nil
	}
	return v.table.Load().pick(hello, name, v.cache.get)
}

// Has reports whether GetCertificate has a certificate for the server name, even an
// expired one.
func (v *View) Has(serverName string) bool {
	name, err := normalName(serverName)
	if err != nil {
		return false
	}
	exact, wild := v.table.Load().lookup(name)
	return len(exact)+len(wild) > 0
}

// A Change is a directory that was read but is not in use yet. Call Commit or
// Abandon exactly once, before the next Prepare. It is for one goroutine at a
// time.
type Change struct {
	store   *Store
	tree    *tree          // nil if there is no directory
	watcher *watch.Watcher // the watcher in use, or one that is not running yet
	late    atomic.Bool    // the caller no longer waits for the reading
}

// Prepare reads a directory: the one in use or another. watch tells whether to
// watch it after Commit. Prepare fails if the directory cannot be listed, or if
// it is another one and hangs. If another directory is only slow, the Change
// has what was read so far. If the directory in use hangs, its certificates
// stay until it answers. Handshakes see no difference until Commit.
func (s *Store) Prepare(dir string, watch bool) (*Change, error) {
	return s.prepare(dir, watch, false)
}

// prepare is Prepare. With first, it accepts a directory that hangs, in any
// case.
func (s *Store) prepare(dir string, watch, first bool) (*Change, error) {
	c := &Change{store: s}
	err := c.read(dir, watch)
	if hang, ok := errors.AsType[*files.HangError](err); ok {
		if used, _ := s.inUse(); first || c.tree == used || hang.Slow {
			return c, nil
		}
	}
	if err != nil {
		c.Abandon()
		return nil, fmt.Errorf("certificates: directory %q: %w", dir, plainError(err))
	}
	return c, nil
}

func (c *Change) read(dir string, watch bool) error {
	s := c.store
	s.swap.Lock()
	used, watcher := s.tree, s.watcher
	watch = watch && dir != "" && !s.closed
	s.swap.Unlock()
	if dir != "" {
		c.tree = newTree(dir, s.log)
		if used != nil && used.root == c.tree.root {
			c.tree.leave()
			c.tree = used // keeps the certificates of files that have gone bad
		} else {
			tree := c.tree
			tree.again = func(first func()) {
				tree.doLater(func() error {
					first()
					return tree.all()
				}, func() { s.publish(tree, false) })
			}
		}
	}
	switch {
	case c.tree == used && watch == (watcher != nil):
		c.watcher = watcher
	case watch:
		c.watcher = s.newWatcher()
	}
	if c.tree == nil {
		return nil
	}
	c.tree.watcher.Store(c.watcher)
	err := c.tree.do(context.Background(), c.tree.all, func() {
		if c.late.Load() {
			s.publish(c.tree, false)
		}
	})
	if errors.Is(err, files.ErrHangs) {
		c.late.Store(true)
	}
	return err
}

// Commit puts the directory into use and returns its View, which includes all
// certificates installed meanwhile. No handshake sees an empty table in
// between.
func (c *Change) Commit() *View {
	s := c.store
	s.swap.Lock()
	old := s.watcher
	if s.tree != c.tree {
		s.tree.leave()
	}
	s.tree, s.watcher = c.tree, c.watcher
	v := s.newView(s.table())
	s.view.Store(v)
	s.publishTree(false)
	s.swap.Unlock()
	if c.watcher != old {
		if c.watcher != nil {
			c.watcher.Start()
		}
		if old != nil {
			old.Close()
		}
	}
	return v
}

// Abandon discards the Change. If its directory is the one in use, the next
// Reload applies what was read.
func (c *Change) Abandon() {
	s := c.store
	used, watcher := s.inUse()
	if c.tree != nil && c.tree == used {
		c.tree.watcher.Store(watcher) // the next Reload adds new folders to it
	} else {
		c.tree.leave()
	}
	if c.watcher != nil && c.watcher != watcher {
		c.watcher.Close()
	}
}

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wssgate/access"
	"wssgate/admin"
	"wssgate/files"
)

// checkAccess reads the lists of [access] and of the vhosts, and the files in them.
func (c *Config) checkAccess(ms *mistakes, root keyPath) {
	c.Access.check(ms, root.key("access"), c)
	for i, v := range c.Vhost {
		v.Access.check(ms, root.key("vhost").item(i, first(v.Names)).key("access"), c)
	}
}

func (a *Access) check(ms *mistakes, p keyPath, c *Config) {
	a.rules = &access.Rules{
		Allow: c.accessList(ms, p.key("allow"), a.Allow, true),
		Deny:  c.accessList(ms, p.key("deny"), a.Deny, false),
	}
}

// accessList takes a list apart into what stands in it and its files.
func (c *Config) accessList(ms *mistakes, p keyPath, entries []string, allow bool) []*access.Networks {
	var sets []*access.Networks
	var inline []netip.Prefix
	for i, entry := range entries {
		name, isFile := strings.CutPrefix(entry, "file:")
		if !isFile {
			network, err := access.ParseNetwork(entry)
			if err != nil {
				ms.add(p, `write "192.0.2.0/24", "192.0.2.7" or "file:deny.txt"`, "%q %v", entry, err)
				continue
			}
			entries[i] = network.String()
			inline = append(inline, network)
			continue
		}
		if name == "" {
			ms.add(p, `write "file:deny.txt"`, "%q has no name of a file", entry)
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(c.File), name)
		}
		entries[i] = "file:" + name
		file := c.accessFile(name)
		if file.folder == "" {
			file.folder = filepath.Dir(name)
			if real, err := configFiles.EvalSymlinks(name); err == nil {
				file.folder = filepath.Dir(real)
			}
		}
		file.allow = file.allow || allow
		if err := file.take(ms.read(name)); err != nil {
			ms.add(p, "", "%q: %v", name, err)
		}
		sets = append(sets, file.networks)
	}
	if len(inline) > 0 {
		sets = append(sets, access.NewNetworks(inline))
	}
	return sets
}

// accessFile is the one of a name: what several lists name is read and watched once.
func (c *Config) accessFile(name string) *accessFile {
	for _, f := range c.accessFiles {
		if f.name == name {
			return f
		}
	}
	f := &accessFile{name: name, networks: access.NewNetworks(nil)}
	c.accessFiles = append(c.accessFiles, f)
	return f
}

// An accessFile is a file with networks. What it held last, when it was good, is in
// force.
type accessFile struct {
	name     string
	folder   string // that it was in when it was read first, links followed
	networks *access.Networks
	allow    bool // an empty one would let nobody in, and is a mistake

	mu    sync.Mutex
	sum   [sha256.Size]byte // of what was read last
	err   error             // what is wrong with the file now
	since time.Time
}

// take takes what reading the file gave. A bad one changes nothing.
func (f *accessFile) take(data []byte, err error) error {
	var list []netip.Prefix
	sum := contentSum(data, err)
	if err == nil {
		if list, err = access.ParseFile(data); err == nil && len(list) == 0 && f.allow {
			err = errors.New("has no network, so that nobody would be allowed")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sum = sum
	if err != nil && f.err == nil {
		f.since = time.Now()
	}
	if f.err = err; err == nil {
		f.networks.Replace(list)
	}
	return err
}

// problem is what the page shows of a file that is bad.
func (f *accessFile) problem() (p admin.FileProblem, bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return p, false
	}
	return admin.FileProblem{File: f.name, Err: fmt.Sprintf("access list %q: %v", f.name, f.err), Since: f.since, Kept: true}, true
}

// An accessWatch reads access lists again when their files change. Its methods
// belong to one goroutine, the gate's.
//
// Lists that really are in different folders have different Places: one that hangs
// keeps no other away.
type accessWatch struct {
	log     *slog.Logger
	folders []*accessFolder
}

// An accessFolder is the lists in one folder.
type accessFolder struct {
	place *files.Place
	lists []*accessFile
	watch *fileWatch
	log   *slog.Logger
	stop  context.CancelFunc
}

// set has the files of another configuration watched, in place of those before.
func (w *accessWatch) set(lists []*accessFile) {
	for _, f := range w.folders {
		f.watch.set(false)
		f.stop()
		f.place.Leave()
	}
	w.folders = nil
	byFolder := map[string][]*accessFile{}
	for _, f := range lists {
		byFolder[f.folder] = append(byFolder[f.folder], f)
	}
	for folder, lists := range byFolder {
		sums := map[string][sha256.Size]byte{}
		for _, f := range lists {
			f.mu.Lock()
			sums[f.name] = f.sum
			f.mu.Unlock()
		}
		place := files.At("access lists", folder, nil)
		f := &accessFolder{place: place, lists: lists, watch: newFileWatch("access", place, sums, w.log), log: w.log}
		f.watch.set(true)
		var ctx context.Context
		ctx, f.stop = context.WithCancel(context.Background())
		go f.follow(ctx)
		w.folders = append(w.folders, f)
	}
}

// follow reads what has changed, in jobs of the folder's place.
func (d *accessFolder) follow(ctx context.Context) {
	for {
		select {
		case <-d.watch.changed:
		case <-ctx.Done():
			return
		}
		files.Await(ctx, d.place, func() (struct{}, error) {
			for _, f := range d.lists {
				data, err := d.place.Read(f.name, maxConfigFile)
				sum := contentSum(data, err)
				d.watch.note(f.name, sum)
				if !f.isNew(sum) {
					continue
				}
				if err := f.take(data, err); err != nil {
					d.log.Error("access list: the one before stays in force", "file", f.name, "err", err)
				} else {
					d.log.Info("access list read again", "file", f.name)
				}
			}
			return struct{}{}, nil
		})
	}
}

// isNew reports whether the sum is of something else than was read last.
func (f *accessFile) isNew(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sum != f.sum
}

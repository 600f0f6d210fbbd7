package config

import (
	"crypto/sha256"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"wssgate/access"
)

// checkAccess reads the lists in [access] and in the vhosts, with the files
// that they name.
func (c *Config) checkAccess(ms *mistakes, root keyPath) {
	c.Access.check(ms, root.key("access"), c)
	for i, v := range c.Vhost {
		v.Access.check(ms, root.key("vhost").item(i, first(v.Names)).key("access"), c)
	}
}

func (a *Access) check(ms *mistakes, p keyPath, c *Config) {
	a.Rules = &access.Rules{
		Allow: c.accessList(ms, p.key("allow"), a.Allow, true),
		Deny:  c.accessList(ms, p.key("deny"), a.Deny, false),
	}
}

// accessList separates the networks in a list from its files.
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
			ms.add(p, `write "file:deny.txt"`, "%q has no file name", entry)
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(c.File), name)
		}
		entries[i] = "file:" + name
		file := c.accessFile(name)
		if file.Folder == "" {
			file.Folder = filepath.Dir(name)
			if real, err := Place.EvalSymlinks(name); err == nil {
				file.Folder = filepath.Dir(real)
			}
		}
		file.allow = file.allow || allow
		if err := file.Take(ms.read(name)); err != nil {
			ms.add(p, "", "%q: %v", name, err)
		}
		sets = append(sets, file.networks)
	}
	if len(inline) > 0 {
		sets = append(sets, access.NewNetworks(inline))
	}
	return sets
}

// accessFile returns the AccessFile of a name. Lists that name the same file share it.
func (c *Config) accessFile(name string) *AccessFile {
	for _, f := range c.AccessFiles {
		if f.Name == name {
			return f
		}
	}
	f := &AccessFile{Name: name, networks: access.NewNetworks(nil)}
	c.AccessFiles = append(c.AccessFiles, f)
	return f
}

// An AccessFile is a file with networks. Its latest good contents apply.
type AccessFile struct {
	Name     string
	Folder   string // in which it was first read, symlinks resolved
	networks *access.Networks
	allow    bool // reject an empty file, which would lock every client out

	mu    sync.Mutex
	sum   [sha256.Size]byte // of the latest contents read
	err   error             // the current problem
	since time.Time
}

// Take applies the result of reading the file. Bad contents change nothing.
func (f *AccessFile) Take(data []byte, err error) error {
	var list []netip.Prefix
	sum := Sum(data, err)
	if err == nil {
		if list, err = access.ParseFile(data); err == nil && len(list) == 0 && f.allow {
			err = errors.New("has no networks, so every client would be refused")
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

// Problem returns the current problem of the file, and when it began. err is
// nil if there is no problem.
func (f *AccessFile) Problem() (since time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since, f.err
}

// LastSum returns the sum of the latest contents read.
func (f *AccessFile) LastSum() [sha256.Size]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sum
}

// IsNew reports whether sum differs from that of the latest contents read.
func (f *AccessFile) IsNew(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sum != f.sum
}

package proxy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxUnserved    = 64        // names that are remembered
	unservedFor    = time.Hour // after the last request
	maxNameLength  = 253       // bytes of a name in DNS (RFC 1035, section 2.3.4, without the root)
	nameCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-_."
)

// An UnservedName is a server name that clients asked for and that has no certificate.
type UnservedName struct {
	Name  string    `json:"name"`
	Count int       `json:"count"` // handshakes since First
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// unserved remembers the server names without a certificate that clients ask for. A
// name is forgotten an hour after the last request. Clients choose the names: names
// that are invalid in DNS are ignored, and a new name replaces the rarest. The zero
// value is ready. Methods are safe for concurrent use.
type unserved struct {
	mu    sync.Mutex
	names map[string]*UnservedName
}

// note counts a handshake.
func (u *unserved) note(name string, now time.Time) {
	if name = strings.ToLower(name); !isHostname(name) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.names[name]
	switch {
	case n == nil:
		if u.names == nil {
			u.names = map[string]*UnservedName{}
		}
		u.makeRoom(now)
		n = &UnservedName{Name: name, First: now}
		u.names[name] = n
	case now.Sub(n.Last) >= unservedFor:
		n.Count, n.First = 0, now
	}
	n.Count++
	n.Last = now
}

// makeRoom is for note. The caller holds u.mu.
func (u *unserved) makeRoom(now time.Time) {
	if len(u.names) < maxUnserved {
		return
	}
	var least *UnservedName
	for name, n := range u.names {
		if now.Sub(n.Last) >= unservedFor {
			delete(u.names, name)
		} else if least == nil || n.Count < least.Count || n.Count == least.Count && n.Last.Before(least.Last) {
			least = n
		}
	}
	if len(u.names) == maxUnserved {
		delete(u.names, least.Name)
	}
}

// most returns the most frequent names, at most limit, without those that have got a
// certificate.
func (u *unserved) most(limit int, now time.Time, hasCertificate func(name string) bool) []UnservedName {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := []UnservedName{}
	for _, n := range u.names {
		if now.Sub(n.Last) < unservedFor && !hasCertificate(n.Name) {
			list = append(list, *n)
		}
	}
	slices.SortFunc(list, func(a, b UnservedName) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	return list[:min(len(list), limit)]
}

// isHostname reports whether a server name in lower case may be a configured name in
// DNS.
func isHostname(name string) bool {
	return name != "" && len(name) <= maxNameLength && strings.Contains(name, ".") &&
		strings.Trim(name, nameCharacters) == ""
}

package access

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxBans bounds Bans, because each question checks all of them. Long lists belong in
// a file.
const maxBans = 1000

// ErrTooManyBans is returned by Set when the number of bans is at its limit.
var ErrTooManyBans = errors.New("there are 1000 bans already; write a list of networks to a file in access.deny")

// A Ban denies the clients of a network until a time.
type Ban struct {
	Network netip.Prefix `json:"network"`
	Until   time.Time    `json:"until"`
}

// Bans are networks that are denied for a while. The zero value has none. Methods are
// safe for concurrent use; Has does not block.
type Bans struct {
	mu  sync.Mutex // guards changes
	now atomic.Pointer[[]Ban]
}

// Has reports whether a client is banned at that time. Without bans it costs one load.
func (b *Bans) Has(client netip.Addr, at func() time.Time) bool {
	list := b.now.Load()
	if list == nil || len(*list) == 0 || !client.IsValid() {
		return false
	}
	client, now := client.Unmap().WithZone(""), at()
	return slices.ContainsFunc(*list, func(ban Ban) bool { return ban.Network.Contains(client) && now.Before(ban.Until) })
}

// Set bans a network until a time. It replaces an earlier ban of the same network, and
// removes the bans that have ended.
func (b *Bans) Set(network netip.Prefix, until, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.without(network, now)
	if len(list) >= maxBans {
		return ErrTooManyBans
	}
	list = append(list, Ban{network, until})
	slices.SortFunc(list, func(a, b Ban) int { return a.Until.Compare(b.Until) })
	b.now.Store(&list)
	return nil
}

// Lift ends a ban, and reports whether there was one.
func (b *Bans) Lift(network netip.Prefix, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := slices.ContainsFunc(b.List(now), func(ban Ban) bool { return ban.Network == network })
	list := b.without(network, now)
	b.now.Store(&list)
	return was
}

// Rest returns the other bans that include clients of a network, ordered by their end.
func (b *Bans) Rest(network netip.Prefix, now time.Time) []Ban {
	return slices.DeleteFunc(b.without(network, now), func(ban Ban) bool { return !ban.Network.Overlaps(network) })
}

// without returns a new list, without bans that have ended.
func (b *Bans) without(network netip.Prefix, now time.Time) []Ban {
	return slices.DeleteFunc(b.List(now), func(ban Ban) bool { return ban.Network == network })
}

// Covers reports whether a ban includes all clients of a network.
func (b *Ban) Covers(network netip.Prefix) bool {
	return b.Network.Bits() <= network.Bits() && b.Network.Overlaps(network)
}

// List returns the bans, ordered by their end.
func (b *Bans) List(now time.Time) []Ban {
	list := b.now.Load()
	if list == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*list), func(ban Ban) bool { return !now.Before(ban.Until) })
}

package access

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxBans bounds Bans: each question looks at all of them. Long lists belong in a file.
const maxBans = 1000

// ErrTooManyBans is the error of a ban that finds no room.
var ErrTooManyBans = errors.New("there are 1000 bans already; write a list of networks to a file in access.deny")

// A Ban keeps the clients of a network out until a time.
type Ban struct {
	Network netip.Prefix `json:"network"`
	Until   time.Time    `json:"until"`
}

// Bans are networks that are denied for a while. The zero value has none. Methods may be
// called at the same time; Has waits for nobody.
type Bans struct {
	mu  sync.Mutex // of who changes them
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

// Set bans a network until a time, whatever was said of the same network before. It
// forgets the bans that are over.
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

// Rest returns the bans of a network's clients that are not of just that network, those
// first that end first.
func (b *Bans) Rest(network netip.Prefix, now time.Time) []Ban {
	return slices.DeleteFunc(b.without(network, now), func(ban Ban) bool { return !ban.Network.Overlaps(network) })
}

// without is a new list, without those that are over.
func (b *Bans) without(network netip.Prefix, now time.Time) []Ban {
	return slices.DeleteFunc(b.List(now), func(ban Ban) bool { return ban.Network == network })
}

// Covers reports whether a ban is of all clients of a network.
func (b *Ban) Covers(network netip.Prefix) bool {
	return b.Network.Bits() <= network.Bits() && b.Network.Overlaps(network)
}

// List returns the bans, those first that end first.
func (b *Bans) List(now time.Time) []Ban {
	list := b.now.Load()
	if list == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*list), func(ban Ban) bool { return !now.Before(ban.Until) })
}

package certstore

import (
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"time"
)

// A table answers handshakes. A table in use never changes, so reading it takes
// no lock. A reload builds another one and swaps them.
//
// Names are spread over shards. Two tables share the shards in which they do
// not differ: if one of ten thousand certificates changes, one or two shards
// are new.
type table struct {
	shards   [shards]*shard
	all      []*certificate
	round    uint32 // see difference
	problems []Problem
}

const shards = 64

// A shard has the certificates of some names, in lists ordered by name. Maps
// would take three times the memory.
type shard struct {
	exact []named // by name
	wild  []named // by the part after "*."
}

// A named is a certificate with one of its names.
type named struct {
	name string
	*certificate
}

var nowhere = new(shard)

// newTable builds a table of all certificates from an older one, which it does
// not change. Build only one table from each older one.
func newTable(old *table, all []*certificate) *table {
	t := &table{shards: old.shards, all: all, round: old.round + 2}
	gone, come := old.difference(all)
	own := [shards]bool{} // shards that old does not share
	shard := func(name string) (s *shard, key string, wild bool) {
		key, wild = strings.CutPrefix(name, "*.")
		i := shardOf(key)
		if !own[i] {
			own[i] = true
			t.shards[i] = t.shards[i].without(t.round - 1)
		}
		return t.shards[i], key, wild
	}
	for _, c := range gone {
		for name := range c.names.all() {
			shard(name)
		}
	}
	for _, c := range come {
		for name := range c.names.all() {
			s, key, wild := shard(name)
			if wild {
				s.wild = append(s.wild, named{key, c})
			} else {
				s.exact = append(s.exact, named{key, c})
			}
		}
	}
	for i, s := range t.shards {
		if own[i] {
			s.exact, s.wild = ordered(s.exact), ordered(s.wild)
		}
	}
	return t
}

// without returns a copy without the certificates that were last seen in this
// round.
func (s *shard) without(round uint32) *shard {
	if s == nil {
		return new(shard)
	}
	unseen := func(n named) bool { return n.round == round }
	return &shard{slices.DeleteFunc(slices.Clone(s.exact), unseen), slices.DeleteFunc(slices.Clone(s.wild), unseen)}
}

func ordered(list []named) []named {
	slices.SortStableFunc(list, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return slices.Clip(slices.Clone(list)) // releases the spare capacity of append and DeleteFunc
}

// under returns the entries of an ordered list that have this name.
func under(list []named, name string) []named {
	at := func(n named, name string) int { return strings.Compare(n.name, name) }
	first, _ := slices.BinarySearchFunc(list, name, at)
	last := first
	for last < len(list) && list[last].name == name {
		last++
	}
	return list[first:last:last]
}

// difference returns the certificates that are only in t, and those that are
// only in all. It marks each certificate with the round that last saw it, which
// is ten times as fast as comparing sets.
func (t *table) difference(all []*certificate) (gone, come []*certificate) {
	before, now := t.round+1, t.round+2
	for _, c := range t.all {
		c.round = before
	}
	for _, c := range all {
		if c.round != before {
			come = append(come, c)
		}
		c.round = now
	}
	for _, c := range t.all {
		if c.round == before {
			gone = append(gone, c)
		}
	}
	return gone, come
}

func shardOf(name string) int { return int(maphash.String(seed, name) % shards) }

// shard returns the shard of a name, or of the part after "*.".
func (t *table) shard(name string) *shard {
	if s := t.shards[shardOf(name)]; s != nil {
		return s
	}
	return nowhere
}

// lookup returns the certificates for a name in normal form: those with exactly
// this name, and those with a wildcard in place of its first label.
func (t *table) lookup(name string) (exact, wild []named) {
	exact = under(t.shard(name).exact, name)
	if rest, ok := parent(name); ok {
		wild = under(t.shard(rest).wild, rest)
	}
	return exact, wild
}

// lookupPattern returns the certificates for a pattern, and those with a
// wildcard that covers all of its names.
func (t *table) lookupPattern(pattern string) (same, wild []named) {
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		return under(t.shard(rest).wild, rest), nil
	}
	return t.lookup(pattern)
}

// patterns yields each name and wildcard once, in no particular order.
func (t *table) patterns() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, s := range t.shards {
			if s == nil {
				continue
			}
			for i, n := range s.exact {
				if (i == 0 || s.exact[i-1].name != n.name) && !yield(n.name) {
					return
				}
			}
			for i, n := range s.wild {
				if (i == 0 || s.wild[i-1].name != n.name) && !yield("*."+n.name) {
					return
				}
			}
		}
	}
}

// size returns the number of names and wildcards.
func (t *table) size() int {
	n := 0
	for range t.patterns() {
		n++
	}
	return n
}

// untimely returns the certificates that are chosen for a name although they
// are outside their validity period.
func (t *table) untimely(now time.Time) []*certificate {
	var out []*certificate
	for _, c := range t.all {
		if c.timely(now) || c.flaw != nil && c.valid(now) {
			continue
		}
		if t.serves(c, false, now) {
			out = append(out, c)
		}
	}
	return out
}

// nextDate returns the time, in Unix seconds, when the next certificate becomes
// valid or expires; 0 if none does.
func (t *table) nextDate(now time.Time) int64 {
	var next int64
	for _, c := range t.all {
		for _, date := range [4]int64{c.notBefore, c.notAfter + 1, c.links.from, c.links.until + 1} {
			if date > now.Unix() && (next == 0 || date < next) {
				next = date
			}
		}
	}
	return next
}

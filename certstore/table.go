package certstore

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"
)

// A table answers handshakes. It never changes once it is in place, so that it
// is read without a lock; a reload makes another and swaps them.
//
// Names are spread over shards, and tables share the shards in which they do
// not differ: of ten thousand certificates one that changes costs one or two shards.
type table struct {
	shards   [shards]*shard
	all      []*certificate
	round    uint32 // see difference
	problems []Problem
}

const shards = 64

// A shard has the certificates for some of the names.
type shard struct {
	exact map[string][]*certificate // by name
	wild  map[string][]*certificate // by what follows the "*."
}

// nowhere stands for a shard without names.
var nowhere = new(shard)

// newTable makes a table of all certificates from an older one, which stays as
// it is. Only one may be made of the same older one.
func newTable(old *table, all []*certificate) *table {
	t := &table{shards: old.shards, all: all, round: old.round + 2}
	own := [shards]bool{} // shards that are not shared with old
	lists := func(name string) (in map[string][]*certificate, key string) {
		key, wild := strings.CutPrefix(name, "*.")
		i := shardOf(key)
		if !own[i] {
			own[i] = true
			t.shards[i] = t.shards[i].clone()
		}
		if wild {
			return t.shards[i].wild, key
		}
		return t.shards[i].exact, key
	}
	gone, come := old.difference(all)
	for _, c := range gone {
		for _, name := range c.names {
			in, key := lists(name)
			rest := slices.DeleteFunc(slices.Clone(in[key]), func(o *certificate) bool { return o == c })
			if len(rest) > 0 {
				in[key] = rest
			} else {
				delete(in, key)
			}
		}
	}
	for _, c := range come {
		for _, name := range c.names {
			in, key := lists(name)
			in[key] = append(slices.Clip(in[key]), c)
		}
	}
	return t
}

// difference returns what is in t but not in all, and what is in all but not
// in t. It marks each certificate with the round in which it was last seen:
// that takes a tenth of the time that comparing sets would.
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

func (s *shard) clone() *shard {
	if s == nil {
		return &shard{map[string][]*certificate{}, map[string][]*certificate{}}
	}
	return &shard{maps.Clone(s.exact), maps.Clone(s.wild)}
}

func shardOf(name string) int { return int(maphash.String(seed, name) % shards) }

// shard returns the one that a name belongs into, by the name itself or by
// what follows its "*.".
func (t *table) shard(name string) *shard {
	if s := t.shards[shardOf(name)]; s != nil {
		return s
	}
	return nowhere
}

// lookup returns the certificates for a name in normal form: those with just
// this name, and those with a wildcard one label above.
func (t *table) lookup(name string) (exact, wild []*certificate) {
	exact = t.shard(name).exact[name]
	if rest, ok := parent(name); ok {
		wild = t.shard(rest).wild[rest]
	}
	return exact, wild
}

// lookupPattern returns the certificates for a pattern, beside those with a
// wildcard that is for all names of it too.
func (t *table) lookupPattern(pattern string) (same, wild []*certificate) {
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		return t.shard(rest).wild[rest], nil
	}
	return t.lookup(pattern)
}

// patterns returns all names and wildcards, in no order.
func (t *table) patterns() []string {
	var out []string
	for _, s := range t.shards {
		if s == nil {
			continue
		}
		for name := range s.exact {
			out = append(out, name)
		}
		for rest := range s.wild {
			out = append(out, "*."+rest)
		}
	}
	return out
}

// size returns how many names and wildcards there are.
func (t *table) size() int {
	n := 0
	for _, s := range t.shards {
		if s != nil {
			n += len(s.exact) + len(s.wild)
		}
	}
	return n
}

// untimely returns the certificates that are out of their time and yet chosen
// for some name, there being nothing better.
func (t *table) untimely(now time.Time) []*certificate {
	var out []*certificate
	for _, c := range t.all {
		if !c.valid(now) && slices.ContainsFunc(c.names, func(name string) bool {
			same, wild := t.lookupPattern(name)
			return choose(same, wild, now)[0] == c
		}) {
			out = append(out, c)
		}
	}
	return out
}

// nextDate returns when the next certificate becomes valid or expires, in Unix
// seconds; 0 where none does.
func (t *table) nextDate(now time.Time) int64 {
	var next int64
	for _, c := range t.all {
		for _, date := range [2]int64{c.notBefore, c.notAfter + 1} {
			if date > now.Unix() && (next == 0 || date < next) {
				next = date
			}
		}
	}
	return next
}

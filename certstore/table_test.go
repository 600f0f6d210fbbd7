package certstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A table built from an older one equals a table built from scratch. The older
// one does not change.
func TestTableFromAnOlderOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var pool []*certificate
	for i := range 60 {
		c := &certificate{base: fmt.Sprint(i)}
		var list []string
		for range 1 + random.IntN(3) {
			name := fmt.Sprintf("host%d.example", random.IntN(20))
			if random.IntN(3) == 0 {
				name = "*." + name
			}
			if !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
		c.names = names(strings.Join(list, " "))
		pool = append(pool, c)
	}
	holds := func(tab *table, all []*certificate) {
		t.Helper()
		names := map[string]int{}
		for _, c := range all {
			for name := range c.names.all() {
				names[name]++
				if same, _ := tab.lookupPattern(name); !slices.ContainsFunc(same, func(n named) bool { return n.certificate == c }) {
					t.Fatalf("%q does not have certificate %s", name, c.base)
				}
			}
		}
		for name, n := range names {
			if same, _ := tab.lookupPattern(name); len(same) != n {
				t.Fatalf("%q has %d certificates, want %d", name, len(same), n)
			}
		}
		if got := slices.Collect(tab.patterns()); len(got) != len(names) || tab.size() != len(names) {
			t.Fatalf("%d patterns, size %d, want %d", len(got), tab.size(), len(names))
		}
	}
	old, oldAll := new(table), []*certificate(nil)
	for range 300 {
		var all []*certificate
		if random.IntN(20) > 0 { // sometimes an empty table
			change := random.IntN(10) // a small or a large change
			for _, c := range pool {
				if slices.Contains(oldAll, c) == (random.IntN(10) >= change) {
					all = append(all, c)
				}
			}
		}
		next := newTable(old, all)
		holds(next, all)
		holds(old, oldAll)
		old, oldAll = next, all
	}
}

// Two tables share the shards in which they do not differ.
func TestTablesShareShards(t *testing.T) {
	var all []*certificate
	for i := range 1000 {
		all = append(all, &certificate{names: names(fmt.Sprintf("host%d.example", i))})
	}
	first := newTable(new(table), all)
	second := newTable(first, append(slices.Clone(all), &certificate{names: "new.example *.new.example"}))
	differ := 0
	for i := range shards {
		if first.shards[i] != second.shards[i] {
			differ++
		}
	}
	if differ != 1 { // a name and its wildcard are in one
		t.Errorf("%d shards differ, want 1", differ)
	}
}

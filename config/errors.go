package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// An Error contains all mistakes in one file, in the order of the file.
type Error struct {
	File     string
	Mistakes []Mistake // at least one
}

// A Mistake is one error in a configuration file.
type Mistake struct {
	Key  string // path of the key, or "line 3, column 7"; empty: the file itself
	Text string // what is wrong, the value, and why
	Hint string // what to do; may be empty

	// Excerpt is the place in the file with a caret below it. Only syntax
	// errors have an excerpt; other mistakes have no line.
	Excerpt string

	where string // as keyPath.where
	err   error  // the cause; usually nil
}

// Error returns all mistakes as the command line prints them, each with its
// hint on a separate line, without a final newline.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Mistakes))
	for _, m := range e.Mistakes {
		lines = append(lines, e.File+": "+m.String())
		if m.Excerpt != "" && len(m.Excerpt) < maxExcerpt {
			lines = append(lines, m.Excerpt)
		}
		if m.Hint != "" {
			lines = append(lines, "  hint: "+shorten(m.Hint))
		}
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each mistake as a separate error, without its hint. The log
// has one line for each.
func (e *Error) Unwrap() []error {
	list := make([]error, len(e.Mistakes))
	for i, m := range e.Mistakes {
		list[i] = fmt.Errorf("%s: %w", e.File, m)
	}
	return list
}

// Error is String.
func (m Mistake) Error() string { return m.String() }

// Unwrap returns the cause, which may be nil.
func (m Mistake) Unwrap() error { return m.err }

// String returns the mistake on one line, without excerpt and hint.
func (m Mistake) String() string {
	if m.Key == "" {
		return shorten(m.Text)
	}
	return shorten(m.Key) + ": " + shorten(m.Text)
}

const (
	maxWords   = 500     // characters of a key, a text or a hint
	maxExcerpt = 4 << 10 // bytes
)

// shorten removes the middle of a long text. A key in the file may have
// megabytes.
func shorten(s string) string {
	if len(s) <= maxWords {
		return s
	}
	if r := []rune(s); len(r) > maxWords {
		return string(r[:maxWords/2]) + "…" + string(r[len(r)-maxWords/2+1:])
	}
	return s
}

// A keyPath names a key of the file.
type keyPath struct {
	// shown is for messages. Elements of lists are identified by name: `vhost
	// "example1.com".upstream`.
	shown string

	// where is for sorting. Elements of lists are numbered: "vhost#0.upstream".
	where string

	// pattern is the path with "*" for names: "upstream.*.nodes".
	pattern string
}

// key returns the path of a key in the table p.
func (p keyPath) key(name string) keyPath {
	quoted := toml.Key{name}.String()
	return keyPath{dot(p.shown, quoted), dot(p.where, quoted), dot(p.pattern, name)}
}

// named returns the path of a table in p whose name the operator chose.
func (p keyPath) named(name string) keyPath {
	n := p.key(name)
	n.pattern = p.pattern + ".*"
	return n
}

// item returns the path of element i of the list p, by its name or, if it has
// none, by its number, counted from 1.
func (p keyPath) item(i int, name string) keyPath {
	label := fmt.Sprintf("#%d", i+1)
	if name != "" {
		label = fmt.Sprintf("%q", name)
	}
	return keyPath{p.shown + " " + label, fmt.Sprintf("%s#%d", p.where, i), p.pattern}
}

func dot(parent, child string) string {
	if parent == "" {
		return child
	}
	return parent + "." + child
}

// mistakes come from two rounds: the decoder's and the checks'. A check of a
// key that could not be decoded would report the same mistake in other words,
// so it is dropped.
type mistakes struct {
	list   []Mistake
	broken []string          // keyPath.where of keys that did not decode
	files  map[string][]byte // files that were read, for Config.Files
	unread map[string]error  // files that were not, because they hang; see unread.go
	more   bool              // some were omitted
}

// maxMistakes bounds the mistakes that are reported for one file. Further ones
// are similar, or the file is not a configuration; and the hint for each needs
// a search of all keys.
const maxMistakes = 100

// full reports whether the next mistake must be omitted, and records that.
func (ms *mistakes) full() bool {
	ms.more = ms.more || len(ms.list) >= maxMistakes
	return ms.more
}

// add records a mistake at p.
func (ms *mistakes) add(p keyPath, hint, format string, args ...any) {
	if !ms.isBroken(p) && !ms.full() {
		ms.list = append(ms.list, Mistake{Key: p.shown, Text: fmt.Sprintf(format, args...), Hint: hint, where: p.where})
	}
}

// undecodable records a mistake at p and marks p as having no value.
func (ms *mistakes) undecodable(p keyPath, hint, format string, args ...any) {
	ms.add(p, hint, format, args...)
	if !ms.more {
		ms.broken = append(ms.broken, p.where)
	}
}

// isBroken reports whether p, a part of it, or a table around it could not be
// decoded.
func (ms *mistakes) isBroken(p keyPath) bool {
	return slices.ContainsFunc(ms.broken, func(b string) bool { return within(b, p.where) || within(p.where, b) })
}

// within reports whether the path inner is outer or a part of it.
func within(inner, outer string) bool {
	rest, ok := strings.CutPrefix(inner, outer)
	return ok && (rest == "" || outer == "" || rest[0] == '.' || rest[0] == '#')
}

// sort puts the mistakes in the order of the file. A missing key is sorted with
// its table.
func (ms *mistakes) sort(keys []toml.Key, tree map[string]any) {
	order := map[string]int{}
	seen := map[string]int{} // arrays of tables: number of tables so far
	for i, key := range keys {
		where := numbered(key, tree, seen)
		if _, ok := order[where]; !ok {
			order[where] = i
		}
	}
	position := func(m Mistake) int {
		for where := m.where; where != ""; {
			if i, ok := order[where]; ok {
				return i
			}
			where = where[:max(strings.LastIndexAny(where, ".#"), 0)]
		}
		return len(order)
	}
	slices.SortStableFunc(ms.list, func(a, b Mistake) int { return position(a) - position(b) })
}

// numbered converts a key from the library to a keyPath.where. The library
// lists an array of tables once for each of its tables, without a number.
func numbered(key toml.Key, tree any, seen map[string]int) string {
	where := ""
	for n := range key {
		where = dot(where, key[n:n+1].String())
		table, _ := tree.(map[string]any)
		tree = table[key[n]]
		if tables, ok := tree.([]map[string]any); ok {
			if n == len(key)-1 {
				seen[where]++
			}
			i := max(seen[where]-1, 0)
			where = fmt.Sprintf("%s#%d", where, i)
			tree = tables[min(i, len(tables)-1)]
		}
	}
	return where
}

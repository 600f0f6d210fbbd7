package config

import (
	"fmt"
	"reflect"
	"strings"
)

// guessKey returns the hint for an unknown key in the table of struct t: a
// similar key of that table, or the table where the key belongs.
func guessKey(t reflect.Type, key string) string {
	var here []string
	for _, k := range keysOf(t) {
		here = append(here, k)
	}
	if hint := DidYouMean(key, here); hint != "" {
		return hint
	}
	var exact, near string
	var keys []string
	for table, k := range allKeys() {
		if k == key && exact == "" {
			exact = fmt.Sprintf("it belongs %s", tableName(table))
		}
		keys = append(keys, k)
	}
	if exact != "" {
		return exact
	}
	if k := Closest(key, keys); k != "" {
		for table, candidate := range allKeys() {
			if candidate == k {
				near = fmt.Sprintf("did you mean %q? It belongs %s", k, tableName(table))
				break
			}
		}
	}
	return near
}

// tableName names the table of a pattern as the file does.
func tableName(pattern string) string {
	switch pattern {
	case "":
		return "at the top of the file, before the first table"
	case "vhost", "vhost.links":
		return fmt.Sprintf("in [[%s]]", pattern)
	case "upstream.*.nodes":
		return `in a node's table: nodes = [{ name = "t1", url = "ws://…" }]`
	}
	return fmt.Sprintf("in [%s]", strings.ReplaceAll(pattern, "*", "NAME"))
}

// allKeys yields each key of Config with the pattern of its table, in the order
// of the structs.
func allKeys() func(yield func(table, key string) bool) {
	return func(yield func(table, key string) bool) {
		walkKeys(reflect.TypeFor[Config](), "", yield)
	}
}

func walkKeys(t reflect.Type, table string, yield func(table, key string) bool) bool {
	for field, key := range keysOf(t) {
		if !yield(table, key) {
			return false
		}
		inner, pattern := field.Type, dot(table, key)
		if inner.Kind() == reflect.Map {
			pattern += ".*"
		}
		if inner.Kind() == reflect.Map || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && !walkKeys(inner, pattern, yield) {
			return false
		}
	}
	return true
}

// DidYouMean returns a hint with the value most similar to word, or "".
func DidYouMean(word string, values []string) string {
	if v := Closest(word, values); v != "" {
		return fmt.Sprintf("did you mean %q?", v)
	}
	return ""
}

// Closest returns the value most similar to word, or "". It ignores hyphens,
// underscores and case. A prefix of a value matches, and so does a word with up
// to a third of its letters wrong.
func Closest(word string, values []string) string {
	best, bestDistance := "", 1<<31-1
	for _, v := range values {
		a, b := plain(word), plain(v)
		distance := editDistance(a, b)
		if len(a) >= 3 && strings.HasPrefix(b, a) {
			distance = min(distance, 1)
		}
		if distance <= max(len(a), len(b))/3 && distance < bestDistance && b != "" {
			best, bestDistance = v, distance
		}
	}
	return best
}

// plain removes differences that are easily mistaken.
func plain(s string) string { return noHyphens.Replace(strings.ToLower(s)) }

var noHyphens = strings.NewReplacer("-", "", "_", "")

// editDistance returns how many letters to insert, delete, change, or swap with
// a neighbour to turn a into b. It truncates words that are longer than any
// key.
func editDistance(a, b string) int {
	const longest = 64
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	var d [longest + 1][longest + 1]int
	for i := range len(a) + 1 {
		d[i][0] = i
	}
	for j := range len(b) + 1 {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

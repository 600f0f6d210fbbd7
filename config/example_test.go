package config

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

const exampleFile = "../config.toml.example"

// An exampleKey is one key of config.toml.example as it is written there.
type exampleKey struct {
	table   string // as in allKeys
	key     string
	value   string // in TOML
	comment string // the lines above it
	header  string // the lines above its table
}

var (
	exampleHeader = regexp.MustCompile(`^#?\[\[?([^\[\]]+)\]\]?$`)
	exampleValue  = regexp.MustCompile(`^#?([a-z_]+) = (.*)$`)
)

// readExample reads the example line by line, for its comments.
func readExample(t *testing.T) []exampleKey {
	t.Helper()
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var keys []exampleKey
	var table, header, comment string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if m := exampleHeader.FindStringSubmatch(line); m != nil {
			table = regexp.MustCompile(`^upstream\.[a-z]+`).ReplaceAllString(m[1], "upstream.*")
			header, comment = comment, ""
		} else if m := exampleValue.FindStringSubmatch(line); m != nil {
			keys = append(keys, exampleKey{table, m[1], m[2], comment, header})
			comment = ""
		} else if strings.HasPrefix(line, "#") {
			if line != "#" && !strings.HasPrefix(line, "# ") {
				t.Errorf("%q is neither prose (\"# \") nor a key", line)
			}
			comment += line + "\n"
		} else if line != "" {
			t.Errorf("%q is neither a comment nor a key nor empty", line)
		} else {
			comment = ""
		}
	}
	return keys
}

// uncommented returns the example with every key in force.
func uncommented(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("#accept_terms = false"), []byte("accept_terms = true")) // the example has names, too
	return regexp.MustCompile(`(?m)^#([a-z\[])`).ReplaceAll(data, []byte("$1"))
}

// The example is a file to start from. As it is, it is the smallest useful
// configuration.
func TestExampleLoadsAsItStands(t *testing.T) {
	cfg, err := Load(t.Context(), exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Upstream["tigase"].Nodes[0].URL; got != "ws://127.0.0.1:5290/" {
		t.Errorf("node = %q, want the one of the example", got)
	}
}

// With each "#" removed, every value still passes its checks.
func TestExampleLoadsUncommented(t *testing.T) {
	if _, err := Parse(exampleFile, uncommented(t)); err != nil {
		t.Fatal(err)
	}
}

// The example has exactly the keys of Config.
func TestExampleHasEveryKey(t *testing.T) {
	inExample := map[string]int{}
	for _, k := range readExample(t) {
		inExample[dot(k.table, k.key)]++
	}
	inConfig := map[string]int{}
	tables := map[string]bool{}
	for table := range allKeys() {
		tables[table] = true
	}
	for table, key := range allKeys() {
		full := dot(table, key)
		// A table is in the example as its header; its keys prove that.
		if full == "upstream" || tables[full] && full != "upstream.*.nodes" {
			continue
		}
		inConfig[full]++
	}
	for key := range inConfig {
		if inExample[key] != 1 {
			t.Errorf("%s: stands in %s %d times, want once", key, exampleFile, inExample[key])
		}
	}
	for key := range inExample {
		if inConfig[key] == 0 {
			t.Errorf("%s: stands in %s, and no field of Config has it", key, exampleFile)
		}
	}
}

// examples are the keys whose default cannot be written as a value.
var examples = []string{
	"upstream.*.nodes",
	"upstream.*.nodes.url",
	"vhost.names",
	"vhost.upstream",
	"vhost.links.rel",
	"vhost.links.href",
	"acme.certificate.names",
	"acme.fallback.ca",
}

// Each commented value is the default of the code, and the comment above it
// agrees. Removing the "#" changes nothing.
func TestExampleShowsDefaults(t *testing.T) {
	for _, k := range readExample(t) {
		name := dot(k.table, k.key)
		if slices.Contains(examples, name) {
			if !strings.Contains(k.comment, "Required") {
				t.Errorf("%s: its comment does not say when it is required", name)
			}
			continue
		}
		ms := mistakes{}
		given, byDefault := newTable(t, k.table), newTable(t, k.table)
		var tree map[string]any
		if _, err := toml.Decode(k.key+" = "+k.value, &tree); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		(&decoder{mistakes: &ms}).fields(keyPath{}, tree, given)
		(&decoder{mistakes: &ms}).fields(keyPath{}, nil, byDefault)
		for _, m := range ms.list {
			t.Errorf("%s: %v", name, m)
		}
		got, want := fieldByKey(given, k.key), fieldByKey(byDefault, k.key)
		if empty(got) && empty(want) {
			if !strings.Contains(k.comment, "Default: none") && !strings.Contains(k.comment, "Default: "+k.value) {
				t.Errorf("%s: the comment does not say the default, %s", name, k.value)
			}
			continue
		}
		if !reflect.DeepEqual(got.Interface(), want.Interface()) {
			t.Errorf("%s = %v in %s; the code's default is %v", name, got, exampleFile, want)
		}
		if !strings.Contains(k.comment, "Default: "+k.value) {
			t.Errorf("%s: the comment does not say %q", name, "Default: "+k.value)
		}
	}
}

// The comment of each key describes the effect of a reload.
func TestExampleSaysWhatReloadDoes(t *testing.T) {
	for _, k := range readExample(t) {
		if !strings.Contains(k.comment, "Reload: ") {
			t.Errorf("%s: its comment has no \"Reload: \"", dot(k.table, k.key))
		}
	}
}

// newTable returns the table of that pattern with its defaults. Tables that
// occur once have theirs in Config.
func newTable(t *testing.T, pattern string) reflect.Value {
	t.Helper()
	several := map[string]table{
		"upstream.*":       &Upstream{},
		"upstream.*.nodes": &Node{},
		"vhost":            &Vhost{},
		"vhost.links":      &Link{},
		"acme.certificate": &ACMECertificate{},
		"acme.fallback":    &ACMEFallback{},
	}
	prefixes := slices.SortedFunc(maps.Keys(several), func(a, b string) int { return len(b) - len(a) })
	cfg := &Config{}
	cfg.setDefaults()
	v, rest := reflect.ValueOf(cfg).Elem(), pattern
	for _, prefix := range prefixes {
		if within(pattern, prefix) {
			several[prefix].setDefaults()
			v, rest = reflect.ValueOf(several[prefix]).Elem(), strings.TrimPrefix(pattern[len(prefix):], ".")
			break
		}
	}
	if rest != "" {
		v = fieldByKey(v, rest)
	}
	if v.Kind() != reflect.Struct {
		t.Fatalf("%q is no table", pattern)
	}
	return v
}

func fieldByKey(s reflect.Value, key string) reflect.Value {
	field, ok := fieldFor(s.Type(), key)
	if !ok {
		panic(fmt.Sprintf("%s has no key %q", s.Type(), key))
	}
	return s.FieldByIndex(field.Index)
}

func empty(v reflect.Value) bool {
	return v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

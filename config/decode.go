package config

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A decoder fills a Config from the tables that the TOML library has parsed.
// The library's own decoder stops at the first value of a wrong type, in random
// map order. This one continues, so that an operator sees all mistakes at once.
//
// It supports the kinds of fields in Config and panics at any other, which
// every test would notice.
//
// The tags of a field: `toml` is its key, `oneof` lists the allowed values,
// `file:"path"` marks a file name, which is resolved against base.
type decoder struct {
	*mistakes
	base string // folder that relative file names are relative to
}

// A table is a struct of Config that may occur several times, each time with
// the same defaults.
type table interface{ setDefaults() }

// A shorthand is a table that the file may write as a string.
type shorthand interface{ fromString(string) }

func (d *decoder) decode(tree map[string]any, cfg *Config) {
	cfg.setDefaults()
	d.fields(keyPath{}, tree, reflect.ValueOf(cfg).Elem())
}

// fields fills the fields of s from table t, which may be nil, and rejects unknown
// keys.
func (d *decoder) fields(p keyPath, t map[string]any, s reflect.Value) {
	for field, key := range keysOf(s.Type()) {
		value, given := t[key]
		target := s.FieldByIndex(field.Index)
		kp := p.key(key)
		switch {
		case given:
			d.value(kp, value, target, field.Tag)
		case target.Kind() == reflect.Struct:
			d.fields(kp, nil, target) // a missing table gets all its defaults
		}
		if field.Tag.Get("file") != "" && target.String() != "" && !filepath.IsAbs(target.String()) {
			target.SetString(filepath.Join(d.base, target.String()))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t)) {
		if _, ok := fieldFor(s.Type(), key); !ok {
			if d.full() {
				return
			}
			d.list = append(d.list, Mistake{
				Key:   p.shown,
				Text:  fmt.Sprintf("unknown key %q", key),
				Hint:  cmp.Or(includeHint(key), guessKey(s.Type(), key)),
				where: p.key(key).where,
			})
		}
	}
}

// value fills v from one value of the file.
func (d *decoder) value(p keyPath, value any, v reflect.Value, tag reflect.StructTag) {
	switch v.Interface().(type) {
	case time.Duration:
		d.duration(p, value, v)
		return
	case Size:
		d.size(p, value, v)
		return
	case Rate:
		d.rate(p, value, v)
		return
	case MemoryLimit:
		switch value {
		case "":
			v.SetInt(int64(MemoryDefault))
		case "off":
			v.SetInt(0)
		default:
			d.size(p, value, v)
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := value.(string); !ok {
			d.wrongType(p, "a string", value)
		} else if allowed, ok := tag.Lookup("oneof"); ok && !slices.Contains(strings.Split(allowed, ","), s) {
			values := strings.FieldsFunc(allowed, func(r rune) bool { return r == ',' })
			d.undecodable(p, DidYouMean(s, values), "%q is not %s", s, quotedOr(values))
		} else if !d.unexpanded(p, s) {
			v.SetString(s)
		}
	case reflect.Bool:
		if b, ok := value.(bool); !ok {
			d.wrongType(p, "true or false", value)
		} else {
			v.SetBool(b)
		}
	case reflect.Int:
		// The bound keeps sums and products of values within int64.
		if n, ok := value.(int64); !ok {
			d.wrongType(p, "a whole number", value)
		} else if n > 1<<31-1 || n < -1<<31 {
			d.undecodable(p, "", "%d is out of range", n)
		} else {
			v.SetInt(n)
		}
	case reflect.Struct:
		if t, ok := value.(map[string]any); !ok {
			d.wrongType(p, "a table", value)
		} else {
			d.fields(p, t, v)
		}
	case reflect.Map:
		d.entries(p, value, v)
	case reflect.Slice:
		d.slice(p, value, v)
	default:
		panic(fmt.Sprintf("config: no way to decode a %s at %s", v.Type(), p.shown))
	}
}

// entries fills a map from a table whose keys are names that the operator
// chose.
func (d *decoder) entries(p keyPath, value any, v reflect.Value) {
	t, ok := value.(map[string]any)
	if !ok {
		d.wrongType(p, "a table", value)
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, name := range slices.Sorted(maps.Keys(t)) {
		np := p.named(name)
		element := reflect.New(v.Type().Elem()).Elem()
		if v.Type().Elem().Kind() == reflect.Pointer {
			element.Set(reflect.New(v.Type().Elem().Elem()))
			entry, ok := t[name].(map[string]any)
			if !ok {
				d.wrongType(np, "a table", t[name])
				continue
			}
			element.Interface().(table).setDefaults()
			d.fields(np, entry, element.Elem())
		} else {
			d.value(np, t[name], element, "")
		}
		v.SetMapIndex(reflect.ValueOf(name), element)
	}
}

// slice fills a slice of strings or tables. A single string or inline table
// counts as a list of one. A [table] in place of [[table]] is rejected here,
// because at the next one the TOML library would report a syntax error in its
// own words.
func (d *decoder) slice(p keyPath, value any, v reflect.Value) {
	var items []any
	switch value := value.(type) {
	case []any:
		items = value
	case []map[string]any:
		for _, t := range value {
			items = append(items, t)
		}
	case string:
		items = []any{value}
	default:
		want := "a string or a list of strings"
		if v.Type().Elem().Kind() == reflect.Pointer {
			want = "a list of tables"
		}
		d.wrongType(p, want, value)
		return
	}

	v.Set(reflect.MakeSlice(v.Type(), 0, len(items)))
	for i, item := range items {
		if v.Type().Elem().Kind() == reflect.String {
			s, ok := item.(string)
			if !ok {
				d.wrongType(p, "a string or a list of strings", item)
				continue
			}
			if d.unexpanded(p, s) {
				continue
			}
			v.Set(reflect.Append(v, reflect.ValueOf(s)))
			continue
		}
		element := reflect.New(v.Type().Elem().Elem())
		element.Interface().(table).setDefaults()
		short, isShort := element.Interface().(shorthand)
		switch item := item.(type) {
		case map[string]any:
			d.fields(p.item(i, label(item)), item, element.Elem())
		case string:
			if isShort {
				d.unexpanded(p, item)
				short.fromString(item)
			} else {
				d.wrongType(p.item(i, ""), "a table", item)
			}
		default:
			d.wrongType(p.item(i, ""), "a table", item)
		}
		v.Set(reflect.Append(v, element))
	}
}

// label is the text that identifies a table in a list: its name, or the first
// of its names.
func label(t map[string]any) string {
	for _, key := range []string{"name", "names", "rel"} {
		switch value := t[key].(type) {
		case string:
			return value
		case []any:
			if len(value) > 0 {
				name, _ := value[0].(string)
				return name
			}
		}
	}
	return ""
}

func (d *decoder) wrongType(p keyPath, want string, value any) {
	d.undecodable(p, typeHint(p, want, value), "%s, not %s", describe(value), want)
}

// describe names the type of a value for a message.
func describe(value any) string {
	switch value := value.(type) {
	case string:
		return fmt.Sprintf("%q is a string", value)
	case bool:
		return fmt.Sprintf("%t is a boolean", value)
	case int64:
		return fmt.Sprintf("%d is a number", value)
	case float64:
		return fmt.Sprintf("%v is a number with a decimal point", value)
	case map[string]any:
		return "is a table"
	case []map[string]any:
		return "is a list of tables"
	case []any:
		return "is a list"
	default: // time.Time and local dates and times
		return "is a date or time"
	}
}

// typeHint returns the hint for common TOML mistakes.
func typeHint(p keyPath, want string, value any) string {
	_, isTable := value.(map[string]any)
	_, isTables := value.([]map[string]any)
	name := strings.TrimPrefix(p.pattern, "upstream.")
	switch {
	case want == "a list of tables" && isTable:
		return fmt.Sprintf("write [[%s]], with two brackets", p.pattern)
	case p.pattern == "upstream" && isTables:
		return "an upstream needs a name: write [upstream.tigase]"
	case p.pattern == "upstream.*" && isTables:
		return fmt.Sprintf("write [%s], with one bracket", p.shown)
	case p.pattern == "upstream.*" && !isTable:
		return fmt.Sprintf("an upstream needs a name: write [upstream.tigase], and %q below it", strings.TrimPrefix(p.shown, "upstream."))
	case want == "a table" && isTables:
		return fmt.Sprintf("write [%s], with one bracket", p.shown)
	case want == "a string" && isTable && strings.HasPrefix(name, "vhost.by_domain"):
		return `quote a domain that has dots: "example2.com" = "other"`
	}
	return ""
}

// keysOf yields the fields of a struct of Config with their keys.
func keysOf(t reflect.Type) func(yield func(reflect.StructField, string) bool) {
	return func(yield func(reflect.StructField, string) bool) {
		for i := range t.NumField() {
			field := t.Field(i)
			if key := field.Tag.Get("toml"); key != "" && key != "-" && !yield(field, key) {
				return
			}
		}
	}
}

func fieldFor(t reflect.Type, key string) (reflect.StructField, bool) {
	for field, k := range keysOf(t) {
		if k == key {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// quotedOr formats values for a message: "a", "b" or "c".
func quotedOr(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

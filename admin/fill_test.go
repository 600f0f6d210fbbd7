package admin

import (
	"reflect"
	"strings"
	"testing"
)

// The page and other readers of /status take every list for a list: none is null, in an
// entry of another list neither.
func TestNoListIsNull(t *testing.T) {
	var g Gate
	enter(reflect.ValueOf(&g).Elem(), 2)
	g.fill()
	wantLists(t, "", reflect.ValueOf(g))
}

// enter gives each list of a struct an entry, and those of the entry, depth levels down.
func enter(v reflect.Value, depth int) {
	for _, f := range v.Fields() {
		switch {
		case f.Kind() == reflect.Struct && f.CanSet():
			enter(f, depth)
		case f.Kind() == reflect.Slice && f.CanSet() && depth > 1 && f.Type().Elem().Kind() == reflect.Struct:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			enter(f.Index(0), depth-1)
		}
	}
}

func wantLists(t *testing.T, path string, v reflect.Value) {
	for field, f := range v.Fields() {
		at := path + "." + field.Name
		switch {
		case !field.IsExported() || strings.Contains(field.Tag.Get("json"), ",omit") || field.Tag.Get("json") == "-":
		case f.Kind() == reflect.Struct:
			wantLists(t, at, f)
		case f.Kind() == reflect.Slice && f.IsNil():
			t.Errorf("%s is null", at)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for i := range f.Len() {
				wantLists(t, at, f.Index(i))
			}
		}
	}
}

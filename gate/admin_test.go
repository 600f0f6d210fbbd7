package gate

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"wssgate/config"
	"wssgate/listen"
	"wssgate/proxy"
)

// The operator sees everything that the proxy counts.
func TestAdminCounts(t *testing.T) {
	var in proxy.Counts
	count(reflect.ValueOf(&in).Elem())
	for field, value := range reflect.ValueOf(adminCounts(in)).Fields() {
		if hasZero(value) {
			t.Errorf("adminCounts: %s, or something in it, is not taken over", field.Name)
		}
	}
}

// A token file that is emptied after the configuration was checked opens nothing to
// anybody: what was checked is what holds.
func TestAdminTokenGone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Join(dir, "config.toml"), []byte("[upstream.tigase]\nnodes = \"ws://127.0.0.1:5290/\"\n"+"[listen]\nadmin_token_file = \"token\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Listen.Admin = ""
	l, err := newDesk(nil, nil).open(cfg, new(listen.Sockets))
	if err != nil || l.access.Token != "0123456789abcdef" {
		t.Errorf("%+v, %v; want the token that was checked", l, err)
	}
	cfg.Files = nil
	if l, err := newDesk(nil, nil).open(cfg, new(listen.Sockets)); err == nil {
		t.Errorf("no token opens it: %+v", l)
	}
}

// count sets everything in v to 1, lists and maps to one entry.
func count(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("1")
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		count(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		count(key)
		count(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for _, field := range v.Fields() {
			count(field)
		}
	default:
		v.SetInt(1)
	}
}

// hasZero reports whether v or something in it is zero.
func hasZero(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice:
		return v.Len() == 0 || hasZero(v.Index(0))
	case reflect.Struct:
		for _, field := range v.Fields() {
			if hasZero(field) {
				return true
			}
		}
		return false
	}
	return v.IsZero()
}

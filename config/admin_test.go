package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The admin listener is read from a file with mistakes elsewhere. A mistake in
// the listener is reported.
func TestLoadAdmin(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"token": "0123456789abcdef\n", "short": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "config.toml")
	for _, test := range []struct{ text, address, token, mistake string }{
		{"", "127.0.0.1:9291", "", ""},
		{"[listen]\nadmin = \"unix:a.sock\"\nwsss = 3\nwss = []\n[limits]\nx = 1\n", "unix:" + filepath.Join(dir, "a.sock"), "", ""},
		{"[listen]\nadmin = \":9291\"\nadmin_token_file = \"token\"\n", ":9291", "0123456789abcdef", ""},
		{"[listen]\nadmin = \"\"\n", "", "", ""},
		{"[listen]\nadmin = \":9291\"\n", "", "", "no token is set"},
		{"[listen]\nadmin_token_file = \"short\"\n", "", "", "has a token of 1 bytes"},
		{"[listen]\nadmin_token_file = \"none\"\n", "", "", "no such file"},
		{"[listen]\nadmin = 1\n", "", "", "listen.admin"},
		{"listen = 1\n", "", "", "listen"},
		{"[listen", "", "", "line 1"},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadAdmin(t.Context(), file)
		switch {
		case test.mistake != "" && (err == nil || !strings.Contains(err.Error(), test.mistake)):
			t.Errorf("%q: %v; want %q", test.text, err, test.mistake)
		case test.mistake == "" && (err != nil || got.Address != test.address || got.Token != test.token):
			t.Errorf("%q: %+v, %v; want %q and %q", test.text, got, err, test.address, test.token)
		}
	}
}

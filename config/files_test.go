package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/demo/minica"
)

var namedCA = minica.NewCA("CA")

// Files that a configuration names are checked. Messages never show their
// contents.
func TestNamedFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := namedCA.Issue("a.example"), namedCA.Issue("b.example")
	for name, data := range map[string][]byte{
		"ca.pem":    namedCA.RootPEM(),
		"a.pem":     a.ChainPEM(),
		"a.key":     a.KeyPEM(),
		"b.key":     b.KeyPEM(),
		"junk":      []byte("secret junk"),
		"token":     []byte("0123456789abcdef\n"),
		"short":     []byte("secret\n"),
		"two words": []byte("secret secret secret\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const wss = "[upstream.a]\nnodes = \"wss://127.0.0.1/\"\n"
	inDir := func(name string) string { return fmt.Sprintf("%q", filepath.Join(dir, name)) }
	for _, test := range []struct{ data, want string }{
		{wss + "ca = \"ca.pem\"\nclient_certificate = \"a.pem\"\nclient_key = \"a.key\"\n", ""},
		{wss + "ca = \"junk\"\n", "upstream.a.ca: " + inDir("junk") + ": has no certificate in PEM"},
		{wss + "ca = \".\"\n", "upstream.a.ca: " + fmt.Sprintf("%q", dir) + ": is a directory, not a file"},
		{wss + "client_certificate = \"a.pem\"\nclient_key = \"b.key\"\n",
			"upstream.a.client_certificate: " + inDir("a.pem") + ": key " + inDir("b.key") + ": private key does not match public key"},
		{wss + "client_certificate = \"a.pem\"\nclient_key = \"none\"\n",
			"upstream.a.client_certificate: " + inDir("a.pem") + ": key " + inDir("none") + ": no such file or directory"},
		{wss + "client_key = \"a.key\"\n", "upstream.a.client_certificate: is required, because client_key is set"},
		{small + "[listen]\nadmin = \":9291\"\nadmin_token_file = \"token\"\n", ""},
		{small + "[listen]\nadmin_token_file = \"short\"\n", "listen.admin_token_file: " + inDir("short") + ": has a token of 6 bytes; at least 16 are required"},
		{small + "[listen]\nadmin_token_file = \"two words\"\n", "listen.admin_token_file: " + inDir("two words") + ": has more than one word"},
	} {
		cfg, err := Parse(filepath.Join(dir, "config.toml"), []byte(test.data))
		if test.want == "" {
			if err != nil {
				t.Errorf("%q: %v", test.data, err)
			} else if _, err := cfg.UpstreamOptions(nil); err != nil {
				t.Errorf("%q: validates and does not start: %v", test.data, err)
			}
			continue
		}
		ce, ok := errors.AsType[*Error](err)
		if !ok || len(ce.Mistakes) != 1 || ce.Mistakes[0].String() != test.want {
			t.Errorf("%q: err = %v; want %q", test.data, err, test.want)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%q: the message has a secret in it: %v", test.data, err)
		}
	}
}

// A log has one line for each mistake, which includes the name of the file.
func TestMistakesAsErrors(t *testing.T) {
	_, err := parseString(small + "x = 1\n[log]\nlevel = \"inf\"\n")
	ce, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatal(err)
	}
	want := []string{
		`config.toml: upstream.tigase: unknown key "x"`,
		`config.toml: log.level: "inf" is not "debug", "info", "warn" or "error"`,
	}
	for i, err := range ce.Unwrap() {
		if i >= len(want) || err.Error() != want[i] {
			t.Errorf("mistake %d = %q, want %q", i, err, want)
		}
	}
	if m, ok := errors.AsType[Mistake](err); !ok || m.Key != "upstream.tigase" {
		t.Errorf("errors.AsType[Mistake] = %+v, %t; want the first", m, ok)
	}
}

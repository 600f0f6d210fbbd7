package main

import (
	"os"
	"testing"
)

// What is wrong on one system alone is found there: in a file, in a test, by an analyzer.
func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		well  bool // on Windows; elsewhere all are
	}{
		"well":              {map[string]string{"a_windows.go": "package a\n\nfunc f() {}\n"}, true},
		"a type error":      {map[string]string{"a_windows.go": "package a\n\nfunc f() { missing() }\n"}, false},
		"a test's error":    {map[string]string{"a_windows_test.go": "package a\n\nfunc f() { missing() }\n"}, false},
		"a syntax error":    {map[string]string{"a_windows.go": "package a\n\nfunc f( {}\n"}, false},
		"no such package":   {map[string]string{"a_windows.go": "package a\n\nimport _ \"a/b\"\n"}, false},
		"for the analyzers": {map[string]string{"a_windows.go": "package a\n\nfunc f(x int) { x = x }\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("GOFLAGS", "-mod=mod")
			test.files["go.mod"] = "module a\n\ngo 1.26\n"
			test.files["a.go"] = "package a\n"
			for file, text := range test.files {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for platform, want := range map[string]bool{"windows/amd64": test.well, "freebsd/amd64": true} {
				if well, err := check(platform); well != want || err != nil {
					t.Errorf("check(%q) = %v, %v; want %v", platform, well, err, want)
				}
			}
		})
	}
	t.Chdir(t.TempDir())
	if well, err := check("windows/amd64"); well {
		t.Errorf("a folder without a module is well, with error %v", err)
	}
}

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows are the imports between our packages: who may need whom. Nobody
// imports package main, and what serves connections knows nothing of the
// configuration.
var arrows = map[string][]string{
	"access":    {},
	"admin":     {"fair", "sampling"},
	"certstore": {"files"},
	"demo":      {"internal/certtest", "internal/xmpptest"}, // it brings a CA and an upstream along
	"fair":      {},
	"files":     {},
	"logqueue":  {},
	"memory":    {},
	"probe":     {"access", "files", "upstream", "xmpp"},
	"proxy":     {"access", "fair", "files", "upstream", "xmpp"},
	"sampling":  {},
	"upstream":  {"access", "files", "xmpp"},
	"web":       {"fair", "sampling", "xmpp"},
	"xmpp":      {},
}

func TestArrows(t *testing.T) {
	for pkg, allowed := range arrows {
		out, err := exec.Command("go", "list", "-deps", "./"+pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps ./%s: %v", pkg, err)
		}
		for dep := range strings.Lines(string(out)) {
			name, ours := strings.CutPrefix(strings.TrimSpace(dep), "wssgate/")
			if ours && name != pkg && !slices.Contains(allowed, name) {
				t.Errorf("%s needs %s; it may need %q", pkg, name, allowed)
			}
		}
	}
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "wssgate/")
		if _, known := arrows[name]; ok && !known && !strings.HasPrefix(name, "internal/") {
			t.Errorf("package %s has no arrows here", name)
		}
	}
}

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows are the imports between our packages: who may need whom. Only gate, setup,
// inventory and package main know the configuration; nobody imports package main, and what is in
// internal/ is for tests.
var arrows = map[string][]string{
	"access":      {},
	"admin":       {"access", "fair", "files", "human", "panics", "ports", "proxy", "sampling", "upstream", "xmpp"},
	"certstore":   {"files", "panics", "watch"},
	"config":      {"access", "certstore", "ech", "files", "listen", "panics", "ports", "upstream", "watch", "xmpp"},
	"demo":        {"demo/chat", "demo/minica"}, // it brings an upstream and a CA along
	"demo/chat":   {},
	"demo/minica": {},
	"ech":         {"files", "panics", "watch"},
	"fair":        {"panics"},
	"files":       {"panics"},
	"gate":        {"access", "admin", "certstore", "config", "ech", "fair", "files", "human", "listen", "logqueue", "memory", "panics", "ports", "proxy", "sampling", "systemd", "upstream", "watch", "web", "xmpp"},
	"human":       {},
	"inventory":   {"access", "certstore", "config", "ech", "fair", "files", "human", "listen", "panics", "ports", "proxy", "sampling", "upstream", "watch", "xmpp"}, // what gate would serve
	"listen":      {"files", "panics", "ports"},
	"logqueue":    {"panics"},
	"manual":      {}, // it runs the program
	"memory":      {"panics"},
	"panics":      {},
	"ports":       {},
	"probe":       {"access", "files", "human", "panics", "ports", "upstream", "xmpp"},
	"proxy":       {"access", "fair", "files", "panics", "ports", "sampling", "upstream", "xmpp"},
	"sampling":    {"panics"},
	"sbom":        {}, // it reads a program
	"setup":       {"access", "certstore", "config", "ech", "files", "listen", "panics", "ports", "upstream", "watch", "xmpp"},
	"systemd":     {"files", "panics"},
	"terminal":    {"access", "admin", "fair", "files", "human", "panics", "ports", "proxy", "sampling", "upstream", "xmpp"},
	"upstream":    {"access", "files", "panics", "ports", "xmpp"},
	"watch":       {"panics"},
	"web":         {"fair", "panics", "ports", "sampling", "xmpp"},
	"xmpp":        {},
}

func TestArrows(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Deps}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		deps := strings.Fields(line)
		pkg, ok := strings.CutPrefix(deps[0], "wssgate/")
		if !ok || strings.HasPrefix(pkg, "internal/") {
			continue
		}
		allowed, known := arrows[pkg]
		if !known {
			t.Errorf("package %s has no arrows here", pkg)
		}
		for _, dep := range deps[1:] {
			if name, ours := strings.CutPrefix(dep, "wssgate/"); ours && !slices.Contains(allowed, name) {
				t.Errorf("%s needs %s; it may need %q", pkg, name, allowed)
			}
		}
	}
}

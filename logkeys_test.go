package main

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// keysAt says where a call has its first key: behind the message, or at once.
var keysAt = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0,
	"String": 0, "Int": 0, "Int64": 0, "Bool": 0, "Any": 0, "Duration": 0, "Time": 0,
}

// docs/reference.md lists every key that a line of the log can have, and no
// other.
func TestLogKeysDocumented(t *testing.T) {
	doc, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## The log\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(section, -1) {
		for _, key := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			listed[key[1]] = true
		}
	}
	used := logKeys(t, ".", "admin", "certstore", "config", "files", "gate", "listen", "memory", "panics", "proxy", "sampling", "systemd", "upstream", "web")
	for _, key := range slices.Sorted(maps.Keys(used)) {
		if !listed[key] {
			t.Errorf("docs/reference.md does not list the log key %q of %s", key, used[key])
		}
	}
	for key := range listed {
		if used[key] == "" {
			t.Errorf("docs/reference.md lists the log key %q, which nothing writes", key)
		}
	}
}

// logKeys finds the keys in calls of slog, each with a place where it is used.
func logKeys(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	used := map[string]string{}
	note := func(e ast.Expr, at func(ast.Node) token.Position) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			key, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			used[key] = at(lit).String()
		}
	}
	inspectSources(t, dirs, func(_ string, at func(ast.Node) token.Position, n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				break
			}
			first, ok := keysAt[f.Sel.Name]
			if ok && len(n.Args) > 0 && aboutLog(n.Args[0]) { // a sampling.Line's
				first++
			} else if !ok || !aboutLog(f.X) {
				break
			}
			for i := first; i < len(n.Args); i += 2 {
				note(n.Args[i], at)
			}
		case *ast.CompositeLit: // attrs := []any{"key", value, …}
			if a, ok := n.Type.(*ast.ArrayType); ok && isAny(a.Elt) {
				for i := 0; i < len(n.Elts); i += 2 {
					note(n.Elts[i], at)
				}
			}
		}
		return true
	})
	return used
}

// aboutLog reports whether x of x.Info is a logger, or x of x.String is slog.
func aboutLog(x ast.Expr) bool {
	name := ""
	switch x := x.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	}
	return name == "slog" || strings.EqualFold(name, "log")
}

func isAny(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "any"
}

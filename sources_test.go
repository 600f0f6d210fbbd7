package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// inspectSources calls f for the nodes of each file in the folders that is not a
// test's, as ast.Inspect does. at says where a node is.
func inspectSources(t *testing.T, dirs []string, f func(name string, at func(ast.Node) token.Position, n ast.Node) bool) {
	t.Helper()
	set := token.NewFileSet()
	at := func(n ast.Node) token.Position { return set.Position(n.Pos()) }
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(names), err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(set, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool { return f(name, at, n) })
		}
	}
}

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// neverSet are the fields of options that only tests set, with the reason.
var neverSet = map[string]string{
	"upstream.Options.Dial":     "fake sockets",
	"upstream.Options.Random":   "repeatable choices",
	"upstream.Options.Resolver": "fake DNS",
}

// Every field of an exported options struct is set by the program. A field that only tests
// set makes them test another program: without upstream.Options.Wrap each wss upstream
// failed, and all tests passed.
func TestOptionsAreSet(t *testing.T) {
	fset := token.NewFileSet()
	fields, set := map[string]string{}, map[string]bool{} // by name of the field
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{"internal", "tests", "bench", "node_modules", "testdata", "build", "demo", ".git"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				s, ok := n.Type.(*ast.StructType)
				if !ok || !n.Name.IsExported() || !isOptions(n.Name.Name) {
					break
				}
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						if name.IsExported() {
							fields[file.Name.Name+"."+n.Name.Name+"."+name.Name] = name.Name
						}
					}
				}
			case *ast.CompositeLit: // package net has fields of the same names
				if of, ok := n.Type.(*ast.SelectorExpr); ok {
					if pkg, ok := of.X.(*ast.Ident); ok && pkg.Name == "net" {
						return false
					}
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok {
					set[key.Name] = true
				}
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					for field, ok := left.(*ast.SelectorExpr); ok; field, ok = field.X.(*ast.SelectorExpr) {
						set[field.Sel.Name] = true
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(fields) < 50 {
		t.Errorf("%d fields of options were found; the test looks at the wrong files", len(fields))
	}
	for field, name := range fields {
		if !set[name] && neverSet[field] == "" {
			t.Errorf("nothing but tests sets %s", field)
		}
	}
	for field := range neverSet {
		if name, ok := fields[field]; !ok || set[name] {
			t.Errorf("neverSet lists %s, which is set or does not exist", field)
		}
	}
}

func isOptions(name string) bool {
	return slices.ContainsFunc([]string{"Options", "Configuration", "Settings"}, func(s string) bool { return strings.HasSuffix(name, s) })
}

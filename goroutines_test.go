package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A panic in a goroutine without a recover ends the process, with all its tunnels. So
// whatever starts a goroutine (a go statement, a method Go, an AfterFunc) runs it in
// package panics, but for these. The keys are file and function or call.
var recovers = map[string]string{
	"proxy/loop.go l.run":                    "mends itself, and rescues its tunnels",
	"proxy/ingress.go c.serve":               "defers survive",
	"proxy/pageconn.go c.client.nextRequest": "defers survive",
	"proxy/pump.go c.keep":                   "catches, and fails the connection",
	"proxy/pages.go p.serve":                 "catches",
	"gate/http.go p.serve":                   "catches, and fails the listener",
	"gate/reload.go g.gather":                "recovers: a panic is an error of the reload",
	"gate/reload.go g.gatherNothing":         "catches what it calls",
	"main.go dispatch":                       "is the program itself",
	"terminal/trace.go cancel":               "ends a wait",

	"listen/listen.go removals.Wait":      "only waits",
	"certstore/acme.go close":             "only waits",
	"files/files.go slices.DeleteFunc":    "waits, and tells",
	"gate/gate.go ended.Store":            "notes the time",
	"listen/listen.go ln.Close":           "closes",
	"upstream/address.go d.Conn.Close":    "closes",
	"upstream/connect.go raw.SetDeadline": "sets a deadline",
	"upstream/probe.go conn.SetDeadline":  "sets a deadline",
	"web/bosh.go control.SetReadDeadline": "sets a deadline",
}

func TestPanicsEndNoProcess(t *testing.T) {
	used := map[string]bool{}
	seen := 0
	dirs := slices.DeleteFunc(slices.Sorted(maps.Keys(arrows)), func(dir string) bool {
		return dir == "probe" || strings.HasPrefix(dir, "demo") // commands, which end with what they started
	})
	inspectSources(t, append(dirs, "."), func(name string, at func(ast.Node) token.Position, n ast.Node) bool {
		if name == "demo.go" {
			return false
		}
		started := startedBy(n)
		if started == nil {
			return true
		}
		seen++
		calls := callsOf(started)
		for _, call := range calls {
			if strings.HasPrefix(call, "panics.") {
				return true
			}
		}
		for _, call := range calls {
			if recovers[name+" "+call] != "" {
				used[name+" "+call] = true
				return true
			}
		}
		t.Errorf("%s: a panic in this goroutine, which calls %q, ends the process; use panics.Keep or panics.Catch", at(n), calls)
		return true
	})
	for place := range recovers {
		if !used[place] {
			t.Errorf("recovers: %q is no more", place)
		}
	}
	if seen < 50 {
		t.Errorf("%d goroutines are seen; want more", seen)
	}
}

// startedBy returns what runs in a goroutine that n starts; nil: it starts none.
func startedBy(n ast.Node) ast.Node {
	switch n := n.(type) {
	case *ast.GoStmt:
		if f, ok := n.Call.Fun.(*ast.FuncLit); ok {
			return f
		}
		return n.Call
	case *ast.CallExpr:
		sel, ok := n.Fun.(*ast.SelectorExpr)
		if ok && (sel.Sel.Name == "Go" && len(n.Args) == 1 || sel.Sel.Name == "AfterFunc") {
			return n.Args[len(n.Args)-1]
		}
	}
	return nil
}

// callsOf lists the functions that are called in a goroutine, but not within another
// function literal: panics.X there would keep only a part of it.
func callsOf(started ast.Node) (calls []string) {
	top := true
	ast.Inspect(started, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			if !top {
				return false
			}
		case *ast.CallExpr:
			calls = append(calls, types.ExprString(n.Fun))
		case *ast.SelectorExpr:
			if top { // a method value
				calls = append(calls, types.ExprString(n))
			}
		}
		top = false
		return true
	})
	return calls
}

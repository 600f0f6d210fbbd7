package main

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

// What is in the way of serving waits for no disk: files are the business of package
// files. So there is a list of what may be used of the packages that can reach a file
// system, which wait for none; and of the few places that may do more, and why.
var (
	waitsForNothing = map[string][]string{
		"os": {
			"Args", "Exit", "Getenv", "Getpagesize", "Getpid", "Hostname", "Interrupt", "Stderr", "Stdout", "Unsetenv",
			"ErrDeadlineExceeded", "ErrNotExist", "IsNotExist", "File", "FileInfo", "FileMode", "ModeCharDevice", "NewFile", "NewSyscallError", "SameFile", "Signal", "SyscallError",
		},
		"filepath":  {"Abs", "Base", "Clean", "Dir", "Ext", "IsAbs", "IsLocal", "Join", "Rel", "Separator", "Split"},
		"ioutil":    {},
		"exec":      {},
		"tls.Load":  {},
		"net.Look":  {}, // the resolver without a context, and so without a deadline
		"net.Res":   {"Resolver"},
		"net.Dial":  {}, // to a path it waits for a disk, to a name for DNS
		"net.Liste": {"Listener"},
		"env.dial":  {}, // upstream's net.Dialer
	}
	mayWait = map[string]string{
		"listen/listen_linux.go net.ListenConfig": "for TCP, with a context",
		"listen/listen_other.go net.ListenConfig": "for TCP, with a context",
		"upstream/connect.go net.Dialer":          "is env.dial",
		"upstream/address.go env.dial":            "in a job of the path's place; TCP with a context",
		"web/bosh.go net.Dialer":                  "TCP, with a deadline",
		"ports/ports.go net.Dialer":               "the caller's, TCP with a context",
		"ports/socket.go net.DialUDP":             "to an address, and sends nothing",
		"ports/socket.go net.ListenUDP":           "at an address",
		"ports/range.go os.DirFS":                 "the kernel's own files, /proc",
		"certstore/acme_http.go net.Dialer":       "TCP, with a deadline, for the CA",
		"certstore/acme_persist.go net.Dialer":    "to an address, with a context",
		"memory/guard.go os.DirFS":                "the kernel's own files, /proc and /sys",
		"memory/usage.go os.DirFS":                "the kernel's own files, /proc and /sys",
		"listen/listen_linux.go os.Open":          "the kernel's own files, /proc",
		"listen/listen.go net.Dial":               "in a job of the folder's place",
		"listen/listen.go net.ListenUnix":         "in a job of the folder's place",
		"systemd/systemd.go net.Dial":             "a datagram socket of systemd's, at the start",
		"listen/inherited.go net.ResolveTCPAddr":  "of an address, not a name",
	}
)

func TestNothingWaitsForFiles(t *testing.T) {
	used := map[string]bool{}
	dirs := []string{".", "access", "admin", "certstore", "config", "ech", "fair", "gate", "inventory", "listen", "logqueue", "memory", "ports", "proxy", "sampling", "systemd", "upstream", "web", "xmpp"}
	inspectSources(t, dirs, func(name string, at func(ast.Node) token.Position, n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg := ""
		switch x := sel.X.(type) {
		case *ast.Ident:
			if x.Obj == nil || x.Name == "env" {
				pkg = x.Name
			}
		case *ast.SelectorExpr:
			if x.Sel.Name == "env" {
				pkg = "env"
			}
		}
		if !mightWait(pkg, sel.Sel.Name) {
			return true
		}
		call := pkg + "." + sel.Sel.Name
		for _, place := range []string{name, name + " " + call} {
			if mayWait[place] != "" {
				used[place] = true
				return true
			}
		}
		t.Errorf("%s: %s may wait for a disk or for DNS; use package files, or a context", at(sel), call)
		return true
	})
	for place := range maps.Keys(mayWait) {
		if !used[place] {
			t.Errorf("mayWait: %q does not do so any more", place)
		}
	}
}

// mightWait reports whether a package's name is none of those that wait for nothing.
func mightWait(pkg, name string) bool {
	for rule, allowed := range waitsForNothing {
		of, prefix, _ := strings.Cut(rule, ".")
		if of == pkg && strings.HasPrefix(name, prefix) {
			return !slices.Contains(allowed, name)
		}
	}
	return false
}

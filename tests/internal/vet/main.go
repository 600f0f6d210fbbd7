// Command vet is go vet for other systems: vet GOOS/GOARCH... in the folder of a module.
// It reads all packages and their tests from source. go vet would compile the standard
// library and all other dependencies for each system first, which takes ten times as
// long. It is for the Makefile.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/analysis/suite/vet"
	"golang.org/x/tools/go/packages"
)

func main() {
	status := 0
	for _, platform := range os.Args[1:] {
		if platform == runtime.GOOS+"/"+runtime.GOARCH {
			continue // go vet does this one
		}
		fmt.Println(platform + ": vet")
		well, err := check(platform)
		if err != nil {
			fmt.Fprintf(os.Stderr, "vet: %s: %v\n", platform, err)
		}
		if !well {
			status = 1
		}
	}
	os.Exit(status)
}

// check prints what is wrong with the packages on a platform. Without type errors that is
// what the analyzers find.
func check(platform string) (well bool, err error) {
	system, arch, _ := strings.Cut(platform, "/")
	cfg := packages.Config{Mode: packages.LoadAllSyntax, Tests: true, Env: append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")}
	all, err := packages.Load(&cfg, "./...")
	if err != nil || packages.PrintErrors(all) > 0 {
		return false, err
	}
	graph, err := checker.Analyze(vet.Suite, all, nil)
	if err != nil {
		return false, err
	}
	for _, action := range graph.Roots {
		if action.Err != nil || len(action.Diagnostics) > 0 {
			return false, graph.PrintText(os.Stderr, -1)
		}
	}
	return len(all) > 0, nil
}

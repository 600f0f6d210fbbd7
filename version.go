package main

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"wssgate/gate"
)

// versionCommand is "wssgate version".
func versionCommand(_ context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("version", "", "Prints the version, the commit it was built from, and the Go release.")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	fmt.Fprintln(stdout, versionLine(gate.ThisBuild()))
	return exitOK
}

// versionLine says what is known of a build.
func versionLine(b gate.Build) string {
	commit, dirty := "", ""
	if b.Commit != "" {
		commit = ", commit " + b.Commit
	}
	if b.Modified {
		dirty = ", modified"
	}
	return fmt.Sprintf("wssgate %s%s%s, %s %s/%s", b.Version, commit, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

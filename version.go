package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// versionCommand is "wssgate version".
func versionCommand(_ context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("version", "", "Prints the version, the commit it was built from, and the Go release.")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	info, _ := debug.ReadBuildInfo()
	fmt.Fprintln(stdout, versionLine(info))
	return exitOK
}

// versionLine says what is known of a build; info may be nil.
func versionLine(info *debug.BuildInfo) string {
	version, commit, dirty := "(devel)", "", ""
	if info != nil {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = ", commit " + s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", modified"
			}
		}
	}
	return fmt.Sprintf("wssgate %s%s%s, %s %s/%s", version, commit, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

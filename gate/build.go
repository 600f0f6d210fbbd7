package gate

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// A Build is what is known of a program from its build.
type Build struct {
	Version  string // "(devel)" if unknown
	Commit   string // the first 12 digits; empty: unknown
	Modified bool   // there were changes that are not in Commit
}

// String returns the line that "wssgate version" prints.
func (b Build) String() string {
	commit, dirty := "", ""
	if b.Commit != "" {
		commit = ", commit " + b.Commit
	}
	if b.Modified {
		dirty = ", modified"
	}
	return fmt.Sprintf("wssgate %s%s%s, %s %s/%s", b.Version, commit, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// ThisBuild is the build of this program.
func ThisBuild() Build {
	info, _ := debug.ReadBuildInfo()
	return buildOf(info)
}

// buildOf reads info, which may be nil.
func buildOf(info *debug.BuildInfo) Build {
	b := Build{Version: "(devel)"}
	if info == nil {
		return b
	}
	b.Version = cmp.Or(info.Main.Version, b.Version)
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			b.Modified = true
		}
	}
	return b
}

package gate

import (
	"cmp"
	"runtime/debug"
)

// A Build is what is known of a program from its build.
type Build struct {
	Version  string // "(devel)" if unknown
	Commit   string // the first 12 digits; empty: unknown
	Modified bool   // there were changes that are not in Commit
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

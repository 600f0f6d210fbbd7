package gate

import (
	"runtime/debug"
	"testing"
)

func TestBuild(t *testing.T) {
	info := &debug.BuildInfo{
		Main: debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
			{Key: "vcs.modified", Value: "true"},
		},
	}
	if got, want := buildOf(info), (Build{"v1.2.3", "0123456789ab", true}); got != want {
		t.Errorf("build = %+v, want %+v", got, want)
	}
	for _, info := range []*debug.BuildInfo{nil, {}} {
		if got, want := buildOf(info), (Build{Version: "(devel)"}); got != want {
			t.Errorf("build of %+v = %+v, want %+v", info, got, want)
		}
	}
}

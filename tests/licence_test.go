package tests

import (
	"os/exec"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// THIRD-PARTY-NOTICES is what deploy/notices.sh makes of the modules that the binary
// links.
func TestNotices(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("deploy/notices.sh")
	cmd.Dir = root
	want := succeed(t, cmd)
	if got := readFile(t, root+"/THIRD-PARTY-NOTICES"); got != want {
		t.Error("THIRD-PARTY-NOTICES is out of date: run make notices")
	}
	if !strings.Contains(readFile(t, root+"/LICENSE"), "the wssgate authors") {
		t.Error("LICENSE does not name the wssgate authors")
	}
}

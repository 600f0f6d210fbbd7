package gate

import (
	"os"
	"os/exec"
	"testing"
)

// Missing skips the test where a person runs it and fails it in CI, where
// nothing may be skipped.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// Program returns the path of an installed program. Without it the test is
// Missing it, and says which package has it.
func Program(tb testing.TB, name, debianPackage string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil { // servers are in no plain user's PATH
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		Missing(tb, "%s is not installed; to run this test: sudo apt-get install %s", name, debianPackage)
	}
	return path
}

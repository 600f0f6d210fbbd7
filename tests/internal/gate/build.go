// Package gate builds the program, runs it as an operator would and watches
// it from outside: its log, its exit status, its descriptors, its memory.
//
// It is for the test packages below tests/. A Gate belongs to one test; its
// methods may be called from any goroutine of that test.
package gate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Build compiles the program from the repository around this module and
// returns the path of the binary, with the race detector in it if race is set.
// The second call in a process costs nothing, the second process pays for an
// up-to-date check.
//
// The binary stays in build/test, which git ignores.
func Build(race bool) (string, error) {
	if race {
		return raceBinary()
	}
	return plainBinary()
}

var (
	raceBinary = sync.OnceValues(func() (string, error) { return build("wssgate-race", "-race") })
	// As make build does: what ships, and what is in Go's cache already.
	plainBinary = sync.OnceValues(func() (string, error) { return build("wssgate", "-trimpath") })
)

func build(name string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	binary := filepath.Join(dir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", binary}, flags...), ".")...)
	cmd.Dir = root
	if !slices.Contains(flags, "-race") {
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return binary, nil
}

// Root returns the directory of the shipped module, the parent of this one.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	tests := filepath.Dir(strings.TrimSpace(string(out)))
	return filepath.Dir(tests), nil
}

// lock keeps test packages that run side by side from linking to one file at
// the same time.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

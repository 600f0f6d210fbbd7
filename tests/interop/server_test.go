package interop

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// patience is how long a client waits for what must come. Only one that waits in
// vain waits that long.
const patience = 3 * time.Minute

// An account is the system user that a server runs as.
type account struct {
	uid, gid int
	change   bool // the test is root and must change to it
}

// unprivileged returns the account of the name where the test runs as root,
// and the test's own otherwise.
func unprivileged(t *testing.T, name string) account {
	t.Helper()
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return account{uid: uid, gid: gid, change: true}
}

// tempDir makes a directory that the account owns and can reach, which
// t.TempDir's parent would not let it.
func (a account) tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wssgate-interop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	a.own(t, dir)
	return dir
}

func (a account) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a.own(t, path)
}

func (a account) own(t *testing.T, path string) {
	t.Helper()
	if !a.change {
		return
	}
	if err := os.Chown(path, a.uid, a.gid); err != nil {
		t.Fatal(err)
	}
}

// command runs the program as the account.
func (a account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Clean("/")
	if a.change {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	}
	return cmd
}

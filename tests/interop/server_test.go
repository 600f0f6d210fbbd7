package interop

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to start. Only one that will never
// do so takes that long.
const patience = 60 * time.Second

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

// command runs the program as the account, in a process group of its own so
// that its children end with it.
func (a account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Clean("/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if a.change {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// serve starts the server, returns when something listens on addr, and ends it
// with the test. Its output is shown where the test fails.
func serve(t *testing.T, cmd *exec.Cmd, addr string) *output {
	t.Helper()
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
			t.Errorf("%s did not end", cmd.Path)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd.Path, out.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return out
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %v", cmd, cmd.ProcessState)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %v", cmd.Path, addr, err)
		}
	}
}

// output is a buffer that a process writes while the test may read it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// wait waits until the process has written the text n times.
func (o *output) wait(t *testing.T, text string, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(o.String(), text) < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q did not come %d times within %v", text, n, patience)
		}
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
)

// Who may not open a port below 1024 reads what to do about it.
func TestLowPort(t *testing.T) {
	if first := strings.TrimSpace(readFile(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start")); first != "1024" {
		gate.Missing(t, "ports from %s on are open to everyone here", first)
	}
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	// A folder that any user may read, as t.TempDir's may not be.
	dir, err := os.MkdirTemp("", "lowport")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"wssgate":     program,
		"config.toml": []byte("[listen]\nwss = \"127.0.0.1:1\"\nadmin = \"\"\n" + toUpstream("ws://127.0.0.1:9/")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "wssgate"), "serve", "-config", filepath.Join(dir, "config.toml"))
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Run()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "permission denied\n  hint: ports below 1024 need CAP_NET_BIND_SERVICE") {
		t.Errorf("status %d:\n%s", cmd.ProcessState.ExitCode(), &stderr)
	}
}

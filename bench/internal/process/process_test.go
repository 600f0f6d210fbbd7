package process

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// The figures of a process include those of what it started.
func TestProcesses(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		child.Process.Kill()
		child.Wait()
	}()
	pids, err := Tree(os.Getpid())
	if err != nil || len(pids) != 2 || pids[0] != os.Getpid() || pids[1] != child.Process.Pid {
		t.Errorf("Tree = %v, %v; want this process and %d", pids, err, child.Process.Pid)
	}
	before, err := PrivateMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const more = 32 << 20
	taken := make([]byte, more)
	for i := range taken {
		taken[i] = 1
	}
	if after, err := PrivateMemory(os.Getpid()); err != nil || after-before < more*9/10 {
		t.Errorf("private memory went from %d to %d with %d more in use, %v", before, after, more, err)
	}
	if share, err := ProportionalMemory(os.Getpid()); err != nil || share < more+int64(taken[0]) {
		t.Errorf("proportional memory = %d, %v; want more than %d", share, err, more)
	}
	if peak, err := PeakMemory(os.Getpid()); err != nil || peak < more+int64(taken[0]) {
		t.Errorf("peak = %d, %v; want more than %d", peak, err, more)
	}
	start, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		now, err := CPU(os.Getpid())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no CPU time counted: %v", err)
		}
		if now > start {
			break
		}
	}
}

// Package leaktest fails a test binary that leaves goroutines or file
// descriptors behind. Call Main from TestMain:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"
)

// patience is how long what ends by itself may take to do so; a leak costs a
// failing run this much, a clean run nothing.
const patience = 30 * time.Second

// Main runs the tests and exits with their status, or with 1 where they pass
// but leave goroutines or file descriptors that were not there before.
func Main(m *testing.M) {
	goroutines, fds := stacks(), descriptors()
	status := m.Run()
	if status == 0 {
		if left := leaked(goroutines, fds); left != "" {
			fmt.Fprintf(os.Stderr, "leaktest: left behind:\n%s\n", left)
			status = 1
		}
	}
	os.Exit(status)
}

// leaked waits for the counts to come back to what they were and returns what
// did not.
func leaked(goroutines map[string]int, fds map[string]string) string {
	var left string
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left = diff(goroutines, fds)
		if left == "" || time.Now().After(deadline) {
			return left
		}
	}
}

func diff(goroutines map[string]int, fds map[string]string) string {
	var out []string
	for stack, n := range stacks() {
		if more := n - goroutines[stack]; more > 0 {
			out = append(out, fmt.Sprintf("%d goroutine(s):\n%s", more, stack))
		}
	}
	for fd, target := range descriptors() {
		if _, was := fds[fd]; !was {
			out = append(out, fmt.Sprintf("descriptor %s: %s", fd, target))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

// stacks counts goroutines by their stack without addresses. The test
// framework's own and the caller's are left out.
func stacks() map[string]int {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	counts := map[string]int{}
	for _, g := range strings.Split(string(buf), "\n\n") {
		head, body, _ := strings.Cut(g, "\n")
		if body == "" || strings.Contains(body, "leaktest.stacks(") || strings.HasPrefix(head, "goroutine 1 ") ||
			strings.Contains(body, "os/signal.") || strings.Contains(body, "testing.(*F).Fuzz") || strings.Contains(body, "internal/fuzz.") {
			continue
		}
		var lines []string
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "\t") {
				line, _, _ = strings.Cut(line, " +0x")
			} else if i := strings.LastIndexByte(line, '('); i > 0 {
				line = line[:i]
			}
			if i := strings.Index(line, " in goroutine "); i > 0 {
				line = line[:i]
			}
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
		counts[strings.Join(lines, "\n")]++
	}
	return counts
}

// descriptors lists the open ones that a leak could be: sockets, pipes, files;
// not the runtime's own epoll and eventfd. Empty where there is no /proc.
func descriptors() map[string]string {
	fds := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/dev/") {
			continue
		}
		fds[e.Name()+" "+target] = target
	}
	return fds
}

package gate

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Descriptors returns what the program has open: sockets, files, pipes. The
// inner works of event loops (epoll, eventfd) are left out, for a loop more or
// less is no leak.
func (g *Gate) Descriptors() []string {
	g.tb.Helper()
	entries, err := os.ReadDir(g.proc("fd"))
	if err != nil {
		g.tb.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink(g.proc("fd/" + e.Name()))
		if err == nil && !strings.HasPrefix(target, "anon_inode:") { // closed since, or a loop's
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}

// PrivateMemory returns the bytes of memory that belong to the program alone:
// Private_Clean and Private_Dirty of smaps_rollup.
func (g *Gate) PrivateMemory() int64 {
	g.tb.Helper()
	data, err := os.ReadFile(g.proc("smaps_rollup"))
	if err != nil {
		g.tb.Fatal(err)
	}
	var sum int64
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "Private_Clean:" && fields[0] != "Private_Dirty:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			g.tb.Fatalf("smaps_rollup: %q: %v", line, err)
		}
		sum += kib << 10
	}
	return sum
}

// Goroutines ends the program with SIGQUIT and returns the stacks that the
// runtime printed, one string for each goroutine.
func (g *Gate) Goroutines() []string {
	g.Signal(syscall.SIGQUIT)
	g.Wait()
	var stacks []string
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.lines {
		switch {
		case strings.HasPrefix(l.Text, "goroutine ") && strings.HasSuffix(l.Text, ":"):
			stacks = append(stacks, l.Text)
		case len(stacks) > 0:
			stacks[len(stacks)-1] += "\n" + l.Text
		}
	}
	return stacks
}

// Ended reports whether the program has ended, also where its last lines were not
// read yet.
func (g *Gate) Ended() bool {
	data, err := os.ReadFile(g.proc("stat"))
	_, state, _ := strings.Cut(string(data), ") ")
	return err != nil || strings.HasPrefix(state, "Z")
}

// PID returns the program's process number.
func (g *Gate) PID() int { return g.cmd.Process.Pid }

func (g *Gate) proc(name string) string {
	return fmt.Sprintf("/proc/%d/%s", g.PID(), name)
}

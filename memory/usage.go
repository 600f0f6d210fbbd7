// Package memory bounds what the process takes of the machine's memory: how much
// there is (Available), how much it uses (what a Guard measures), what the
// collector keeps (Keep), and what happens above the limit (Guard).
//
// It reads /proc and the files of the process's cgroup, and changes settings of
// Go's runtime, which belong to the whole process: only main calls it. Its
// Options decide what is shed when memory is short.
package memory

import (
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// share is the part of the available memory that limits.memory is by default, in
// percent. Between the two is room for what grows until the Guard looks again,
// and for pages of files that the kernel would rather not give up.
const share = 80

// goShare is the part of limits.memory that Go's runtime stays below, if it can,
// by collecting harder: garbage is no reason to turn clients away.
const goShare = 15.0 / 16

// There is the memory available to the process, in bytes. 0 means unknown or, for the
// cgroup, no limit.
type There struct {
	Cgroup  int64 // the limit of the process's cgroup, or the least of those above it
	Machine int64
}

// Available returns how much memory there is.
func Available() There { return available(os.DirFS("/")) }

func available(root fs.FS) There {
	return There{Cgroup: readCgroup(root).limit, Machine: machineMemory(root)}
}

// Least is what the process can have of it; 0: not known.
func (t There) Least() int64 {
	if t.Cgroup > 0 && (t.Machine == 0 || t.Cgroup < t.Machine) {
		return t.Cgroup
	}
	return t.Machine
}

// Default is the default of limits.memory; 0: no limit, because the memory available is
// unknown.
func (t There) Default() int64 { return t.Least() / 100 * share }

// LimitGo has Go's runtime collect harder as the process comes near to limits.memory,
// of 0, no limit, and of more than there is, near to its default. GOMEMLIMIT, where
// it is set, is obeyed instead. It returns what the runtime stays below; 0: nothing
// was set.
func LimitGo(limit int64, there There) (soft int64) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	if limit == 0 || there.Least() > 0 && limit > there.Default() {
		limit = there.Default()
	}
	if limit == 0 {
		debug.SetMemoryLimit(math.MaxInt64)
		return 0
	}
	soft = int64(float64(limit) * goShare)
	debug.SetMemoryLimit(soft)
	return soft
}

// GoLimit returns the memory limit of the Go runtime, in bytes; 0: it has no limit.
func GoLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	return 0
}

// OfGo returns the memory that Go's runtime has from the system and did not give
// back, in bytes.
func OfGo() int64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// machineMemory is the machine's memory in bytes; 0: nobody says.
func machineMemory(root fs.FS) int64 {
	data, err := readFile(root, "/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil || kib < 0 || kib > math.MaxInt64>>10 {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// A meter tells how much memory the process uses. It is the one measure: the
// Guard goes by it, and the page and the metrics show it.
//
// Where the process has a cgroup of its own, as in a container and under systemd,
// that is what the kernel charges to the cgroup, and kills for: the process's
// pages, and in version 2 also what the kernel has in its sockets, which for
// clients that do not read is more. Where it shares one, or has none, that figure
// would be others' doing; there it is the process's own anonymous pages.
type meter struct {
	root     fs.FS
	cgroup   cgroup
	pid      int
	pageSize int64
}

func newMeter(root fs.FS) *meter {
	return &meter{root: root, cgroup: readCgroup(root), pid: os.Getpid(), pageSize: int64(os.Getpagesize())}
}

// measure returns the memory in use, in bytes, and whether what the kernel has in
// the process's sockets is part of it.
func (m *meter) measure() (used int64, sockets bool) {
	if n, ok := m.cgroup.used(m.root, m.pid); ok {
		return n, m.cgroup.version == 2
	}
	if n, ok := m.anonymous(); ok {
		return n, false
	}
	return OfGo(), false // no /proc: another system
}

// anonymous reads /proc/self/statm, in pages: size, resident, shared (proc(5)).
// Resident less shared is RssAnon.
func (m *meter) anonymous() (int64, bool) {
	data, err := readFile(m.root, "/proc/self/statm")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 3 {
		return 0, false
	}
	resident, err := strconv.ParseInt(fields[1], 10, 64)
	shared, err2 := strconv.ParseInt(fields[2], 10, 64)
	return (resident - shared) * m.pageSize, err == nil && err2 == nil && resident > shared
}

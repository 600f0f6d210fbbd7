// Package memory bounds the process's use of memory: how much is available (Available),
// how much is in use (measured by a Guard), how much the collector keeps (Keep), and
// what happens above the limit (Guard).
//
// It reads /proc and the files of the process's cgroup, and changes settings of Go's
// runtime, which belong to the whole process: only main calls it. A Guard's Options
// decide what is shed when memory is short.
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

// share is the default of limits.memory in percent of the available memory. The rest is
// for growth until the next measurement, and for page cache that the kernel prefers to
// keep.
const share = 80

// goShare is the part of limits.memory that Go's runtime tries to stay below, by
// collecting more often: clients must not be refused because of garbage.
const goShare = 15.0 / 16

// There is the memory available to the process, in bytes. 0 means unknown or, for the
// cgroup, no limit.
type There struct {
	Cgroup  int64 // the lowest limit of the process's cgroup and of those above it
	Machine int64
}

// Available returns the memory available to the process.
func Available() There { return available(os.DirFS("/")) }

func available(root fs.FS) There {
	return There{Cgroup: readCgroup(root).limit, Machine: machineMemory(root)}
}

// Least returns how much of it the process can use; 0: unknown.
func (t There) Least() int64 {
	if t.Cgroup > 0 && (t.Machine == 0 || t.Cgroup < t.Machine) {
		return t.Cgroup
	}
	return t.Machine
}

// Default is the default of limits.memory; 0: no limit, because the memory available is
// unknown.
func (t There) Default() int64 { return t.Least() / 100 * share }

// LimitGo makes Go's runtime collect more often as the process approaches
// limits.memory. If that is 0 (no limit) or more than the available memory, its default
// applies. If GOMEMLIMIT is set, LimitGo obeys it instead. It returns the limit for the
// runtime; 0: it set none.
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

// OfGo returns the memory that Go's runtime has obtained from the system and not
// returned, in bytes.
func OfGo() int64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// machineMemory returns the machine's memory in bytes; 0: unknown.
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

// A meter measures how much memory the process uses. The Guard, the page and the
// metrics all use it.
//
// If the process has a cgroup of its own, as in a container and under systemd, this is
// what the kernel charges to the cgroup, and what it kills for: the process's pages,
// and in version 2 also the memory of its sockets, which is the larger part for clients
// that do not read. Otherwise that figure would include other processes; the meter then
// returns the process's own anonymous pages.
type meter struct {
	root     fs.FS
	cgroup   cgroup
	pid      int
	pageSize int64
}

func newMeter(root fs.FS) *meter {
	return &meter{root: root, cgroup: readCgroup(root), pid: os.Getpid(), pageSize: int64(os.Getpagesize())}
}

// measure returns the memory in use, in bytes, and whether that includes the kernel's
// memory for the process's sockets.
func (m *meter) measure() (used int64, sockets bool) {
	if n, ok := m.cgroup.used(m.root, m.pid); ok {
		return n, m.cgroup.version == 2
	}
	if n, ok := m.anonymous(); ok {
		return n, false
	}
	return OfGo(), false // not Linux: there is no /proc
}

// anonymous reads /proc/self/statm, in pages: size, resident, shared (proc(5)).
// Resident minus shared is RssAnon.
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

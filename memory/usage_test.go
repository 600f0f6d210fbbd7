package memory

import (
	"maps"
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func tree(files map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	for name, data := range files {
		root[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return root
}

// In a cgroup of its own, the process's use is what the kernel charges without page
// cache; otherwise it is the process's anonymous pages.
func TestMeasure(t *testing.T) {
	proc := map[string]string{"proc/self/statm": "90000 20000 5000 1000 0 30000 0\n"}
	v2 := map[string]string{
		"proc/self/mountinfo":                 mountV2,
		"proc/self/cgroup":                    "0::/gate\n",
		"sys/fs/cgroup/gate/cgroup.procs":     "42\n",
		"sys/fs/cgroup/gate/memory.current":   "100000000\n",
		"sys/fs/cgroup/gate/memory.stat":      "anon 60000000\nfile 30000000\nsock 10000000\ninactive_file 20000000\nactive_file 7000000\nworkingset 1\n",
		"sys/fs/cgroup/gate/memory.max":       "max\n",
		"sys/fs/cgroup/gate/elsewhere/ignore": "",
	}
	v1 := map[string]string{
		"proc/self/mountinfo":                                mountV1,
		"proc/self/cgroup":                                   "5:memory:/gate\n0::/\n",
		"sys/fs/cgroup/memory/gate/cgroup.procs":             "42\n",
		"sys/fs/cgroup/memory/gate/memory.usage_in_bytes":    "100000000\n",
		"sys/fs/cgroup/memory/gate/memory.stat":              "inactive_file 1\nactive_file 1\ntotal_inactive_file 20000000\ntotal_active_file 10000000\n",
		"sys/fs/cgroup/memory/gate/memory.limit_in_bytes":    "9223372036854771712\n",
		"sys/fs/cgroup/memory/memory.usage_in_bytes":         "900000000\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes":         "9223372036854771712\n",
		"sys/fs/cgroup/memory/gate/memory.kmem.limit_ignore": "",
	}
	// change copies a tree with some files changed; "-" removes one.
	change := func(files map[string]string, with ...string) map[string]string {
		out := maps.Clone(files)
		for i := 0; i < len(with); i += 2 {
			if out[with[i]] = with[i+1]; with[i+1] == "-" {
				delete(out, with[i])
			}
		}
		maps.Copy(out, proc)
		return out
	}
	const own = 15000 * 4096
	for _, test := range []struct {
		what    string
		files   map[string]string
		want    int64
		sockets bool
	}{
		{"no cgroup", proc, own, false},
		{"version 2", change(v2), 73_000_000, true},
		{"version 1", change(v1), 70_000_000, false},
		{"a cgroup with another process", change(v2, "sys/fs/cgroup/gate/cgroup.procs", "1\n42\n"), own, false},
		{"of which there are many", change(v1, "sys/fs/cgroup/memory/gate/cgroup.procs", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n42\n"), own, false},
		{"another process alone, as one that was moved", change(v2, "sys/fs/cgroup/gate/cgroup.procs", "7\n"), own, false},
		{"another namespace's process", change(v2, "sys/fs/cgroup/gate/cgroup.procs", "0\n42\n"), own, false},
		{"no list of processes", change(v2, "sys/fs/cgroup/gate/cgroup.procs", "-"), own, false},
		{"the top of version 2, which counts nothing", change(v2, "proc/self/cgroup", "0::/\n"), own, false},
		{"no statistics", change(v2, "sys/fs/cgroup/gate/memory.stat", "-"), own, false},
		{"more pages of files than there is", change(v2, "sys/fs/cgroup/gate/memory.current", "1\n"), 0, true},
		{"nonsense", change(v2, "sys/fs/cgroup/gate/memory.current", "many\n"), own, false},
	} {
		m := newMeter(tree(test.files))
		m.pid, m.pageSize = 42, 4096
		if got, sockets := m.measure(); got != test.want || sockets != test.sockets {
			t.Errorf("%s: measure = %d, %v; want %d, %v", test.what, got, sockets, test.want, test.sockets)
		}
	}
	for _, statm := range []string{"", "1", "1 2 x", "1 2 3"} {
		m := newMeter(tree(map[string]string{"proc/self/statm": statm}))
		if got, _ := m.measure(); got < 1<<20 {
			t.Errorf("statm %q: measure = %d; want what Go says", statm, got)
		}
	}
}

// On this machine, allocated memory is measured, and both methods agree on it; a race
// detector adds to it.
func TestMeasureThisProcess(t *testing.T) {
	const block = 64 << 20
	m := newMeter(os.DirFS("/"))
	before, _ := m.measure()
	goBefore := OfGo()
	b := make([]byte, block)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	after, _ := m.measure()
	if grown, ofGo := after-before, OfGo()-goBefore; grown < block/2 || grown > 8*block || ofGo < block/2 {
		t.Errorf("%d bytes were taken; measured %d more, Go says %d", block, grown, ofGo)
	}
	b[0]++
}

func TestAvailable(t *testing.T) {
	const machine = "MemTotal:       2097152 kB\nMemFree:        1000 kB\n"
	cgroup := map[string]string{
		"proc/self/mountinfo": mountV2, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n",
	}
	with := func(meminfo string) map[string]string {
		out := maps.Clone(cgroup)
		out["proc/meminfo"] = meminfo
		return out
	}
	for _, test := range []struct {
		what       string
		files      map[string]string
		least, def int64
	}{
		{"nothing known", nil, 0, 0},
		{"a machine", map[string]string{"proc/meminfo": machine}, 2 << 30, 1717986880},
		{"a container", with(machine), 1 << 30, 858993440},
		{"a container that may have more than there is", with("MemTotal:  524288 kB\n"), 512 << 20, 429496720},
		{"a machine that does not say", cgroup, 1 << 30, 858993440},
		{"nonsense", map[string]string{"proc/meminfo": "MemTotal: much\nMemTotal: 1 kB\n"}, 0, 0},
		{"more than a number holds", map[string]string{"proc/meminfo": "MemTotal: 9223372036854775807 kB\n"}, 0, 0},
	} {
		there := available(tree(test.files))
		if there.Least() != test.least || there.Default() != test.def {
			t.Errorf("%s: %d bytes, %d by default; want %d, %d", test.what, there.Least(), there.Default(), test.least, test.def)
		}
	}
}

// Go collects more often before clients are refused and, if limits.memory is off or
// more than the available memory, before the system would kill the process.
func TestLimitGo(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for _, test := range []struct {
		what  string
		limit int64
		there There
		want  int64
	}{
		{"a limit", 64 << 20, There{}, 60 << 20},
		{"a limit in a container", 64 << 20, There{Cgroup: 1 << 30, Machine: 1 << 40}, 60 << 20},
		{"a limit that is more than the container has", 1 << 40, There{Cgroup: 1000, Machine: 1 << 40}, 750},
		{"off, in a container", 0, There{Cgroup: 1000, Machine: 1 << 40}, 750},
		{"nothing known", 0, There{}, 0},
	} {
		if got := LimitGo(test.limit, test.there); got != test.want || GoLimit() != test.want {
			t.Errorf("%s: LimitGo = %d, and Go has %d; want %d", test.what, got, GoLimit(), test.want)
		}
	}
	debug.SetMemoryLimit(math.MaxInt64)
	t.Setenv("GOMEMLIMIT", "1GiB")
	if got := LimitGo(64<<20, There{}); got != 0 || GoLimit() != 0 {
		t.Errorf("GOMEMLIMIT is not obeyed: %d", got)
	}
}

package memory

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A cgroup describes the memory of the process's own cgroup.
type cgroup struct {
	limit   int64  // bytes: the lowest limit of the cgroup and of those above it that are visible; 0: none
	dir     string // with the counters of its memory; empty: none
	version int
}

// readCgroup finds the process's cgroup. root is the root of the file system.
//
// Version 2 has one hierarchy, with memory.max and memory.high; processes above the
// latter are throttled. Version 1 has a hierarchy for memory, with
// memory.limit_in_bytes. A machine may have both, with memory in one of them.
func readCgroup(root fs.FS) (c cgroup) {
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return c
	}
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return c
	}
	for line := range strings.Lines(string(mounts)) {
		m, isCgroup := parseMount(line)
		if !isCgroup {
			continue
		}
		dir, found := ownCgroup(string(own), m.version)
		if !found {
			continue
		}
		// The mount shows the hierarchy below m.root. A process outside of it, as in
		// some containers, sees its own cgroup at the top.
		dir, below := strings.CutPrefix(dir, strings.TrimSuffix(m.root, "/"))
		if !below || dir != "" && dir[0] != '/' {
			dir = "/"
		}
		dir = path.Clean("/" + dir)
		if at := path.Join(m.point, dir); c.dir == "" {
			if _, ok := readNumber(root, path.Join(at, versions[m.version].usage)); ok {
				c.dir, c.version = at, m.version
			}
		}
		for ; ; dir = path.Dir(dir) {
			for _, file := range versions[m.version].limits {
				if n, has := readLimit(root, path.Join(m.point, dir, file)); has && (c.limit == 0 || n < c.limit) {
					c.limit = n
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return c
}

// used returns the bytes charged to the cgroup without page cache, which the kernel
// reclaims before it kills a process. ok is false if that can't be read, or if the
// cgroup has processes other than pid.
func (c cgroup) used(root fs.FS, pid int) (n int64, ok bool) {
	if c.dir == "" || !c.isAlone(root, pid) {
		return 0, false
	}
	v := versions[c.version]
	n, ok = readNumber(root, path.Join(c.dir, v.usage))
	if !ok {
		return 0, false
	}
	stat, err := readFile(root, path.Join(c.dir, "memory.stat"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(stat)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(v.files, key) {
			if pages, err := strconv.ParseInt(value, 10, 64); err == nil {
				n -= pages
			}
		}
	}
	return max(n, 0), true
}

// isAlone reports whether pid is the cgroup's only process. It reads only as much of
// the list as it needs.
func (c cgroup) isAlone(root fs.FS, pid int) bool {
	f, err := root.Open(inFS(path.Join(c.dir, "cgroup.procs")))
	if err != nil {
		return false
	}
	defer f.Close()
	list, err := io.ReadAll(io.LimitReader(f, 32))
	return err == nil && strings.TrimSpace(string(list)) == strconv.Itoa(pid)
}

// versions has the file names of each version of cgroups, and the fields of memory.stat
// with page cache that is not tmpfs.
var versions = map[int]struct {
	limits []string
	usage  string
	files  []string
}{
	1: {[]string{"memory.limit_in_bytes"}, "memory.usage_in_bytes", []string{"total_inactive_file", "total_active_file"}},
	2: {[]string{"memory.max", "memory.high"}, "memory.current", []string{"inactive_file", "active_file"}},
}

// A cgroupMount is the mount of a hierarchy with memory limits.
type cgroupMount struct {
	version int
	root    string // the cgroup at the mount's top
	point   string
}

// parseMount reads a line of mountinfo (proc(5)):
//
//	30 23 0:26 /root /mount/point options… - type source super,options
func parseMount(line string) (cgroupMount, bool) {
	before, after, _ := strings.Cut(line, " - ")
	fields, kind := strings.Fields(before), strings.Fields(after)
	if len(fields) < 5 || len(kind) < 3 {
		return cgroupMount{}, false
	}
	m := cgroupMount{root: unescapeMount(fields[3]), point: unescapeMount(fields[4])}
	switch {
	case kind[0] == "cgroup2":
		m.version = 2
	case kind[0] == "cgroup" && hasWord(kind[2], "memory"):
		m.version = 1
	default:
		return m, false
	}
	return m, true
}

// unescapeMount decodes white space in the names in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// ownCgroup finds the process's cgroup in the lines of /proc/self/cgroup:
// "0::/path" for version 2, "5:memory:/path" for version 1.
func ownCgroup(lines string, version int) (string, bool) {
	for line := range strings.Lines(lines) {
		id, rest, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		controllers, dir, ok := strings.Cut(rest, ":")
		if ok && (version == 2 && id == "0" && controllers == "" || version == 1 && hasWord(controllers, "memory")) {
			return dir, true
		}
	}
	return "", false
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// noLimit: version 1 shows a missing limit as 2^63 less a page.
const noLimit = 1 << 62

// readLimit reads a number of bytes. "max", a missing file and the huge number of
// version 1 mean no limit.
func readLimit(root fs.FS, name string) (int64, bool) {
	n, ok := readNumber(root, name)
	return n, ok && n > 0 && n < noLimit
}

func readNumber(root fs.FS, name string) (int64, bool) {
	data, err := readFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

func readFile(root fs.FS, name string) ([]byte, error) { return fs.ReadFile(root, inFS(name)) }

// inFS converts an absolute path to one for package fs.
func inFS(name string) string { return strings.TrimPrefix(name, "/") }

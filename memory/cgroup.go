package memory

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A cgroup is what the kernel says of the memory of the process's own cgroup.
type cgroup struct {
	limit   int64  // bytes: the least limit of its own and of those above it, as far as the process sees them; 0: none
	dir     string // where its memory is counted; empty: nowhere
	version int
}

// readCgroup looks for the process's cgroup. root is the file system's root.
//
// Version 2 has one hierarchy with memory.max and memory.high, beyond which
// processes are slowed down, version 1 a hierarchy for memory and
// memory.limit_in_bytes; a machine may have both, with memory in one of them.
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
		// The mount shows the hierarchy from m.root on. A process that is not
		// below it, as in some containers, sees its own cgroup at the top.
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

// used returns what is charged to the cgroup, in bytes, less the pages of files,
// which the kernel takes back before it kills anybody. ok is false where that
// can't be read, and where the cgroup has other processes as well as pid.
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

// isAlone reports whether pid is the cgroup's only process. It reads no more of
// the list than that takes.
func (c cgroup) isAlone(root fs.FS, pid int) bool {
	f, err := root.Open(inFS(path.Join(c.dir, "cgroup.procs")))
	if err != nil {
		return false
	}
	defer f.Close()
	list, err := io.ReadAll(io.LimitReader(f, 32))
	return err == nil && strings.TrimSpace(string(list)) == strconv.Itoa(pid)
}

// versions say how each version of cgroups calls its files, and in memory.stat
// the pages of files that are not tmpfs's.
var versions = map[int]struct {
	limits []string
	usage  string
	files  []string
}{
	1: {[]string{"memory.limit_in_bytes"}, "memory.usage_in_bytes", []string{"total_inactive_file", "total_active_file"}},
	2: {[]string{"memory.max", "memory.high"}, "memory.current", []string{"inactive_file", "active_file"}},
}

// A cgroupMount is where a hierarchy that has memory limits is mounted.
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

// unescapeMount undoes what mountinfo does to white space in names.
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

// noLimit is where version 1 says that there is no limit: 2^63 less a page.
const noLimit = 1 << 62

// readLimit reads a number of bytes. "max", absence and version 1's huge
// number are no limit.
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

// inFS is an absolute path as package fs wants it.
func inFS(name string) string { return strings.TrimPrefix(name, "/") }

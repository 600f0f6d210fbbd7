package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryShare is the part of a container's memory that Go may use before it
// collects harder, in percent. The rest is for what Go does not count but the
// container does: the kernel's side of each socket.
const memoryShare = 75

// limitMemory tells Go's runtime how much memory the container has, so that it
// collects garbage instead of being killed. GOMEMLIMIT overrides it.
func limitMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, ok := cgroupMemory(os.DirFS("/"))
	if !ok {
		return
	}
	soft := limit / 100 * memoryShare
	debug.SetMemoryLimit(soft)
	log.Info("memory limit", "cgroup", limit, "soft", soft)
}

// cgroupMemory returns the least memory limit, in bytes, of the process's
// cgroup and of those above it, as far as the process sees them. root is the
// file system's root. ok is false where there is no limit, or no cgroup.
//
// Version 2 has one hierarchy with memory.max and memory.high, beyond which
// processes are slowed down, version 1 a hierarchy for memory and
// memory.limit_in_bytes; a machine may have both, with memory in one of them.
func cgroupMemory(root fs.FS) (limit int64, ok bool) {
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return 0, false
	}
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
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
		for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
			for _, file := range m.files() {
				if n, has := readLimit(root, path.Join(m.point, dir, file)); has && (!ok || n < limit) {
					limit, ok = n, true
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, ok
}

// A cgroupMount is where a hierarchy that has memory limits is mounted.
type cgroupMount struct {
	version int
	root    string // the cgroup at the mount's top
	point   string
}

func (m cgroupMount) files() []string {
	if m.version == 1 {
		return []string{"memory.limit_in_bytes"}
	}
	return []string{"memory.max", "memory.high"}
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
	data, err := fs.ReadFile(root, strings.TrimPrefix(name, "/"))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil && n > 0 && n < noLimit
}

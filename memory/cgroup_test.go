package memory

import (
	"testing"
	"testing/fstest"
)

const (
	mountV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountV1 = "33 25 0:28 / /sys/fs/cgroup/memory rw shared:16 - cgroup cgroup rw,memory\n" +
		"34 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:17 - cgroup cgroup rw,cpu,cpuacct\n"
)

// The limit is the lowest one from the process's own cgroup up to the visible top, in
// either version of cgroups and for any view that a container has.
func TestCgroupLimit(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"no proc", nil, 0},
		{"no cgroup", map[string]string{"proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "proc/self/cgroup": "0::/\n"}, 0},
		{"version 2, own namespace", map[string]string{
			"proc/self/mountinfo": mountV2, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "67108864\n",
		}, 64 << 20},
		{"version 2, no limit", map[string]string{
			"proc/self/mountinfo": mountV2, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "max\n",
		}, 0},
		{"version 2, slowed down before the limit", map[string]string{
			"proc/self/mountinfo": mountV2, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "67108864\n", "sys/fs/cgroup/memory.high": "50331648\n",
		}, 48 << 20},
		{"version 2, the limit is above", map[string]string{
			"proc/self/mountinfo": mountV2, "proc/self/cgroup": "0::/kubepods/pod1/gate\n",
			"sys/fs/cgroup/kubepods/pod1/gate/memory.max": "max\n",
			"sys/fs/cgroup/kubepods/pod1/memory.max":      "134217728\n",
			"sys/fs/cgroup/kubepods/memory.max":           "1073741824\n",
		}, 128 << 20},
		{"version 2, mounted from a cgroup on", map[string]string{
			"proc/self/mountinfo":           "30 23 0:26 /system.slice/gate.service /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
			"proc/self/cgroup":              "0::/system.slice/gate.service/leaf\n",
			"sys/fs/cgroup/leaf/memory.max": "33554432\n", "sys/fs/cgroup/memory.max": "67108864\n",
		}, 32 << 20},
		{"version 1", map[string]string{
			"proc/self/mountinfo": mountV1, "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
			"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "50331648\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":            "9223372036854771712\n",
		}, 48 << 20},
		{"version 1, no limit", map[string]string{
			"proc/self/mountinfo": mountV1, "proc/self/cgroup": "5:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
		{"version 1, only the container's own part is mounted", map[string]string{
			"proc/self/mountinfo":                        "33 25 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"proc/self/cgroup":                           "5:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "50331648\n",
		}, 48 << 20},
		{"version 1, mounted from a cgroup that is not ours", map[string]string{
			"proc/self/mountinfo":                        "33 25 0:28 /../../docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"proc/self/cgroup":                           "5:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "50331648\n",
		}, 48 << 20},
		{"mounted from a cgroup whose name is the beginning of ours", map[string]string{
			"proc/self/mountinfo":                          "33 25 0:28 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"proc/self/cgroup":                             "5:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "50331648\n",
			"sys/fs/cgroup/memory/c/memory.limit_in_bytes": "4096\n",
		}, 48 << 20},
		{"both, memory in version 1", map[string]string{
			"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" + mountV1,
			"proc/self/cgroup":    "5:memory:/gate\n0::/gate\n",
			"sys/fs/cgroup/memory/gate/memory.limit_in_bytes": "50331648\n",
		}, 48 << 20},
		{"a mount point with a space", map[string]string{
			"proc/self/mountinfo":  "30 23 0:26 / /my\\040cgroup rw - cgroup2 cgroup2 rw\n",
			"proc/self/cgroup":     "0::/\n",
			"my cgroup/memory.max": "67108864\n",
		}, 64 << 20},
		{"nonsense", map[string]string{
			"proc/self/mountinfo": "30 -\n - \n" + mountV2, "proc/self/cgroup": "\n0\n0::/\n",
			"sys/fs/cgroup/memory.max": "-1\n",
		}, 0},
	} {
		root := fstest.MapFS{}
		for name, data := range test.files {
			root[name] = &fstest.MapFile{Data: []byte(data)}
		}
		if got := readCgroup(root).limit; got != test.want {
			t.Errorf("%s: the limit is %d; want %d", test.name, got, test.want)
		}
	}
}

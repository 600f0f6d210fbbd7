// Package process reads what Linux counts of a process and of what it started.
package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Tree returns a process and all that it started, itself first.
func Tree(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, file := range stats {
		fields, err := statFields(file)
		if err != nil {
			continue // it is gone
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, _ := strconv.Atoi(fields[1])
		if fields[0] != "Z" {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// statFields are the fields of proc_pid_stat(5) from the state on.
func statFields(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("%s: %d fields", file, len(fields))
	}
	return fields, nil
}

// clockTick is what the kernel counts a process's time in for its readers.
const clockTick = 10 * time.Millisecond

// CPU is what a process has used, user and system.
func CPU(pid int) (time.Duration, error) {
	fields, err := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %q, %q are no times", pid, fields[11], fields[12])
	}
	return time.Duration(user+system) * clockTick, nil
}

// PrivateMemory is the user memory that belongs to a process alone, in bytes.
func PrivateMemory(pid int) (int64, error) {
	return sumOf(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Private_Clean:", "Private_Dirty:")
}

// ProportionalMemory is what a process has, in bytes; pages that several have are
// shared out among them.
func ProportionalMemory(pid int) (int64, error) {
	return sumOf(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
}

// PeakMemory is the most that a process ever had in memory, in bytes, shared
// pages included.
func PeakMemory(pid int) (int64, error) {
	return sumOf(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
}

// sumOf adds up lines such as "VmHWM:  1234 kB" of a file in /proc.
func sumOf(file string, keys ...string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var sum int64
	found := 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		for _, key := range keys {
			if len(fields) == 3 && fields[0] == key {
				kb, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					return 0, fmt.Errorf("%s: %s %w", file, key, err)
				}
				sum += kb << 10
				found++
			}
		}
	}
	if found != len(keys) {
		return 0, fmt.Errorf("%s: no %s", file, strings.Join(keys, ", "))
	}
	return sum, nil
}

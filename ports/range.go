package ports

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Count returns the number of ephemeral ports that the kernel has for one source
// address and one server now; 0: unknown. It reads /proc, and does not block.
func Count() int { return count(os.DirFS("/")) }

const folder = "proc/sys/net/ipv4/"

func count(root fs.FS) int {
	text, err := fs.ReadFile(root, folder+"ip_local_port_range")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return 0
	}
	low, errLow := strconv.Atoi(fields[0])
	high, errHigh := strconv.Atoi(fields[1])
	if errLow != nil || errHigh != nil || low < 1 || high > 65535 || low > high {
		return 0
	}
	reserved, _ := fs.ReadFile(root, folder+"ip_local_reserved_ports")
	return max(high-low+1-countReserved(string(reserved), low, high), 1)
}

// countReserved reads a list such as "8080,9000-9010" and counts the ports between low
// and high. The kernel merges overlapping ranges.
func countReserved(list string, low, high int) (n int) {
	for item := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		from, errFrom := strconv.Atoi(first)
		to, errTo := strconv.Atoi(last)
		if errFrom == nil && errTo == nil {
			n += max(min(to, high)-max(from, low)+1, 0)
		}
	}
	return n
}

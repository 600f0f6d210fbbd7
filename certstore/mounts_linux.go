package certstore

import (
	"os"
	"strings"
)

// mountPoints are where file systems are mounted (proc_pid_mountinfo(5)); nil where
// the system does not tell. It waits for none of them.
func mountPoints() map[string]bool {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	points := map[string]bool{}
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		// ID parent major:minor root mount-point …
		if fields := strings.Fields(line); len(fields) > 4 {
			points[escapes.Replace(fields[4])] = true
		}
	}
	return points
}

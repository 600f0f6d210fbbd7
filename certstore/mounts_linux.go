package certstore

import (
	"os"
	"strings"
)

// mountPoints are where file systems are mounted, with their types
// (proc_pid_mountinfo(5)); nil where the system does not tell. It waits for none of them.
func mountPoints() map[string]string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	points := map[string]string{}
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		// ID parent major:minor root mount-point options … - type source …
		where, what, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(where); len(fields) > 4 {
			kind, _, _ := strings.Cut(what, " ")
			points[escapes.Replace(fields[4])] = kind // the last one covers those before it
		}
	}
	return points
}

package watch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wssgate/panics"
)

// mounts reports changes of the table of mounts of this process. A mount over a folder, or
// the end of one, is no event of inotify. The kernel wakes those who poll the table
// (proc_pid_mountinfo(5)), which Go's runtime does without a thread.
type mounts struct {
	file     *os.File
	wake     chan struct{}
	relevant string // lines as of the last concern
}

const mountTable = "/proc/self/mountinfo"

// openMounts returns nil where the table can't be polled.
func openMounts() *mounts {
	file, err := os.Open(mountTable)
	if err != nil {
		return nil
	}
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil
	}
	m := &mounts{file: file, wake: make(chan struct{}, 1)}
	go panics.Catch(panics.Files, func() {
		for {
			woken := false
			err := conn.Read(func(uintptr) bool { // it returns after the next change, or Close
				done := woken
				woken = true
				return done
			})
			if err != nil {
				return
			}
			select {
			case m.wake <- struct{}{}:
			default:
			}
		}
	})
	return m
}

func (m *mounts) changed() <-chan struct{} {
	if m == nil {
		return nil
	}
	return m.wake
}

func (m *mounts) close() {
	if m != nil {
		m.file.Close()
	}
}

// concern reports whether mounts at, above or below one of the folders, or at or above one
// of the guarded paths, have changed since the last call.
func (m *mounts) concern(folders, guarded []string) bool {
	if m == nil {
		return false
	}
	at, above := map[string]bool{}, map[string]bool{}
	for i, path := range slices.Concat(folders, guarded) {
		path, err := filepath.Abs(path)
		if err != nil {
			continue
		}
		if i < len(folders) {
			at[path] = true
		}
		for !above[path] {
			above[path] = true
			path = filepath.Dir(path)
		}
	}
	var relevant strings.Builder
	for _, mount := range Mounts() {
		concerns := above[mount.Point]
		for path := mount.Point; !concerns && path != "/"; path = filepath.Dir(path) {
			concerns = at[path]
		}
		if concerns {
			relevant.WriteString(mount.line)
		}
	}
	changed := relevant.String() != m.relevant
	m.relevant = relevant.String()
	return changed
}

// Mounts returns what is mounted, in order: the last one at a point covers those before it.
// It waits for no file system, and returns nil where the system does not tell.
func Mounts() (list []Mount) {
	table, err := os.ReadFile(mountTable)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(table)) {
		// ID parent major:minor root mount-point options … - type source …
		where, what, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(where); len(fields) > 4 {
			kind, _, _ := strings.Cut(what, " ")
			list = append(list, Mount{unescape.Replace(fields[4]), kind, line})
		}
	}
	return list
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

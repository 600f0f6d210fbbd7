//go:build unix

package terminal

import (
	"os"

	"golang.org/x/sys/unix"
)

// size returns the size of the terminal f in characters; ok is false if f is not one.
func size(f *os.File) (columns, lines int, ok bool) {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	return int(w.Col), int(w.Row), true
}

func isTerminalFile(f *os.File) bool {
	_, _, ok := size(f)
	return ok
}

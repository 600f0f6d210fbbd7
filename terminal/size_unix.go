//go:build unix

package terminal

import (
	"os"

	"golang.org/x/sys/unix"
)

// size is that of the terminal which f is, in characters; ok is false where f is none.
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

//go:build !unix

package terminal

import "os"

// size is unknown on this system.
func size(*os.File) (columns, lines int, ok bool) { return 0, 0, false }

func isTerminalFile(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

//go:build unix

package listen

import (
	"os"
	"strconv"
	"syscall"
)

// inheritedFile is a descriptor that was passed to this process.
func inheritedFile(fd int) (*os.File, error) {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd)), nil
}

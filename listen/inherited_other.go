//go:build !unix

package listen

import (
	"fmt"
	"os"
	"runtime"
)

// inheritedFile fails: descriptors have no numbers that another process could choose.
func inheritedFile(int) (*os.File, error) {
	return nil, fmt.Errorf("sockets can't be passed to a process on %s", runtime.GOOS)
}

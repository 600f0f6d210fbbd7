package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

// serve runs the gate that cfg describes until ctx ends, then drains it, and
// returns the exit status. A signal on reload reads the file again.
func serve(ctx context.Context, cfg *Config, reload <-chan os.Signal, stderr io.Writer) int {
	fmt.Fprintf(stderr, "%s: this build has no proxy in it\n", cfg.File)
	return exitFailed
}

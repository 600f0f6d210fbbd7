package main

import (
	"context"
	"fmt"
	"io"
)

// checkCommand is "wssgate check".
func checkCommand(_ context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("check", "[-config FILE]", `Reads the configuration and the certificates and prints what would be served.
Nothing listens and no upstream is asked.`)
	file := f.String("config", "config.toml", "the configuration `FILE`")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	if _, err := loadConfig(*file); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	fmt.Fprintf(stdout, "%s: ok\n", *file)
	return exitOK
}

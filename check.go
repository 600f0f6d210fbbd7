package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"wssgate/human"
	"wssgate/inventory"
)

// checkCommand is "wssgate check".
func checkCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("check", "[-config FILE] [-offline]", `Reads the configuration and the certificates and prints what would be served:
each name, its certificate and its upstream. It opens no listener. It connects to
every node of every upstream once, as a health probe does; -offline leaves that
and DNS out.

Exit status: 0 if wssgate would start, with or without warnings; 2 if it would
not. A name without a certificate is a warning, because its certificate may come
later; until then only that name is refused. A node that does not work is a
warning, too.`)
	offline := f.Bool("offline", false, "make no connections and no DNS queries")
	file := f.String("config", "config.toml", "the configuration `FILE`")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	inv, err := inventory.Take(ctx, *file)
	if err != nil {
		return printConfigError(stderr, err)
	}
	warnings := inv.Warnings(ctx, *offline)
	inv.PrintServed(stdout, time.Now())
	for _, w := range warnings {
		fmt.Fprintf(stderr, "warning: %s\n", w.Text)
		if w.Hint != "" {
			fmt.Fprintf(stderr, "  hint: %s\n", w.Hint)
		}
	}
	fmt.Fprintf(stdout, "%s: ok, %s\n", inv.Config.File, human.Count(len(warnings), "warning"))
	return exitOK
}

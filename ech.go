package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"wssgate/inventory"
)

// echCommand is "wssgate ech".
func echCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("ech", "dns-records [-config FILE] [-port PORT]", `Prints the DNS records that tell clients the key of Encrypted Client Hello (ech.public_name),
for each name and each port of listen.wss, in the form of a zone file. The gate makes the
key, so it must have run once. Print them again when the key is replaced, every 30 days; old
records stay good for 30 more. docs/ech.md has the rest.

Exit status: 0; 1 if there is no key; 2 for a mistake in the configuration or on the
command line.`)
	file := f.String("config", "config.toml", "the configuration `FILE`")
	port := f.Int("port", 0, "the `PORT` that clients use, if it is not that of listen.wss")
	if len(args) > 0 && args[0] == "dns-records" {
		args = args[1:]
	} else if !slices.ContainsFunc(args, func(s string) bool { return s == "-h" || s == "-help" || s == "--help" }) {
		fmt.Fprintln(stderr, "wssgate ech: dns-records is required\n  hint: see wssgate ech -h")
		return exitUsage
	}
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	if *port < 0 || *port > 65535 {
		fmt.Fprintf(stderr, "wssgate ech: -port %d is not a port\n", *port)
		return exitUsage
	}
	inv, err := inventory.Take(ctx, *file)
	if err != nil {
		return printConfigError(stderr, err)
	}
	if err := inv.PrintECHRecords(ctx, stdout, stderr, *port); err != nil {
		fmt.Fprintf(stderr, "wssgate ech: %v\n", err)
		return exitFailed
	}
	return exitOK
}

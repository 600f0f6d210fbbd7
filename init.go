package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"wssgate/setup"
)

// initCommand is "wssgate init".
func initCommand(_ context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("init", "[-config FILE]", `Looks for an XMPP server and certificates on this machine, and writes a first
configuration; comments in it say what was found. It looks for Tigase, Prosody and
ejabberd where their packages keep their configuration, and for certificates in certs/
beside FILE, of certbot, and of the server. It asks no questions, makes no connections
and overwrites no file.

  wssgate init && wssgate check`)
	file := f.String("config", "config.toml", "the configuration `FILE` to write")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	plan, err := setup.Write(*file)
	if errors.Is(err, fs.ErrExist) {
		fmt.Fprintf(stderr, "wssgate init: %q exists\n  hint: another -config FILE shows what would be written; \"wssgate check\" shows what this one does\n", *file)
		return exitFailed
	}
	if err != nil {
		fmt.Fprintf(stderr, "wssgate init: %v\n", err)
		return exitFailed
	}
	for _, line := range plan.Found {
		fmt.Fprintf(stdout, "found %s\n", line)
	}
	for _, line := range plan.Missing {
		fmt.Fprintf(stdout, "to do: %s\n", line)
	}
	fmt.Fprintf(stdout, "%s: written; \"wssgate check\" shows what it does\n", *file)
	return exitOK
}

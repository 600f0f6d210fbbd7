package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"wssgate/config"
	"wssgate/inventory"
)

// certsCommand is "wssgate certs".
func certsCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("certs", "[-config FILE] [-json] [-within DURATION]", `Lists the names of every certificate with file, issuer, expiry, key type and
state, and the reason why the certificate is chosen or another one is. What needs
attention goes to standard error, one line each; with "warning:" if some clients
reject a certificate, which does not change the exit status. Files in the folder
that are not used, although nothing is wrong with them, are listed last, with the
reason; of those with the same reason, the first three. -json lists 100 of a folder.

Exit status: 0; 1 if a chosen certificate has expired; 2 for a mistake in the
configuration. With -within, also 1 if one expires within DURATION, a file can't
be used, or a name of a vhost or of ACME has no certificate:

  out=$(wssgate certs -within 14d 2>&1 >/dev/null) ||
    echo "$out" | mail -s "certificates" you@example1.com`)
	file := f.String("config", "config.toml", "the configuration `FILE`")
	asJSON := f.Bool("json", false, "print JSON")
	var within time.Duration
	alarm := false
	f.Func("within", "`DURATION` such as 14d or 36h", func(s string) (err error) {
		within, err = config.ParseDuration(s)
		alarm = true
		return err
	})
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	inv, err := inventory.Take(ctx, *file)
	if err != nil {
		return printConfigError(stderr, err)
	}
	list, now := inv.List(), time.Now()
	if *asJSON {
		err = list.PrintJSON(stdout)
	} else {
		err = list.Print(stdout, now)
	}
	if err != nil {
		fmt.Fprintf(stderr, "wssgate certs: %v\n", err)
		return exitFailed
	}
	expiring, bad := list.Expiring(now, within), list.Bad()
	for _, line := range slices.Concat(expiring, bad) {
		fmt.Fprintln(stderr, line)
	}
	for _, w := range list.Warnings {
		fmt.Fprintf(stderr, "warning: %s\n  hint: %s\n", w.Warning, w.Hint)
	}
	if len(expiring) > 0 || alarm && len(bad) > 0 {
		return exitFailed
	}
	return exitOK
}

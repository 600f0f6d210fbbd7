package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"wssgate/config"
	"wssgate/probe"
)

// probeCommand is "wssgate probe": exit status 0 only if all is well.
func probeCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("probe", "URL [-domain D] [-ca FILE] [-connect HOST:PORT] [-login FILE] [-config FILE] [-json]",
		`Connects as an XMPP client does and reports each step and its duration: TCP, TLS,
certificate, opening handshake, stream, features, discovery. Then it lists diagnoses:
settings of the XMPP server or the gate that cause trouble, with the line to change.
It logs in only with -login, which shows more: stream management, the server's version,
and the client address that the server sees.
Exit status: 0 all steps succeeded, whatever the diagnoses, 1 one failed, 2 usage.

  wssgate probe wss://example1.com:5291/
  wssgate probe wss://t2.example1.com:5291/ -domain example2.com
  wssgate probe wss://example1.com:5291/ -connect 192.0.2.1:5291 -ca ca.pem
  wssgate probe ws://127.0.0.1:5290/ -domain example1.com     (the upstream itself)
  wssgate probe wss://example1.com/ -login account.txt -config config.toml`)
	domain := f.String("domain", "", "the XMPP `DOMAIN` to open a stream to (default: the URL's host)")
	caFile := f.String("ca", "", "trust the root certificates in `FILE` (PEM) instead of the system's")
	connect := f.String("connect", "", "connect to `HOST:PORT`, whatever the URL's host resolves to")
	timeout := f.Duration("timeout", 10*time.Second, "how long each step may take")
	loginFile := f.String("login", "", "log in with the account in `FILE`: the JID in its first line, the password in its second")
	configFile := f.String("config", "", "compare the server's stanza limit with limits.message in `FILE` (default: compare with 1MiB)")
	server := f.String("server", "", "the XMPP server is `NAME[/VERSION]`, as in ejabberd/24.12: only its settings are named")
	asJSON := f.Bool("json", false, "print one JSON object")

	args, urls := flagsFirst(f.FlagSet, args)
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	usage := func(problem string) int {
		fmt.Fprintf(stderr, "wssgate probe: %s\n  hint: \"wssgate probe -h\" has examples\n", problem)
		return exitUsage
	}
	switch {
	case len(urls) == 0:
		return usage("a URL is required")
	case len(urls) > 1:
		return usage(fmt.Sprintf("only one URL is allowed, but %q is another", urls[1]))
	case *timeout <= 0:
		return usage(fmt.Sprintf("-timeout %v: want more than 0", *timeout))
	}
	opts := probe.Options{URL: urls[0], Domain: *domain, Connect: *connect, Timeout: *timeout, Server: *server}
	var err error
	if *caFile != "" {
		if opts.RootCAs, err = probe.ReadRoots(ctx, *caFile, *timeout); err != nil {
			return usage(fmt.Sprintf("-ca: %v", err))
		}
	}
	if *loginFile != "" {
		if opts.Login, err = probe.ReadLogin(ctx, *loginFile, *timeout); err != nil {
			return usage(fmt.Sprintf("-login: %v", err))
		}
	}
	if *configFile != "" {
		cfg, err := config.Load(ctx, *configFile)
		if err != nil {
			return usage(fmt.Sprintf("-config: %v", err))
		}
		opts.Message = int64(cfg.Limits.Message)
	}

	var each func(probe.Step)
	if !*asJSON {
		fmt.Fprintf(stdout, "probe %s\n\n", urls[0])
		each = func(s probe.Step) { s.Print(stdout) }
	}
	report, err := probe.Run(ctx, opts, each)
	if err != nil {
		return usage(strings.TrimPrefix(err.Error(), probe.ErrUsage.Error()+": "))
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		enc.Encode(report)
	} else {
		report.PrintEnd(stdout)
	}
	if !report.OK {
		return exitFailed
	}
	return exitOK
}

// flagsFirst parts flags from other arguments, wherever they stand, so that a
// flag may come behind the URL.
func flagsFirst(fs *flag.FlagSet, args []string) (flags, others []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
		switch {
		case arg == "--":
			return flags, append(others, args[i+1:]...)
		case len(arg) < 2 || arg[0] != '-':
			others = append(others, arg)
			continue
		}
		flags = append(flags, arg)
		known := fs.Lookup(name)
		if known == nil { // "-name=value", or a mistake that Parse reports
			continue
		}
		if b, ok := known.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			continue
		}
		if i++; i < len(args) {
			flags = append(flags, args[i])
		}
	}
	return flags, others
}

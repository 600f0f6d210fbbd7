// Command wssgate terminates TLS for XMPP over WebSocket. It stands in
// front of a server that speaks plain ws://, picks the certificate of every
// vhost by TLS server name, and forwards the decrypted WebSocket frames.
//
// This package is the command line: main.go has "serve" and "version", operate.go what asks a gate that
// runs, and each other command has a file. What a configuration says is package config's,
// what runs is package gate's.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"wssgate/config"
	"wssgate/gate"
	"wssgate/listen"
	"wssgate/panics"
	"wssgate/systemd"
)

// Exit statuses. "serve" has more (gate.Serve).
const (
	exitOK     = 0 // done
	exitFailed = 1 // could not do it
	exitUsage  = 2 // a mistake on the command line or in the configuration
)

// A command is one word behind "wssgate". Its context ends with the first
// SIGTERM or SIGINT; run returns the exit status, and prints its usage for -h.
type command struct {
	name    string
	flags   string // as the usage shows them
	summary string
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

var commands = []command{
	{"init", "[-config FILE]", "write a configuration for this host", initCommand},
	{"serve", "[-config FILE] [-beside]", "serve until SIGTERM; SIGHUP reloads", serveCommand},
	{"check", "[-config FILE] [-offline]", "print what is served, try each node", checkCommand},
	{"certs", "[-json] [-within 14d]", "list certificates and their expiry", certsCommand},
	{"status", "[-json]", "status of the running gate", statusCommand},
	{"top", "[-interval 2s]", "the same, updated as it changes", topCommand},
	{"tunnels", "[-client ADDR] [-json]", "list open tunnels", tunnelsCommand},
	{"trace", "ID", "show a tunnel's frames as they pass", traceCommand},
	{"close", "ID | -client ADDR", "close tunnels", closeCommand},
	{"drain", "-vhost V | -node N | -all", "close tunnels slowly, let none in", drainCommand},
	{"access", "deny ADDR -for 1h", "keep clients out for a while", accessCommand},
	{"acme", "status | renew NAME | …", "certificates from a CA", acmeCommand},
	{"ech", "dns-records [-config FILE]", "DNS records for hidden server names", echCommand},
	{"reload", "", "reload the configuration", reloadCommand},
	{"probe", "URL [-domain D]", "connect like a client, step by step", probeCommand},
	{"demo", "[-upstream URL]", "try it on loopback, with no setup", demoCommand},
	{"version", "", "print the version", versionCommand},
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process around it.
//
// Standard output and error may be pipes that nobody empties. Errors and the log go
// through one queue, so that nobody waits for that; what a command prints is read at
// its reader's pace. In either case the first signal ends the program.
func run(args []string, stdout, stderr io.Writer) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go panics.Keep(ctx.Done(), panics.Process, func() { endOnSignal(ctx, signals, cancel, func() { os.Exit(exitFailed) }) })
	lines := gate.NewLineQueue(stderr)
	ended := make(chan int, 1)
	go func() {
		status := dispatch(ctx, args, stdout, lines)
		if !lines.Served.Load() { // it has closed them itself
			lines.CloseUntil(ctx.Done(), gate.LogPatience)
		}
		ended <- status
	}()
	select {
	case status := <-ended:
		return status
	case <-ctx.Done():
	}
	for {
		select {
		case status := <-ended:
			return status
		case <-time.After(endPatience):
			if !lines.Serving.Load() { // serve has deadlines of its own
				return exitFailed
			}
		}
	}
}

// endPatience is how long a command may go on after a signal, but for one that drains.
const endPatience = time.Second

// endOnSignal cancels at the first signal and kills at the second. It returns
// when neither can come any more.
func endOnSignal(ctx context.Context, signals <-chan os.Signal, cancel, kill func()) {
	select {
	case <-signals:
		cancel()
	case <-ctx.Done():
		return
	}
	<-signals
	kill()
}

// dispatch runs the command that args begin with.
func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage())
		return exitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) == 0 {
			fmt.Fprint(stdout, usage())
			return exitOK
		}
		name, args = args[0], []string{"-h"}
	case "-version", "--version":
		name = "version"
	}
	var names []string
	for _, c := range commands {
		if c.name == name {
			return c.run(ctx, args, stdout, stderr)
		}
		names = append(names, c.name)
	}
	fmt.Fprintf(stderr, "wssgate: unknown command %q\n  hint: %s\n", name, cmp.Or(config.DidYouMean(name, names), `"wssgate help" lists them`))
	return exitUsage
}

func usage() string {
	var b strings.Builder
	b.WriteString("wssgate terminates TLS for XMPP over WebSocket.\n\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  wssgate %-32s  %s\n", c.name+" "+c.flags, c.summary)
	}
	b.WriteString(`
Each command has -h. FILE is config.toml by default. Exit status: 0 done,
1 failed, 2 usage or configuration, 3 drain timed out. Beside an XMPP server:

  wssgate init && wssgate check && wssgate serve
`)
	return b.String()
}

// serveCommand is "wssgate serve".
func serveCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("serve", "[-config FILE] [-beside]", `Serves until SIGTERM or SIGINT, then drains; a second one ends at once.
SIGHUP reloads configuration and certificates without disconnecting anyone.
-beside is for Linux; Windows has neither SIGHUP nor sockets of systemd, and reloads
with "wssgate reload".`)
	beside := f.Bool("beside", false, "start while another wssgate listens on the same addresses; end that one afterwards")
	file := f.String("config", "config.toml", "the configuration `FILE`")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	if *beside && !listen.CanShare {
		fmt.Fprintf(stderr, "wssgate serve: -beside: on %s two processes can't listen on one address\n  hint: stop the other one first\n", runtime.GOOS)
		return exitUsage
	}
	// From here on SIGHUP must not kill, not even before there is a gate.
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	// Nor must a reader of the log that is gone.
	signal.Ignore(syscall.SIGPIPE)
	lines := gate.QueueOf(stderr)
	stderr = lines
	defer func() {
		if !lines.Serving.Load() { // serve closes it
			lines.Close(gate.LogPatience)
		}
		lines.Served.Store(true)
	}()
	// What the configuration says of the log is not known yet.
	slog.SetDefault(gate.NewLogger(lines, config.Log{Level: "info", Format: "auto"}, new(slog.LevelVar), lines.Terminal))
	slog.SetLogLoggerLevel(slog.LevelDebug)
	if runtime.GOOS == "windows" {
		slog.Info(`windows has no SIGHUP; "wssgate reload" reloads`)
	}
	cfg, err := config.LoadToServe(ctx, *file)
	switch {
	case ctx.Err() != nil:
		return exitOK // it was ended while it waited for the file
	case err != nil:
		return printConfigError(stderr, err)
	}
	inherited, err := listen.Inherit(os.Getenv, os.Unsetenv)
	if err != nil {
		gate.PrintError(stderr, err)
		return exitFailed
	}
	notify, err := systemd.New(os.Getenv)
	if err != nil { // no reason not to serve
		slog.Warn("cannot notify systemd", "err", err)
	}
	how := gate.Serving{Reload: reload, Sockets: &listen.Sockets{Beside: *beside, Inherited: inherited}, Notify: notify}
	return gate.Serve(ctx, cfg, how, stderr)
}

// printConfigError says why a configuration can't be used, and returns the exit status.
func printConfigError(stderr io.Writer, err error) int {
	if errors.Is(err, config.ErrNotRead) {
		gate.PrintError(stderr, err)
		return exitFailed
	}
	fmt.Fprintln(stderr, err) // it names the file
	return exitUsage
}

// flags are the flags of one command; their usage is what -h prints.
type flags struct {
	*flag.FlagSet
	help string
}

func newFlags(name, synopsis, text string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(io.Discard) // parse prints, in our words
	f.help = strings.TrimRight("usage: wssgate "+name+" "+synopsis, " ") + "\n\n" + text + "\n"
	return f
}

// parse parses args, which must be flags only. It prints usage and mistakes
// itself; done says that the command ends there, with that status.
func (f *flags) parse(args []string, stdout, stderr io.Writer) (status int, done bool) {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, f.help)
		if hasFlags(f.FlagSet) {
			fmt.Fprintln(stdout)
			f.SetOutput(stdout)
			f.PrintDefaults()
		}
		return exitOK, true
	case err != nil:
		fmt.Fprintf(stderr, "wssgate %s: %v\n  hint: %s\n", f.Name(), err, f.guess(err))
		return exitUsage, true
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "wssgate %s: unexpected %q\n  hint: %s\n", f.Name(), f.Arg(0), f.guess(nil))
		return exitUsage, true
	}
	return exitOK, false
}

// guess is the hint for a flag that does not exist.
func (f *flags) guess(err error) string {
	if err != nil {
		if _, name, ok := strings.Cut(err.Error(), "not defined: -"); ok {
			var names []string
			f.VisitAll(func(fl *flag.Flag) { names = append(names, fl.Name) })
			if name := config.Closest(name, names); name != "" {
				return fmt.Sprintf("did you mean -%s?", name)
			}
		}
	}
	return fmt.Sprintf("see wssgate %s -h", f.Name())
}

func hasFlags(f *flag.FlagSet) bool {
	n := 0
	f.VisitAll(func(*flag.Flag) { n++ })
	return n > 0
}

// versionCommand is "wssgate version".
func versionCommand(_ context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("version", "", "Prints the version, the commit it was built from, and the Go release.")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	fmt.Fprintln(stdout, gate.ThisBuild())
	return exitOK
}

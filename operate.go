package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/gate"
	"wssgate/terminal"
)

// The commands in this file ask a running gate, through its admin listener.

// atGate ends the help of each of them.
const atGate = `

It asks the gate at listen.admin of the configuration, with the token of
listen.admin_token_file. Exit status: 0 done, 1 failed or no answer, 2 usage or
configuration.`

// An operation is a command to a running gate.
type operation struct {
	*flags
	file string
	want func(args []string) error // the arguments that are no flags; nil: none
	args []string                  // those
}

func newOperation(name, synopsis, text string) *operation {
	o := &operation{flags: newFlags(name, strings.TrimSpace(synopsis+" [-config FILE]"), text)}
	o.StringVar(&o.file, "config", "config.toml", "the configuration `FILE` of the gate")
	return o
}

// run parses args and has do ask the gate; its status is the command's.
func (o *operation) run(ctx context.Context, args []string, stdout, stderr io.Writer, do func(*terminal.Gate) (int, error)) int {
	if o.want != nil {
		args, o.args = flagsFirst(o.FlagSet, args)
	}
	if status, done := o.parse(args, stdout, stderr); done {
		return status
	}
	if o.want != nil {
		if err := o.want(o.args); err != nil {
			fmt.Fprintf(stderr, "wssgate %s: %v\n  hint: see wssgate %s -h\n", o.Name(), err, o.Name())
			return exitUsage
		}
	}
	at, err := config.LoadAdmin(ctx, o.file)
	if err != nil {
		return printConfigError(stderr, err)
	}
	status := exitOK
	g, err := terminal.Reach(at.File, at.Address, at.Token)
	if err == nil {
		defer g.Close()
		status, err = do(g)
	}
	if err == nil {
		return status
	}
	known, _ := errors.AsType[*terminal.Error](err)
	if known != nil && known.Hint == "" {
		err = errors.New(known.Text)
	}
	gate.PrintError(stderr, err)
	if known != nil && known.Usage {
		return exitUsage
	}
	return exitFailed
}

// say is run for a command whose answer is one line.
func (o *operation) say(ctx context.Context, args []string, stdout, stderr io.Writer, do func(*terminal.Gate) (string, error)) int {
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		said, err := do(g)
		if err == nil {
			_, err = fmt.Fprintln(stdout, said)
		}
		return exitOK, err
	})
}

// statusCommand is "wssgate status".
func statusCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("status", "[-json]", `Prints the status of a running gate: problems, vhosts, nodes, certificates and the
latest warnings. NO_COLOR=1 turns colours off.

It asks the gate at listen.admin of the configuration, with the token of
listen.admin_token_file. Exit status: 0 all is well, 1 the gate is not ready, has a
finding that is an error, or does not answer, 2 usage or configuration.`)
	asJSON := o.Bool("json", false, "print the answer of GET /status")
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		well, err := g.Status(ctx, stdout, *asJSON)
		if !well {
			return exitFailed, err
		}
		return exitOK, err
	})
}

// topCommand is "wssgate top".
func topCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("top", "[-interval 2s]", `Shows the activity of a running gate until Ctrl-C: tunnels by vhost and node,
handshakes, traffic, and the client addresses with most traffic, of the 1000 whose open
tunnels have moved most bytes. Without a terminal it prints that once, after one
interval.`+atGate)
	interval := o.Duration("interval", 2*time.Second, "time between two updates")
	o.want = func(args []string) error {
		switch {
		case len(args) > 0:
			return fmt.Errorf("unexpected %q", args[0])
		case *interval < 100*time.Millisecond:
			return fmt.Errorf("-interval %v is less than 100ms", *interval)
		}
		return nil
	}
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		return exitOK, g.Top(ctx, stdout, *interval)
	})
}

// tunnelsCommand is "wssgate tunnels".
func tunnelsCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("tunnels", "[-client ADDR] [-domain D] … [-json]", `Lists open tunnels, the oldest first, and prints their number on standard error.
A tunnel must match all filters:

  wssgate tunnels -client 192.0.2.0/24 -older 1h
  wssgate tunnels -node tigase/t1 -bytes 10MiB -sort bytes`+atGate)
	l := terminal.Listing{Filter: url.Values{}}
	text := func(name, usage string) {
		o.Func(name, usage, func(s string) error {
			if s == "" {
				return errors.New("is empty")
			}
			l.Filter.Set(name, s)
			return nil
		})
	}
	age := func(name, usage string) {
		o.Func(name, usage, func(s string) error {
			d, err := config.ParseDuration(s)
			l.Filter.Set(name, d.String())
			return err
		})
	}
	text("client", "of this client `ADDRESS` or network")
	text("vhost", "of the vhost `NAME`")
	text("node", "on the node `UPSTREAM/NAME`, or on any of UPSTREAM")
	text("domain", "whose stream is to the XMPP `DOMAIN`")
	age("older", "open for at least a `DURATION` such as 90s, 36h or 14d")
	age("younger", "open for at most a `DURATION`")
	o.Func("bytes", "with at least a `SIZE` such as 10MiB, both directions together", func(s string) error {
		n, err := config.ParseSize(s)
		l.Filter.Set("bytes", strconv.FormatInt(int64(n), 10))
		return err
	})
	o.Func("sort", "`bytes`: the 1000 with most bytes, those first", func(s string) error {
		if s != "bytes" {
			return errors.New("want bytes")
		}
		l.Filter.Set("sort", s)
		return nil
	})
	o.IntVar(&l.Limit, "limit", 0, "list at most `N`; 0: all")
	o.BoolVar(&l.JSON, "json", false, "print one JSON object a line")
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		return exitOK, g.Tunnels(ctx, stdout, stderr, l)
	})
}

// closeCommand is "wssgate close".
func closeCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("close", "ID | -client ADDR", `Closes one tunnel, by its ID in "wssgate tunnels" or in the log, or all tunnels of a
client address or network (at most an IPv4 /16 or an IPv6 /32). Their clients get the
Close frame 1008 and may come back; "wssgate access deny" keeps them out.`+atGate)
	client := o.String("client", "", "close the tunnels of this `ADDRESS` or network")
	o.want = func(args []string) error {
		if len(args) > 1 || (len(args) == 1) == (*client != "") {
			return errors.New("one ID or -client ADDRESS is required")
		}
		return nil
	}
	return o.say(ctx, args, stdout, stderr, func(g *terminal.Gate) (string, error) {
		if *client != "" {
			return g.CloseClient(ctx, *client)
		}
		return g.CloseTunnel(ctx, o.args[0])
	})
}

// reloadCommand is "wssgate reload".
func reloadCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("reload", "", `Makes a running gate read its configuration and certificates again, as SIGHUP does,
and prints any mistakes in them. No client is disconnected.`+atGate)
	return o.say(ctx, args, stdout, stderr, func(g *terminal.Gate) (string, error) { return g.Reload(ctx) })
}

// drainCommand is "wssgate drain".
func drainCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("drain", "-vhost NAME | -node NODE | -all | -end [-stop]", `Closes tunnels at the pace of [drain], and lets no new ones in until you give the same
command with -stop. It returns at once, unless -wait is given; "wssgate status" shows the
progress. With -after the gate becomes unready at once but accepts clients until then, so
that a balancer stops sending them first. This is for a preStop hook.

  wssgate drain -node tigase/t1
  wssgate drain -node tigase/t1 -stop
  wssgate drain -all -after 5s -wait`+atGate)
	var order terminal.DrainOrder
	o.StringVar(&order.Vhost, "vhost", "", "drain the vhost `NAME`")
	o.StringVar(&order.Node, "node", "", "drain the node `UPSTREAM/NAME`")
	o.BoolVar(&order.All, "all", false, "drain all vhosts; the gate goes on")
	end := o.Bool("end", false, "drain the whole gate and end it, as SIGTERM does")
	o.BoolVar(&order.Stop, "stop", false, "end that drain")
	o.DurationVar(&order.After, "after", 0, "with -all: begin after a `DURATION` such as 5s; not ready until then")
	o.BoolVar(&order.Wait, "wait", false, "return when the last tunnel has ended")
	o.want = func(args []string) error {
		n := len(args) // anything else is too much
		for _, given := range []bool{order.Vhost != "", order.Node != "", order.All, *end} {
			if given {
				n++
			}
		}
		switch {
		case len(args) > 0:
			return fmt.Errorf("unexpected %q", args[0])
		case n != 1:
			return errors.New("one of -vhost, -node, -all and -end is required")
		case *end && order.Stop:
			return errors.New("-stop: a drain that ends the gate can't be stopped")
		case order.After != 0 && (!order.All || order.Stop):
			return errors.New("-after is for -all without -stop")
		case order.Wait && (*end || order.Stop):
			return errors.New("-wait needs a drain that begins and does not end the gate")
		}
		return nil
	}
	return o.say(ctx, args, stdout, stderr, func(g *terminal.Gate) (string, error) { return g.Drain(ctx, order) })
}

// accessCommand is "wssgate access".
func accessCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("access", "deny ADDR -for 1h [-close] | lift ADDR | list", `Keeps the clients of an address or network (at most an IPv4 /16 or an IPv6 /32) out
for a while, in addition to [access]: they are closed before TLS. This outlives reloads,
but not a restart; use [access] for permanent lists.

  wssgate access deny 192.0.2.7 -for 1h -close
  wssgate access list
  wssgate access lift 192.0.2.7`+atGate)
	var duration time.Duration
	o.Func("for", "deny for a `DURATION` such as 30m, 12h or 14d, at most 30d", func(s string) (err error) {
		duration, err = config.ParseDuration(s)
		return err
	})
	closes := o.Bool("close", false, "also close the open tunnels of these clients")
	o.want = func(args []string) error {
		word, rest := "", args
		if len(args) > 0 {
			word, rest = args[0], args[1:]
		}
		switch {
		case word != "deny" && word != "lift" && word != "list":
			return errors.New("deny, lift or list is required")
		case word == "list" && len(rest) > 0, word != "list" && len(rest) != 1:
			return errors.New("one address or network is required; list takes none")
		case (word == "deny") != (duration > 0):
			return errors.New("-for with a duration is required for deny, and only for deny")
		case word != "deny" && *closes:
			return errors.New("-close is only for deny")
		}
		return nil
	}
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		if o.args[0] == "list" {
			return exitOK, g.Denied(ctx, stdout)
		}
		return exitOK, g.Deny(ctx, stdout, o.args[1], duration, *closes)
	})
}

// traceCommand is "wssgate trace".
func traceCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("trace", "ID [-json]", `Shows the frames of one tunnel as they pass, until it ends or Ctrl-C: the sender, the
header, and the shape of the XML. Text and attribute values are left out, except XMPP's
namespaces and words such as type='get'. So no messages or passwords are shown, and no
option shows them. The tunnel does not wait for the trace; frames that do not fit are
counted. Only one tunnel can be traced at a time.`+atGate)
	asJSON := o.Bool("json", false, "print one JSON object a line")
	o.want = func(args []string) error {
		if len(args) != 1 {
			return errors.New("one ID is required")
		}
		return nil
	}
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		return exitOK, g.Trace(ctx, stdout, o.args[0], *asJSON)
	})
}

// acmeCommand is "wssgate acme".
func acmeCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := newOperation("acme", "status [-json] | renew NAME | retry NAME | revoke NAME -reason R | rollover | dns-records", `Manages the certificates that a running gate obtains from a CA. "status" shows them.
"renew" orders a new certificate although the old one is valid, at most three times a
day. "retry" tries a failed name again. Both return at once. "revoke" has the CA revoke the
certificate in use, and orders another one with a new key; the old one is served until the
new one is there. "rollover" gives the account at the CA a new key, which replaces the one
in acme.cache. Both wait for the CA. "dns-records" prints the TXT records that wildcards need,
and whether they are there.

  wssgate acme status
  wssgate acme revoke chat.example.org -reason keyCompromise`+atGate)
	asJSON := o.Bool("json", false, "status: print JSON, as in /status")
	reason := o.String("reason", "", "revoke: `R` is one of "+strings.Join(certstore.ACMEReasons(), ", "))
	o.want = func(args []string) error {
		word := ""
		if len(args) > 0 {
			word, args = args[0], args[1:]
		}
		switch {
		case !slices.Contains([]string{"status", "renew", "retry", "revoke", "rollover", "dns-records"}, word):
			return errors.New("status, renew, retry, revoke, rollover or dns-records is required")
		case slices.Contains([]string{"status", "rollover", "dns-records"}, word) != (len(args) == 0), len(args) > 1:
			return errors.New("one NAME is required; status, rollover and dns-records take none")
		case (word == "revoke") != (*reason != ""):
			return errors.New("-reason is required for revoke, and only for revoke")
		case word == "revoke" && !slices.Contains(certstore.ACMEReasons(), *reason):
			return fmt.Errorf("-reason %q is not one of %s", *reason, strings.Join(certstore.ACMEReasons(), ", "))
		case *asJSON && word != "status":
			return errors.New("-json is only for status")
		}
		return nil
	}
	return o.run(ctx, args, stdout, stderr, func(g *terminal.Gate) (int, error) {
		if o.args[0] == "status" {
			return exitOK, g.ACME(ctx, stdout, *asJSON)
		}
		name := map[string]string{"rollover": "account", "dns-records": "all"}[o.args[0]]
		if len(o.args) > 1 {
			name = o.args[1]
		}
		said, err := g.ACMEDo(ctx, o.args[0], name, *reason)
		if err == nil {
			_, err = fmt.Fprintln(stdout, said)
		}
		return exitOK, err
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"

	"wssgate/config"
	"wssgate/ech"
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
	cfg := inv.Config
	if !cfg.ECH.On() {
		fmt.Fprintf(stderr, "wssgate ech: %s: ech.public_name is empty, so ECH is off\n  hint: docs/ech.md says how to begin\n", cfg.File)
		return exitFailed
	}
	ring, problem, err := ech.Read(ctx, cfg.ECH.Keys, cfg.ECH.PublicName)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, problem); err != nil {
		fmt.Fprintf(stderr, "wssgate ech: %v\n", err)
	}
	if ring == nil || ring.Current() == nil {
		fmt.Fprintf(stderr, "wssgate ech: no key for %q in %q\n  hint: start the gate with this configuration, it makes one\n", cfg.ECH.PublicName, cfg.ECH.Keys)
		return exitFailed
	}
	for _, w := range inv.ECHWarnings(ctx) {
		fmt.Fprintf(stderr, "warning: %s\n  hint: %s\n", w.Text, w.Hint)
	}
	now := ring.Current()
	fmt.Fprintf(stdout, "; ECH key %s, made %s, public name %s\n", now.File, now.Made.Format("2006-01-02"), now.PublicName)
	for _, name := range inv.Names() {
		if name == cfg.ECH.PublicName {
			continue
		}
		for _, p := range echPorts(cfg, *port) {
			for _, line := range ech.Records(name, p, ring.List()) {
				fmt.Fprintln(stdout, line)
			}
		}
	}
	return exitOK
}

// echPorts are the ports at which clients reach the gate.
func echPorts(cfg *config.Config, only int) (ports []int) {
	if only > 0 {
		return []int{only}
	}
	for _, address := range cfg.Listen.WSS {
		_, text, err := net.SplitHostPort(address)
		if p, bad := strconv.Atoi(text); err == nil && bad == nil && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	if ports == nil { // only sockets of a proxy in front
		return []int{443}
	}
	return ports
}

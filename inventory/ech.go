package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/ech"
	"wssgate/files"
)

// Names returns the names that are served, with or without a certificate.
func (inv *Inventory) Names() (names []string) {
	for _, s := range inv.Config.Served(inv.certificates) {
		names = append(names, s.Name)
	}
	return names
}

// ECHWarnings are what is wrong with ECH as it is configured.
func (inv *Inventory) ECHWarnings(ctx context.Context) (out []config.Warning) {
	cfg := inv.Config
	if !cfg.ECH.On() {
		return nil
	}
	if name := cfg.ECH.PublicName; !slices.ContainsFunc(inv.certificates, func(e certstore.Entry) bool {
		return e.Chosen && (e.Name == name || e.Name == config.WildcardFor(name))
	}) {
		out = append(out, config.Warning{Text: fmt.Sprintf("no certificate for ech.public_name %q; clients whose ECH record is out of date are refused", name),
			Hint: "put one into certificates.directory, or add the name to acme.names"})
	}
	_, problem, err := ech.Read(ctx, cfg.ECH.Keys, cfg.ECH.PublicName)
	if err == nil {
		err = problem
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !files.IsHang(err) {
		out = append(out, config.Warning{Text: fmt.Sprintf("ech: %v", err), Hint: "ech.keys must be a folder that the gate can read and write"})
	}
	return out
}

// PrintECHRecords prints the DNS records of all names that are served but the public one,
// for each port of listen.wss, or for port if that is not 0. Warnings go to stderr. The
// error has its hint in a line of its own.
func (inv *Inventory) PrintECHRecords(ctx context.Context, stdout, stderr io.Writer, port int) error {
	cfg := inv.Config
	if !cfg.ECH.On() {
		return fmt.Errorf("%s: ech.public_name is empty, so ECH is off\n  hint: docs/ech.md says how to begin", cfg.File)
	}
	ring, _, err := ech.Read(ctx, cfg.ECH.Keys, cfg.ECH.PublicName)
	for _, w := range inv.ECHWarnings(ctx) { // of Read, too
		fmt.Fprintf(stderr, "warning: %s\n  hint: %s\n", w.Text, w.Hint)
	}
	if files.IsHang(err) {
		return err
	}
	if ring == nil || ring.Current() == nil {
		return fmt.Errorf("no key for %q in %q\n  hint: start the gate with this configuration, it makes one", cfg.ECH.PublicName, cfg.ECH.Keys)
	}
	now := ring.Current()
	fmt.Fprintf(stdout, "; ECH key %s, made %s, public name %s\n", now.File, now.Made.Format(time.DateOnly), now.PublicName)
	for _, name := range inv.Names() {
		if name == cfg.ECH.PublicName {
			continue
		}
		for _, p := range echPorts(cfg, port) {
			for _, line := range ech.Records(name, p, ring.List()) {
				fmt.Fprintln(stdout, line)
			}
		}
	}
	return nil
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

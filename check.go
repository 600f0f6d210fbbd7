package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/files"
	"wssgate/human"
	"wssgate/listen"
	"wssgate/proxy"
	"wssgate/upstream"
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
	inv, err := takeInventory(ctx, *file)
	if err != nil {
		return printConfigError(stderr, err)
	}
	cfg, now := inv.cfg, time.Now()
	served := cfg.Served(inv.certificates)
	var names config.Resolver
	if !*offline {
		names = net.DefaultResolver
	}
	warnings := slices.Concat(inv.warnings(served), machineWarnings(cfg), cfg.Warnings(ctx, names))
	if !*offline {
		for _, err := range listen.LookUpHosts(cfg.Listen.Addresses()).Errors() {
			warnings = append(warnings, config.Warning{Text: "listen: " + err.Error(), Hint: "wssgate starts without that listener, and tries again until the name has an address"})
		}
		warnings = append(warnings, tryNodes(ctx, cfg)...)
	}
	printServed(stdout, cfg, served, now)
	printNodes(stdout, cfg)
	printIgnored(stdout, inv)
	for _, w := range warnings {
		fmt.Fprintf(stderr, "warning: %s\n", w.Text)
		if w.Hint != "" {
			fmt.Fprintf(stderr, "  hint: %s\n", w.Hint)
		}
	}
	fmt.Fprintf(stdout, "%s: ok, %s\n", cfg.File, human.Count(len(warnings), "warning"))
	return exitOK
}

func printServed(w io.Writer, c *config.Config, served []config.ServedName, now time.Time) {
	for _, address := range c.Listen.WSS {
		fmt.Fprintf(w, "wss on %s\n", address)
	}
	for _, address := range c.Listen.HTTP {
		fmt.Fprintf(w, "http on %s\n", address)
	}
	if c.Listen.Admin != "" {
		fmt.Fprintf(w, "admin on %s\n", c.Listen.Admin)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tCERTIFICATE\tISSUER\tEXPIRES\tKEY\tUPSTREAM")
	for _, s := range served {
		if len(s.Certificates) == 0 {
			fmt.Fprintf(t, "%s\tno certificate\t-\t-\t-\t%s\n", human.Cell(s.Name), c.Target(s))
		}
		for _, e := range s.Certificates {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", human.Cell(s.Name), human.Cell(source(e)), human.Cell(e.Issuer), expiry(e, now), e.KeyType, c.Target(s))
		}
	}
	t.Flush()
	fmt.Fprintln(w)
}

// printNodes says by which names the nodes of a cluster are known, to those that
// send clients from one to the other.
func printNodes(w io.Writer, c *config.Config) {
	var rows [][3]string
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		u := c.Upstream[name]
		if len(u.Nodes) < 2 || u.Redirects == "off" {
			continue
		}
		for _, n := range upstream.NodeNames(u.NodeOptions()) {
			known := slices.Clone(n.Names)
			if len(known) == 0 {
				known = []string{"-"}
			}
			rows = append(rows, [3]string{name, n.Node, strings.Join(known, ", ")})
		}
	}
	if len(rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "UPSTREAM\tNODE\tKNOWN IN REDIRECTS AS")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r[0], human.Cell(r[1]), human.Cell(r[2]))
	}
	t.Flush()
	fmt.Fprintln(w)
}

// printIgnored names the first files that are ignored.
func printIgnored(w io.Writer, inv *inventory) {
	const most = 3
	list := inv.ignored
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "ignored in %q: %s; \"wssgate certs\" says more\n", inv.cfg.Certificates.Directory, human.Count(len(list)+inv.moreIgnored, "file"))
	for _, i := range list[:min(most, len(list))] {
		fmt.Fprintf(w, "  %s: %s\n", human.Cell(i.File), i.Why)
	}
	fmt.Fprintln(w)
}

func source(e certstore.Entry) string {
	if e.File == "" {
		return e.Source
	}
	return e.File
}

// expiry says when a certificate expires, and how far that is.
func expiry(e certstore.Entry, now time.Time) string {
	date := e.NotAfter.Format(time.DateOnly)
	switch left := e.NotAfter.Sub(now); {
	case now.Before(e.NotBefore):
		return "valid from " + e.NotBefore.Format(time.DateOnly)
	case left <= 0:
		return fmt.Sprintf("%s, %s ago", date, human.Duration(-left))
	case left == math.MaxInt64: // centuries, as where "no end" was meant (RFC 5280, section 4.1.2.5)
		return date
	default:
		return fmt.Sprintf("%s, in %s", date, human.Duration(left))
	}
}

func (inv *inventory) warnings(served []config.ServedName) []config.Warning {
	var out []config.Warning
	for _, p := range inv.problems {
		out = append(out, config.Warning{Text: p.Err.Error(), Hint: p.Hint}) // expired ones too
	}
	for _, w := range inv.rejected {
		out = append(out, config.Warning{Text: w.Text, Hint: w.Hint})
	}
	if c := inv.cfg; len(c.Access.Allow) > 0 && c.ACME.On() && len(c.Listen.HTTP) == 0 {
		out = append(out, config.Warning{Text: "access.allow: excludes the CA of [acme], which may connect from any address",
			Hint: "open listen.http on port 80, where http-01 is answered to every address outside access.deny"})
	}
	if len(served) == 0 {
		out = append(out, config.Warning{Text: "no certificate is available; every client would be refused"})
	}
	for _, s := range served {
		switch {
		case len(s.Certificates) > 0:
		case slices.Contains(inv.cfg.ACME.AllNames(), s.Name):
			out = append(out, config.Warning{Text: fmt.Sprintf("no certificate yet for server name %q; waiting for ACME", s.Name)})
		default:
			out = append(out, config.Warning{Text: fmt.Sprintf("no certificate for server name %q; its clients are refused", s.Name)})
		}
	}
	return out
}

// machineWarnings are about what the configuration needs from this machine.
func machineWarnings(c *config.Config) (out []config.Warning) {
	if allowed, few := proxy.FewDescriptors(c.Limits.Connections); few {
		out = append(out, config.Warning{Text: fmt.Sprintf("the file descriptor limit allows %d connections", allowed), Hint: proxy.DescriptorHint})
	} else if wanted := c.Limits.Connections; wanted > allowed {
		out = append(out, config.Warning{Text: fmt.Sprintf("limits.connections: %d is more than the %d that the file descriptor limit allows", wanted, allowed), Hint: proxy.DescriptorHint})
	}
	for _, text := range c.ForeignSources() {
		out = append(out, config.Warning{Text: text, Hint: config.ForeignSourcesHint})
	}
	return out
}

// nodePatience bounds the probes of one check, which run at the same time.
const nodePatience = 3 * time.Second

// tryNodes reports the nodes that can't be used now. A gate would start without them.
func tryNodes(ctx context.Context, c *config.Config) (out []config.Warning) {
	o, err := c.UpstreamOptions(slog.New(slog.DiscardHandler))
	if err != nil {
		return []config.Warning{{Text: err.Error()}}
	}
	failed, err := upstream.TryNodes(ctx, o, nodePatience)
	if err != nil {
		return []config.Warning{{Text: err.Error()}}
	}
	for _, n := range failed {
		text := strings.ReplaceAll(n.Err.Error(), "\n", "; ")
		out = append(out, config.Warning{Text: fmt.Sprintf("upstream %q: node %q: %s", n.Upstream, n.URL, text), Hint: n.Hint})
	}
	return out
}

// An inventory is what check and certs look at: a configuration with the
// certificates that serve would begin with.
type inventory struct {
	cfg          *config.Config
	certificates []certstore.Entry
	problems     []certstore.Problem
	rejected     []certstore.Warning
	ignored      []certstore.Ignored
	moreIgnored  int                    // that are not in the list
	acme         []certstore.ACMEStatus // names to obtain; empty where ACME is off
}

// takeInventory reads a configuration, its certificates and its ACME cache.
// It asks no CA and leaves nothing open. What would keep serve from starting
// is a *config.Error, or a config.ErrNotRead.
func takeInventory(ctx context.Context, file string) (*inventory, error) {
	cfg, err := config.Load(ctx, file)
	if err != nil {
		return nil, err
	}
	return inventoryOf(cfg)
}

func inventoryOf(c *config.Config) (*inventory, error) {
	quiet := slog.New(slog.DiscardHandler) // what would be logged is in the inventory too
	store, err := c.OpenCertificates(false, quiet)
	if err != nil {
		return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{
			Key:  "certificates.directory",
			Text: fmt.Sprintf("%q: %v", c.Certificates.Directory, rootCause(err)),
			Hint: "make the folder, or name another one; relative names are relative to the configuration",
		}}}
	}
	defer store.Close()

	inv := &inventory{cfg: c}
	// The cache is made by the gate, with its own rights; not by a look at it.
	_, err = files.Do(context.Background(), config.Place, func() (fs.FileInfo, error) { return config.Place.Stat(c.ACME.Cache) })
	if !errors.Is(err, fs.ErrNotExist) && !files.IsHang(err) && c.ACME.On() {
		options, err := c.ACMEOptions(store, quiet)
		if err != nil {
			return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Text: err.Error()}}}
		}
		acme, err := certstore.NewACME(options) // not started: only its cache is read
		if err != nil {
			return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Key: "acme", Text: err.Error()}}}
		}
		defer acme.Close()
		inv.acme = acme.Status()
	} else {
		for _, name := range c.ACME.Names {
			inv.acme = append(inv.acme, certstore.ACMEStatus{Name: name, Names: []string{name}, State: certstore.ACMEWaiting})
		}
		for _, names := range c.ACME.Together() {
			inv.acme = append(inv.acme, certstore.ACMEStatus{Name: names[0], Names: names, State: certstore.ACMEWaiting})
		}
	}
	if list := files.Hanging(); len(list) > 0 { // half an inventory would be a wrong one
		return nil, &config.Error{File: c.File, Mistakes: []config.Mistake{{Text: list[0].What + ": " + list[0].Error(), Hint: "is the file system mounted?"}}}
	}
	inv.certificates, inv.problems = slices.Collect(store.Certificates()), store.Problems()
	inv.rejected = store.Warnings()
	inv.ignored, inv.moreIgnored = store.Ignored()
	if c.ACME.On() {
		if err := certstore.ACMECacheProblem(context.Background(), c.ACME.Cache, c.Certificates.Directory); err != nil {
			inv.problems = append(inv.problems, certstore.Problem{File: c.ACME.Cache, Err: err})
		}
	}
	return inv, nil
}

// rootCause is the innermost error of a chain.
func rootCause(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
	}
}

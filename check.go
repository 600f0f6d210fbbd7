package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"wssgate/certstore"
	"wssgate/config"
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
	offline := f.Bool("offline", false, "connect to nothing, and look no name up")
	file := f.String("config", "config.toml", "the configuration `FILE`")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	inv, err := takeInventory(*file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	cfg, now := inv.cfg, time.Now()
	served := cfg.Served(inv.certificates)
	var names resolver
	if !*offline {
		names = net.DefaultResolver
	}
	warnings := slices.Concat(inv.warnings(served), upstreamWarnings(ctx, cfg, names))
	if !*offline {
		warnings = append(warnings, tryNodes(ctx, cfg)...)
	}
	printServed(stdout, cfg, served, now)
	printNodes(stdout, cfg)
	for _, w := range warnings {
		fmt.Fprintf(stderr, "warning: %s\n", w.text)
		if w.hint != "" {
			fmt.Fprintf(stderr, "  hint: %s\n", w.hint)
		}
	}
	fmt.Fprintf(stdout, "%s: ok, %s\n", cfg.File, plural(len(warnings), "warning"))
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
			fmt.Fprintf(t, "%s\tno certificate\t-\t-\t-\t%s\n", cell(s.Name), c.Target(s))
		}
		for _, e := range s.Certificates {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", cell(s.Name), cell(source(e)), cell(e.Issuer), expiry(e, now), e.KeyType, c.Target(s))
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
		fmt.Fprintf(t, "%s\t%s\t%s\n", r[0], cell(r[1]), cell(r[2]))
	}
	t.Flush()
	fmt.Fprintln(w)
}

func source(e certstore.Entry) string {
	if e.File == "" {
		return e.Source
	}
	return e.File
}

// maxCell is the width of a cell, in characters: one long name must not push the
// other columns off the screen.
const maxCell = 72

// cell is what a table has for a text that somebody else chose, such as the name of
// a file: quoted where it would break the row, its middle left out where it is long.
func cell(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	if r := []rune(s); len(r) > maxCell {
		const tail = maxCell / 2
		s = string(r[:maxCell-tail-1]) + "…" + string(r[len(r)-tail:])
	}
	return s
}

// expiry says when a certificate expires, and how far that is.
func expiry(e certstore.Entry, now time.Time) string {
	date := e.NotAfter.Format(time.DateOnly)
	switch left := e.NotAfter.Sub(now); {
	case now.Before(e.NotBefore):
		return "valid from " + e.NotBefore.Format(time.DateOnly)
	case left <= 0:
		return fmt.Sprintf("%s, %s ago", date, roughly(-left))
	case left == math.MaxInt64: // centuries, as where "no end" was meant (RFC 5280, section 4.1.2.5)
		return date
	default:
		return fmt.Sprintf("%s, in %s", date, roughly(left))
	}
}

// roughly is a distance of time for people: days, or hours below two days.
func roughly(d time.Duration) string {
	if d < 48*time.Hour {
		return plural(int(d.Hours()), "hour")
	}
	return plural(int(d.Hours()/24), "day")
}

func plural(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// A warning is something that an operator should know and that does not keep wssgate
// from starting.
type warning struct{ text, hint string }

func (inv *inventory) warnings(served []config.ServedName) []warning {
	var out []warning
	for _, p := range inv.problems {
		out = append(out, warning{p.Err.Error(), ""}) // expired ones too
	}
	if c := inv.cfg; len(c.Access.Allow) > 0 && len(c.ACME.Names) > 0 && len(c.Listen.HTTP) == 0 {
		out = append(out, warning{"access.allow: excludes the CA of [acme], which may connect from any address",
			"open listen.http on port 80, where http-01 is answered to every address outside access.deny"})
	}
	if len(served) == 0 {
		out = append(out, warning{"no certificate is available; every client would be refused", ""})
	}
	for _, s := range served {
		switch {
		case len(s.Certificates) > 0:
		case slices.Contains(inv.cfg.ACME.Names, s.Name):
			out = append(out, warning{fmt.Sprintf("no certificate yet for server name %q; waiting for ACME", s.Name), ""})
		default:
			out = append(out, warning{fmt.Sprintf("no certificate for server name %q; its clients are refused", s.Name), ""})
		}
	}
	return out
}

// nodePatience bounds the probes of one check, which run at the same time.
const nodePatience = 3 * time.Second

// tryNodes reports the nodes that can't be used now. A gate would start without them.
func tryNodes(ctx context.Context, c *config.Config) (out []warning) {
	o, err := c.UpstreamOptions(slog.New(slog.DiscardHandler))
	if err != nil {
		return []warning{{err.Error(), ""}}
	}
	failed, err := upstream.TryNodes(ctx, o, nodePatience)
	if err != nil {
		return []warning{{err.Error(), ""}}
	}
	for _, n := range failed {
		text := strings.ReplaceAll(n.Err.Error(), "\n", "; ")
		out = append(out, warning{fmt.Sprintf("upstream %q: node %q: %s", n.Upstream, n.URL, text), n.Hint})
	}
	return out
}

// A resolver is the part of *net.Resolver that check needs.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// resolvePatience bounds all look-ups of one check.
const resolvePatience = 2 * time.Second

// upstreamWarnings looks for servers that anyone could reach without TLS, and
// for what the file has and nobody uses. With r nil it looks no name up.
func upstreamWarnings(ctx context.Context, c *config.Config, r resolver) []warning {
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	used := map[string]bool{}
	for _, v := range c.Vhost {
		used[v.Upstream] = true
		for _, name := range v.ByDomain {
			used[name] = true
		}
	}
	var out []warning
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		if len(c.Vhost) > 0 && !used[name] {
			out = append(out, warning{fmt.Sprintf("upstream %q: no vhost uses it", name), ""})
		}
		if c.Upstream[name].Redirects != "off" {
			for _, n := range upstream.NodeNames(c.Upstream[name].NodeOptions()) {
				for _, shared := range n.Shared {
					if _, err := netip.ParseAddr(shared); err == nil {
						continue // several servers of one machine: the port tells
					}
					out = append(out, warning{
						fmt.Sprintf("upstream %q: node %q: another node also has the name %q; a redirect to it is ambiguous", name, n.Node, shared),
						"give each node a name, a URL and a public_url with a host of its own",
					})
				}
			}
		}
		for _, n := range c.Upstream[name].Nodes {
			loc, err := upstream.ParseNodeURL(n.URL)
			if err != nil || loc.TLS || loc.Unix != "" || loc.SRV {
				continue
			}
			addrs := []netip.Addr{}
			if addr, err := netip.ParseAddr(loc.Host); err == nil {
				addrs = append(addrs, addr)
			} else if r != nil {
				addrs, _ = r.LookupNetIP(ctx, "ip", loc.Host) // tryNodes reports the error
			}
			if i := slices.IndexFunc(addrs, isPublic); i >= 0 {
				out = append(out, warning{
					fmt.Sprintf("upstream %q: node %q: address %s is public, and ws:// has no TLS", name, n.Name, addrs[i]),
					"let only wssgate reach that port: bind it to loopback, or put it behind a firewall",
				})
			}
		}
	}
	if c.Limits.ClientBacklog < c.Limits.Message {
		out = append(out, warning{
			fmt.Sprintf("limits.client_backlog: %v is less than limits.message, %v", c.Limits.ClientBacklog, c.Limits.Message),
			"one long message can disconnect a client that reads slowly",
		})
	}
	return out
}

// sharedSpace is what carriers use inside their networks (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// isPublic reports whether an address can be one of the open internet.
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !sharedSpace.Contains(addr)
}

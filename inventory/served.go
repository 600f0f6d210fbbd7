package inventory

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/human"
	"wssgate/upstream"
)

// PrintServed prints the listeners, each name with its certificate and its upstream, the
// names of nodes, and files that are ignored.
func (inv *Inventory) PrintServed(w io.Writer, now time.Time) {
	printListeners(w, inv.Config)
	printNames(w, inv.Config, inv.Config.Served(inv.certificates), now)
	printNodes(w, inv.Config)
	printIgnored(w, inv)
}

func printListeners(w io.Writer, c *config.Config) {
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
}

func printNames(w io.Writer, c *config.Config, served []config.ServedName, now time.Time) {
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
func printIgnored(w io.Writer, inv *Inventory) {
	const most = 3
	list := inv.ignored
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "ignored in %q: %s; \"wssgate certs\" says more\n", inv.Config.Certificates.Directory, human.Count(len(list)+inv.moreIgnored, "file"))
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

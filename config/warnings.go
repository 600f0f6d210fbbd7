package config

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"wssgate/upstream"
)

// A Warning is something that an operator should know although it does not
// prevent a start. Hint may be empty.
type Warning struct{ Text, Hint string }

// A Resolver is the part of *net.Resolver that Warnings needs.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// resolvePatience bounds all DNS queries of one call.
const resolvePatience = 2 * time.Second

// Warnings looks for servers that anyone could reach without TLS, and for
// unused parts of the file. If r is nil, it makes no DNS queries. Otherwise it
// takes at most resolvePatience; a name that is not found gives no warning.
func (c *Config) Warnings(ctx context.Context, r Resolver) []Warning {
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	used := map[string]bool{}
	for _, v := range c.Vhost {
		used[v.Upstream] = true
		for _, name := range v.ByDomain {
			used[name] = true
		}
	}
	var out []Warning
	for _, name := range slices.Sorted(maps.Keys(c.Upstream)) {
		if len(c.Vhost) > 0 && !used[name] {
			out = append(out, Warning{fmt.Sprintf("upstream %q: no vhost uses it", name), ""})
		}
		if c.Upstream[name].Redirects != "off" {
			for _, n := range upstream.NodeNames(c.Upstream[name].NodeOptions()) {
				for _, shared := range n.Shared {
					if _, err := netip.ParseAddr(shared); err == nil {
						continue // several servers on one machine: the port distinguishes them
					}
					out = append(out, Warning{
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
				out = append(out, Warning{
					fmt.Sprintf("upstream %q: node %q: address %s is public, and ws:// has no TLS", name, n.Name, addrs[i]),
					"let only wssgate reach that port: bind it to loopback, or put it behind a firewall",
				})
			}
		}
	}
	if c.Limits.ClientBacklog < c.Limits.Message {
		out = append(out, Warning{
			fmt.Sprintf("limits.client_backlog: %v is less than limits.message, %v", c.Limits.ClientBacklog, c.Limits.Message),
			"one long message can disconnect a client that reads slowly",
		})
	}
	return out
}

// sharedSpace is the range for carrier-grade NAT (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// isPublic reports whether an address can be on the public internet.
func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !sharedSpace.Contains(addr)
}

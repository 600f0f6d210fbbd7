package inventory

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"wssgate/config"
	"wssgate/listen"
	"wssgate/proxy"
	"wssgate/upstream"
)

// Warnings says what somebody should know although wssgate would start. Unless it is
// offline it asks DNS and connects to every node once, as a health probe does; ctx ends
// that early.
func (inv *Inventory) Warnings(ctx context.Context, offline bool) []config.Warning {
	c := inv.Config
	var names config.Resolver
	if !offline {
		names = net.DefaultResolver
	}
	out := slices.Concat(inv.certificateWarnings(c.Served(inv.certificates)), inv.ECHWarnings(ctx), machineWarnings(c), c.Warnings(ctx, names))
	if offline {
		return out
	}
	for _, err := range listen.LookUpHosts(c.Listen.Addresses()).Errors() {
		out = append(out, config.Warning{Text: "listen: " + err.Error(), Hint: "wssgate starts without that listener, and tries again until the name has an address"})
	}
	return append(out, tryNodes(ctx, c)...)
}

// certificateWarnings are about the names that are served, and their certificates.
func (inv *Inventory) certificateWarnings(served []config.ServedName) []config.Warning {
	var out []config.Warning
	for _, p := range inv.problems {
		out = append(out, config.Warning{Text: p.Err.Error(), Hint: p.Hint}) // expired ones too
	}
	for _, w := range inv.rejected {
		out = append(out, config.Warning{Text: w.Text, Hint: w.Hint})
	}
	if c := inv.Config; len(c.Access.Allow) > 0 && c.ACME.On() && len(c.Listen.HTTP) == 0 {
		out = append(out, config.Warning{Text: "access.allow: excludes the CA of [acme], which may connect from any address",
			Hint: "open listen.http on port 80, where http-01 is answered to every address outside access.deny"})
	}
	if len(served) == 0 {
		out = append(out, config.Warning{Text: "no certificate is available; every client would be refused"})
	}
	for _, s := range served {
		switch {
		case len(s.Certificates) > 0:
		case slices.Contains(inv.Config.ACME.AllNames(), s.Name):
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

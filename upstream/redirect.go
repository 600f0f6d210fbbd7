package upstream

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"wssgate/panics"
	"wssgate/xmpp"
)

// In a redirect, an XMPP server of a cluster names another node by its internal host
// name, with the scheme and port of its own connector. Publicly that name often leads
// to the gate. Nodes are therefore recognized by the host and port of their URL, their
// SRV targets, their addresses and their public_url; if none of these matches, by the
// host alone or by the node's name in the configuration. A name that two nodes share
// identifies neither.

// NodeByAddress returns the node of v's upstream that an XMPP server means by the
// host:port, host, or URL of a redirect (see-other-host, see-other-uri). A host without
// a port matches any port. It returns nil if no node or more than one matches.
func (v *Vhost) NodeByAddress(address string) *Node { return v.group.nodeByAddress(address) }

func (g *group) nodeByAddress(address string) *Node {
	found := g.nodesByAddress(address)
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

func (g *group) nodesByAddress(address string) (found []*Node) {
	nodes := g.nodes
	to, err := xmpp.ParseTarget(address)
	if err != nil { // a configured name may be any text
		for _, n := range nodes {
			if strings.EqualFold(n.name, address) {
				found = append(found, n)
			}
		}
		return found
	}
	want := targetPlace(to)
	whole := func(is func(*Node) bool) func(*Node) []*Node {
		return func(n *Node) []*Node {
			if is(n) {
				return []*Node{n}
			}
			return nil
		}
	}
	ways := []func(*Node) []*Node{
		whole(func(n *Node) bool { return n.urlPlace() == want }),
		func(n *Node) []*Node { return n.behind(want) },
		whole(func(n *Node) bool { return n.publicPlace() == want }),
	}
	if want.port == "" {
		ways = nil
	}
	byHost := func(n *Node) []*Node {
		if slices.Contains(n.Names(), want.host) {
			return []*Node{n}
		}
		return n.behind(place{host: want.host})
	}
	for _, way := range append(ways, byHost) {
		for _, n := range nodes {
			found = append(found, way(n)...)
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// A place is a host in the form for comparisons, and a port in decimal; "" is any port.
type place struct{ host, port string }

func targetPlace(t xmpp.Target) place {
	host := strings.Trim(t.Host, "[]")
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return place{host, strings.TrimPrefix(strings.TrimPrefix(t.Address(""), t.Host), ":")}
}

// placeOf returns the place of one of our own host:port.
func placeOf(hostPort string) place {
	t, err := xmpp.ParseTarget(hostPort)
	if err != nil {
		return place{}
	}
	return targetPlace(t)
}

func (n *Node) urlPlace() place {
	if n.loc.Unix != "" || n.loc.SRV {
		return place{}
	}
	return placeOf(n.loc.HostPort())
}

func (n *Node) publicPlace() place { return placeOf(n.publicURL) }

// behind returns n at the places that DNS has for it: SRV targets, each once for all of
// its addresses, and addresses.
func (n *Node) behind(want place) (found []*Node) {
	is := func(hostPort string) bool {
		p := placeOf(hostPort)
		return p == want || want.port == "" && p.host == want.host
	}
	var places []string
	for _, e := range n.endpoints() {
		switch {
		case e.target != "" && is(e.target):
			places = append(places, e.target)
		case e.network == "tcp" && is(e.addr):
			places = append(places, e.addr)
		}
	}
	slices.Sort(places)
	for _, p := range slices.Compact(places) {
		at := *n
		at.place = p
		found = append(found, &at)
	}
	return found
}

// Names returns the hosts by which a redirect may name the node, without those from
// DNS: its name in the configuration, and the hosts of its URL and public_url.
func (n *Node) Names() []string {
	own := placeOf(n.name).host
	if own == "" {
		own = n.name
	}
	var names []string
	for _, name := range []string{own, n.urlPlace().host, n.publicPlace().host} {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// HoldsAddress reports whether text meant for people contains the address of a node of
// v's upstream, or any WebSocket URL.
func (v *Vhost) HoldsAddress(text string) bool {
	text = strings.ToLower(text)
	if strings.Contains(text, "ws://") || strings.Contains(text, "wss://") {
		return true
	}
	for _, n := range v.group.nodes {
		hosts := []string{n.urlPlace().host, n.loc.Unix}
		for _, e := range n.endpoints() {
			hosts = append(hosts, placeOf(e.addr).host, placeOf(e.target).host)
		}
		for _, host := range hosts {
			if host != "" && host != n.publicPlace().host && strings.Contains(text, strings.ToLower(host)) {
				return true
			}
		}
	}
	return false
}

// A KnownNode is a node with the names that a redirect may use for it.
type KnownNode struct {
	Node   string
	Names  []string // hosts, with a port if another node has the same host
	Shared []string // hosts that another node has too
}

// NodeNames returns the names that redirects may use for the nodes of one upstream,
// except those from DNS. For a node whose URL ParseNodeURL refuses, some are missing.
func NodeNames(options []NodeOptions) (known []KnownNode) {
	number := map[string]int{} // number of nodes, by host
	var nodes []*Node
	for _, o := range options {
		loc, _ := ParseNodeURL(o.URL)
		n := &Node{name: cmp.Or(o.Name, loc.HostPort()), loc: loc, publicURL: o.PublicURL}
		nodes = append(nodes, n)
		for _, name := range n.Names() {
			number[name]++
		}
	}
	for _, n := range nodes {
		k := KnownNode{Node: n.name}
		for _, name := range n.Names() {
			if number[name] == 1 {
				k.Names = append(k.Names, name)
				continue
			}
			k.Shared = append(k.Shared, name)
			for _, p := range []place{n.urlPlace(), n.publicPlace()} {
				if hostPort := net.JoinHostPort(p.host, p.port); p.host == name && !slices.Contains(k.Names, hostPort) {
					k.Names = append(k.Names, hostPort)
				}
			}
		}
		known = append(known, k)
	}
	return known
}

// A Trail lists the nodes that a stream has visited by redirects. The zero value is
// empty.
type Trail []*address

// maxHops bounds the redirects that are followed for one stream.
const maxHops = 3

// Add appends a node that the stream visited.
func (t *Trail) Add(c *Conn) { *t = append(*t, c.address) }

// Ends reports whether the stream must not be redirected to a node, because it has
// visited that node or too many others. A node with several addresses counts as visited
// once all of them were.
func (t Trail) Ends(n *Node) bool { return t.has(n) || len(t) > maxHops }

func (t Trail) has(n *Node) bool {
	places := n.endpoints()
	return len(places) > 0 && !slices.ContainsFunc(places, func(e endpoint) bool { return !slices.Contains(t, e.address) })
}

// A LostRedirect is a redirect of an XMPP server that neither the gate nor the client
// could follow.
type LostRedirect struct {
	Address string // as the server wrote it, truncated if long
	Why     string // continues a sentence after "to ADDRESS, "
	Do      string // what to configure or check
	Count   int    // of all redirects since start
	Last    time.Time
}

// lostRedirects collects the lost redirects of all groups with the same name, across
// reloads.
type lostRedirects struct {
	mu      sync.Mutex // never held across I/O
	last    LostRedirect
	unknown bool      // the latest one was to an unknown address
	said    time.Time // time of the latest log line
	unsaid  int       // since that line
}

// lostNow returns the latest lost redirect, unless the current configuration solves it.
func (g *group) lostNow() LostRedirect {
	g.lost.mu.Lock()
	defer g.lost.mu.Unlock()
	if g.lost.unknown && g.nodeByAddress(g.lost.last.Address) != nil {
		return LostRedirect{}
	}
	return g.lost.last
}

const (
	sayLostEvery = time.Minute
	maxLostText  = 200 // bytes of an address
)

// LoseRedirect records that a redirect to address ended the client's stream: no node
// has that address, or neither the stream nor its client can go to node. trail lists
// the nodes that the stream has visited. The log has at most one such line a minute.
// The error is for the tunnel's own log line.
func (v *Vhost) LoseRedirect(address string, node *Node, trail Trail) error {
	lost := LostRedirect{Address: address}
	lost.Why, lost.Do = v.group.explainLost(address, node, trail)
	return v.group.noteLost(lost, node)
}

func (g *group) noteLost(lost LostRedirect, node *Node) error {
	if len(lost.Address) > maxLostText {
		lost.Address = strings.ToValidUTF8(lost.Address[:maxLostText], "") + "…"
	}
	now := time.Now()
	lost.Last = now
	l := g.lost
	l.mu.Lock()
	defer l.mu.Unlock()
	lost.Count = l.last.Count + 1
	l.last, l.unknown = lost, node == nil
	l.unsaid++
	if l.said.IsZero() || now.Sub(l.said) >= sayLostEvery {
		count := l.unsaid
		go panics.Catch(panics.Log, func() { sayLost(g.env.log, g.name, lost, count) })
		l.said, l.unsaid = now, 0
	}
	return lost.err()
}

func (l LostRedirect) err() error { return fmt.Errorf("redirect to %q, %s", l.Address, l.Why) }

// sayLost runs in its own goroutine, because an event loop must not wait for the log.
func sayLost(log *slog.Logger, upstream string, lost LostRedirect, count int) {
	log.Warn("clients lost: the XMPP server redirects them to an address that the gate can't reach", "upstream", upstream,
		"err", lost.err(), "count", count, "hint", lost.Do)
}

// explainLost returns why a redirect is lost, and how to fix it.
func (g *group) explainLost(address string, node *Node, trail Trail) (why, do string) {
	settings := "check the cluster settings of the XMPP servers: "
	switch several := g.nodesByAddress(address); {
	case node != nil && trail.has(node):
		return fmt.Sprintf("which is node %q: the stream was already there, so the nodes redirect it in a loop", node.name),
			settings + "the nodes disagree about which of them serves the client"
	case node != nil && trail.Ends(node):
		return fmt.Sprintf("which is node %q: the stream was already redirected %d times", node.name, len(trail)-1),
			settings + "the nodes disagree about which of them serves the client"
	case node != nil && node.publicURL != "":
		return fmt.Sprintf("which is node %q: the redirect is in the middle of a message that the client has partly received", node.name),
			settings + "a redirect must be a message of its own"
	case node != nil:
		return fmt.Sprintf("which is node %q: the gate can no longer follow the redirect, and the node has no public_url", node.name),
			fmt.Sprintf("give node %q of upstream %q a public_url", node.name, g.name)
	case len(several) > 1:
		var names []string
		for _, n := range several {
			names = append(names, fmt.Sprintf("%q", n.name))
		}
		return "which is the address of several nodes: " + strings.Join(slices.Compact(names), ", "),
			fmt.Sprintf("give each node of upstream %q a name, a URL and a public_url of its own; wssgate check lists them", g.name)
	}
	for _, other := range g.all {
		if n := other.nodeByAddress(address); n != nil && other != g {
			return fmt.Sprintf("which is not a node of this upstream but node %q of upstream %q", n.name, other.name),
				fmt.Sprintf("add that node to upstream %q as well: %s", g.name, nodeLine(n.name, n.loc.url, n.publicURL))
		}
	}
	to, err := xmpp.ParseTarget(address)
	if err != nil || to.Host == "" {
		return "which is neither a host nor a ws or wss URL",
			settings + "a redirect must name a node by host name or address"
	}
	host := targetPlace(to).host
	return "which is not a node of this upstream",
		fmt.Sprintf("add a node to upstream %q, with an address that the gate can reach as its url: %s; if the redirect means an existing node, give that node name = %q",
			g.name, nodeLine(host, urlFor(to, host), ""), host)
}

// nodeLine formats a node as in the configuration.
func nodeLine(name, url, publicURL string) string {
	line := fmt.Sprintf("{ name = %q, url = %q", name, url)
	if publicURL != "" {
		line += fmt.Sprintf(", public_url = %q", publicURL)
	}
	return line + " }"
}

// urlFor suggests a URL for the node that a redirect means. The port in a
// see-other-host belongs to another service.
func urlFor(to xmpp.Target, host string) string {
	u := url.URL{Scheme: to.Scheme, Host: joinHost(host, to.Port), Path: "/"}
	if to.Scheme == "" {
		u.Scheme, u.Host = "ws", joinHost(host, "5290")
	}
	return u.String()
}

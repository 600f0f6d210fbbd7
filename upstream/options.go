package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"wssgate/access"
)

// Defaults of a group, used where an option is zero.
const (
	DefaultDialTimeout     = 5 * time.Second
	DefaultResolveInterval = 30 * time.Second
	DefaultHealthTimeout   = 5 * time.Second
)

// Options is everything a Table is made from. A Table copies what it needs;
// only TLS configurations, Wrap, Resolver, Dial and Log are kept as they are.
type Options struct {
	// Upstreams are the groups of nodes; at least one.
	Upstreams []GroupOptions

	// Vhosts say which group a server name goes to. None at all: every name
	// goes to the only group.
	Vhosts []VhostOptions

	// Wrap, where set, is applied to each client's TCP or unix conn before
	// anything is written to it, TLS included. The conn that Dial returns is
	// Wrap's value, or a *tls.Conn whose NetConn() is Wrap's value. What it
	// returns must behave as a blocking net.Conn with deadlines until Dial
	// returns. Probes do not go through it.
	Wrap func(net.Conn) net.Conn

	// Resolver answers DNS questions. Default: net.DefaultResolver.
	Resolver Resolver

	// Dial makes the bare connection; network is "tcp" or "unix", address an
	// IP address with its port, or a path. Default: a net.Dialer with
	// TCP_NODELAY, keep-alive and a limit for unacknowledged data, from the source
	// that ports.SourceOf(ctx) says.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Log gets changes of health and of DNS answers. Default: slog.Default().
	Log *slog.Logger

	// Random draws from [0,1), for several goroutines at once. Default: math/rand/v2.
	Random func() float64
}

// A Resolver is what *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// GroupOptions describe one upstream: a group of nodes that serve the same
// streams.
type GroupOptions struct {
	Name  string // unique; in logs and metrics
	Nodes []NodeOptions

	// Balance is "least" (default), "random" or "hash". Clients of unknown
	// address are balanced by "least" where it is "hash".
	Balance string

	// ProxyProtocol is "" (none), "v1" or "v2": the PROXY header that tells
	// the node the client's address, in one write with the request.
	ProxyProtocol string

	// Redirects says what is done about a node that sends a stream elsewhere:
	// "follow" (default) dials that node, "rewrite" gives the client the
	// node's public URL, "off" leaves it to the client. It is the proxy's to do.
	Redirects string

	// XMPP says that the nodes speak XMPP and nothing else, so that they are to see
	// nothing of a client's before a good start of a stream. It is the proxy's to do.
	XMPP bool

	// Host is "client" (default): the client's Host goes to the node
	// unchanged; or "node": the host of the node's URL.
	Host string

	// Sources are the addresses of this machine from which the nodes are dialled, in
	// turn. None: the kernel chooses, and beyond the ports of 127.0.0.1 a node on
	// loopback is dialled from other addresses of 127.0.0.0/8.
	Sources []netip.Addr

	// DialTimeout is for everything up to the node's 101, all tries together.
	// Zero: DefaultDialTimeout.
	DialTimeout time.Duration

	// ResolveInterval is the time between two DNS questions for one name.
	// Zero: DefaultResolveInterval.
	ResolveInterval time.Duration

	Health HealthOptions

	// TLS is for wss nodes: RootCAs, Certificates, ServerName. The server name
	// is, where empty, the host of the node's URL. Nil: the system's roots.
	TLS *tls.Config

	// MaxConnections and ConnectRate are each node's limits where the node has
	// none of its own. Zero: no limit.
	MaxConnections int // tunnels and dials under way, for each address
	ConnectRate    int // new connections a second, for each address
}

// NodeOptions describe one node.
type NodeOptions struct {
	// URL is ws://host[:port][/path], wss://…, ws+unix:///socket[:/path],
	// wss+unix://…, srv+ws://_service._proto.name[/path] or srv+wss://…. A URL
	// without a path gets the client's own.
	URL string

	// Name is unique in the group. Default: host and port of the URL, or the
	// socket's path.
	Name string

	// PublicURL is where clients reach this node through a gate, for redirects.
	PublicURL string

	// Weight is the node's share beside the others', 1 to 1000. Zero: 1.
	Weight int

	// Drain takes the node out: no new streams.
	Drain bool

	MaxConnections int // zero: the group's
	ConnectRate    int // zero: the group's
}

// HealthOptions describe the active probe of a group's nodes.
type HealthOptions struct {
	// Interval is the time between two probes of one address, ±10 %. Zero
	// turns probes off.
	Interval time.Duration

	// Timeout is for one probe. Zero: DefaultHealthTimeout, or Interval where
	// that is shorter.
	Timeout time.Duration

	// Domain, where set, makes the probe open a stream to it and wait for its
	// features.
	Domain string

	// Path is the request target of the probe. Default: the node URL's path.
	Path string
}

// VhostOptions describe what happens to streams of some server names.
type VhostOptions struct {
	// Names are server names in their normal form: lower case, A-labels, no dot at
	// the end; "*.example.com" stands for one label more.
	Names []string

	// Upstream is the group's name; it may be empty where there is only one.
	Upstream string

	// Node pins one node of the group by its name. Fallback allows the others
	// while that one can't be reached; without it the answer is then 503.
	Node     string
	Fallback bool

	// Path is the only path that is upgraded; empty: any.
	Path string

	// Origins are the values of Origin that are allowed, such as
	// "https://chat.example.com" or "https://*.example.com"; empty: any.
	// A request without Origin is always allowed: it comes from no browser.
	Origins []string

	// Domains are the XMPP domains allowed in `to`, in the form in which AllowsDomain
	// is asked; "*.example.com" stands for one label more. Empty: any.
	Domains []string

	// RouteTo lets the domain in `to` choose the upstream: ByDomain has the
	// name of its group, by that form, and for all others it is Upstream's.
	RouteTo  bool
	ByDomain map[string]string

	// Access says which client addresses may come; nil: all.
	Access *access.Rules
}

// A ConfigError is one mistake in Options. Package main finds all that a person
// can make, and says what to write instead; this is for callers.
type ConfigError struct {
	Where string // such as `upstream "tigase": node "t1"`
	What  string
}

func (e *ConfigError) Error() string { return e.Where + ": " + e.What }

// mistakes collects every ConfigError of one Options.
type mistakes []error

func (m *mistakes) add(where, format string, args ...any) {
	*m = append(*m, &ConfigError{Where: where, What: fmt.Sprintf(format, args...)})
}

func (m mistakes) err() error { return errors.Join(m...) }

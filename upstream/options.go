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

// Defaults of a group for options that are zero.
const (
	DefaultDialTimeout     = 5 * time.Second
	DefaultResolveInterval = 30 * time.Second
	DefaultHealthTimeout   = 5 * time.Second
)

// Options configure a Table, which copies what it needs; only TLS configurations, Wrap,
// Resolver, Dial and Log are shared.
type Options struct {
	// Upstreams are the groups of nodes; at least one.
	Upstreams []GroupOptions

	// Vhosts assign server names to groups. If there are none, every name goes to the
	// only group.
	Vhosts []VhostOptions

	// Wrap, if set, is applied to each TCP or unix conn for a client before anything is
	// written to it, TLS included. The conn from Dial is Wrap's value, or a *tls.Conn
	// whose NetConn() is Wrap's value. It must behave as a blocking net.Conn with
	// deadlines until Dial returns. Probes do not use Wrap.
	Wrap func(net.Conn) net.Conn

	// Resolver answers DNS queries. Default: net.DefaultResolver.
	Resolver Resolver

	// Dial opens the plain connection; network is "tcp" or "unix", address an IP
	// address with its port, or a path. Default: a net.Dialer with TCP_NODELAY,
	// keep-alive and a limit for unacknowledged data, from ports.SourceOf(ctx).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Log gets changes of health and of DNS answers. Default: slog.Default().
	Log *slog.Logger

	// Random returns numbers in [0,1). It must be safe for concurrent use. Default:
	// math/rand/v2.
	Random func() float64
}

// A Resolver has the methods of *net.Resolver that nodes need.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// GroupOptions describe one upstream: a group of nodes that serve the same
// streams.
type GroupOptions struct {
	Name  string // unique; in logs and metrics
	Nodes []NodeOptions

	// Balance is "least" (default), "random" or "hash". With "hash", clients without an
	// address are balanced by "least".
	Balance string

	// ProxyProtocol is "" (none), "v1" or "v2": the version of the PROXY header with
	// the client's address, in one write with the request.
	ProxyProtocol string

	// Redirects is how the proxy handles a redirect by a node: "follow" (default) dials
	// the target for the client, "rewrite" gives the client the target's public URL,
	// "off" passes it on.
	Redirects string

	// XMPP is true if the nodes speak only XMPP. The proxy then passes nothing on
	// before a valid start of a stream.
	XMPP bool

	// Host is "client" (default): the node gets the client's Host unchanged; or "node":
	// it gets the host of its own URL.
	Host string

	// Sources are the addresses of this machine from which the nodes are dialled, in
	// turn. None: the kernel chooses, and beyond the ports of 127.0.0.1 a node on
	// loopback is dialled from other addresses of 127.0.0.0/8.
	Sources []netip.Addr

	// DialTimeout is for everything up to the node's 101, all tries together.
	// Zero: DefaultDialTimeout.
	DialTimeout time.Duration

	// ResolveInterval is the time between two DNS queries for one name. Zero:
	// DefaultResolveInterval.
	ResolveInterval time.Duration

	Health HealthOptions

	// TLS has RootCAs, Certificates and ServerName for wss nodes. An empty ServerName
	// means the host of the node's URL. Nil: the system's roots.
	TLS *tls.Config

	// MaxConnections and ConnectRate are the default limits of each node. Zero: no
	// limit.
	MaxConnections int // tunnels and dials in progress, for each address
	ConnectRate    int // new connections per second, for each address
}

// NodeOptions describe one node.
type NodeOptions struct {
	// URL is ws://host[:port][/path], wss://…, ws+unix:///socket[:/path], wss+unix://…,
	// srv+ws://_service._proto.name[/path] or srv+wss://…. Without a path, the node
	// gets the client's.
	URL string

	// Name is unique in the group. Default: host and port of the URL, or the
	// socket's path.
	Name string

	// PublicURL is the URL at which clients reach this node through a gate, for
	// redirects.
	PublicURL string

	// Weight is the node's share relative to others, 1 to 1000. Zero: 1.
	Weight int

	// Drain takes the node out: it gets no new streams.
	Drain bool

	MaxConnections int // zero: the group's
	ConnectRate    int // zero: the group's
}

// HealthOptions describe the active probe of a group's nodes.
type HealthOptions struct {
	// Interval is the time between two probes of one address, ±10 %. Zero turns probes
	// off.
	Interval time.Duration

	// Timeout bounds one probe. Zero: DefaultHealthTimeout, or Interval if that is
	// shorter.
	Timeout time.Duration

	// Domain, if set, makes the probe open a stream to it and wait for its features.
	Domain string

	// Path is the request target of the probe. Default: the node URL's path.
	Path string
}

// VhostOptions describe how to route the streams of some server names.
type VhostOptions struct {
	// Names are server names in normal form: lower case, A-labels, no final dot;
	// "*.example.com" matches one more label.
	Names []string

	// Upstream is the group's name. It may be empty if there is only one.
	Upstream string

	// Node pins one node of the group by name. Fallback allows the others while that
	// one can't be reached; without Fallback the answer is then 503.
	Node     string
	Fallback bool

	// Path is the only path that accepts WebSockets; empty: any.
	Path string

	// Origins are the allowed values of Origin, such as "https://chat.example.com" or
	// "https://*.example.com"; empty: any. A request without Origin is always allowed:
	// it does not come from a browser.
	Origins []string

	// Domains are the XMPP domains allowed in `to`, in the form that AllowsDomain
	// expects; "*.example.com" matches one more label. Empty: any.
	Domains []string

	// RouteTo chooses the upstream by the domain in `to`: ByDomain has the name of its
	// group, by domain in the same form. Upstream gets all others.
	RouteTo  bool
	ByDomain map[string]string

	// Access lists the client addresses that may connect; nil: all.
	Access *access.Rules
}

// A ConfigError is one mistake in Options. Package config checks files itself and gives
// hints; this error is for other callers.
type ConfigError struct {
	Where string // such as `upstream "tigase": node "t1"`
	What  string
}

func (e *ConfigError) Error() string { return e.Where + ": " + e.What }

// mistakes collects the ConfigErrors of one Options.
type mistakes []error

func (m *mistakes) add(where, format string, args ...any) {
	*m = append(*m, &ConfigError{Where: where, What: fmt.Sprintf(format, args...)})
}

func (m mistakes) err() error { return errors.Join(m...) }

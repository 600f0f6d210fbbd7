// Package config reads config.toml. It returns a checked [Config], or all
// mistakes at once, each with its place and, if possible, a hint. It also
// converts a Config to the options of other packages (options.go), lists which
// names are served by what (served.go), and notices changes of the file
// (watch.go).
//
// Only gate and the commands know the whole Config; other packages get their
// own options.
package config

import (
	"crypto/sha256"
	"net/netip"
	"time"

	"wssgate/access"
)

// A Config is one configuration file with the defaults filled in. What Load
// returns is complete and consistent: every value has been checked, every
// referenced upstream and node exists, and file names are relative to the
// folder of the file.
//
// A Config does not change after Load has returned it, so it is safe for
// concurrent use; a reload creates a new one.
//
// Durations are strings such as "500ms" or "10s". Sizes are strings such as
// "64KiB", or a number of bytes. A single string may replace a list of strings.
// config.toml.example has every key; a test compares it with these structs.
type Config struct {
	// File is the name that was passed to Load.
	File string `toml:"-"`

	// Sum is the checksum of the file's contents.
	Sum [sha256.Size]byte `toml:"-"`

	// AccessFiles are the files named in [access] and in vhosts, each once.
	AccessFiles []*AccessFile `toml:"-"`

	// Files holds the contents of the files that the configuration names, by
	// path. They have been checked; use them instead of reading the files
	// again.
	Files map[string][]byte `toml:"-"`

	// Files that hang, of those without which a gate may start; see unread.go. left is
	// closed by Leave.
	unread     []*unread
	unreadErrs map[string]error
	left       chan struct{}

	// WatchConfig reloads the file automatically when it changes. The files that it
	// names are read again with it, but not watched. Default: false, reload with
	// SIGHUP. Reload: at once.
	WatchConfig bool `toml:"watch_config"`

	Listen       Listen               `toml:"listen"`
	Certificates Certificates         `toml:"certificates"`
	ACME         ACME                 `toml:"acme"`
	ECH          ECH                  `toml:"ech"`
	Upstream     map[string]*Upstream `toml:"upstream"` // by name; at least one
	Vhost        []*Vhost             `toml:"vhost"`    // without any, every name with a certificate goes to the only upstream
	Limits       Limits               `toml:"limits"`
	Timeouts     Timeouts             `toml:"timeouts"`
	Access       Access               `toml:"access"`
	Drain        Drain                `toml:"drain"`
	Log          Log                  `toml:"log"`
}

// Listen configures the listeners. An address is "HOST:PORT", ":PORT" for every
// address of the machine, or "unix:/path/to/socket". Reload: opens new
// listeners, closes removed ones, keeps the others.
type Listen struct {
	// WSS are the addresses of the TLS listeners; at least one is required.
	// Default: ":5291".
	WSS []string `toml:"wss"`

	// HTTP are the addresses for plain HTTP: ACME's http-01 challenge, discovery
	// documents and redirects to https. Default: none.
	HTTP []string `toml:"http"`

	// Admin is the operator's address: health, metrics, status page.
	// Default: "127.0.0.1:9291"; empty turns it off.
	Admin string `toml:"admin"`

	// AdminDebug adds /debug/pprof to the admin listener. Default: false.
	AdminDebug bool `toml:"admin_debug"`

	// IOUring is "auto" or "off". With "auto", the event loops batch system
	// calls with io_uring if the kernel permits it. Default: "auto". Reload:
	// needs a restart.
	IOUring string `toml:"io_uring" oneof:"auto,off"`

	// AdminTokenFile is a file with the token that admin requests must carry. Default:
	// none, which is allowed only if Admin is a loopback address or a unix socket.
	// Reload: read again.
	AdminTokenFile string `toml:"admin_token_file" file:"path"`

	// ProxyProtocol are the networks of trusted proxies, which must send a PROXY
	// header, v1 or v2. Default: none. Reload: new connections only.
	ProxyProtocol []string `toml:"proxy_protocol"`
}

// Certificates configures the certificate directory. Reload: read again.
type Certificates struct {
	// Directory is searched recursively for certificates and keys in PEM. Default:
	// "certs".
	Directory string `toml:"directory" file:"path"`

	// Watch reloads certificates automatically when their files change. Default: true.
	// False: reload with SIGHUP.
	Watch bool `toml:"watch"`
}

// An ACMEFallback is another CA with its own account. Its keys are those of
// ACME.
type ACMEFallback struct {
	// CA is the URL of the CA's directory. Required.
	CA string `toml:"ca"`

	Email       string `toml:"email"`
	CARoot      string `toml:"ca_root" file:"path"`
	AcceptTerms bool   `toml:"accept_terms"`
	Profile     string `toml:"profile"`
	Chain       string `toml:"preferred_chain"`
	EABKeyID    string `toml:"eab_key_id"`
	EABKeyFile  string `toml:"eab_key_file" file:"path"`
}

// An ACMECertificate is one certificate with several names from the CA.
type ACMECertificate struct {
	// Names are its server names, at most 100. No other certificate of ACME may
	// contain them. Required.
	Names []string `toml:"names"`
}

// ACME configures the certificates to obtain from a CA (RFC 8555). Reload: at
// once; the account belongs to the cache and the CA.
type ACME struct {
	// Names are the server names that get a certificate each. Default: none.
	Names []string `toml:"names"`

	// Fallback are the CAs to ask, in this order, if the ones before fail to
	// issue a certificate for reasons of their own. Default: none.
	Fallback []*ACMEFallback `toml:"fallback"`

	// Certificate are the certificates with several names. ACME is off without
	// Names and Certificate. Default: none.
	Certificate []*ACMECertificate `toml:"certificate"`

	// Email is the contact of the account. Default: none.
	Email string `toml:"email"`

	// CA is the URL of the CA's directory. Default: Let's Encrypt.
	CA string `toml:"ca"`

	// CARoot is a PEM file with the root for the CA's own server. Default: the system's
	// roots.
	CARoot string `toml:"ca_root" file:"path"`

	// Cache is the folder for the account's key, certificates and their keys.
	// It must be writable and belong to the gate alone: an empty folder, or one
	// that does not exist yet. Default: "acme".
	Cache string `toml:"cache" file:"path"`

	// AcceptTerms accepts the CA's terms of service, which is required for
	// orders. Default: false.
	AcceptTerms bool `toml:"accept_terms"`

	// Profile is one of the CA's profiles, such as Let's Encrypt's
	// "shortlived". Default: none, the CA's default.
	Profile string `toml:"profile"`

	// Chain selects one of the chains that the CA offers, by the common name of
	// the issuer of its last certificate. Default: none, the CA's default
	// chain.
	Chain string `toml:"preferred_chain"`

	// KeyType is the type of the certificates' keys: "ecdsa" (P-256) or, for
	// clients that support nothing else, "rsa" (2048 bits). Default: "ecdsa".
	KeyType string `toml:"key_type" oneof:"ecdsa,rsa"`

	// Resolver is the address and port of the DNS server that is asked for the records of
	// wildcards; empty: the system's resolver.
	Resolver string `toml:"resolver"`

	// EABKeyID and EABKeyFile bind the account to one that the CA already
	// knows (RFC 8555, section 7.3.4). The file holds the HMAC key in
	// base64url. Default: none; both or neither.
	EABKeyID   string `toml:"eab_key_id"`
	EABKeyFile string `toml:"eab_key_file" file:"path"`
}

// ECH lets clients hide the server name that they ask for (RFC 9849). Reload: at once.
type ECH struct {
	// PublicName is the server name that they show instead. It needs a certificate, as
	// every name. Default: none, which turns ECH off.
	PublicName string `toml:"public_name"`

	// Keys is the folder for the keys, which several gates may share. It must be
	// writable. Default: "ech".
	Keys string `toml:"keys" file:"path"`
}

// An Upstream is a group of XMPP servers that serve the same domains. Reload:
// new tunnels only, unless a field says otherwise.
type Upstream struct {
	// Nodes are the servers, each a URL or a table. At least one is required.
	Nodes []*Node `toml:"nodes"`

	// Balance chooses the node of a stream: "least" (the less loaded of two random
	// ones), "random" or "hash" (of the client's address). Default: "least".
	Balance string `toml:"balance" oneof:"least,random,hash"`

	// ProxyProtocol tells the upstream the client's address in a PROXY
	// header: "v1" or "v2". Default: none.
	ProxyProtocol string `toml:"proxy_protocol" oneof:",v1,v2"`

	// Source are the addresses of this machine from which the nodes are
	// dialled, in turn, also for BOSH. Default: none; the system chooses, and a
	// node on loopback is dialled from further addresses of 127.0.0.0/8 once
	// the ports of the first one are used up.
	Source []string `toml:"source"`

	sources []netip.Addr // parsed from Source

	// DialTimeout bounds the time until an upstream has answered 101:
	// resolving, connecting and the opening handshake, on all nodes tried.
	// Default: 5 s.
	DialTimeout time.Duration `toml:"dial_timeout"`

	// Resolve is the interval for resolving the DNS names of nodes. A failed
	// dial also resolves them. Default: 30 s.
	Resolve time.Duration `toml:"resolve"`

	// CA is a PEM file with the roots for verifying wss nodes. Default: the
	// system's roots.
	CA string `toml:"ca" file:"path"`

	// ServerName replaces the host of a wss node's URL in SNI and in
	// verification. Default: that host.
	ServerName string `toml:"server_name"`

	// ClientCertificate and ClientKey are PEM files with the gate's certificate
	// for wss nodes. Default: none; both or neither.
	ClientCertificate string `toml:"client_certificate" file:"path"`
	ClientKey         string `toml:"client_key" file:"path"`

	// Host is the Host header that the upstream receives: "client" (the
	// client's Host header) or "node" (the host of the node's URL). Default:
	// "client".
	Host string `toml:"host" oneof:"client,node"`

	// XMPP requires the client to start with a valid XMPP stream open; the
	// upstream gets nothing before it. Set it to false for bridges to other
	// protocols, and for echo servers. Default: true. Reload: new tunnels only.
	XMPP bool `toml:"xmpp"`

	// Redirects is the handling of see-other-uri from an upstream: "follow"
	// dials that node for the client, "rewrite" gives the client that node's
	// public URL, "off" passes it on unchanged. Default: "follow".
	Redirects string `toml:"redirects" oneof:"follow,rewrite,off"`

	// MaxConnections bounds the tunnels to one node. Default: 0, no limit.
	MaxConnections int `toml:"max_connections"`

	// ConnectionsPerSecond bounds the new connections to one node; others wait, up to
	// DialTimeout. Default: 0, no limit.
	ConnectionsPerSecond int `toml:"connections_per_second"`

	// Health configures the probes of nodes. Reload: at once.
	Health Health `toml:"health"`
}

// A Node is one XMPP server of an upstream. In the file it is a URL, or a table with
// more settings.
type Node struct {
	// Name is what vhosts and logs call the node; unique in its upstream.
	// Default: the host and port of URL, or the socket's path.
	Name string `toml:"name"`

	// URL is the WebSocket URL of the node: ws://, wss://,
	// ws+unix:///path/to/socket:/path for a socket, srv+ws://_service._tcp.name for SRV
	// records. Without a path, the node gets the client's.
	URL string `toml:"url"`

	// PublicURL is the wss URL at which clients reach this node. Default: none.
	PublicURL string `toml:"public_url"`

	// Weight is the node's share of streams relative to other nodes, from 1 to
	// 1000. Default: 1.
	Weight int `toml:"weight"`

	// Drain takes the node out of service: it gets no new streams, and its
	// tunnels are closed gradually, as in a drain. Default: false. Reload: at
	// once.
	Drain bool `toml:"drain"`

	isString bool // the file has a URL instead of a table
}

// Health is the active probe of each node: a real opening handshake.
type Health struct {
	// Interval is the time between two probes of a node. Default: 10 s; 0 turns
	// them off.
	Interval time.Duration `toml:"interval"`

	// Timeout bounds one probe. Default: 5 s.
	Timeout time.Duration `toml:"timeout"`

	// Path is the path of the probe's request. Default: the path of the node's URL.
	Path string `toml:"path"`

	// Domain makes the probe open a stream to this domain and wait for stream
	// features. Default: none, only the opening handshake.
	Domain string `toml:"domain"`
}

// A Vhost configures the service for certain server names. Reload: new
// connections only.
type Vhost struct {
	// Names are the server names, exact or "*." for one label. At least one is
	// required. A name belongs to one vhost only.
	Names []string `toml:"names"`

	// Upstream names the upstream. Default: the only one.
	Upstream string `toml:"upstream"`

	// Node pins one node of the upstream by its name. Default: none.
	Node string `toml:"node"`

	// Fallback allows other nodes while the pinned one is down. Default: false;
	// clients then get 503.
	Fallback bool `toml:"fallback"`

	// Domains are the XMPP domains allowed in `to`, exact or "*.".
	// Default: any.
	Domains []string `toml:"domains"`

	// Origins are the accepted values of a browser's Origin header, such as
	// "https://chat.example.com" or "https://*.example.com". Default: any.
	// Requests without Origin do not come from browsers and are always
	// accepted.
	Origins []string `toml:"origins"`

	// Path is the only path that accepts WebSocket connections. Default: any.
	Path string `toml:"path"`

	// Route chooses the upstream by "name" (the server name) or "to" (the
	// domain in the client's stream open, see ByDomain). Default: "name".
	Route string `toml:"route" oneof:"name,to"`

	// ByDomain maps domains to upstreams if Route is "to"; all other domains go to
	// Upstream. Default: none.
	ByDomain map[string]string `toml:"by_domain"`

	// BOSH is the http or https URL of the BOSH server. Requests for its path
	// are passed to it. Default: none.
	BOSH string `toml:"bosh"`

	// PublicURL is the wss URL in the discovery documents. Default: the public
	// URLs of the upstream's nodes or, if there are none, the vhost's own URL,
	// made from the request's host, the listener's port and Path.
	PublicURL string `toml:"public_url"`

	// Links are added to the discovery documents (XEP-0156). Default: none.
	Links []*Link `toml:"links"`

	// Access applies to this vhost, in addition to the gate's.
	Access Access `toml:"access"`
}

// A Link is one link of host-meta: a relation and a URL.
type Link struct {
	Rel  string `toml:"rel"`
	Href string `toml:"href"`
}

// Limits bound the resources that clients can use. Reload: new connections
// only.
type Limits struct {
	// Connections bounds all client connections together. Default: 0, as many
	// as file descriptors allow.
	Connections int `toml:"connections"`

	// PerClient bounds the connections from one client address. Default: 0, no
	// limit.
	PerClient int `toml:"per_client"`

	// Handshakes bounds concurrent TLS handshakes. Further ones wait, and the
	// client addresses take turns. Default: 0, 8 for each processor.
	Handshakes int `toml:"handshakes"`

	// Message bounds the total size of a client's message, over all its frames,
	// in bytes. A longer one ends the tunnel with Close 1009. Default: 1 MiB.
	Message Size `toml:"message"`

	// FramesPerSecond bounds the frames from one client, including control
	// frames, empty frames and small TLS records. Default: 0, framesPerSecond.
	// Reload: new tunnels only.
	FramesPerSecond int `toml:"frames_per_second"`

	// ClientBacklog bounds the data buffered for a client that does not read,
	// in bytes. A client that exceeds it gets Close 1008. Default: 1 MiB.
	ClientBacklog Size `toml:"client_backlog"`

	// LoginFailures bounds the failed logins from one client address (for IPv6,
	// one /64). Above the bound the address is first slowed down, then refused
	// for the period. Default: 20 in 10 minutes; 0 turns it off. Reload: at
	// once; counts and refusals are kept.
	LoginFailures Rate `toml:"login_failures"`

	// Memory bounds the memory of the process. Above it, new clients are
	// refused and the largest consumers are closed. Default: empty
	// (MemoryDefault), 80 % of the cgroup's limit or, without one, of the
	// machine's memory; 0 or "off": no limit. Reload: at once.
	Memory MemoryLimit `toml:"memory"`
}

// Timeouts bound every wait for a client. Reload: new connections only.
type Timeouts struct {
	// Handshake bounds the TLS handshake. Default: 10 s.
	Handshake time.Duration `toml:"handshake"`

	// Request bounds the wait for the client's complete opening handshake.
	// Default: 10 s.
	Request time.Duration `toml:"request"`

	// Ping is how long a client may be silent before the gate sends a Ping.
	// Default: 30 s; 0 turns it off.
	Ping time.Duration `toml:"ping"`

	// Pong is how long the client may then remain silent before the tunnel is
	// closed. Default: 20 s.
	Pong time.Duration `toml:"pong"`
}

// Access restricts which client addresses may connect. Deny wins over allow. An
// entry is a network, an address, or "file:NAME" for a file with one of these
// per line, which is read again automatically when it changes. Reload: at once;
// tunnels stay.
type Access struct {
	// Allow lists the allowed networks. Default: none; all are allowed.
	Allow []string `toml:"allow"`

	// Deny lists the denied networks. Default: none.
	Deny []string `toml:"deny"`

	Rules *access.Rules `toml:"-"` // built from Allow and Deny
}

// Drain configures how tunnels are closed. Reload: the next drain.
type Drain struct {
	// Timeout is how long a drain may last before the remaining tunnels are closed.
	// Default: 30 s; 0 closes at once.
	Timeout time.Duration `toml:"timeout"`

	// Pace is the number of tunnels closed per second. Default: 0, all within
	// half of Timeout.
	Pace int `toml:"pace"`

	// Redirect lists where clients that connect during a drain are sent: wss
	// URLs, or "nodes" for the public URLs of the other nodes. Default: none;
	// they get 503.
	Redirect []string `toml:"redirect"`
}

// Log configures the log on standard error. Reload: at once, except Format.
type Log struct {
	// Level is the lowest level that is written: "debug", "info", "warn" or "error".
	// Default: "info".
	Level string `toml:"level" oneof:"debug,info,warn,error"`

	// Format is "text", "json", or "auto": text on a terminal, otherwise JSON.
	// Default: "auto". Reload: needs a restart.
	Format string `toml:"format" oneof:"auto,text,json"`

	// Sample writes one of this many lines about finished streams. Warnings are
	// always written. Default: 0, all.
	Sample int `toml:"sample"`
}

// A Size is a number of bytes.
type Size int64

// A Rate is a number of events per period, such as "20/10m" in the file. The
// zero value, written as "" or 0, turns it off.
type Rate struct {
	Count  int
	Period time.Duration
}

// A MemoryLimit is a Size, or MemoryDefault, which the file writes as "". 0,
// also written as "off", means no limit.
type MemoryLimit int64

// MemoryDefault is the default of limits.memory: a share of the available
// memory.
const MemoryDefault MemoryLimit = -1

// This is the only place for defaults. A table that may occur several times has
// its own setDefaults, which the decoder calls for each occurrence.

func (c *Config) setDefaults() {
	c.Listen = Listen{WSS: []string{":5291"}, Admin: "127.0.0.1:9291", IOUring: "auto"}
	c.Certificates = Certificates{Directory: "certs", Watch: true}
	c.ACME = ACME{CA: "https://acme-v02.api.letsencrypt.org/directory", Cache: "acme", KeyType: "ecdsa"}
	c.ECH = ECH{Keys: "ech"}
	c.Limits = Limits{Message: 1 << 20, ClientBacklog: 1 << 20, LoginFailures: Rate{20, 10 * time.Minute}, Memory: MemoryDefault}
	c.Timeouts = Timeouts{
		Handshake: 10 * time.Second,
		Request:   10 * time.Second,
		Ping:      30 * time.Second,
		Pong:      20 * time.Second,
	}
	c.Drain = Drain{Timeout: 30 * time.Second}
	c.Log = Log{Level: "info", Format: "auto"}
}

func (u *Upstream) setDefaults() {
	u.Balance = "least"
	u.DialTimeout = 5 * time.Second
	u.Resolve = 30 * time.Second
	u.Host = "client"
	u.Redirects = "follow"
	u.XMPP = true
	u.Health = Health{Interval: 10 * time.Second, Timeout: 5 * time.Second}
}

func (n *Node) setDefaults() { n.Weight = 1 }

func (n *Node) fromString(url string) { n.URL, n.isString = url, true }

func (v *Vhost) setDefaults() { v.Route = "name" }

func (l *Link) setDefaults() {}

func (c *ACMECertificate) setDefaults() {}

func (f *ACMEFallback) setDefaults() {}

package proxy

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"wssgate/access"
	"wssgate/upstream"
)

// A Configuration is what the Server uses for a connection. All fields but Pages are
// required. The values that they refer to must not change when the Server gets another
// Configuration.
type Configuration struct {
	// GetCertificate answers a ClientHello; nil, nil means that the name is
	// refused with the alert unrecognized_name. It must not block.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// HasCertificate reports whether GetCertificate has one for a server name.
	// A ticket of an earlier connection is worth nothing without it.
	HasCertificate func(serverName string) bool

	// Routes say which upstream takes a stream. Their Options.Wrap must be
	// WrapUpstream.
	Routes *upstream.Routes

	// Pages answers what is no WebSocket upgrade: HTTP/1.1 under the TLS server
	// name, which Host agrees with. A handler may keep its client waiting: it
	// then sets the deadline for writing itself (http.ResponseController), and that
	// for reading where it wants a body: else a client has 2 s for one. Each
	// request's context ends when Shutdown begins. Nil: 404 for everything.
	Pages http.Handler

	// Access says which client addresses may come; nil: all.
	Access *access.Rules

	Settings Settings
}

// Settings are numbers. Tunnels go on under those that they began with.
type Settings struct {
	Connections   int   // connections at once; never more than file descriptors allow, and 0: as many
	PerClient     int   // connections from one client address; 0: no limit
	Handshakes    int   // TLS handshakes at once; at least 1
	Message       int64 // bytes of one message from a client; 0: no limit
	ClientBacklog int   // bytes that may wait for a client that is slow to read

	// FramesPerSecond is how many frames of a client's are read in a second, twice as
	// many at once; a client that goes on with more is closed. 0: any number.
	FramesPerSecond int

	// LogSample writes one of so many lines about finished tunnels, that of the
	// first one included, and each that is a warning. 0 and 1: every line.
	LogSample int

	LoginFailures LoginFailures // from one client address; zero: they are not counted

	// ProxyProtocol are the networks whose connections must begin with a PROXY
	// header, version 1 or 2, which is believed.
	ProxyProtocol []netip.Prefix

	HandshakeTimeout time.Duration // for TLS
	RequestTimeout   time.Duration // for the opening handshake's request
	Ping             time.Duration // silence of a client before it is asked; 0: never
	Pong             time.Duration // what it then has to answer
}

// A configuration is a Configuration with what is derived from it.
type configuration struct {
	Configuration
	*settings // for themselves: a tunnel keeps these, and must not keep the rest
}

type settings struct {
	Settings
	connections int
	tunnel      tunnelSettings
}

// current is the configuration in force. Whoever needs more than one value of it loads it
// once.
type current = atomic.Pointer[configuration]

// sendsProxyHeader reports whether a peer's connections begin with a header.
func (set *settings) sendsProxyHeader(peer netip.Addr) bool {
	return slices.ContainsFunc(set.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// tunnelSettings are shared by all tunnels that began under one configuration.
type tunnelSettings struct {
	backlog    int           // bytes that may wait for a client
	brake      *brake        // nil: none; see shed.go
	ping, pong time.Duration // ping 0: off
	frames     int           // that a client may send in a second; 0: any number
}

// LoginFailures limits how many logins from one client address may fail: this many at
// once, and no more than that in each period. The zero value is no limit.
type LoginFailures struct {
	Count  int
	Period time.Duration
}

func (l LoginFailures) on() bool { return l.Count > 0 && l.Period > 0 }

// each is the time until one failure is forgotten.
func (l LoginFailures) each() time.Duration { return max(l.Period/time.Duration(max(l.Count, 1)), 1) }

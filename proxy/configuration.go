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

// A Configuration has everything that the Server needs for a connection. All fields but
// Pages, ECH and Access are required. The values behind them must not change, even after the
// Server gets another Configuration.
type Configuration struct {
	// GetCertificate answers a ClientHello; nil, nil means that the name is
	// refused with the alert unrecognized_name. It must not block.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// HasCertificate reports whether GetCertificate has a certificate for a server
	// name. Without one, session tickets for the name are not valid. It must not block.
	HasCertificate func(serverName string) bool

	// Routes choose the upstream of a stream. Their Options.Wrap must be WrapUpstream.
	Routes *upstream.Routes

	// Pages answers requests that are not WebSocket upgrades: HTTP/1.x whose Host agrees
	// with the TLS server name. A client has 2 s to send a body. A handler that keeps
	// its client waiting sets the write deadline, and one that wants more of a body the
	// read deadline (http.ResponseController). Each request's context ends when
	// Shutdown begins. Nil: 404 for everything.
	Pages http.Handler

	// ECH has the keys of Encrypted Client Hello (RFC 9849). Nil: off, and what clients
	// send of it is ignored.
	ECH *ECH

	// Access lists the client addresses that may connect; nil: all.
	Access *access.Rules

	Settings Settings
}

// ECH configures Encrypted Client Hello. Its functions must not block.
type ECH struct {
	// PublicName is the server name that clients show instead.
	PublicName string

	// Keys returns the keys that may decrypt what a client has encrypted for an id of a
	// key, by a KDF and an AEAD (RFC 9180, section 7). It must not return a key for an
	// algorithm that crypto/tls does not have.
	Keys func(id uint8, kdf, aead uint16) []tls.EncryptedClientHelloKey

	// Retry returns the keys to tell clients whose key is not known. None: such clients
	// are told to go on without ECH.
	Retry func() []tls.EncryptedClientHelloKey
}

// Settings are the numbers of a Configuration. A tunnel keeps the Settings that it
// began with.
type Settings struct {
	Connections   int   // connections at once, within what the file descriptors allow; 0: as many as they allow
	PerClient     int   // connections from one client address; 0: no limit
	Handshakes    int   // TLS handshakes at once; at least 1
	Message       int64 // bytes of one message from a client; 0: no limit
	ClientBacklog int   // bytes that may wait for a slow client

	// FramesPerSecond is how many frames are read from a client per second, with a burst
	// of twice as many. A client that keeps exceeding it is closed. 0: no limit.
	FramesPerSecond int

	// LogSample makes the log have one line for this many finished tunnels, beginning
	// with the first, and every line that is a warning. 0 and 1: every line.
	LogSample int

	LoginFailures LoginFailures // from one client address; zero: not counted

	// ProxyProtocol lists the networks whose connections must begin with a PROXY header,
	// version 1 or 2. The Server trusts the addresses in it.
	ProxyProtocol []netip.Prefix

	HandshakeTimeout time.Duration // for TLS
	RequestTimeout   time.Duration // for the opening handshake's request
	Ping             time.Duration // silence of a client before it gets a Ping; 0: no Pings
	Pong             time.Duration // time for the answer
}

// A configuration is a Configuration with derived values.
type configuration struct {
	Configuration
	*settings // allocated separately: a tunnel keeps them, and must not keep the rest
}

type settings struct {
	Settings
	connections int
	tunnel      tunnelSettings
}

// current is the current configuration. Load it once for all values that must agree.
type current = atomic.Pointer[configuration]

// sendsProxyHeader reports whether a peer's connections begin with a PROXY header.
func (set *settings) sendsProxyHeader(peer netip.Addr) bool {
	return slices.ContainsFunc(set.ProxyProtocol, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// tunnelSettings are shared by all tunnels that began under one configuration.
type tunnelSettings struct {
	backlog    int           // bytes that may wait for a client
	brake      *brake        // nil: none; see shed.go
	ping, pong time.Duration // ping 0: no Pings
	frames     int           // that a client may send per second; 0: no limit
}

// LoginFailures limits the failed logins from one client address to Count in each Period.
// The zero value is no limit.
type LoginFailures struct {
	Count  int
	Period time.Duration
}

func (l LoginFailures) on() bool { return l.Count > 0 && l.Period > 0 }

// each is the time until one failure is forgotten.
func (l LoginFailures) each() time.Duration { return max(l.Period/time.Duration(max(l.Count, 1)), 1) }

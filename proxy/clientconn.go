package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"wssgate/panics"
	"wssgate/upstream"
)

// A clientConn is a client's connection until it is a tunnel. One goroutine
// serves it.
type clientConn struct {
	in     *ingress
	config *configuration // the current one at accept; replaced at the ClientHello by the one current then
	early  earlyConn
	visit  visit
	sock   *sock // below early
	tls    *tls.Conn
	key    clientKey

	client, local netip.AddrPort // zero for a unix socket
	unnamed       bool           // the balancer's PROXY header does not identify the client

	id       tunnelID       // of its opening handshake, and of the tunnel; 0: not yet
	upstream *upstream.Conn // dialled for the client, until a tunnel owns it

	admitted  bool   // not turned away by a drain
	elsewhere string // the URL to which a drain redirects it
}

// lingerTimeout bounds the time in which a refused client reads its answer.
const lingerTimeout = 2 * time.Second

func (in *ingress) newClientConn(conn net.Conn, config *configuration) *clientConn {
	c := &clientConn{in: in, config: config, key: keyOf(conn.RemoteAddr())}
	c.early = earlyConn{Conn: conn, client: c, door: in.door, raw: rawOf(conn)}
	c.visit.conn, c.visit.timeout = conn, config.HandshakeTimeout
	c.sock = &sock{conn: &c.early}
	c.client, c.local = addrPortOf(conn.RemoteAddr()), addrPortOf(conn.LocalAddr())
	return c
}

// serve takes the connection from accept to the tunnel.
func (c *clientConn) serve() {
	defer c.survive()
	if kept := c.handshake() && c.request(nil); !kept {
		c.close()
	}
}

// survive is deferred by the goroutines of a connection. A panic ends the
// connection, and nothing else.
func (c *clientConn) survive() {
	if v := recover(); v != nil {
		where := panics.Request
		if c.early.computing {
			where = panics.Handshake
		}
		c.in.panicked(where, v, "client", c.client)
		c.letGo()
		c.close()
	}
}

// close closes the connection and frees its place.
func (c *clientConn) close() {
	c.early.Close()
	c.in.door.leave(&c.visit)
	c.in.admission.leave(c.key, c.admitted)
}

// suspect is the key for failed logins. It is invalid if the client is unknown;
// otherwise all such clients would share one count.
func (c *clientConn) suspect() clientKey {
	if c.unnamed {
		return clientKey{}
	}
	return c.key
}

func (c *clientConn) debug(what string, err error, attrs ...any) {
	c.in.log.Debug(what, append([]any{"client", c.client, "err", err}, attrs...)...)
}

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// maxUnacknowledged is how long a node may acknowledge nothing, neither data nor
// keep-alive probes. Linux ends an idle connection at the first probe that is due after
// it, if the one before has no answer. So it is three intervals longer than Idle: a single
// lost probe must not end a tunnel.
const maxUnacknowledged = 60 * time.Second

// dialer makes the bare connections. Package net sets TCP_NODELAY. A peer that
// disappears without a FIN is noticed after a minute.
var dialer = &net.Dialer{
	FallbackDelay: -1, // we choose the address
	KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     30 * time.Second,
		Interval: 10 * time.Second,
		Count:    4, // Linux goes by maxUnacknowledged instead
	},
	ControlContext: func(_ context.Context, network, _ string, c syscall.RawConn) error {
		return limitUnacknowledged(network, c, maxUnacknowledged)
	},
}

// errRequest is the error for a request that can't be forwarded to any node.
var errRequest = errors.New("request can't be forwarded")

// connect dials a and completes the opening handshake. The caller owns the conn; after
// an error there is none.
func (n *Node) connect(ctx context.Context, a *address, r *Request) (net.Conn, []byte, error) {
	key := NewKey()
	request, err := r.appendRequest(make([]byte, 0, 1<<10), &n.loc, n.group.hostOfNode, key)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errRequest, err)
	}
	raw, err := a.dial(ctx, n.group)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", a.addr, bare(err))
	}
	conn := raw
	if wrap := n.group.env.wrap; wrap != nil {
		conn = wrap(raw)
	}
	header := n.proxyHeader(r.Client, r.Local, raw)
	return n.open(ctx, conn, header, request, key, r.Subprotocol)
}

// proxyHeader returns the PROXY header of the group. If the client's address is
// unknown, as with a unix socket, it has the gate's own address. Version 2's LOCAL
// would be correct too, but Tigase closes the connection on it.
func (n *Node) proxyHeader(client, local netip.AddrPort, conn net.Conn) []byte {
	if n.group.proxyProtocol == "" {
		return nil
	}
	if !client.IsValid() || !local.IsValid() {
		client, local = addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	}
	return appendProxyHeader(nil, n.group.proxyProtocol, client, local)
}

// open does TLS, if the node needs it, and the opening handshake. It owns conn: it
// returns it, possibly inside a *tls.Conn, or closes it.
func (n *Node) open(ctx context.Context, conn net.Conn, header, request []byte, key, subprotocol string) (_ net.Conn, rest []byte, err error) {
	raw := conn
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		raw.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	defer func() {
		if !stop() {
			<-interrupted // otherwise it could still set a deadline on the returned conn
			if err == nil {
				err = ctx.Err()
			}
		}
		if err != nil {
			raw.Close() // without close_notify, which could block
			return
		}
		raw.SetDeadline(time.Time{})
	}()

	if n.tls != nil {
		if len(header) > 0 {
			if _, err := conn.Write(header); err != nil {
				return nil, nil, &HandshakeError{What: "write the PROXY header", Err: bare(err)}
			}
			header = nil
		}
		c := tls.Client(conn, n.tls)
		if err := c.Handshake(); err != nil {
			return nil, nil, tlsError(n, err)
		}
		conn = c
	}
	rest, err = OpeningHandshake(conn, append(header, request...), key, subprotocol)
	if e, ok := errors.AsType[*HandshakeError](err); ok && isAlert(e.Err) {
		// In TLS 1.3 the server checks our certificate after our half of the handshake.
		err = tlsError(n, e.Err)
	}
	return conn, rest, err
}

// tlsError explains a failed TLS handshake, with a hint.
func tlsError(n *Node, err error) error {
	e := &HandshakeError{What: "TLS handshake", Err: bare(err)}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		e.Err = record
		e.Hint = `the port does not speak TLS; write "ws://"`
	} else if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		e.Hint = fmt.Sprintf("the certificate must be valid for %q and issued by a trusted CA; see ca and server_name", n.tls.ServerName)
	} else if isAlert(e.Err) {
		e.Hint = "does the server require a client certificate? client_certificate must allow client authentication and come from a CA that the server trusts"
	}
	return e
}

// isAlert reports whether err is a TLS alert from the peer. Without net's prefix
// "remote error" it would read as if we had refused.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// addrPort returns the address of a TCP conn, and an invalid one for others.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}

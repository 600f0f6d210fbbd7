package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/gobwas/ws"

	"wssgate/ports"
)

// The alerts that have a meaning here (RFC 8446, section 6).
const (
	alertHandshakeFailure = tls.AlertError(40)
	alertProtocolVersion  = tls.AlertError(70)
	alertInternalError    = tls.AlertError(80)
	alertUnrecognizedName = tls.AlertError(112)
	alertNoALPN           = tls.AlertError(120)
)

// either is what concerns the gate, or, where an upstream itself is asked over
// ws://, the XMPP server.
func (p *prober) either(gate, server string) string {
	if p.url.Scheme == "ws" {
		return server
	}
	return gate
}

func isIP(host string) bool { return net.ParseIP(host) != nil }

// explain puts an error into plain words.
func (p *prober) explain(ctx context.Context, err error) Problem {
	if problem, ok := errors.AsType[*Problem](err); ok {
		return *problem
	}
	at := p.addr
	if p.report.Address != "" {
		at = p.report.Address
	}
	var dns *net.DNSError
	var remote *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return Problem{fmt.Sprintf("%q has no address", dns.Name), "is the name right? -connect HOST:PORT goes to an address without asking DNS"}
	case errors.As(err, &dns):
		return Problem{fmt.Sprintf("looking up %q: %s", dns.Name, dns.Err), "is the resolver reachable?"}
	case context.Cause(ctx) == context.Canceled:
		return Problem{Text: "interrupted"}
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return p.timedOut(at)
	case ports.IsErrno(err, syscall.ECONNREFUSED):
		return Problem{at + " refused the connection", p.either(
			"nothing listens there: is wssgate running, and is this port in listen.wss?",
			"nothing listens there: is the XMPP server running, and is this its port for WebSockets?")}
	case ports.IsErrno(err, syscall.EHOSTUNREACH) || ports.IsErrno(err, syscall.ENETUNREACH):
		return Problem{at + " is unreachable from here", "is there a route to it, over IPv6 too?"}
	case errors.As(err, &record):
		p.wrongScheme()
		problem := Problem{"the answer is not TLS", p.tryOther()}
		if strings.HasPrefix(string(record.RecordHeader[:]), "HTTP") {
			problem.Text = "the answer is plain HTTP, not TLS"
		}
		return problem
	case errors.As(err, &remote) && remote.Op == "remote error":
		return p.alerted(remote.Err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		problem := Problem{at + " closed the connection without a word", "its log may say why; a limit on connections or handshakes does this"}
		switch {
		case p.url.Scheme == "wss" && p.report.TLS == nil:
			problem.Hint += "; " + p.tryOther()
		case p.url.Scheme == "ws" && p.report.Status == "":
			other := *p.url
			other.Scheme = "wss"
			problem.Hint += "; does the port speak TLS? then probe " + other.String()
			if p.hasTLS(ctx) {
				p.wrongScheme()
				problem.Hint = p.tryOther()
			}
		}
		return problem
	case ports.IsErrno(err, syscall.ECONNRESET) || ports.IsErrno(err, syscall.EPIPE):
		return Problem{at + " reset the connection", "its log may say why"}
	}
	if protocol, ok := errors.AsType[ws.ProtocolError](err); ok {
		return Problem{"the server breaks RFC 6455: " + protocol.Error(), ""}
	}
	return Problem{Text: err.Error()}
}

// hasTLS reports whether the port speaks TLS.
func (p *prober) hasTLS(ctx context.Context) bool {
	conn, err := dial(ctx, p.addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	err = tls.Client(conn, &tls.Config{ServerName: p.serverName(), InsecureSkipVerify: true}).HandshakeContext(ctx)
	var op *net.OpError
	return err == nil || errors.As(err, &op) && op.Op == "remote error" // an alert
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (p *prober) timedOut(at string) Problem {
	problem := Problem{Text: fmt.Sprintf("no answer from %s within %v", at, p.Timeout)}
	switch {
	case p.conn == nil:
		problem.Hint = "a firewall that drops packets does this"
	case p.report.TLS == nil && p.url.Scheme == "wss":
		problem.Hint = "TCP is open, but nobody speaks TLS there: another kind of server, or one that is overloaded; " + p.tryOther()
	case p.report.Status == "":
		problem.Hint = p.either(
			"the gate answers only after its upstream did: is that one well?",
			"TCP is open, but nobody answers a WebSocket there: is this the XMPP server's port for them?")
	default:
		problem.Hint = p.either("the WebSocket is open, but the XMPP server behind it is silent", "the WebSocket is open, but no XMPP is spoken on it")
	}
	return problem
}

// alerted explains a TLS alert that the server sent.
func (p *prober) alerted(alert error) Problem {
	is := func(a tls.AlertError) bool { return alert.Error() == a.Error() }
	name := p.report.ServerName
	switch {
	case is(alertUnrecognizedName) && name == "":
		return Problem{"alert unrecognized_name: the server requires a server name, and an IP address is not one",
			fmt.Sprintf("probe wss://NAME:PORT/ with -connect %s", p.addr)}
	case is(alertUnrecognizedName):
		return Problem{fmt.Sprintf("alert unrecognized_name: the server has no certificate for %q", name),
			"put one into the certificates' directory; `wssgate certs` lists the names that are served"}
	case is(alertProtocolVersion):
		return Problem{"alert protocol_version: the server speaks neither TLS 1.2 nor 1.3", ""}
	case is(alertHandshakeFailure):
		return Problem{"alert handshake_failure: no cipher in common, or no certificate that suits", "the server's log may say which"}
	case is(alertNoALPN):
		return Problem{"alert no_application_protocol: the server does not speak http/1.1", "a WebSocket of RFC 6455 needs it"}
	case is(alertInternalError):
		return Problem{"alert internal_error: the server failed in the handshake", "its log may say why"}
	}
	return Problem{"the server ended the handshake: " + strings.TrimPrefix(alert.Error(), "tls: "), ""}
}

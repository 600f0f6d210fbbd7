package proxy

import (
	"wssgate/upstream"
	"wssgate/xmpp"
)

// loseRedirect ends a stream that its XMPP server redirected to an unreachable address:
// node is nil, or neither the stream nor its client can go there. The client gets an
// error, but not the address, which is internal.
func (t *tunnel) loseRedirect(stream xmpp.Stream, address string, node *upstream.Node, trail upstream.Trail) {
	t.upstream.err = t.info.vhost.LoseRedirect(address, node, trail)
	t.endStream(reasonRedirectLost, stream.Error(xmpp.RemoteConnectionFailed, reasons[reasonRedirectLost].text))
}

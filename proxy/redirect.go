package proxy

import (
	"wssgate/upstream"
	"wssgate/xmpp"
)

// loseRedirect ends a stream that its XMPP server sent to an address that leads
// nowhere: node is nil, or neither the stream nor its client can go there. The
// client is told that something is wrong, unlike with an ordinary end, and not the
// address, which is an inner one.
func (t *tunnel) loseRedirect(stream xmpp.Stream, address string, node *upstream.Node, trail upstream.Trail) {
	t.upstream.err = t.info.vhost.LoseRedirect(address, node, trail)
	t.endStream(reasonRedirectLost, stream.Error(xmpp.RemoteConnectionFailed, reasons[reasonRedirectLost].text))
}

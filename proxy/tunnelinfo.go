package proxy

import (
	"net/netip"
	"strings"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

// tunnelInfo describes a tunnel in logs and lists, and to the upstream. It belongs to the
// tunnel's loop.
type tunnelInfo struct {
	id         tunnelID
	client     netip.AddrPort
	key        clientKey
	suspect    clientKey // the key for its failed logins; invalid: they are not counted
	serverName string
	host, path string
	vhost      *upstream.Vhost
	domain     string         // `to` of its stream; "" before that
	upstream   *upstream.Conn // nil if there is none now
	began      time.Time

	request   *upstream.Request // for another dial; nil once the greeting needs none
	elsewhere string            // the URL to redirect this client to; mostly ""
}

// names notes the domain of a stream's start tag. It is usually equal to the server name,
// and then shares its memory.
func (i *tunnelInfo) names(tag *xmpp.Open) {
	domain, err := tag.Domain()
	switch {
	case err != nil:
		i.domain = ""
	case domain == i.serverName:
		i.domain = i.serverName
	default:
		i.domain = strings.Clone(domain)
	}
}

// node returns the names of the stream's last node and of its upstream; both are empty
// if there was none.
func (i *tunnelInfo) node() (upstream, node string) {
	if i.upstream == nil {
		return "", ""
	}
	return i.upstream.Node.Upstream(), i.upstream.Node.Name()
}

package proxy

import (
	"net/netip"
	"strings"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

// tunnelInfo is what is known of a tunnel beside its bytes. Its loop may change it.
type tunnelInfo struct {
	id         tunnelID
	client     netip.AddrPort
	key        clientKey
	suspect    clientKey // what its failed logins are counted by; invalid: they are not
	serverName string
	host, path string
	vhost      *upstream.Vhost
	domain     string         // `to` of its stream; "" while that has none
	upstream   *upstream.Conn // nil while there is none
	began      time.Time

	request   *upstream.Request // for another dial, while the greeting may need one
	elsewhere string            // the URL to redirect this client to; mostly ""
}

// names notes the domain of a stream's start tag. Mostly it is another name of the
// tunnel's, and then costs no memory of its own.
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

package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"wssgate/access"
)

// An accessControl decides by address which clients may connect: by the rules of a
// configuration, and by the operator's bans, which outlive reloads. Its methods are
// safe for concurrent use.
type accessControl struct {
	now  *current
	bans access.Bans
}

// allows reports whether a client may connect under the given rules and the bans.
func (a *accessControl) allows(rules *access.Rules, client netip.Addr) bool {
	return rules.Allows(client) && !a.bans.Has(client, time.Now)
}

// denied reports whether the current rules or the bans deny a client.
func (a *accessControl) denied(client netip.Addr) bool { return !a.allows(a.now.Load().Access, client) }

// deniesPlain implements Server.DeniesPlain without its counter.
func (a *accessControl) deniesPlain(client netip.Addr) bool {
	return a.now.Load().Access.Denies(client) || a.bans.Has(client, time.Now)
}

// ban implements Server.Ban.
func (a *accessControl) ban(network netip.Prefix, duration time.Duration) (rest []access.Ban, err error) {
	now := time.Now()
	if duration <= 0 {
		if !a.bans.Lift(network, now) {
			err = ErrNotBanned
		}
		return a.bans.Rest(network, now), err
	}
	for _, balancer := range a.now.Load().ProxyProtocol {
		if balancer.Overlaps(network) {
			return nil, fmt.Errorf("%s has load balancers of listen.proxy_protocol", network)
		}
	}
	return nil, a.bans.Set(network, now.Add(duration), now)
}

// ErrNotBanned is the error of lifting a ban that does not exist.
var ErrNotBanned = errors.New("it is not banned")

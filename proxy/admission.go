package proxy

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"wssgate/upstream"
)

// An admission gives connections their place, and takes it back at their end. A place
// is one of limits.connections, one of limits.per_client, and a visit at the door. Its
// methods are safe for concurrent use. The lock of clients is held while the door's is
// taken; no other two locks are held at once.
type admission struct {
	access   *accessControl
	door     *door
	clients  clientCounts
	drains   drains
	shortage shortage

	refused [len(limitNames)]atomic.Int64 // connections without, by the limit that was reached
}

func newAdmission(access *accessControl) *admission {
	return &admission{access: access, door: newDoor(), drains: drains{emptied: make(chan struct{})}}
}

// The limits that a connection can reach, as settings call them.
const (
	limitConnections = iota
	limitPerClient
	limitDrain
	limitAccess
	limitMemory
	limitHandshakes
	limitNone = -1
)

var limitNames = [...]string{
	limitConnections: "connections", limitPerClient: "per_client", limitDrain: "drain",
	limitAccess: "access", limitMemory: "memory",
	limitHandshakes: "handshakes", // too many on their way in, mostly from one address
}

// enter gives v, whose peer has address addr and is counted as key, a place under the
// configuration now, to be given back with leave. It returns limitNone, or the limit that
// was reached. The door may begin v before enter returns.
func (a *admission) enter(v *visit, now *configuration, addr netip.Addr, key clientKey) (limit int) {
	if limit = a.place(v, now, addr, key); limit != limitNone {
		a.refused[limit].Add(1)
	}
	return limit
}

func (a *admission) place(v *visit, now *configuration, addr netip.Addr, key clientKey) (limit int) {
	perClient, balances := now.PerClient, now.sendsProxyHeader(addr)
	if balances {
		perClient = 0 // rekey checks the limit for the clients, once they are known
	}
	switch {
	case !a.door.accepts():
		return limitDrain
	case !balances && !a.access.allows(now.Access, addr):
		return limitAccess
	case a.shortage.on.Load():
		return limitMemory
	case !a.clients.add(key, perClient, a.door.yields):
		return limitPerClient
	}
	placed := false
	defer func() { // also after a panic
		if !placed {
			a.clients.remove(key)
		}
	}()
	switch a.door.enterInTurn(v, key) {
	case errFull:
		return limitConnections
	case errNoPlace:
		return limitHandshakes
	case errClosing:
		return limitDrain
	}
	placed = true
	return limitNone
}

// rekey counts a connection by its client's key instead of its balancer's, once the
// client is known and the configuration now allows it. After an error, close the
// connection; it still counts by the old key.
func (a *admission) rekey(v *visit, now *configuration, client netip.Addr, old clientKey) (clientKey, error) {
	key := keyOfAddr(client)
	if !a.access.allows(now.Access, client) {
		a.refused[limitAccess].Add(1)
		return old, errAccess
	}
	if !a.clients.add(key, now.PerClient, a.door.yields) {
		a.refused[limitPerClient].Add(1)
		return old, errPerClient
	}
	a.clients.remove(old)
	a.door.belongs(v, key)
	return key, nil
}

// admits reports whether a new client of a vhost is let in: no drain and no shortage of
// memory turns it away. It counts an admitted client until leave; see drains.admit.
func (a *admission) admits(vhost *upstream.Vhost, host string) (admitted bool, elsewhere string) {
	if a.shortage.on.Load() {
		return false, ""
	}
	return a.drains.admit(vhost, host)
}

// turnsAway reports whether admits would not let in a new client of a vhost.
func (a *admission) turnsAway(vhost *upstream.Vhost) bool {
	return a.shortage.on.Load() || a.drains.turnsAway(vhost)
}

// leave gives the place of a connection back; admitted is the result of admits.
func (a *admission) leave(key clientKey, admitted bool) {
	if admitted {
		a.drains.left()
	}
	a.clients.remove(key)
	a.door.gone()
}

var (
	errPerClient = errors.New("limits.per_client reached")
	errAccess    = errors.New("denied by access.allow, access.deny or a ban")
)

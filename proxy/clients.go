package proxy

import (
	"net"
	"net/netip"

	"wssgate/fair"
)

// left gives a connection's place back; admitted is what admits said of it.
func (s *Server) left(key clientKey, admitted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if admitted {
		s.admitted--
	}
	s.uncount(key)
	s.door.gone()
	s.endIfIdle()
}

// uncount takes a connection off its client's; s.mu is held.
func (s *Server) uncount(key clientKey) {
	if key.IsValid() {
		if s.clients[key]--; s.clients[key] <= 0 {
			delete(s.clients, key)
		}
	}
}

// A clientKey is what limits.per_client counts by: an IPv4 address, or the /64
// of an IPv6 one, which is what one customer gets. It is invalid for a unix
// socket.
type clientKey struct{ netip.Addr }

// suspect is what a connection's failed logins are counted by. It is invalid where
// nobody knows whose it is: then all would be one.
func (c *clientConn) suspect() clientKey {
	if c.unnamed {
		return clientKey{}
	}
	return c.key
}

func keyOf(addr net.Addr) clientKey { return keyOfAddr(addrPortOf(addr).Addr()) }

func keyOfAddr(ip netip.Addr) clientKey { return clientKey{fair.Owner(ip)} }

// rekey judges a connection by its client's address, and counts it for that, instead
// of for the balancer.
func (s *Server) rekey(c *clientConn) error {
	key := keyOfAddr(c.client.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Allows(c.config.Access, c.client.Addr()) {
		s.stats.refused[limitAccess].Add(1)
		return errAccess
	}
	if c.config.PerClient > 0 && s.clients[key] >= c.config.PerClient && !s.door.yields(key) {
		s.stats.refused[limitPerClient].Add(1)
		return errPerClient
	}
	s.uncount(c.key)
	s.clients[key]++
	c.key = key
	s.door.belongs(&c.visit, key)
	return nil
}

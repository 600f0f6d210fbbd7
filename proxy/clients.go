package proxy

import (
	"net"
	"net/netip"

	"wssgate/fair"
)

// left uncounts a connection; admitted is the result of admits.
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

// uncount removes a connection from the count of its client. The caller holds s.mu.
func (s *Server) uncount(key clientKey) {
	if key.IsValid() {
		if s.clients[key]--; s.clients[key] <= 0 {
			delete(s.clients, key)
		}
	}
}

// A clientKey is the unit of limits.per_client: an IPv4 address, or an IPv6 /64, which
// is what one customer gets. It is invalid for a unix socket.
type clientKey struct{ netip.Addr }

// suspect is the key for failed logins. It is invalid if the client is unknown;
// otherwise all such clients would share one count.
func (c *clientConn) suspect() clientKey {
	if c.unnamed {
		return clientKey{}
	}
	return c.key
}

func keyOf(addr net.Addr) clientKey { return keyOfAddr(addrPortOf(addr).Addr()) }

func keyOfAddr(ip netip.Addr) clientKey { return clientKey{fair.Owner(ip)} }

// rekey counts and checks a connection by its client's address instead of the
// balancer's.
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

package proxy

import (
	"net"
	"net/netip"
	"sync"

	"wssgate/fair"
)

// A clientKey is the unit of limits.per_client: an IPv4 address, or an IPv6 /64, which
// is what one customer gets. It is invalid for a unix socket.
type clientKey struct{ netip.Addr }

func keyOf(addr net.Addr) clientKey { return keyOfAddr(addrPortOf(addr).Addr()) }

func keyOfAddr(ip netip.Addr) clientKey { return clientKey{fair.Owner(ip)} }

// clientCounts counts the open connections of each client address. Invalid keys are not
// counted. The zero value is empty. Its methods are safe for concurrent use.
type clientCounts struct {
	mu   sync.Mutex
	open map[clientKey]int
}

// add counts one more connection of key. It returns false, and does not count, if key
// has limit connections already and yields does not close one of them; limit 0 is none.
// yields is called with mu held.
func (c *clientCounts) add(key clientKey, limit int, yields func(clientKey) bool) bool {
	if !key.IsValid() {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if limit > 0 && c.open[key] >= limit && !yields(key) {
		return false
	}
	if c.open == nil {
		c.open = map[clientKey]int{}
	}
	c.open[key]++
	return true
}

// remove uncounts one connection of key.
func (c *clientCounts) remove(key clientKey) {
	if !key.IsValid() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key]--; c.open[key] <= 0 {
		delete(c.open, key)
	}
}

// addrPortOf returns the address and port of a TCP address, unmapping IPv4, or the zero
// value for other kinds.
func addrPortOf(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

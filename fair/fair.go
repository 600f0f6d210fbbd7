// Package fair shares out what is scarce, such as places for connections: where
// nothing is left, the owner that has most gives one up. So whoever takes many
// places competes with himself, and a newcomer with nobody.
//
// It knows nothing of the gate; proxy, web, admin and main use it.
package fair

import (
	"container/list"
	"net"
	"net/netip"
)

// Owner is who an address is counted as: an IPv4 address, or the /64 of an IPv6
// one, which is what one customer gets. It is invalid for what has no address,
// such as a unix socket.
func Owner(ip netip.Addr) netip.Addr {
	ip = ip.Unmap()
	if ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return ip
}

// OwnerOf is Owner for the address of a connection or a request.
func OwnerOf(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return Owner(ap.Addr())
}

func ownerOfConn(conn net.Conn) netip.Addr { return OwnerOf(conn.RemoteAddr().String()) }

// A Set holds values by their owners. Each method takes constant time, however
// many there are. The zero value is empty; the caller sees to it that one
// goroutine at a time uses it.
type Set[V any] struct {
	owners map[netip.Addr]*owner
	levels []*list.List // levels[n-1]: the owners of n values, who has been there longest first
	n      int
}

type owner struct {
	addr   netip.Addr
	values list.List     // of *Entry, the oldest first
	at     *list.Element // in its level
}

// An Entry is one value's place in a Set.
type Entry[V any] struct {
	Value V
	owner *owner
	at    *list.Element // nil: it is not in the set any more
}

// Add puts a value in.
func (s *Set[V]) Add(addr netip.Addr, v V) *Entry[V] {
	o := s.owners[addr]
	if o == nil {
		if s.owners == nil {
			s.owners = map[netip.Addr]*owner{}
		}
		o = &owner{addr: addr}
		s.owners[addr] = o
	}
	e := &Entry[V]{Value: v, owner: o}
	s.leaveLevel(o)
	e.at = o.values.PushBack(e)
	s.enterLevel(o)
	s.n++
	return e
}

// Remove takes a value out, and reports whether it was in.
func (s *Set[V]) Remove(e *Entry[V]) bool {
	if e == nil || e.at == nil {
		return false
	}
	o := e.owner
	s.leaveLevel(o)
	o.values.Remove(e.at)
	e.at = nil
	s.enterLevel(o)
	s.n--
	return true
}

// Len is how many values there are.
func (s *Set[V]) Len() int { return s.n }

// Of is how many an owner has.
func (s *Set[V]) Of(addr netip.Addr) int {
	if o := s.owners[addr]; o != nil {
		return o.values.Len()
	}
	return 0
}

// Most is how many the owner has that has most.
func (s *Set[V]) Most() int { return len(s.levels) }

// Worst returns the oldest value of the owner that has most, nil where there is
// none.
func (s *Set[V]) Worst() *Entry[V] {
	if len(s.levels) == 0 {
		return nil
	}
	return s.levels[len(s.levels)-1].Front().Value.(*owner).values.Front().Value.(*Entry[V])
}

// Oldest returns the oldest value of an owner, nil where it has none.
func (s *Set[V]) Oldest(addr netip.Addr) *Entry[V] {
	o := s.owners[addr]
	if o == nil {
		return nil
	}
	return o.values.Front().Value.(*Entry[V])
}

func (s *Set[V]) leaveLevel(o *owner) {
	if n := o.values.Len(); n > 0 {
		s.levels[n-1].Remove(o.at)
	}
}

func (s *Set[V]) enterLevel(o *owner) {
	n := o.values.Len()
	switch {
	case n == 0:
		delete(s.owners, o.addr)
	case n > len(s.levels):
		s.levels = append(s.levels, list.New())
		fallthrough
	default:
		o.at = s.levels[n-1].PushBack(o)
	}
	for len(s.levels) > 0 && s.levels[len(s.levels)-1].Len() == 0 {
		s.levels = s.levels[:len(s.levels)-1]
	}
}

// Package fair divides scarce resources, such as connections, among their owners: when
// nothing is left, the owner with the most gives one up. An owner that takes many
// competes only with itself.
//
// The package does not depend on the gate; proxy, web, admin and main use it.
package fair

import (
	"container/heap"
	"container/list"
	"math"
	"net"
	"net/netip"
	"time"
)

// nat64 is the prefix in which a translator puts IPv4 clients (RFC 6052, section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Owner returns the owner of an address: an IPv4 address, also behind NAT64 with the
// well-known prefix, or the /64 of an IPv6 address, which is what one customer gets. It is
// invalid for anything without an address, such as a unix socket.
func Owner(ip netip.Addr) netip.Addr {
	ip = ip.Unmap()
	if nat64.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
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

// A Set holds values by owner. Its methods take time proportional to the logarithm of
// the number of owners. The zero value is empty. It is not safe for concurrent use.
type Set[V any] struct {
	owners map[netip.Addr]*owner
	order  order
	all    list.List // of *Entry, the oldest first
	added  uint64    // number of values added so far
}

type owner struct {
	addr   netip.Addr
	values list.List // of *Entry, the oldest first
	oldest uint64    // age of its Entry
	index  int       // in order
}

// An Entry is one value's place in a Set.
type Entry[V any] struct {
	Value V
	owner *owner
	age   uint64 // Set.added before it
	since time.Time
	at    *list.Element // nil: no longer in the set
	inAll *list.Element
}

// Add adds a value.
func (s *Set[V]) Add(addr netip.Addr, v V) *Entry[V] {
	o := s.owners[addr]
	if o == nil {
		if s.owners == nil {
			s.owners = map[netip.Addr]*owner{}
		}
		o = &owner{addr: addr, oldest: s.added}
		s.owners[addr] = o
		heap.Push(&s.order, o)
	}
	e := &Entry[V]{Value: v, owner: o, age: s.added, since: time.Now()}
	e.at = o.values.PushBack(e)
	heap.Fix(&s.order, o.index)
	e.inAll = s.all.PushBack(e)
	s.added++
	return e
}

// Remove removes a value, and reports whether it was in the set.
func (s *Set[V]) Remove(e *Entry[V]) bool {
	if e == nil || e.at == nil {
		return false
	}
	o := e.owner
	o.values.Remove(e.at)
	s.all.Remove(e.inAll)
	e.at, e.inAll = nil, nil
	if first := o.values.Front(); first != nil {
		o.oldest = first.Value.(*Entry[V]).age
		heap.Fix(&s.order, o.index)
	} else {
		heap.Remove(&s.order, o.index)
		delete(s.owners, o.addr)
	}
	return true
}

// Len returns the number of values.
func (s *Set[V]) Len() int { return s.all.Len() }

// Of returns the number of values of an owner.
func (s *Set[V]) Of(addr netip.Addr) int {
	if o := s.owners[addr]; o != nil {
		return o.values.Len()
	}
	return 0
}

// Most returns the number of values of the owner with the most values.
func (s *Set[V]) Most() int {
	if len(s.order) == 0 {
		return 0
	}
	return s.order[0].values.Len()
}

// Worst returns the oldest value of the owner with the most values, or nil if the Set
// is empty. Among owners with equally many, it is the oldest value.
func (s *Set[V]) Worst() *Entry[V] {
	if len(s.order) == 0 {
		return nil
	}
	return s.order[0].values.Front().Value.(*Entry[V])
}

// Never is the patience of values that may keep their places indefinitely.
const Never = time.Duration(math.MaxInt64)

// GivesWay returns the value that makes place for one more of an owner; nil: none. It
// is Worst if its owner has more than a crowd, and more than this owner would then
// have, or if it has been in the set for patience. If no owner has more than a crowd,
// it may also be the oldest of all, after its patience.
//
// An owner that takes many places therefore competes with itself. If none does, a value
// keeps its place for at least patience.
func (s *Set[V]) GivesWay(addr netip.Addr, crowd int, patience time.Duration) *Entry[V] {
	e := s.Worst()
	switch {
	case e == nil:
		return nil
	case s.Most() > max(s.Of(addr)+1, crowd) || time.Since(e.since) >= patience:
		return e
	}
	if oldest := s.oldest(); s.Most() <= crowd && time.Since(oldest.since) >= patience {
		return oldest
	}
	return nil
}

// oldest returns the oldest value. The set must not be empty.
func (s *Set[V]) oldest() *Entry[V] { return s.all.Front().Value.(*Entry[V]) }

// order is a heap; the owner of Worst is first.
type order []*owner

func (o order) Len() int { return len(o) }

func (o order) Less(i, j int) bool {
	a, b := o[i], o[j]
	if n, m := a.values.Len(), b.values.Len(); n != m {
		return n > m
	}
	return a.oldest < b.oldest
}

func (o order) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].index, o[j].index = i, j
}

func (o *order) Push(x any) {
	x.(*owner).index = len(*o)
	*o = append(*o, x.(*owner))
}

func (o *order) Pop() any {
	last := len(*o) - 1
	x := (*o)[last]
	(*o)[last] = nil
	*o = (*o)[:last]
	return x
}

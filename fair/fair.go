// Package fair divides scarce resources, such as connections, among their owners: when
// nothing is left, the owner with the most gives one up. An owner that takes many
// competes with itself, and a newcomer with nobody.
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

// A Set holds values by their owners. Its methods take a time that grows with the
// logarithm of how many owners there are. The zero value is empty; the caller sees to
// it that one goroutine at a time uses it.
type Set[V any] struct {
	owners map[netip.Addr]*owner
	order  order
	all    list.List // of *Entry, the oldest first
	added  uint64    // values, ever
}

type owner struct {
	addr   netip.Addr
	values list.List // of *Entry, the oldest first
	oldest uint64    // its Entry's age
	index  int       // in the order
}

// An Entry is one value's place in a Set.
type Entry[V any] struct {
	Value V
	owner *owner
	age   uint64 // the set had so many before it
	since time.Time
	at    *list.Element // nil: it is not in the set any more
	inAll *list.Element
}

// Add puts a value in.
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

// Remove takes a value out, and reports whether it was in.
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

// Len is how many values there are.
func (s *Set[V]) Len() int { return s.all.Len() }

// Of is how many an owner has.
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
// is empty. If several owners have as many, it is the oldest value of all of theirs.
func (s *Set[V]) Worst() *Entry[V] {
	if len(s.order) == 0 {
		return nil
	}
	return s.order[0].values.Front().Value.(*Entry[V])
}

// Never is the patience of who waits for something that takes its time.
const Never = time.Duration(math.MaxInt64)

// GivesWay returns the value that makes place for one more of an owner; nil: nobody has
// to. It is Worst, where its owner has more than this one would then have, and more than
// a crowd; or once it has been in the set for patience. Where nobody has more than a
// crowd, it may also be the oldest of all, after its patience.
//
// So who takes many places competes with himself, and where nobody does, nobody loses
// his place before he could have used it.
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

// oldest is the oldest value of all, where there is one.
func (s *Set[V]) oldest() *Entry[V] { return s.all.Front().Value.(*Entry[V]) }

// order is a heap, the owner of Worst first.
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

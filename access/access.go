// Package access decides which addresses are allowed: lists of networks that are
// allowed or denied, in the configuration or in files that change while the gate runs.
//
// It reads no files and imports no other package of ours. Proxy, upstream and web ask
// a [Rules]; gate creates it and reads the files.
package access

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
)

// ParseNetwork reads a network, or a single address as a network of one. Its
// errors complete a sentence that begins with s.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("is not a network")
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 { // an IPv4 client's address is never in this form
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("has bits set beyond its prefix length; write %q", prefix.Masked())
	}
	return prefix, nil
}

// ParseFile reads a list: one network or address per line. It ignores empty lines and
// everything after "#" or ";".
func ParseFile(data []byte) ([]netip.Prefix, error) {
	var list []netip.Prefix
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		n++
		if i := bytes.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		word := strings.TrimSpace(string(line))
		if word == "" {
			continue
		}
		network, err := ParseNetwork(word)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q %w", n, shorten(word), err)
		}
		list = append(list, network)
	}
	return list, nil
}

// shorten bounds what an error repeats of a file with arbitrary contents.
func shorten(s string) string {
	const most = 60 // bytes
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// A span is a range of addresses of one family, including both ends.
type span struct{ first, last netip.Addr }

// A list is a set of addresses: spans in order that neither overlap nor touch.
type list []span

func newList(networks []netip.Prefix) list {
	var l list
	for _, p := range networks {
		l = append(l, span{p.Addr(), last(p)})
	}
	slices.SortFunc(l, func(a, b span) int { return a.first.Compare(b.first) })
	merged := l[:0]
	for _, s := range l {
		if n := len(merged); n > 0 && merged[n-1].first.BitLen() == s.first.BitLen() && s.first.Compare(merged[n-1].last) <= 0 {
			if s.last.Compare(merged[n-1].last) > 0 {
				merged[n-1].last = s.last
			}
			continue
		}
		merged = append(merged, s)
	}
	return slices.Clip(merged)
}

// last returns the last address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (l list) has(addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(l, addr, func(s span, addr netip.Addr) int { return s.first.Compare(addr) })
	return found || i > 0 && l[i-1].last.BitLen() == addr.BitLen() && addr.Compare(l[i-1].last) <= 0
}

// A Networks is a set of networks. It is safe for concurrent use, including Replace.
type Networks struct{ now atomic.Pointer[list] }

// NewNetworks returns a set of the given networks.
func NewNetworks(networks []netip.Prefix) *Networks {
	n := &Networks{}
	n.Replace(networks)
	return n
}

// Replace replaces the set. The next question uses the new one.
func (n *Networks) Replace(networks []netip.Prefix) {
	l := newList(networks)
	n.now.Store(&l)
}

func (n *Networks) has(addr netip.Addr) bool { return n.now.Load().has(addr) }

// Rules decide which clients are allowed. The zero value, and nil, allow all. Methods
// are safe for concurrent use; the fields must not change.
//
// Clients without an address, on a unix socket, are allowed: file permissions decide
// who may use the socket.
type Rules struct {
	Allow, Deny []*Networks
}

// Allows reports whether a client is allowed: Deny does not have it, and Allow has it
// or is nil.
func (r *Rules) Allows(client netip.Addr) bool {
	if r == nil || !client.IsValid() || len(r.Allow)+len(r.Deny) == 0 {
		return true
	}
	return !r.Denies(client) && (len(r.Allow) == 0 || among(r.Allow, client))
}

// Denies reports whether Deny has a client.
func (r *Rules) Denies(client netip.Addr) bool {
	return r != nil && client.IsValid() && among(r.Deny, client)
}

func among(sets []*Networks, client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	return slices.ContainsFunc(sets, func(n *Networks) bool { return n.has(client) })
}

// Package ports dials TCP from source addresses that have free ports.
//
// Two addresses and two ports identify a connection. So from one address of this
// machine to one address and port of a server, there can be as many connections as the
// kernel has ephemeral ports, 28,232 by default; after that, connect fails with
// EADDRNOTAVAIL. Another source address adds as many again.
//
// This package does not count ports. The kernel knows which are free, including those
// of other processes. A Memory only remembers which sources had no free port, because
// the kernel's search is long in that case.
package ports

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// fullFor is how long a source without a free port is not tried again. The kernel
	// takes milliseconds to find none, and Go tries three times.
	fullFor = 2 * time.Second

	// searchFor bounds how long one dial looks for a source with a free port.
	searchFor = 500 * time.Millisecond

	// batch is how many sources a dial takes from a Memory with full sources, before
	// it looks for results of other dials.
	batch = 16

	// LoopbackSources is the number of source addresses for an IPv4 loopback address
	// if none is configured: 127.0.0.1 to 127.0.0.254.
	LoopbackSources = 254
)

// A Memory is what a dialer remembers about the sources of one or several servers. The
// zero value is ready for use; all methods are safe for concurrent use.
type Memory struct {
	turn   atomic.Uint32
	usedUp atomic.Int64 // Unix time in ns of the last UsedUpError; 0: none
	short  atomic.Bool  // true until a dial succeeds

	mu    sync.Mutex // never held across I/O
	full  map[path]mark
	asked time.Time         // when a source was last tried again although others had ports
	names map[string]direct // by name and port dialled

	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error) // nil: the system's
}

// A path leads from a source address, or the kernel's choice, to a server.
type path struct {
	source netip.Addr
	server string
}

// A mark is on a path that failed. It stays, so that after a pause one dial does not
// have to rediscover all full ones; after until, the path is tried again.
type mark struct {
	until   time.Time
	foreign bool // the source is not an address of this machine
}

// A direct is the loopback address of a name, to be dialled instead of the name.
type direct struct {
	address string
	until   time.Time
}

// A DialFunc makes a plain connection, from SourceOf(ctx).
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Dial connects to a TCP address. It uses the sources of the address's family in turn,
// and skips those without a free port. Without sources the kernel chooses. If its
// ports are used up and the server is on 127.0.0.0/8, the other addresses there
// follow; the first one has precedence while it has ports.
//
// If no source has a free port, the error is a *UsedUpError. The caller owns the
// connection.
func (m *Memory) Dial(ctx context.Context, dial DialFunc, sources []netip.Addr, network, address string) (net.Conn, error) {
	conn, err := m.dial(ctx, dial, sources, network, address)
	if _, ok := errors.AsType[*UsedUpError](err); ok {
		m.usedUp.Store(time.Now().UnixNano())
		m.short.Store(true)
	} else if m.short.Load() {
		m.short.Store(false)
	}
	return conn, err
}

func (m *Memory) dial(ctx context.Context, dial DialFunc, sources []netip.Addr, network, address string) (net.Conn, error) {
	to := serverOf(address)
	switch {
	case len(sources) > 0:
		fit := fitting(sources, to)
		if len(fit) == 0 {
			return nil, &FamilyError{to}
		}
		first := int(m.turn.Add(1) % uint32(len(fit)))
		return m.dialFrom(ctx, dial, len(fit), func(i int) netip.Addr { return fit[(first+i)%len(fit)] }, network, address)
	case spreads(to):
		return m.dialFrom(ctx, dial, LoopbackSources, loopback, network, address)
	case !to.IsValid() && loopbackNet:
		return m.dialName(ctx, dial, network, address)
	}
	return m.dialFrom(ctx, dial, 1, loopback, network, address)
}

// dialName dials a name. For one such as localhost, net.Dialer may report only the
// error of ::1 although 127.0.0.1 has no port left.
func (m *Memory) dialName(ctx context.Context, dial DialFunc, network, name string) (net.Conn, error) {
	m.mu.Lock()
	d := m.names[name]
	m.mu.Unlock()
	if time.Now().Before(d.until) {
		return m.dialFrom(ctx, dial, LoopbackSources, loopback, network, d.address)
	}
	conn, err := m.dialFrom(ctx, dial, 1, loopback, network, name)
	if err == nil {
		return conn, nil
	}
	at := m.onLoopback(ctx, name)
	if at == "" {
		return nil, err
	}
	conn, err2 := m.dialFrom(ctx, dial, LoopbackSources, loopback, network, at)
	if _, usedUp := errors.AsType[*UsedUpError](err2); err2 != nil && !usedUp {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names = map[string]direct{}
	}
	m.names[name] = direct{at, time.Now().Add(fullFor)}
	return conn, err2
}

// onLoopback returns the address in 127.0.0.0/8 of a name and port that mean only this
// machine, or "".
func (m *Memory) onLoopback(ctx context.Context, name string) (at string) {
	host, port, err := net.SplitHostPort(name)
	if err != nil || ctx.Err() != nil {
		return ""
	}
	lookup := m.lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	addrs, err := lookup(ctx, "ip", host)
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if a = a.Unmap(); !a.IsLoopback() {
			return ""
		}
		if spreads(a) && at == "" {
			at = net.JoinHostPort(a.String(), port)
		}
	}
	return at
}

// dialFrom dials from one of count sources; nth returns the i-th.
func (m *Memory) dialFrom(ctx context.Context, dial DialFunc, count int, nth func(i int) netip.Addr, network, address string) (net.Conn, error) {
	start := time.Now()
	var last error
	for {
		paths, full := m.order(count, nth, address, time.Now())
		for _, p := range paths {
			conn, err := dial(context.WithValue(ctx, sourceKey{}, p.source), network, address)
			if err == nil || !errors.Is(err, syscall.EADDRNOTAVAIL) {
				m.unmark(p)
				return conn, err
			}
			foreign := isBind(err)
			if at, ok := reached(err); ok && !p.source.IsValid() && !hasSource(at) {
				return nil, err // as for ::1 without IPv6
			}
			m.mark(p, mark{time.Now().Add(fullFor), foreign})
			full = full || !foreign
			last = err
		}
		switch {
		case len(paths) > 0 && time.Since(start) < searchFor && ctx.Err() == nil:
		case full:
			return nil, &UsedUpError{last}
		default:
			return nil, &ForeignError{last}
		}
	}
}

// order returns the paths that a dial tries, the best first: those without a mark,
// then those with an expired mark, the oldest first. Now and then one of the latter
// comes first, because otherwise a source would not be used again while others have
// ports. The second result reports whether a recently tried path has no port.
func (m *Memory) order(count int, nth func(i int) netip.Addr, address string, now time.Time) (paths []path, full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := batch
	if len(m.full) == 0 {
		limit = 1
	}
	var again []path
	for i := 0; i < count && len(paths) < limit; i++ {
		p := path{nth(i), address}
		switch k, marked := m.full[p]; {
		case !marked:
			paths = append(paths, p)
		case now.Before(k.until):
			full = full || !k.foreign
		default:
			again = append(again, p)
		}
	}
	slices.SortStableFunc(again, func(a, b path) int { return m.full[a].until.Compare(m.full[b].until) })
	if len(paths) > 0 && len(again) > 0 && now.Sub(m.asked) >= fullFor {
		m.asked = now
		paths = slices.Insert(paths, 0, again[0])
		again = again[1:]
	}
	paths = append(paths, again...)
	return paths[:min(len(paths), batch)], full
}

func (m *Memory) mark(p path, k mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full == nil {
		m.full = map[path]mark{}
	}
	m.full[p] = k
}

func (m *Memory) unmark(p path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.full, p)
}

// UsedUp returns when a dial last found no port; zero: never.
func (m *Memory) UsedUp() time.Time {
	if ns := m.usedUp.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// shortFor is how long a UsedUpError counts as the current state without another dial.
const shortFor = 30 * time.Second

// Short reports whether, as far as is known, no port is free now.
func (m *Memory) Short(now time.Time) bool { return m.short.Load() && now.Sub(m.UsedUp()) < shortFor }

// Sources returns the number of source addresses that m.Dial has for a server's
// address.
func Sources(sources []netip.Addr, address string) int {
	to := serverOf(address)
	switch {
	case len(sources) > 0:
		return len(fitting(sources, to))
	case spreads(to):
		return LoopbackSources
	}
	return 1
}

// loopback returns the i-th source for loopback: first the kernel's choice, which is
// 127.0.0.1, then 127.0.0.2 and so on.
func loopback(i int) netip.Addr {
	if i == 0 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)})
}

// spreads reports whether a server has several source addresses without configuration.
// IPv6 has only one loopback address.
func spreads(to netip.Addr) bool { return loopbackNet && to.Is4() && to.IsLoopback() }

// fitting returns the sources of the family of a server's address. If the family is
// not known yet, it returns all, and net.Dialer chooses by the source.
func fitting(sources []netip.Addr, to netip.Addr) []netip.Addr {
	if !to.IsValid() {
		return sources
	}
	var fit []netip.Addr
	for _, s := range sources {
		if s.Is4() == to.Is4() {
			fit = append(fit, s)
		}
	}
	return fit
}

// serverOf returns the IP address in the address to dial; invalid for a name.
func serverOf(address string) netip.Addr {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Addr{}
	}
	return to.Addr().Unmap()
}

// reached returns the address that a failed dial tried.
func reached(err error) (netip.AddrPort, bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return netip.AddrPort{}, false
	}
	tcp, ok := op.Addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
}

type sourceKey struct{}

// SourceOf returns the source address for a DialFunc's connection; invalid: the kernel
// chooses.
func SourceOf(ctx context.Context) netip.Addr {
	source, _ := ctx.Value(sourceKey{}).(netip.Addr)
	return source
}

// From returns a DialFunc that uses d, whose LocalAddr must not be set, with the
// source that Dial chooses. The kernel then chooses the port when it knows the server
// as well: a port chosen by bind alone would be lost for all other servers.
func From(d *net.Dialer) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		source := SourceOf(ctx)
		if !source.IsValid() {
			return d.DialContext(ctx, network, address)
		}
		bound := *d
		bound.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		control := d.ControlContext
		bound.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
			if err := chooseLate(c); err != nil {
				return err
			}
			if control != nil {
				return control(ctx, network, address, c)
			}
			return nil
		}
		return bound.DialContext(ctx, network, address)
	}
}

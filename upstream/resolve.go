package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"wssgate/panics"
)

const (
	dnsTimeout = 5 * time.Second
	dnsPause   = time.Second // minimum time between two queries for one node
	maxPlaces  = 64          // of one node; more answers from DNS are ignored
)

// watchNames keeps s.places up to date with DNS until ctx ends.
func (s *server) watchNames(ctx context.Context, t *Table) {
	retry := dnsPause
	for {
		n := s.node.Load()
		places, err := n.resolve(ctx, *s.endpoints.Load())
		if ctx.Err() != nil {
			return
		}
		s.learn(t, n, places, err)

		wait := time.Duration(float64(n.group.resolveEvery) * (0.9 + 0.2*n.group.env.random()))
		if err != nil {
			wait = min(wait, retry)
			retry = 2 * wait // bounded, to avoid an overflow
		} else {
			retry = dnsPause
		}
		asked := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-s.ask:
			select {
			case <-ctx.Done():
				return
			case <-time.After(dnsPause - time.Since(asked)):
			}
		}
	}
}

// askAgain requests a DNS query soon: an address failed, and may have moved.
func (s *server) askAgain() {
	select {
	case s.ask <- struct{}{}:
	default: // one is due already, or nothing queries
	}
}

// learn applies a new answer. After a failure it keeps the previous one.
func (s *server) learn(t *Table, n *Node, places []endpoint, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := n.group.env.log.With("upstream", n.group.name, "node", n.name)
	switch {
	case err != nil && s.dnsErr == nil:
		log.Warn("upstream name does not resolve; keeping the last answer", "addresses", len(*s.endpoints.Load()), "err", err)
	case err == nil && s.dnsErr != nil:
		log.Info("upstream name resolves again")
	}
	s.dnsErr = err
	if len(places) > 0 {
		if old := *s.endpoints.Load(); !slices.EqualFunc(old, places, func(a, b endpoint) bool { return a.address == b.address }) {
			log.Info("upstream addresses", "addresses", addresses(places), "before", addresses(old))
		}
		s.endpoints.Store(&places)
		s.late = true // places added from now on get a slow start
		s.syncProbes(t)
	}
	select {
	case <-s.answered:
	default:
		close(s.answered)
	}
}

func addresses(places []endpoint) []string {
	var out []string
	for _, e := range places {
		out = append(out, e.addr)
	}
	return out
}

// A record is one place from DNS.
type record struct {
	addr     netip.AddrPort
	target   string
	priority uint16
	share    float64
}

// resolve queries DNS for n's places. Existing ones keep their address value, with its
// counts and health. It may return both places and an error: if one of several SRV
// targets could not be resolved, it keeps the target's old addresses.
func (n *Node) resolve(ctx context.Context, old []endpoint) ([]endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	var records []record
	var err error
	if n.loc.SRV {
		records, err = n.lookupService(ctx, old)
	} else {
		var addrs []netip.Addr
		addrs, err = n.lookup(ctx, n.loc.Host)
		for _, a := range addrs {
			records = append(records, record{netip.AddrPortFrom(a, n.loc.port), "", 0, 1 / float64(len(addrs))})
		}
	}
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.target, b.target), a.addr.Compare(b.addr))
	})
	if len(records) > maxPlaces {
		records = records[:maxPlaces]
	}
	var places []endpoint
	for _, r := range records {
		addr := r.addr.String()
		e := endpoint{priority: r.priority, share: r.share}
		if i := slices.IndexFunc(old, func(e endpoint) bool { return e.addr == addr && e.target == r.target }); i >= 0 {
			e.address = old[i].address
		} else {
			e.address = newAddress("tcp", addr, r.target, n.server.late)
		}
		places = append(places, e)
	}
	return places, err
}

// lookup returns the distinct addresses of a name, at least one and at most maxPlaces:
// a name may be the target of as many SRV records.
func (n *Node) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := untilEnd(ctx, func() ([]netip.Addr, error) { return n.group.env.resolver.LookupNetIP(ctx, "ip", host) })
	if err != nil {
		return nil, dnsError(host, err)
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("resolve %q: %w", host, ErrNoAddress)
	}
	return addrs[:min(len(addrs), maxPlaces)], nil
}

// untilEnd returns the result of ask or, if that does not come within a moment after
// ctx has ended, ctx's error. For SRV records, net's resolver waits for its own
// timeout; but if it returns in time, its error is more specific.
func untilEnd[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		value, err := panics.Do(panics.DNS, ask)
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answered:
		return a.value, a.err
	case <-time.After(answerMoment):
		var none T
		return none, ctx.Err()
	}
}

// answerMoment is how long to wait for the answer to a cancelled query.
const answerMoment = 20 * time.Millisecond

// lookupService returns the places behind SRV records (RFC 2782).
func (n *Node) lookupService(ctx context.Context, old []endpoint) ([]record, error) {
	service, proto, name := n.loc.service()
	srvs, err := untilEnd(ctx, func() ([]*net.SRV, error) {
		_, srvs, err := n.group.env.resolver.LookupSRV(ctx, service[1:], proto[1:], name)
		return srvs, err
	})
	if err != nil && len(srvs) == 0 {
		return nil, dnsError(n.loc.Host, err)
	}
	srvs = slices.DeleteFunc(slices.Clone(srvs), func(s *net.SRV) bool { return s.Target == "." || s.Port == 0 })
	if len(srvs) == 0 {
		return nil, fmt.Errorf("resolve %q: %w: its SRV records name no target", n.loc.Host, ErrNoAddress)
	}
	if len(srvs) > maxPlaces {
		srvs = srvs[:maxPlaces]
	}
	total := map[uint16]float64{}
	for _, s := range srvs {
		total[s.Priority] += srvWeight(s)
	}
	var records []record
	var errs []error
	for _, s := range srvs {
		host := strings.ToLower(strings.TrimSuffix(s.Target, "."))
		target := net.JoinHostPort(host, strconv.Itoa(int(s.Port)))
		var addrs []netip.AddrPort
		found, err := n.lookup(ctx, host)
		if err != nil {
			errs = append(errs, err)
			for _, e := range old {
				if e.target == target {
					addrs = append(addrs, netip.MustParseAddrPort(e.addr))
				}
			}
		}
		for _, a := range found {
			addrs = append(addrs, netip.AddrPortFrom(a, s.Port))
		}
		for _, a := range addrs {
			records = append(records, record{a, target, s.Priority, srvWeight(s) / total[s.Priority] / float64(len(addrs))})
		}
	}
	return records, errors.Join(errs...)
}

// srvWeight gives weight 0 the "very small chance" of RFC 2782.
func srvWeight(s *net.SRV) float64 { return max(float64(s.Weight), 0.1) }

// dnsError returns the resolver's error without its own prefix.
func dnsError(host string, err error) error {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		at := ""
		if d.Server != "" {
			at = " on " + d.Server
		}
		return fmt.Errorf("resolve %q%s: %w", host, at, &bareDNSError{d})
	}
	return fmt.Errorf("resolve %q: %w", host, err)
}

type bareDNSError struct{ *net.DNSError }

func (e *bareDNSError) Error() string { return e.Err }
func (e *bareDNSError) Unwrap() error { return e.DNSError }

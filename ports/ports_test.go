package ports

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

// A kernel has so many ports for each source (the empty one is its own choice), and
// refuses unknown sources.
type kernel struct {
	ports   map[string]int
	foreign map[string]bool
	search  time.Duration // for a free port if there is none
	dialled []string      // sources
}

func (k *kernel) dial(ctx context.Context, network, address string) (net.Conn, error) {
	source := ""
	if s := SourceOf(ctx); s.IsValid() {
		source = s.String()
	}
	k.dialled = append(k.dialled, source)
	to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))
	fail := func(call string) error {
		return &net.OpError{Op: "dial", Net: network, Addr: to, Err: os.NewSyscallError(call, syscall.EADDRNOTAVAIL)}
	}
	switch {
	case k.foreign[source]:
		return nil, fail("bind")
	case k.ports[source] == 0:
		time.Sleep(k.search)
		return nil, fail("connect")
	}
	k.ports[source]--
	return nil, nil
}

func parse(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// When the ports of 127.0.0.1 are used up, the other addresses of loopback follow; the
// first one has precedence again when it has ports.
func TestLoopback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{ports: map[string]int{"": 2, "127.0.0.2": 1, "127.0.0.3": 1}}
		var m Memory
		for i := range 4 {
			if _, err := m.Dial(t.Context(), k.dial, nil, "tcp", "127.0.0.1:5290"); err != nil {
				t.Fatalf("dial %d: %v", i, err)
			}
		}
		_, err := m.Dial(t.Context(), k.dial, nil, "tcp", "127.0.0.1:5290")
		if _, ok := errors.AsType[*UsedUpError](err); !ok || !m.Short(time.Now()) || m.UsedUp() != time.Now() {
			t.Errorf("with no port left: %v, short %t", err, m.Short(time.Now()))
		}
		tries := len(k.dialled)
		if m.Dial(t.Context(), k.dial, nil, "tcp", "127.0.0.1:5290"); len(k.dialled) != tries {
			t.Errorf("%d tries right after that", len(k.dialled)-tries)
		}
		k.ports[""] = 1
		time.Sleep(fullFor)
		if _, err := m.Dial(t.Context(), k.dial, nil, "tcp", "127.0.0.1:5290"); err != nil || k.dialled[len(k.dialled)-1] != "" || m.Short(time.Now()) {
			t.Errorf("when there is a port again: %v from %q, short %t", err, k.dialled[len(k.dialled)-1], m.Short(time.Now()))
		}
	})
}

// If many sources are full, a pause does not make a client's dial fail, and a source
// that has ports again is used again.
func TestManyFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const full = 100
		k := &kernel{ports: map[string]int{}, search: 17 * time.Millisecond}
		k.ports[loopback(full).String()] = 1000
		var m Memory
		dial := func() (tries int, err error) {
			before := len(k.dialled)
			_, err = m.Dial(t.Context(), k.dial, nil, "tcp", "127.0.0.1:5290")
			return len(k.dialled) - before, err
		}
		for i := 0; ; i++ { // a new Memory
			start := time.Now()
			tries, err := dial()
			if took := time.Since(start); took > searchFor+batch*k.search {
				t.Errorf("searched for %v", took)
			}
			if err == nil {
				break
			}
			if i*tries > full {
				t.Fatalf("nothing found after %d dials", i)
			}
		}
		for _, pause := range []time.Duration{0, fullFor, 2 * fullFor, time.Hour} {
			time.Sleep(pause)
			if tries, err := dial(); err != nil || tries > 2 {
				t.Errorf("after %v: %d tries, %v", pause, tries, err)
			}
			if tries, err := dial(); err != nil || tries > 1 {
				t.Errorf("right after that: %d tries, %v", tries, err)
			}
		}
		k.ports[""], k.ports["127.0.0.9"] = 10, 10
		for range 2 * full {
			time.Sleep(fullFor)
			dial()
		}
		if k.ports["127.0.0.9"]+k.ports[""] != 0 {
			t.Errorf("ports that are free again are not used: %v", k.ports)
		}
	})
}

// A name for loopback also leads to the other loopback addresses. While they are
// needed, the search behind the name is not repeated, whichever error net.Dialer
// reports: it may be that of ::1, which refuses.
func TestName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{ports: map[string]int{"": 1, "127.0.0.2": 10}}
		refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		answer := parse("::1", "127.0.0.1")
		byName := 0
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(address); host == "localhost" {
				byName++
				if _, err := k.dial(ctx, network, "127.0.0.1:5280"); err != nil {
					return nil, refused
				}
				return nil, nil
			}
			return k.dial(ctx, network, address)
		}
		m := Memory{lookup: func(context.Context, string, string) ([]netip.Addr, error) { return answer, nil }}
		for i := range 6 {
			if _, err := m.Dial(t.Context(), dial, nil, "tcp", "localhost:5280"); err != nil {
				t.Fatalf("dial %d: %v", i, err)
			}
		}
		if byName != 2 {
			t.Errorf("the name was dialled %d times; want 2", byName)
		}
		time.Sleep(fullFor)
		k.ports[""] = 1
		if m.Dial(t.Context(), dial, nil, "tcp", "localhost:5280"); byName != 3 || k.ports[""] != 0 {
			t.Error("the name is not dialled when it may have a port again")
		}
		k.ports["127.0.0.2"] = 0
		time.Sleep(fullFor)
		for range 20 {
			_, err := m.Dial(t.Context(), dial, nil, "tcp", "localhost:5280")
			if _, ok := errors.AsType[*UsedUpError](err); !ok {
				t.Fatalf("with no port left: %v", err)
			}
		}

		k.ports["127.0.0.2"] = 10
		answer = parse("192.0.2.1", "127.0.0.1")
		m = Memory{lookup: m.lookup}
		if _, err := m.Dial(t.Context(), dial, nil, "tcp", "localhost:5280"); !errors.Is(err, refused) {
			t.Errorf("a name of other machines as well: %v", err)
		}
	})
}

// The configured sources are used in turn, and no others.
func TestSources(t *testing.T) {
	k := &kernel{ports: map[string]int{"": 100, "10.0.0.5": 100, "10.0.0.6": 100, "fd00::5": 100}}
	var m Memory
	sources := parse("10.0.0.5", "10.0.0.6", "fd00::5")
	for range 100 {
		if _, err := m.Dial(t.Context(), k.dial, sources, "tcp", "10.0.0.1:5290"); err != nil {
			t.Fatal(err)
		}
	}
	if k.ports[""] != 100 || k.ports["10.0.0.5"] != 50 || k.ports["10.0.0.6"] != 50 || k.ports["fd00::5"] != 100 {
		t.Errorf("left are %v", k.ports)
	}
	for range 101 {
		_, err := m.Dial(t.Context(), k.dial, sources, "tcp", "10.0.0.1:5290")
		if _, ok := errors.AsType[*UsedUpError](err); err != nil && !ok {
			t.Fatal(err)
		}
	}
	if k.ports["10.0.0.5"]+k.ports["10.0.0.6"] != 0 {
		t.Errorf("left are %v, though one source after the other is asked", k.ports)
	}
}

// Errors distinguish faulty sources from a faulty server.
func TestErrors(t *testing.T) {
	k := &kernel{ports: map[string]int{"10.0.0.6": 1}, foreign: map[string]bool{"10.0.0.5": true}}
	var m Memory
	_, err := m.Dial(t.Context(), k.dial, parse("10.0.0.5"), "tcp", "10.0.0.1:5290")
	if _, ok := errors.AsType[*ForeignError](err); !ok {
		t.Errorf("from an address of another machine: %v", err)
	}
	_, err = m.Dial(t.Context(), k.dial, parse("10.0.0.5"), "tcp", "10.0.0.1:5290")
	if _, ok := errors.AsType[*ForeignError](err); !ok {
		t.Errorf("once more: %v", err)
	}
	_, err = m.Dial(t.Context(), k.dial, parse("10.0.0.5", "10.0.0.7"), "tcp", "10.0.0.1:5290")
	if _, ok := errors.AsType[*UsedUpError](err); !ok {
		t.Errorf("with another source that is full: %v", err)
	}
	_, err = m.Dial(t.Context(), k.dial, parse("10.0.0.6"), "tcp", "[fd00::1]:5290")
	if _, ok := errors.AsType[*FamilyError](err); !ok {
		t.Errorf("to the other family: %v", err)
	}
	refused := errors.New("refused")
	_, err = m.Dial(t.Context(), func(context.Context, string, string) (net.Conn, error) { return nil, refused }, nil, "tcp", "127.0.0.1:5290")
	if err != refused {
		t.Errorf("a server that refuses: %v", err)
	}
	before := len(k.dialled)
	if _, err = m.Dial(t.Context(), k.dial, nil, "tcp", "192.0.2.1:5290"); err == nil || len(k.dialled) != before+1 {
		t.Errorf("a server that loopback does not reach: %v after %q", err, k.dialled[before:])
	}
}

func TestCount(t *testing.T) {
	for _, test := range []struct {
		ports, reserved string
		want            int
	}{
		{"32768\t60999\n", "\n", 28232}, {"50000 50019", "50001,50003-50004", 17}, {"50000 50019", "1-65535", 1},
		{"", "", 0}, {"9 1", "", 0}, {"a b", "", 0}, {"1 70000", "", 0},
	} {
		root := fstest.MapFS{folder + "ip_local_port_range": {Data: []byte(test.ports)}, folder + "ip_local_reserved_ports": {Data: []byte(test.reserved)}}
		if got := count(root); got != test.want {
			t.Errorf("count of %q without %q = %d; want %d", test.ports, test.reserved, got, test.want)
		}
	}
	if got := count(fstest.MapFS{}); got != 0 {
		t.Errorf("without /proc: %d", got)
	}
}

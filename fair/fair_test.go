package fair

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestOwner(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
		"64:ff9b::c000:207": "192.0.2.7", "64:ff9b:1::c000:207": "64:ff9b:1::",
	} {
		if got := Owner(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("Owner(%s) = %s; want %s", in, got, want)
		}
	}
	if got := OwnerOf("@"); got.IsValid() {
		t.Errorf("a unix socket has the owner %s", got)
	}
}

// A Set always agrees with a recount.
func TestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(6))}) }
	var s Set[int]
	var all []*Entry[int] // in the order of Add
	for i := range 4_000 {
		if r.IntN(100) < 40+20*(i/500%2) && len(all) > 0 {
			k := r.IntN(len(all))
			if !s.Remove(all[k]) || s.Remove(all[k]) {
				t.Fatal("Remove does not say what it did")
			}
			all = slices.Delete(all, k, k+1)
		} else {
			all = append(all, s.Add(addr(), i))
		}
		count := map[netip.Addr]int{}
		most := 0
		for _, e := range all {
			count[e.owner.addr]++
			most = max(most, count[e.owner.addr])
		}
		a, worst := addr(), s.Worst()
		var first *Entry[int]
		for _, e := range all {
			if count[e.owner.addr] == most {
				first = e
				break
			}
		}
		if s.Len() != len(all) || s.Most() != most || s.Of(a) != count[a] {
			t.Fatalf("after %d: %d of %d, most %d; want %d of %d, most %d", i, s.Of(a), s.Len(), s.Most(), count[a], len(all), most)
		}
		if worst != first {
			t.Fatalf("after %d: the worst is %+v; want %+v, of one with %d", i, worst, first, most)
		}
	}
}

// A pipes is a listener whose clients are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.addr)) }

// A rig is an http.Server on pipes, with three places, and one outside.
type rig struct {
	t      *testing.T
	pipes  *pipes
	conns  *Conns
	server *http.Server
}

func newRig(t *testing.T, handler http.HandlerFunc) *rig {
	r := &rig{t: t, pipes: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, conns: &Conns{Max: 4}}
	server := &http.Server{Handler: r.conns.Handler(handler), ConnContext: r.conns.ConnContext, ConnState: r.conns.ConnState}
	r.server = server
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(r.conns.Listen(r.pipes))
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return r
}

func (r *rig) dial(addr string) net.Conn {
	client, server := net.Pipe()
	r.t.Cleanup(func() { client.Close() })
	r.pipes.conns <- from{server, addr}
	synctest.Wait()
	return client
}

func get(c net.Conn, path string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len("HTTP/1.1 200")))
	if err == nil {
		io.Copy(io.Discard, c)
	}
	return err
}

// isOpen reports whether the peer has not closed a silent connection.
func isOpen(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	c.SetReadDeadline(time.Time{})
	return err != io.EOF
}

// Connections of one address that are silent, or have sent half a request, do not delay
// a newcomer with a request, regardless of their number. Those inside stay until one of
// another address comes; outside the last one waits.
func TestConnsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {})
		alone := r.dial("198.51.100.1:1")
		var silent []net.Conn
		for i := range 600 {
			c := r.dial(fmt.Sprintf("[2001:db8::%x]:1", i+1))
			if i < 3 {
				go io.WriteString(c, "GET / HT")
			}
			silent = append(silent, c)
		}
		open := func() (list []int) {
			for i, c := range silent {
				if isOpen(c) {
					list = append(list, i)
				}
			}
			return list
		}
		if got := open(); !slices.Equal(got, []int{0, 1, 599}) {
			t.Errorf("%d are open; want the first two, which are inside, and the last one, outside", got)
		}
		start := time.Now()
		if err := get(r.dial("192.0.2.1:1"), "/"); err != nil {
			t.Errorf("a newcomer: %v", err)
		}
		if err := get(alone, "/"); err != nil {
			t.Errorf("the one that came first, alone of its address: %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("they waited %v", took)
		}
		if got := open(); !slices.Equal(got, []int{1, 599}) {
			t.Errorf("%d are open; want the second, and the last in the place of who was served", got)
		}
	})
}

// If attackers use one address per connection and reconnect after each close, each
// connection has its patience, and a slow client is served in its turn.
func TestConnsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {})
		ctx, stop := context.WithCancel(t.Context())
		var strangers sync.WaitGroup
		for i := range 20 {
			strangers.Go(func() {
				for ctx.Err() == nil {
					client, server := net.Pipe()
					end := context.AfterFunc(ctx, func() { client.Close() })
					select {
					case r.pipes.conns <- from{server, fmt.Sprintf("198.51.100.%d:1", i+1)}:
						client.Read(make([]byte, 1))
					case <-ctx.Done():
					}
					end()
					client.Close()
				}
			})
		}
		synctest.Wait()
		for range 5 {
			start := time.Now()
			client, server := net.Pipe()
			r.pipes.conns <- from{server, "192.0.2.1:1"}
			time.Sleep(hurry - time.Millisecond)
			if err := get(client, "/"); err != nil {
				t.Errorf("a slow client: %v", err)
			}
			if took := time.Since(start); took > 10*patience {
				t.Errorf("it took %v", took)
			}
			client.Close()
		}
		stop()
		strangers.Wait()
	})
}

// A newcomer waits while no connection gives way to it.
func TestConnsOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {})
		for i := range 3 {
			r.dial(fmt.Sprintf("198.51.100.%d:1", i+1))
		}
		start := time.Now()
		first := r.dial("192.0.2.1:1")
		if !isOpen(first) {
			t.Fatal("it is closed instead of kept outside")
		}
		if err := get(first, "/"); err != nil || time.Since(start) != patience {
			t.Errorf("%v after %v; want an answer after %v", err, time.Since(start), patience)
		}
	})
}

// Closing a listener closes its connections outside, and ends a wait to enter.
func TestConnsCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {})
		var conns []net.Conn
		for i := range 5 {
			conns = append(conns, r.dial(fmt.Sprintf("198.51.100.%d:1", i+1)))
		}
		r.server.Close()
		for i, c := range conns {
			if isOpen(c) {
				t.Errorf("connection %d is open", i)
			}
		}
	})
}

// A connection in a handler keeps its place, and newcomers wait for it. In While it
// gives way.
func TestConnsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/busy":
				<-answer
			case "/fault":
				While(r.Context(), func() { <-r.Context().Done() })
			}
		})
		results := make(chan error, 3)
		ask := func(addr, path string) {
			c := r.dial(addr)
			go func() { results <- get(c, path) }()
			synctest.Wait()
		}
		ask("192.0.2.1:1", "/busy")
		ask("192.0.2.1:2", "/busy")
		ask("192.0.2.1:3", "/fault")
		if err := get(r.dial("192.0.2.2:1"), "/"); err != nil {
			t.Errorf("a newcomer: %v", err)
		}
		if err := <-results; err == nil {
			t.Error("the connection that waits for its own fault was answered; want its place given away")
		}
		ask("192.0.2.1:3", "/busy") // in the place of the newcomer, which was answered
		late := r.dial("192.0.2.3:1")
		got := make(chan error, 1)
		go func() { got <- get(late, "/") }()
		synctest.Wait()
		select {
		case err := <-got:
			t.Errorf("served while all places are taken: %v", err)
		default:
		}
		close(answer)
		if err := <-got; err != nil {
			t.Errorf("once there was a place: %v", err)
		}
		for range 3 {
			if err := <-results; err != nil {
				t.Errorf("a busy connection: %v", err)
			}
		}
	})
}

// A request without its body delays no others, regardless of its path. One with a
// complete body is answered, and its connection continues; a long body is not awaited.
func TestConnsBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, r *http.Request) {})
		for i, head := range []string{"GET / HTTP/1.1\r\nContent-Length: 9", "POST / HTTP/1.1\r\nContent-Length: 9", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked"} {
			c := r.dial(fmt.Sprintf("192.0.2.1:%d", i+1))
			go io.WriteString(c, head+"\r\nHost: x\r\n\r\n1")
		}
		synctest.Wait()
		start := time.Now()
		if err := get(r.dial("192.0.2.2:1"), "/"); err != nil || time.Since(start) != 0 {
			t.Errorf("a newcomer: %v after %v; want it served at once", err, time.Since(start))
		}
		c := r.dial("192.0.2.3:1")
		answers := bufio.NewReader(c)
		for _, test := range []struct {
			head, body string
			want       int
		}{
			{"Content-Length: 3", "abc", 200},
			{"Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", 200},
			{fmt.Sprintf("Content-Length: %d", maxBody), strings.Repeat("a", maxBody), 200},
			{"Content-Length: 1000000", strings.Repeat("a", maxBody+1), 413},
		} {
			go io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+test.head+"\r\n\r\n"+test.body)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("%s: %v", test.head, err)
			}
			io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != test.want || resp.Close != (test.want != 200) {
				t.Errorf("%s: %d, closes %t; want %d", test.head, resp.StatusCode, resp.Close, test.want)
			}
		}
		if _, err := answers.ReadByte(); err != io.EOF {
			t.Errorf("after 413: %v; want the end", err)
		}
	})
}

// A panic while a connection enters closes that connection, and is reported.
func TestConnsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(http.ResponseWriter, *http.Request) {})
		told := 0
		r.conns.Panicked = func(any) { told++ }
		r.conns.Refuses = func(client netip.Addr) bool {
			if client == netip.MustParseAddr("192.0.2.1") {
				panic("test")
			}
			return false
		}
		if err := get(r.dial("192.0.2.1:1"), "/"); err == nil || told != 1 {
			t.Errorf("answered: %v; told %d times; want the connection closed and one panic", err, told)
		}
		if err := get(r.dial("192.0.2.2:1"), "/"); err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
}

// A few connections of one address keep their places as long as those of other
// addresses with one each, and delay no others meanwhile.
func TestGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
		var s Set[string]
		want := func(who int, want string) {
			t.Helper()
			got := "nobody"
			if e := s.GivesWay(addr(who), 3, time.Second); e != nil {
				got = e.Value
			}
			if got != want {
				t.Errorf("for address %d, %s gives way; want %s", who, got, want)
			}
		}
		want(1, "nobody")
		s.Add(addr(1), "a stranger")
		time.Sleep(time.Second / 2)
		for range 3 {
			s.Add(addr(2), "one of a few")
		}
		want(3, "nobody")
		time.Sleep(time.Second / 2)
		want(3, "a stranger")
		want(2, "a stranger")
		s.Add(addr(2), "one of many")
		want(3, "one of a few")
		want(2, "nobody") // none of its own so soon
		time.Sleep(time.Second / 2)
		want(2, "one of a few")
	})
}

// A refused connection is closed and takes no place.
func TestConnsRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {})
		r.conns.Refuses = func(client netip.Addr) bool { return client == netip.MustParseAddr("192.0.2.1") }
		for range 5 {
			if c := r.dial("192.0.2.1:1"); isOpen(c) {
				t.Error("a client that is refused is let in")
			}
		}
		if err := get(r.dial("192.0.2.2:1"), "/"); err != nil {
			t.Error(err)
		}
	})
}

// Outside of a handler of a Conns, While only waits.
func TestWhileElsewhere(t *testing.T) {
	waited := false
	While(context.Background(), func() { waited = true })
	if !waited {
		t.Error("it did not wait")
	}
}

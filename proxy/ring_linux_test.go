package proxy

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"wssgate/demo/chat"
)

// testRing returns a ring, or one that has failed if the kernel allows none.
func testRing(t *testing.T) *ring {
	r, err := newRing(func(err error) { t.Error("the ring is lost: ", err) })
	if err != nil {
		t.Log("without a ring: ", err)
		return &ring{broken: true}
	}
	t.Cleanup(r.close)
	return r
}

// failingRing returns a ring that the kernel refuses at the first call.
func failingRing(lost func(error)) *ring {
	var places [4]uint32
	return &ring{fd: -1, lost: lost, sqes: make([]sqe, ringEntries), cqes: make([]cqe, 2*ringEntries),
		sqHead: &places[0], sqTail: &places[1], cqHead: &places[2], cqTail: &places[3]}
}

// ringPair returns a sock with a descriptor, and its other end.
func ringPair(t *testing.T) (*sock, int) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	s := &sock{want: forInput}
	s.os.fd = ends[0]
	s.raw = &s.os
	return s, ends[1]
}

// A batch allocates nothing, delivers the input, and reports an end after it: with a
// ring, with one that fails at the first call, and after that.
func TestRingBatch(t *testing.T) {
	losses := 0
	for name, r := range map[string]*ring{
		"ring":    testRing(t),
		"failing": failingRing(func(error) { losses++ }),
		"failed":  {broken: true},
	} {
		b, w := newBatch(r.do), newTurn()
		w.batch = b
		s, peer := ringPair(t)
		tun := &tunnel{client: leg{sock: s}}
		tell := func(*tunnel, *leg, readiness) { t.Errorf("%s: a write was not made in full", name) }
		got, whole := make([]byte, 3*slotSize), bytes.Repeat([]byte("message "), slotSize/4)
		back := make([]byte, len(whole))
		round := func(size int) { // for a read that may exceed a slot
			sent := whole[:size]
			unix.Write(peer, sent)
			b.read(tun, &tun.client)
			b.begin()
			b.turnOf(tun)
			s.turn, s.drained, w.budget = w, false, turnBudget
			if n, err := s.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
				t.Fatalf("%s: read %d bytes, %v; want %d", name, n, err, len(sent))
			}
			if s.send(sent); !s.pending {
				t.Fatalf("%s: a write of %d bytes is not gathered", name, size)
			}
			b.end(tell)
			if n, err := unix.Read(peer, back); err != nil || !bytes.Equal(back[:n], sent) {
				t.Fatalf("%s: the peer read %d bytes, %v; want %d", name, n, err, len(sent))
			}
		}
		for _, size := range []int{10, slotSize - 1, slotSize, slotSize + 1, 2 * slotSize, 10} {
			round(size)
		}
		if n := testing.AllocsPerRun(100, func() { round(100) }); n != 0 {
			t.Errorf("%s: %v allocations for a message; want 0", name, n)
		}
		unix.Write(peer, []byte("last"))
		unix.Shutdown(peer, unix.SHUT_WR)
		b.read(tun, &tun.client)
		b.begin()
		w.budget, s.drained = 2, false // a turn that reads half
		if n, _ := s.Read(got); n != 2 || !b.waiting() {
			t.Fatalf("%s: read %d bytes, waiting %t", name, n, b.waiting())
		}
		b.end(tell)
		w.budget, s.drained = turnBudget, false
		if n, err := s.Read(got); string(got[:n]) != "st" || err != nil || s.ahead != 0 {
			t.Fatalf("%s: read %q, %v", name, got[:n], err)
		}
		s.drained = false
		if _, err := s.Read(got); err != io.EOF {
			t.Errorf("%s: behind the last bytes: %v; want an end", name, err)
		}
	}
	if losses != 1 {
		t.Errorf("a ring that the kernel refuses says so %d times; want once", losses)
	}
}

// Writes are gathered even while no slot is free for reads.
func TestRingWithoutSlots(t *testing.T) {
	b, w := newBatch(testRing(t).do), newTurn()
	w.batch = b
	s, peer := ringPair(t)
	tun := &tunnel{client: leg{sock: s}}
	tell := func(*tunnel, *leg, readiness) { t.Error("a write was not made in full") }
	b.read(tun, &tun.client)
	b.begin()
	if _, err := s.Read(make([]byte, 1)); err != errAgain {
		t.Fatalf("a read of nothing: %v", err)
	}
	b.end(tell)
	b.taken = batchSlots
	b.read(tun, &tun.client)
	b.begin()
	b.turnOf(tun)
	s.turn = w
	if s.send([]byte("x")); s.ahead != 0 || !s.pending {
		t.Errorf("ahead %d, pending %t; want a write alone", s.ahead, s.pending)
	}
	b.taken = 0
	b.end(tell)
	if n, err := unix.Read(peer, make([]byte, 2)); n != 1 {
		t.Errorf("the peer read %d bytes, %v; want 1", n, err)
	}
}

// Bytes that the kernel does not accept wait in the sock, and its tunnel gets a turn. A
// second write stays behind the first.
func TestRingLateWrite(t *testing.T) {
	b, w := newBatch(testRing(t).do), newTurn()
	w.batch = b
	s, peer := ringPair(t)
	other, _ := ringPair(t)
	tun := &tunnel{client: leg{sock: s}}
	var sent []byte
	for n := 0; n >= 0; n, _ = unix.Write(s.os.fd, sent[len(sent)-1:]) { // until the kernel accepts no more
		sent = append(sent, byte(len(sent)))
	}
	sent = sent[:len(sent)-1]
	unix.Read(peer, make([]byte, 1))
	b.read(tun, &leg{sock: other})
	b.begin()
	b.turnOf(tun)
	s.turn = w
	first, second := bytes.Repeat([]byte("a"), slotSize), []byte("b")
	s.send(first)
	s.send(second)
	told := 0
	b.end(func(*tunnel, *leg, readiness) { told++ })
	if told != 1 || s.pending || s.out.size == 0 {
		t.Fatalf("told %d times, pending %t, %d bytes wait", told, s.pending, s.out.size)
	}
	want := append(append(sent[1:], first...), second...)
	var got []byte
	buf := make([]byte, 1<<16)
	for len(got) < len(want) {
		n, err := unix.Read(peer, buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
		s.flush()
	}
	if !bytes.Equal(got, want) {
		t.Error("the peer got something else")
	}
}

// A socket with a pump has no descriptor for a ring; 0 is the descriptor of another
// file.
func TestRingWithoutDescriptor(t *testing.T) {
	b, w := newBatch(func([]call) { t.Error("a call was made") }), newTurn()
	raw := &pumpedConn{}
	s := &sock{raw: raw, turn: w}
	w.batch, b.on, b.arena = b, true, make([]byte, 0, 100)
	if s.turn.batch.add(s, []byte("x")) || s.pending {
		t.Error("the write is in a batch")
	}
	b.end(nil)
}

// A panic within a batch ends the tunnel that had its turn, or the sockets of the
// interrupted calls. Others are unaffected and get every byte once. The loop continues.
func TestPanicInBatch(t *testing.T) {
	const clients = 12
	for name, test := range map[string]struct {
		inject func(l *loop, p *epoll)
		ends   int // maximum number of clients that it may end
	}{
		"in a turn": {func(l *loop, p *epoll) { l.timers[clients/2].settings = nil }, 1},
		"in the table": {func(l *loop, p *epoll) {
			told := 0
			l.tellEach = func(t *tunnel, leg *leg, is readiness) {
				if told++; told == clients/2 {
					l.tellEach = l.tell
					panic("test")
				}
				l.tell(t, leg, is)
			}
		}, 0},
		"before reads":  {func(l *loop, p *epoll) { p.batch.do = panicsIn(p, 0, false) }, clients},
		"after reads":   {func(l *loop, p *epoll) { p.batch.do = panicsIn(p, 0, true) }, clients},
		"before writes": {func(l *loop, p *epoll) { p.batch.do = panicsIn(p, 1, false) }, clients},
		"after writes":  {func(l *loop, p *epoll) { p.batch.do = panicsIn(p, 1, true) }, clients},
	} {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t, chat.Config{Echo: true})
			g := newGate(t, up.URL())
			l := g.loops.list[0]
			conns := make([]*chat.Client, clients)
			for i := range conns {
				conns[i] = g.dial()
				pingPong(t, conns[i])
			}
			held, release, batched := make(chan struct{}), make(chan struct{}), make(chan bool)
			l.post(func() {
				p := l.poller.(*epoll)
				if p.batch == nil { // the kernel refuses rings
					p.ring = &ring{broken: true}
					p.batch = newBatch(p.ring.do)
					l.work.batch = p.batch
				}
				close(held)
				<-release
				test.inject(l, p)
			})
			<-held
			for i, c := range conns {
				if err := c.WriteFrame(ws.NewTextFrame(fmt.Appendf(nil, "message of client %d", i))); err != nil {
					t.Fatal(err)
				}
			}
			close(release)
			ended := 0
			for i, c := range conns {
				f, err := c.ReadFrame()
				switch {
				case err != nil || f.Header.OpCode != ws.OpText:
					ended++
				case string(f.Payload) != fmt.Sprintf("message of client %d", i):
					t.Errorf("client %d got %q", i, f.Payload)
				default:
					pingPong(t, c)
				}
			}
			if ended > test.ends {
				t.Errorf("%d clients have ended; want at most %d", ended, test.ends)
			}
			l.post(func() { batched <- len(l.poller.(*epoll).batch.slots) > 0 })
			if !<-batched {
				t.Error("there was no batch")
			}
			pingPong(t, g.dial())
		})
	}
}

// panicsIn returns a do for a batch that panics once, after so many calls.
func panicsIn(p *epoll, after int, made bool) func([]call) {
	do := p.ring.do
	return func(calls []call) {
		if after--; after != -1 {
			do(calls)
			return
		}
		if made {
			do(calls)
		}
		panic("test")
	}
}

// A loop that gets no ring for lack of descriptors keeps none from others.
func TestRingLacksDescriptors(t *testing.T) {
	var said []string
	r := &rings{refused: func(err error) { said = append(said, err.Error()) }}
	short := func() (restore func()) {
		var free [3]int // the next descriptors
		for i := range free {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			free[i] = fd
		}
		var was unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free[2]), Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		return func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &was) }
	}
	grow := func(want string) {
		t.Helper()
		p, err := r.newPoller()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.close)
		if got := r.String(); got != want {
			t.Errorf("io_uring is %q; want %q", got, want)
		}
	}
	const none = "io_uring_setup: too many open files"
	restore := short()
	defer restore()
	if r, err := newRing(nil); err == nil {
		r.close()
	} else if ringForbidden(err) {
		return // before descriptors matter
	}
	grow(none)
	restore()
	grow("on, but not in 1 of 2 event loops: " + none)
	restore = short()
	grow("on, but not in 2 of 3 event loops: " + none)
	restore()
	if len(said) != 1 {
		t.Errorf("logged %q; want one line", said)
	}
}

// Where the kernel forbids it, one loop tries, and all are without.
func TestRingForbidden(t *testing.T) {
	r := &rings{forAll: true, loops: 1, without: []string{"operation not permitted"}}
	p, err := r.newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if got := r.String(); got != "operation not permitted" {
		t.Errorf("io_uring is %q", got)
	}
	for errno, want := range map[unix.Errno]bool{unix.EPERM: true, unix.ENOSYS: true, unix.EINVAL: true, unix.EMFILE: false, unix.ENOMEM: false} {
		if got := ringForbidden(os.NewSyscallError("io_uring_setup", errno)); got != want {
			t.Errorf("after %v all are refused: %t", errno, got)
		}
	}
}

// A ring that is lost holds neither memory nor a descriptor, and calls go on.
func TestRingLost(t *testing.T) {
	losses := 0
	r, err := newRing(func(error) { losses++ })
	if err != nil {
		t.Log("without a ring: ", err)
		r = failingRing(func(error) { losses++ })
	}
	fd := r.fd
	if fd >= 0 { // what enters it now fails
		null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Dup3(null, fd, unix.O_CLOEXEC)
		unix.Close(null)
	}
	for range 2 {
		s, peer := ringPair(t)
		unix.Write(peer, []byte("hello"))
		calls := []call{{s: s, b: make([]byte, 8)}}
		if r.do(calls); calls[0].n != 5 || calls[0].err != nil {
			t.Errorf("read %d, %v", calls[0].n, calls[0].err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fd >= 0 && err != unix.EBADF {
			t.Errorf("descriptor %d is still open: %v", fd, err)
		}
		fd = -1 // it may be used again
	}
	if losses != 1 || r.mapped != nil || r.fd != -1 {
		t.Errorf("lost %d times; %d mappings, descriptor %d", losses, len(r.mapped), r.fd)
	}
	r.close()
}

package proxy

import (
	"bytes"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

func testRing(t *testing.T) *ring {
	r, err := newRing()
	if err != nil {
		t.Skip("run it where the kernel allows io_uring: ", err)
	}
	t.Cleanup(r.close)
	return r
}

// ringPair is a sock with a descriptor, and the other end of it.
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

// A batch costs no allocation, brings what was sent, and tells of an end behind it.
func TestRingBatch(t *testing.T) {
	for _, broken := range []bool{false, true} {
		r := testRing(t)
		r.broken = broken
		b, w := newBatch(r.do), newTurn()
		w.batch = b
		s, peer := ringPair(t)
		tun := &tunnel{client: leg{sock: s}}
		tell := func(*tunnel, *leg, readiness) { t.Error("a write was not made in full") }
		got, long := make([]byte, 3*slotSize), bytes.Repeat([]byte("message "), slotSize/4) // two slots
		back := make([]byte, len(long))
		round := func() {
			unix.Write(peer, long)
			b.read(tun, &tun.client)
			b.begin()
			b.turnOf(tun)
			s.turn, s.drained, w.budget = w, false, turnBudget
			if n, err := s.Read(got); err != nil || !bytes.Equal(got[:n], long) {
				t.Fatalf("read %d bytes, %v; want %d", n, err, len(long))
			}
			if s.send(long); !s.pending {
				t.Fatal("the write is not gathered")
			}
			b.end(tell)
			if n, err := unix.Read(peer, back); err != nil || !bytes.Equal(back[:n], long) {
				t.Fatalf("the peer read %d bytes, %v; want %d", n, err, len(long))
			}
		}
		round()
		if n := testing.AllocsPerRun(100, round); n != 0 {
			t.Errorf("broken %t: %v allocations for a message; want 0", broken, n)
		}
		unix.Write(peer, []byte("last"))
		unix.Shutdown(peer, unix.SHUT_WR)
		b.read(tun, &tun.client)
		b.begin()
		w.budget, s.drained = 2, false // a turn that reads half
		if n, _ := s.Read(got); n != 2 || !b.waiting() {
			t.Fatalf("read %d bytes, waiting %t", n, b.waiting())
		}
		b.end(tell)
		w.budget, s.drained = turnBudget, false
		if n, err := s.Read(got); string(got[:n]) != "st" || err != nil || s.ahead != 0 {
			t.Fatalf("read %q, %v", got[:n], err)
		}
		s.drained = false
		if _, err := s.Read(got); err != io.EOF {
			t.Errorf("behind the last bytes: %v; want an end", err)
		}
	}
}

// What the kernel does not take waits in the sock, and its tunnel is told. A second write
// stays behind the first.
func TestRingLateWrite(t *testing.T) {
	b, w := newBatch(testRing(t).do), newTurn()
	w.batch = b
	s, peer := ringPair(t)
	other, _ := ringPair(t)
	unix.SetsockoptInt(s.os.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	tun := &tunnel{client: leg{sock: s}}
	b.read(tun, &leg{sock: other})
	b.begin()
	b.turnOf(tun)
	s.turn = w
	first, second := bytes.Repeat([]byte("a"), 100_000), []byte("b")
	s.send(first)
	s.send(second)
	told := 0
	b.end(func(*tunnel, *leg, readiness) { told++ })
	if told != 1 || s.pending || s.out.size == 0 {
		t.Fatalf("told %d times, pending %t, %d bytes wait", told, s.pending, s.out.size)
	}
	var got []byte
	buf := make([]byte, 1<<16)
	for len(got) <= len(first) {
		n, err := unix.Read(peer, buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
		s.flush()
	}
	if !bytes.Equal(got, append(first, second...)) {
		t.Error("the peer got something else")
	}
}

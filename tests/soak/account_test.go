package soak

import (
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"wssgate/tests/internal/wire"
)

// An ending is how a node ended a tunnel.
type ending string

const (
	byPeer  ending = ""        // it did not: the gate did, or nobody yet
	inOrder ending = "FIN"     // FIN behind all that it wrote
	goodbye ending = "Close"   // a Close frame with codeGoodbye, then the same
	byReset ending = "a reset" // what is under way may be lost
)

// codeGoodbye is a node's own, so that it can be told from the gate's.
const codeGoodbye = 4000

const (
	// What a node wrote that long before the gate's Close of a drain came must have
	// arrived; twice that at a client that reads slowly, and more on a machine that is
	// late itself.
	lastMoment = 2 * time.Second
	// How long after the end of a drain its Close may come.
	lateClose = 15 * time.Second
)

// An account is what a node knows of one tunnel: what it took and wrote, and what
// was done to the tunnel. Nothing that was done to another one excuses its end.
type account struct {
	c     *wire.Conn
	fault fault
	over  chan struct{} // closed when the node has done with it

	mu      sync.Mutex // held while the node writes
	mark    string     // "" before the client has said it
	taken   int        // messages
	bytes   int64      // written
	written []answer
	ending  ending
	sure    int64     // bytes that the gate's kernel had when the node ended it
	drained bool      // it was there while the node was drained
	before  int       // answers written before the drain was asked for
	stopped time.Time // when the drain stopped; zero: not yet
}

// An answer is one that a node wrote.
type answer struct {
	at  time.Time
	end int64 // bytes that were written with it
}

// write writes a frame; counts is for answers.
func (a *account) write(f wire.Frame, counts bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending != byPeer {
		return net.ErrClosed
	}
	var err error
	b := f.Append(nil)
	if a.fault != silent || !counts || len(a.written) < 4 {
		_, err = a.c.Write(b)
	}
	if a.bytes += int64(len(b)); err == nil && counts {
		a.written = append(a.written, answer{time.Now(), a.bytes})
	}
	return err
}

// end ends the tunnel between two frames.
func (a *account) end(how ending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault == atEnd {
		a.written = append(a.written, answer{time.Now(), a.bytes})
	}
	tcp := a.c.Conn.(*net.TCPConn)
	a.ending, a.sure = how, a.bytes-unacknowledged(tcp)
	switch how {
	case goodbye:
		a.c.Write(wire.CloseFrame(false, codeGoodbye, "").Append(nil))
		tcp.CloseWrite()
	case inOrder:
		tcp.CloseWrite()
	default:
		tcp.SetLinger(0)
		tcp.Close()
	}
}

// unacknowledged is how many bytes the peer's kernel may not have.
func unacknowledged(tcp *net.TCPConn) int64 {
	n := int32(math.MaxInt32)
	if rc, err := tcp.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) {
			syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
		})
	}
	return int64(n)
}

func (a *account) know(mark string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mark = mark
}

func (a *account) isKnown() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mark != ""
}

func (a *account) take() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != unheard {
		a.taken++
	}
}

func (a *account) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.drained || !a.stopped.IsZero() && time.Since(a.stopped) > lateClose {
		a.before = len(a.written) // or else an earlier drain's Close may be under way
	}
	a.drained, a.stopped = true, time.Time{}
}

func (a *account) stopDrain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = time.Now()
}

// judge says what is wrong with a tunnel's end, "" for nothing. The client got that
// many answers, and wrote that many messages before it answered a Close.
//
// What may be lost:
//
//   - Where the node ended the tunnel in order, or with a Close frame: nothing.
//   - Where it reset the tunnel: what the gate's kernel had not acknowledged then.
//   - Where a drain did: nothing of the client's; answers that the node wrote after
//     the drain was asked for, for they may not follow the Close frame (RFC 6455,
//     section 5.5.1), and of those only the ones of the last moment.
func (a *account) judge(got, wrote int, code uint16, at time.Time, slow bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	lost := func(must int, why string) string {
		if got < must {
			return fmt.Sprintf("%d answers are missing of the %d that the node wrote %s, of %d in all; ended by %q, Close %d", must-got, must, why, len(a.written), a.ending, code)
		}
		return ""
	}
	count := func(f func(answer) bool) int {
		n := 0
		for n < len(a.written) && f(a.written[n]) {
			n++
		}
		return n
	}
	switch {
	case code == 1001 && a.drained && (a.stopped.IsZero() || at.Before(a.stopped.Add(lateClose))):
		if a.ending == byPeer && a.taken < wrote {
			return fmt.Sprintf("a drain lost %d of %d messages for the node", wrote-a.taken, wrote)
		}
		if wrong := lost(a.before, "before the drain was asked for"); wrong != "" {
			return wrong
		}
		moment := lastMoment
		if slow {
			moment *= 2
		}
		moment += 2 * lateness.worst()
		old := count(func(n answer) bool { return n.at.Before(at.Add(-moment)) })
		return lost(old, fmt.Sprintf("more than %v before its Close", moment.Round(time.Millisecond)))
	case a.ending.explains(code) && a.ending != byReset:
		return lost(len(a.written), "before its end")
	case a.ending.explains(code):
		if code == 0 && a.sure == a.bytes {
			return "a reset between two frames came without a Close"
		}
		return lost(count(func(n answer) bool { return n.end <= a.sure }), "and the gate's kernel had")
	}
	return fmt.Sprintf("ended without a reason: Close %d, by the node: %q, drained: %v", code, a.ending, a.drained)
}

// A book has the accounts of the tunnels whose mark a node knows.
type book struct {
	mu       sync.Mutex
	accounts map[string]*account
	// What nodes did to tunnels whose mark they did not know: each excuses one.
	unknown []unknownEnd
}

type unknownEnd struct {
	how ending
	at  time.Time
}

func (b *book) enter(mark string, a *account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[mark] = a
}

func (b *book) lostUnknown(how ending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unknown = append(b.unknown, unknownEnd{how, time.Now()})
}

// find returns the account of a mark, nil if there is none.
func (b *book) find(mark string) *account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accounts[mark]
}

func (b *book) close(mark string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.accounts, mark)
}

// useUnknown uses up the end of a tunnel without a mark, since then, that explains
// a code. Most are of tunnels that say no mark: old ones go.
func (b *book) useUnknown(since time.Time, code uint16) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unknown = slices.DeleteFunc(b.unknown, func(e unknownEnd) bool { return time.Since(e.at) > 2*patience })
	for i, e := range b.unknown {
		if e.at.After(since) && e.how.explains(code) {
			b.unknown = slices.Delete(b.unknown, i, i+1)
			return true
		}
	}
	return false
}

// explains reports whether a tunnel that a node ended so ends with a code at its
// client; 0: with no Close.
func (e ending) explains(code uint16) bool {
	switch e {
	case goodbye:
		return code == codeGoodbye
	case inOrder:
		return code == 1012
	case byReset: // which may cut a frame in two
		return code == 1012 || code == 0
	}
	return false
}

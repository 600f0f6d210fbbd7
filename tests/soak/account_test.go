package soak

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

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
	// What a node wrote that long before its reset, or before the gate's Close of a
	// drain came, must have arrived; twice that at a client that reads slowly.
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
	written []time.Time
	ending  ending
	endedAt time.Time
	drained bool      // it was there while the node was drained
	stopped time.Time // when the drain stopped; zero: not yet
}

// write writes a frame; counts is for answers.
func (a *account) write(f wire.Frame, counts bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending != byPeer {
		return net.ErrClosed
	}
	var err error
	if a.fault != silent || !counts || len(a.written) < 4 {
		_, err = a.c.Write(f.Append(nil))
	}
	if err == nil && counts {
		a.written = append(a.written, time.Now())
	}
	return err
}

// end ends the tunnel between two frames.
func (a *account) end(how ending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault == atEnd {
		a.written = append(a.written, time.Now())
	}
	tcp := a.c.Conn.(*net.TCPConn)
	a.ending, a.endedAt = how, time.Now()
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
	a.drained, a.stopped = true, time.Time{}
}

func (a *account) stopDrain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = time.Now()
}

// judge says what is wrong with a tunnel's end, "" for nothing. The client got that
// many answers, and wrote that many messages before it answered a Close.
func (a *account) judge(got, wrote int, code uint16, at time.Time, slow bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	moment := lastMoment
	if slow {
		moment *= 2
	}
	lost := func(before time.Time) string {
		n := 0
		for n < len(a.written) && a.written[n].Before(before) {
			n++
		}
		if got < n {
			return fmt.Sprintf("%d answers are missing of the %d that the node wrote before %s, of %d in all; ended by %q, Close %d", n-got, n, before.Format("15:04:05.000"), len(a.written), a.ending, code)
		}
		return ""
	}
	all := at.Add(time.Hour)
	switch {
	case code == 1001 && a.drained && (a.stopped.IsZero() || at.Before(a.stopped.Add(lateClose))):
		if a.ending == byPeer && a.taken < wrote {
			return fmt.Sprintf("a drain lost %d of %d messages for the node", wrote-a.taken, wrote)
		}
		return lost(at.Add(-moment))
	case code == 1012 && a.ending == inOrder, code == codeGoodbye && a.ending == goodbye:
		return lost(all)
	case (code == 1012 || code == 0) && a.ending == byReset:
		return lost(a.endedAt.Add(-moment))
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

package soak

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"wssgate/tests/internal/wire"
)

// open is a client's first word (RFC 7395, section 3.4).
const open = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.test' version='1.0'/>"

// opening is an honest client's, which says its mark with it.
func opening(mark string) string {
	return strings.Replace(open, "<open", "<open from='"+mark+"@example.test'", 1)
}

// An honest client has one tunnel after another, and says something with its
// mark on each. What must hold of a tunnel:
//
//   - Each message that the node accepted is answered, and the answers come
//     once, in order, whole, at this client; nothing of another's comes.
//   - It ends when the client is done, or because its own node ended this very
//     tunnel or was drained while it had it. Then everything has arrived but for
//     what account.judge allows to be lost.
type honest struct {
	r    *rig
	rng  *rand.Rand
	kind honestKind

	old   bool                   // speaks TLS 1.2
	cache tls.ClientSessionCache // nil: resumes no TLS session
}

type honestKind int

const (
	talks   honestKind = iota // every 100 ms or so
	lasts                     // the same, for as long as the rig runs
	dawdles                   // reads one frame in 20 ms, and sends byte by byte
	idles                     // says something every few seconds
	honestKinds
)

// errRefused is the end of a try that led to no tunnel. It is nobody's fault
// while nodes are out, or while the gate has no descriptor left.
var errRefused = errors.New("refused")

// run has tunnels until ctx ends, then one more, which must succeed.
func (h *honest) run(ctx context.Context) {
	for ctx.Err() == nil {
		length := time.Duration(h.rng.ExpFloat64() * float64(5*time.Second))
		if h.kind == lasts {
			length = time.Hour * 1000
		}
		life, cancel := context.WithTimeout(ctx, length)
		err := h.tunnel(life)
		cancel()
		if errors.Is(err, errRefused) {
			h.r.refused.Add(1)
			pause(ctx, time.Duration(50+h.rng.IntN(250))*time.Millisecond)
		}
	}
	h.r.calm.Wait()
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		err := h.tunnel(short)
		cancel()
		if err == nil || h.r.fault != "" {
			return
		}
		if time.Since(began) > patience {
			h.r.breach("a client can't have a tunnel although all is calm: %v", err)
			return
		}
	}
}

// tunnel has one, and says things until life ends. It returns errRefused, what
// ended it before, or nil.
func (h *honest) tunnel(life context.Context) error {
	t := &tunnel{r: h.r, mark: fmt.Sprintf("%016x", h.rng.Uint64()), since: time.Now(), ended: make(chan struct{}), window: make(chan struct{}, 16), opened: make(chan struct{})}
	name := h.r.names[h.rng.IntN(len(h.r.names))]
	c, err := h.dial(name)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	defer c.Close()
	t.c = c
	c.SetDeadline(time.Now().Add(patience))
	if err := c.TryUpgrade(wire.Request(name)); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err := t.send(wire.Text, []byte(opening(t.mark))); err != nil {
		return t.over(err)
	}
	h.r.tunnels.Add(1)
	if h.kind == dawdles {
		t.slow = 20 * time.Millisecond
	}
	go t.read()
	if isRedirected(t.mark) && !t.awaitOpen() {
		t.awaitEnd()
		return t.over(t.err)
	}
	sent := 0
	for sent == 0 || life.Err() == nil && !t.hasEnded() {
		if !t.mayGoOn() {
			break
		}
		if err := h.say(t, sent, "say"); err != nil {
			break // read knows why
		}
		sent++
		t.hasSaid(sent)
		every := 100.0
		if h.kind == idles {
			every = 3000
		}
		wait := time.NewTimer(time.Duration(h.rng.ExpFloat64()*every) * time.Millisecond)
		select {
		case <-wait.C:
		case <-life.Done():
		case <-t.ended:
		}
		wait.Stop()
	}
	if !t.hasEnded() && t.mayGoOn() {
		t.expect(answersTo(sent + 1))
		h.say(t, sent, "fin")
	}
	t.awaitEnd()
	return t.over(t.err)
}

// answersTo is how many messages a node sends for n of a client's.
func answersTo(n int) int { return n + (n+1)/2 }

// say sends a message: whole, in fragments with a Ping in between, or byte by
// byte, of a size that is mostly small.
func (h *honest) say(t *tunnel, n int, kind string) error {
	size := h.rng.IntN(8)
	switch h.rng.IntN(50) {
	case 0:
		size = h.rng.IntN(1500) // 60 KiB
	case 1, 2, 3:
		size = h.rng.IntN(100)
	}
	text := []byte(words{t.mark, n, size, kind}.String())
	if h.rng.IntN(4) > 0 && h.kind != dawdles {
		return t.send(wire.Text, text)
	}
	var b []byte
	op := byte(wire.Text)
	for rest, more := text, true; more; op = wire.Continuation {
		part := rest[:min(len(rest), 1+h.rng.IntN(len(text)))]
		rest = rest[len(part):]
		more = len(rest) > 0
		b = append(b, t.c.Bytes(wire.Frame{FIN: !more, Op: op, Payload: part})...)
		if h.rng.IntN(3) == 0 {
			b = append(b, t.c.Bytes(wire.Frame{FIN: true, Op: wire.Ping, Payload: []byte(t.mark)})...)
		}
	}
	if h.kind != dawdles || len(b) > 500 {
		return t.write(b)
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.bye {
		return net.ErrClosed
	}
	for i := range b {
		if _, err := t.c.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// A tunnel is one of an honest client's.
type tunnel struct {
	r     *rig
	c     *wire.Conn
	mark  string
	since time.Time
	slow  time.Duration // between two reads

	writing sync.Mutex
	window  chan struct{} // a place for each message that is not answered

	mu   sync.Mutex
	node *node // nil before it has said its name
	want int   // answers, once all is said; 0 before
	got  int

	wrote int // messages before the answer to a Close; under writing
	bye   bool

	opened chan struct{} // closed when the node's features have come
	ended  chan struct{} // closed by read, after err is set
	err    error         // nil: the client was done
	code   uint16        // of the Close that came
	at     time.Time     // when it ended
}

func (t *tunnel) hasEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// mayGoOn waits for a place in the window.
func (t *tunnel) mayGoOn() bool {
	late := time.NewTimer(t.r.patience)
	defer late.Stop()
	select {
	case t.window <- struct{}{}:
		return true
	case <-t.ended:
	case <-late.C:
		t.tooLate()
	}
	return false
}

// awaitOpen waits until the stream is open, as one that may be redirected must.
func (t *tunnel) awaitOpen() bool {
	late := time.NewTimer(t.r.patience)
	defer late.Stop()
	select {
	case <-t.opened:
		t.r.redirected.Add(1)
		return true
	case <-t.ended:
	case <-late.C:
		t.tooLate()
	}
	return false
}

// awaitEnd waits for the tunnel's end.
func (t *tunnel) awaitEnd() {
	late := time.NewTimer(t.r.patience)
	defer late.Stop()
	select {
	case <-t.ended:
	case <-late.C:
		t.tooLate()
	}
	<-t.ended
}

// tooLate gives the tunnel up: an answer, or the end, does not come.
func (t *tunnel) tooLate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.r.breach("client %s (%s, node %s) wants answer %d of %d (0: not all is said), or the end, and waits in vain", t.mark, t.c.LocalAddr(), t.node.called(), t.got, t.want)
	t.c.Conn.Close()
}

func (t *tunnel) expect(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want = n
}

func (t *tunnel) send(op byte, payload []byte) error {
	return t.write(t.c.Bytes(wire.Frame{FIN: true, Op: op, Payload: payload}))
}

func (t *tunnel) write(b []byte) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.c.SetWriteDeadline(time.Now().Add(patience))
	if t.bye {
		return net.ErrClosed
	}
	_, err := t.c.Write(b)
	return err
}

// close sends a Close frame, after which there is nothing.
func (t *tunnel) close(payload []byte) {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.bye = true
	t.c.SetWriteDeadline(time.Now().Add(patience))
	t.c.Write(t.c.Bytes(wire.Frame{FIN: true, Op: wire.Close, Payload: payload}))
}

// hasSaid notes how many messages were written whole.
func (t *tunnel) hasSaid(n int) {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.wrote = n
}

// read reads until the end.
func (t *tunnel) read() {
	defer func() { t.at = time.Now(); close(t.ended) }()
	var message []byte
	for {
		time.Sleep(t.slow)
		t.c.SetReadDeadline(time.Now().Add(patience)) // the gate pings the silent far sooner
		f, err := wire.ReadFrame(t.c.R)
		if err != nil {
			t.err = err
			return
		}
		switch f.Op {
		case wire.Ping:
			t.send(wire.Pong, f.Payload)
		case wire.Pong:
			if !bytes.Equal(f.Payload, []byte(t.mark)) {
				t.r.breach("client %s gets the Pong %.100q", t.mark, f.Payload)
			}
		case wire.Close:
			if len(f.Payload) >= 2 {
				t.code = binary.BigEndian.Uint16(f.Payload)
			}
			t.close(f.Payload)
			if t.err = fmt.Errorf("Close %d", t.code); t.done() {
				t.err = nil
			}
			return
		default:
			message = append(message, f.Payload...)
			if !f.FIN {
				continue
			}
			if !t.take(string(message)) {
				t.err = fmt.Errorf("after %.200q", message)
				return
			}
			if message = message[:0]; t.done() {
				t.send(wire.Close, []byte{1000 >> 8, 1000 & 0xff})
			}
		}
	}
}

func (t *tunnel) done() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.want > 0 && t.got == t.want
}

// take checks a message of the node's, or of the gate's, which says goodbye in
// XMPP.
func (t *tunnel) take(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case strings.HasPrefix(text, "<open") && t.node == nil && t.got == 0:
		for _, n := range t.r.nodes {
			if strings.Contains(text, "from='"+n.name+"'") {
				t.node = n
			}
		}
		return true // the gate's own has no from of a node's
	case strings.HasPrefix(text, "<stream:features") && t.got == 0:
		select {
		case <-t.opened:
			t.r.breach("client %s gets features twice", t.mark)
			return false
		default:
			close(t.opened)
		}
		return true
	case strings.Contains(text, "see-other-uri"):
		t.r.breach("client %s gets a node's address: %.200q", t.mark, text)
		return false
	case strings.HasPrefix(text, "<stream:error"), strings.HasPrefix(text, "<close"):
		return true
	}
	w, ok := parse(text)
	if !ok || w.mark != t.mark || w.n != t.got {
		t.r.breach("client %s wants answer %d, and gets %.200q", t.mark, t.got, text)
		return false
	}
	t.got++
	t.r.delivered.Add(1)
	// The first answer to a message frees a place: they come in runs of 2, 1, 2, 1.
	if w.n%3 != 1 {
		select {
		case <-t.window:
		default:
			t.r.breach("client %s gets answer %d to nothing", t.mark, w.n)
			return false
		}
	}
	return true
}

// over judges a tunnel's end.
func (t *tunnel) over(err error) error {
	if err == nil {
		t.r.book.close(t.mark)
		t.r.finished.Add(1)
		return nil
	}
	own := t.r.book.find(t.mark)
	for began := time.Now(); own == nil; own = t.r.book.find(t.mark) {
		if t.got == 0 && t.r.book.useUnknown(t.since, t.code) {
			t.r.excused.Add(1)
			return err
		}
		if t.code == 1014 && t.got == 0 && t.r.noneFor(t.mark, t.since) {
			// No node could be dialled, behind the 101 or for a redirect.
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		if t.code == 1001 && t.got == 0 && t.r.anyOut(t.since) {
			// Drained while the gate still had its first words.
			t.r.excused.Add(1)
			return err
		}
		if time.Since(began) > lateClose {
			t.r.breach("a tunnel of client %s (%s) ended without a reason: %v, after %d answers, and no node knows it", t.mark, t.c.LocalAddr(), err, t.got)
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	defer t.r.book.close(t.mark)
	select {
	case <-own.over:
	case <-time.After(t.r.patience):
		t.r.breach("a node still has the tunnel of client %s, which ended: %v", t.mark, err)
		return err
	}
	if wrong := own.judge(t.got, t.wrote, t.code, t.at, t.slow > 0); wrong != "" {
		t.r.breach("a tunnel of client %s (%s, node %s): %s; %v, after %d answers", t.mark, t.c.LocalAddr(), t.node.called(), wrong, err, t.got)
		return err
	}
	t.r.excused.Add(1)
	return err
}

// dial connects with the client's TLS.
func (h *honest) dial(name string) (*wire.Conn, error) {
	config := h.r.site.Client(name)
	config.ClientSessionCache = h.cache
	if h.old {
		config.MaxVersion = tls.VersionTLS12
	}
	c, err := h.r.dialWith(config)
	if err != nil {
		return nil, err
	}
	state := c.Conn.(*tls.Conn).ConnectionState()
	if state.Version == tls.VersionTLS12 {
		h.r.old.Add(1)
	}
	if state.DidResume {
		h.r.resumed.Add(1)
	}
	return c, nil
}

// dial connects with TLS.
func (r *rig) dial(name string) (*wire.Conn, error) { return r.dialWith(r.site.Client(name)) }

func (r *rig) dialWith(config *tls.Config) (*wire.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: config}
	conn, err := d.Dial("tcp", r.gate.addr("wss"))
	if err != nil {
		return nil, err
	}
	return wire.NewConn(untidy{r.tb}, conn, true), nil
}

// pause waits, but not past the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

package soak

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"wssgate/tests/internal/wire"
)

// A node is an upstream that can be killed and come back to its address. It
// speaks as much XMPP as the gate looks at. A message of a client that bears its
// mark (see words) it accepts, checks, and sends back with a number of its own;
// what others say it sends back as it comes.
type node struct {
	r    *rig
	name string
	addr string

	mu       sync.Mutex
	server   *wire.Upstream // nil: killed
	ln       net.Listener   // the server's
	tunnels  map[*account]bool
	draining bool
	back     time.Time // when it was last killed or drained no more
}

// redirects names the node that sends clients with such marks to the other one.
var redirects = map[byte]string{'0': "n1", '1': "n1", '2': "n2", '3': "n2"}

func isRedirected(mark string) bool { return redirects[mark[0]] != "" }

// other is the node that n redirects to.
func (n *node) other() *node {
	for _, o := range n.r.nodes {
		if o != n {
			return o
		}
	}
	return nil
}

// lateBack is how long the gate may take to learn that a node is back: it asks each
// second, and a busy machine answers later.
const lateBack = 15 * time.Second

// noneFor reports whether the gate may have found no node for the client with this mark
// since then: each was out, or, of a client that is redirected, the node it is sent to.
func (r *rig) noneFor(mark string, since time.Time) bool {
	for _, n := range r.nodes {
		if from := redirects[mark[0]]; from != "" && n.name == from {
			continue
		}
		if !n.wasOut(since) {
			return false
		}
	}
	return true
}

// anyOut reports whether a node was killed or drained since then, or not long before.
func (r *rig) anyOut(since time.Time) bool {
	return slices.ContainsFunc(r.nodes, func(n *node) bool { return n.wasOut(since) })
}

// wasOut reports whether the node was killed or drained since then, or not long before.
func (n *node) wasOut(since time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server == nil || n.draining || n.back.After(since.Add(-lateBack))
}

// start makes the node listen.
func (n *node) start() error {
	ln, err := net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.back = time.Now()
	n.ln, n.tunnels = ln, map[*account]bool{}
	n.server = wire.Serve(untidy{n.r.tb}, ln, func(c *wire.Conn) { n.serve(c, ln) })
	return nil
}

// kill ends the node: each tunnel in order, with a Close frame, or as the end of
// its process would.
func (n *node) kill(draw func() ending) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ln.Close()
	n.server, n.ln = nil, nil
	for a := range n.tunnels {
		how := draw()
		if a.end(how); !a.isKnown() {
			n.r.book.lostUnknown(how)
		}
	}
}

// end closes all that the node has open.
func (n *node) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server != nil {
		n.server.Kill()
		n.server = nil
	}
}

// drain notes that the tunnels of the node may be drained from now on.
func (n *node) drain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining = true
	for a := range n.tunnels {
		a.drain()
	}
}

// stopDrain notes that they are not any more.
func (n *node) stopDrain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining, n.back = false, time.Now()
	for a := range n.tunnels {
		a.stopDrain()
	}
}

// enter opens an account; nil where the node was killed meanwhile.
func (n *node) enter(c *wire.Conn, ln net.Listener) *account {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ln != ln {
		n.r.book.lostUnknown(byReset) // or FIN, if the client's words are not here yet
		return nil
	}
	a := &account{c: c, fault: n.r.fault, over: make(chan struct{}), drained: n.draining}
	n.tunnels[a] = true
	return a
}

func (n *node) leave(a *account) {
	n.mu.Lock()
	delete(n.tunnels, a)
	n.mu.Unlock()
	a.mu.Lock()
	how := a.ending
	a.mu.Unlock()
	if how == inOrder || how == goodbye {
		// With input unread, close would be a reset.
		a.c.SetReadDeadline(time.Now().Add(patience))
		io.Copy(io.Discard, a.c.R)
	}
	close(a.over)
}

func (n *node) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return 0
	}
	return n.server.Open()
}

// serve is one connection.
func (n *node) serve(c *wire.Conn, ln net.Listener) {
	a := n.enter(c, ln)
	if a == nil {
		return
	}
	defer n.leave(a)
	var mark string // of an honest client; "": none yet
	var message []byte
	taken, given := 0, 0
	text := func(text string) wire.Frame { return wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(text)} }
	say := func(s string) error { return a.write(text(s), false) }
	answer := func(s string) error { return a.write(text(s), true) }
	for {
		f, err := wire.ReadFrame(c.R)
		if err != nil {
			if mark != "" && !isEnd(err) {
				n.r.breach("node %s: client %s after %d messages: %v", n.name, mark, taken, err)
			}
			return
		}
		switch f.Op {
		case wire.Ping:
			f.Op, f.Masked = wire.Pong, false
			err = a.write(f, false)
		case wire.Pong:
		case wire.Close:
			f.Masked = false
			a.write(f, false)
			return
		default:
			message = append(message, f.Payload...)
			if !f.FIN {
				continue
			}
			text := string(message)
			message = message[:0]
			words, isMarked := parse(text)
			switch {
			case strings.HasPrefix(text, "<open"):
				if _, rest, ok := strings.Cut(text, " from='"); ok {
					own, _, _ := strings.Cut(rest, "@")
					if redirects[own[0]] == n.name {
						// With the node's open before it, or without.
						if own[1]%2 == 0 {
							say("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='" + n.name + "' id='" + strconv.Itoa(int(n.r.ids.Add(1))) + "' version='1.0'/>")
						}
						err = say("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://" + n.other().addr + "/'/>")
						break
					}
					n.r.book.enter(own, a) // first: whoever kills an account that is known leaves no other excuse
					a.know(own)
				}
				err = say("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='" + n.name + "' id='" + strconv.Itoa(int(n.r.ids.Add(1))) + "' version='1.0'/>")
				if err == nil {
					err = say("<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>")
				}
			case strings.HasPrefix(text, "<close"):
				err = say("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")
			case !isMarked && mark == "":
				err = say(text) // whoever it is
			case !isMarked || mark != "" && words.mark != mark || words.n != taken:
				n.r.breach("node %s: message %d of client %s is %.200q", n.name, taken, mark, text)
				return
			default:
				mark = words.mark
				if n.r.fault == up && taken == 0 {
					taken++ // as if it had come once before
				}
				taken++
				a.take()
				n.r.accepted.Add(1)
				for copies := 1 + taken%2; copies > 0 && err == nil; copies-- {
					words.n = given
					given++
					err = n.answer(words, answer)
				}
			}
		}
		// A gate that has closed resets what is written to it; what it delivered
		// before is still there to read.
		if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			return
		}
	}
}

// answer sends a client an answer, unless the rig has a fault.
func (n *node) answer(w words, say func(string) error) error {
	text := w.String()
	if w.n == 1 { // each tunnel has that one
		switch n.r.fault {
		case twice:
			say(text)
		case lost:
			return nil
		case others:
			w.mark = strings.Repeat("f", len(w.mark))
			text = w.String()
		case torn:
			text = text[:len(text)-2] + "#>" // and still UTF-8, or the gate would end the tunnel
		case ends:
			return net.ErrClosed
		}
	}
	if n.r.fault == later && n.r.past.Load() {
		return net.ErrClosed
	}
	return say(text)
}

// isEnd reports whether an error is the end of a connection, of any kind.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// words are a message of an honest client, or a node's answer: whose it is, its
// number in its direction, and a body that follows from both.
type words struct {
	mark string
	n    int
	size int    // of the body, in runs of it
	kind string // "say", or "fin", after which nothing follows
}

const bodyRun = "näßt größer 漢字 "

func (w words) String() string {
	return fmt.Sprintf("<message to='%s' id='%d' type='%s' size='%d'><body>%s</body></message>", w.mark, w.n, w.kind, w.size,
		strings.Repeat(w.mark+bodyRun, w.size))
}

// parse reads what String wrote; all of it must be right.
func parse(text string) (w words, ok bool) {
	rest, found := strings.CutPrefix(text, "<message to='")
	if !found {
		return w, false
	}
	var id, size string
	w.mark, rest, _ = strings.Cut(rest, "' id='")
	id, rest, _ = strings.Cut(rest, "' type='")
	w.kind, rest, _ = strings.Cut(rest, "' size='")
	size, _, _ = strings.Cut(rest, "'>")
	var err error
	if w.n, err = strconv.Atoi(id); err != nil {
		return w, false
	}
	if w.size, err = strconv.Atoi(size); err != nil || w.size < 0 || w.size > len(text) {
		return w, false
	}
	return w, text == w.String()
}

// called is the node's name; n may be nil.
func (n *node) called() string {
	if n == nil {
		return "not known"
	}
	return n.name
}

package soak

import (
	"errors"
	"fmt"
	"io"
	"net"
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

	mu     sync.Mutex
	server *wire.Upstream // nil: killed
	events []time.Time    // when tunnels to it were given a reason to end
}

// start makes the node listen.
func (n *node) start() error {
	ln, err := net.Listen("tcp", n.addr)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.server = wire.Serve(untidy{n.r.tb}, ln, n.serve)
	return nil
}

// kill ends the node as the end of its process would.
func (n *node) kill() {
	n.announce()
	n.end()
	n.announce() // those that it accepted meanwhile
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

// announce notes that tunnels to the node may end from now on.
func (n *node) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, time.Now())
}

// excuses reports whether a tunnel that began no earlier than since had a reason
// to end.
func (n *node) excuses(since time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := len(n.events) - 1; i >= 0; i-- {
		if n.events[i].After(since) {
			return true
		}
	}
	return false
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
func (n *node) serve(c *wire.Conn) {
	var mark string // of an honest client; "": none yet
	var message []byte
	taken, given := 0, 0
	say := func(text string) error {
		_, err := c.Write(wire.Frame{FIN: true, Op: wire.Text, Payload: []byte(text)}.Append(nil))
		return err
	}
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
			_, err = c.Write(f.Append(nil))
		case wire.Pong:
		case wire.Close:
			f.Masked = false
			c.Write(f.Append(nil))
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
				n.r.accepted.Add(1)
				for copies := 1 + taken%2; copies > 0 && err == nil; copies-- {
					words.n = given
					given++
					err = n.answer(words, say)
				}
			}
		}
		if err != nil {
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

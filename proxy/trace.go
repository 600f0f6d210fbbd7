package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"wssgate/xmpp"
)

const (
	// tapLines bounds what waits for whoever reads a trace.
	tapLines = 256
	// maxShape bounds what is shown of one frame, in bytes.
	maxShape = 2 << 10
)

// Errors of Trace.
var (
	ErrNoTunnel = errors.New("no such tunnel is open")
	ErrTracing  = errors.New("another trace is under way, and there is one at a time")
)

// A TraceLine is one thing that happens on a tunnel that is traced. The first one of a
// trace has Tunnel, the last one End.
type TraceLine struct {
	At     time.Time `json:"at"`
	Tunnel *Tunnel   `json:"tunnel,omitempty"`

	// A frame, once the whole of it has come: who sent it, and its header (RFC 6455,
	// section 5.2). Code is a Close frame's. Shape is what kind of XML it has: see
	// xmpp.Shape, which leaves out text and values.
	From   string `json:"from,omitempty"` // client, upstream, or gate: to the client
	Opcode string `json:"opcode,omitempty"`
	Fin    bool   `json:"fin,omitempty"`
	Masked bool   `json:"masked,omitempty"`
	Length int64  `json:"length,omitempty"` // bytes of payload
	Code   uint16 `json:"code,omitempty"`
	Shape  string `json:"shape,omitempty"`
	Cut    bool   `json:"cut,omitempty"` // there is more of the shape

	Dropped int    `json:"dropped,omitempty"` // lines before this one that found no room
	End     string `json:"end,omitempty"`     // why the tunnel ended
}

// A tap is a trace of one tunnel. Its tunnel's loop writes, and never waits: what finds
// no room is counted. But for off it is the loop's; others read lines.
type tap struct {
	off     atomic.Bool // nobody reads any more
	lines   chan TraceLine
	last    TraceLine // behind lines, once that is closed
	dropped int
	ends    [2]tapEnd // the client's and the upstream's frames
}

// A tapEnd follows the frames of one sender.
type tapEnd struct {
	line  TraceLine // of the frame under way
	whole bool      // it was seen from its beginning
	known bool      // so was its message, and xml has been fed all of it
	xml   xmpp.Shape
	shape []byte
	clear []byte
}

var opcodeNames = map[byte]string{opContinuation: "continuation", opText: "text", opBinary: "binary", opClose: "close", opPing: "ping", opPong: "pong"}

// see takes a piece that one end sent.
func (p *tap) see(fromClient bool, s *scanner, it *piece) {
	e, from := &p.ends[0], "client"
	if !fromClient {
		e, from = &p.ends[1], "upstream"
	}
	if len(it.wire) == 0 { // behind the last frame that counts
		return
	}
	if it.control() { // it may stand between two pieces of a frame
		p.put(frameLine(from, it.header, it.payload))
		return
	}
	if it.at == 0 && len(it.wire) > len(it.payload) {
		e.line, e.whole, e.shape = frameLine(from, it.header, nil), true, e.shape[:0]
		switch {
		case it.opcode != opContinuation:
			e.xml, e.known = xmpp.Shape{}, true
		case it.message == opText && !e.known:
			e.shape = append(e.shape, "…"...) // it may go on inside of CDATA
		}
	}
	if !e.whole {
		return // the trace began in the middle of it
	}
	if it.message == opText && e.known {
		e.clear = it.unmasked(e.clear[:0])
		e.shape = e.xml.Feed(e.shape, e.clear)
		if len(e.shape) > maxShape {
			e.shape, e.line.Cut, e.known = cutShape(e.shape), true, false
		}
	}
	if s.left == 0 {
		e.line.Shape, e.whole = string(e.shape), false
		p.put(e.line)
	}
}

// cutShape cuts between two characters.
func cutShape(b []byte) []byte {
	n := maxShape
	for n > 0 && b[n]&0xc0 == 0x80 {
		n--
	}
	return b[:n]
}

// frameLine is the line of a frame, or of its header where payload is nil.
func frameLine(from string, h header, payload []byte) TraceLine {
	l := TraceLine{From: from, Opcode: opcodeNames[h.opcode], Fin: h.fin, Masked: h.masked, Length: h.length}
	if h.opcode == opClose {
		l.Code = closeCode(h, payload)
	}
	return l
}

// says takes a frame of the gate's own.
func (p *tap) says(opcode byte, payload []byte) {
	l := frameLine("gate", header{fin: true, opcode: opcode, length: int64(len(payload))}, payload)
	if opcode == opText {
		var xml xmpp.Shape
		l.Shape = string(xml.Feed(nil, payload))
	}
	p.put(l)
}

func (p *tap) put(l TraceLine) {
	l.At, l.Dropped = time.Now(), p.dropped
	select {
	case p.lines <- l:
		p.dropped = 0
	default:
		p.dropped++
	}
}

// end is called once, when the tunnel has ended.
func (p *tap) end(why reason) {
	p.last = TraceLine{At: time.Now(), End: why.String(), Dropped: p.dropped}
	close(p.lines)
}

// trace shows t's tap a piece, unless nobody reads that any more. It is out of line, so
// that without a tap a piece costs one comparison.
func (t *tunnel) trace(l *leg, p *piece) {
	if t.tap.off.Load() {
		t.tap = nil
		return
	}
	t.tap.see(l == &t.client, &l.scan, p)
}

// say sends the client a frame of the gate's own.
func (t *tunnel) say(opcode byte, payload []byte) {
	if t.tap != nil && !t.client.closeSent {
		t.tap.says(opcode, payload)
	}
	t.toClient(appendFrame(nil, opcode, payload, nil))
}

// A tracer traces one tunnel at a time. Its methods are safe for concurrent use.
type tracer struct {
	loops   *loops
	current atomic.Pointer[TraceLine] // the first line of the trace; nil: there is none
}

// errTracing is ErrTracing with the tunnel that is traced, once that is found.
func (r *tracer) errTracing() error {
	l := r.current.Load()
	if l == nil || l.Tunnel == nil {
		return ErrTracing
	}
	client := "a unix socket"
	if l.Tunnel.Client.IsValid() {
		client = l.Tunnel.Client.String()
	}
	return fmt.Errorf("%w: tunnel %s of %s, since %s", ErrTracing, l.Tunnel.ID, client, l.At.Format(time.DateTime))
}

// trace is Server.Trace.
func (r *tracer) trace(ctx context.Context, id string, line func(TraceLine) error) error {
	if !r.current.CompareAndSwap(nil, &TraceLine{}) {
		return r.errTracing()
	}
	defer r.current.Store(nil)
	p := &tap{lines: make(chan TraceLine, tapLines)}
	var found *Tunnel
	r.loops.visit(func(t *tunnel, w *turn) {
		if !t.done && t.info.id.String() == id {
			d := t.describe(w.now)
			d.ID, found, t.tap = id, &d, p
		}
	})
	if found == nil {
		return ErrNoTunnel
	}
	defer r.loops.visit(func(t *tunnel, _ *turn) {
		if t.tap == p {
			t.tap = nil
		}
	})
	defer p.off.Store(true)
	first := TraceLine{At: time.Now(), Tunnel: found}
	r.current.Store(&first)
	if err := line(first); err != nil {
		return err
	}
	for {
		select {
		case l, open := <-p.lines:
			if !open {
				return line(p.last)
			}
			if err := line(l); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

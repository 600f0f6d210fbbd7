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
	// tapLines bounds the lines that wait for the reader of a trace.
	tapLines = 256
	// maxShape bounds the shape of one frame, in bytes.
	maxShape = 2 << 10
)

// Errors of Trace.
var (
	ErrNoTunnel = errors.New("no such tunnel is open")
	ErrTracing  = errors.New("another trace is in progress; only one is possible at a time")
)

// A TraceLine is one event of a traced tunnel. The first one of a trace has Tunnel, the
// last one End, and the others are frames.
type TraceLine struct {
	At     time.Time `json:"at"`
	Tunnel *Tunnel   `json:"tunnel,omitempty"`

	// A frame that has arrived completely: its sender, and its header (RFC 6455, section
	// 5.2). Code is the status code of a Close frame. Shape is the structure of its XML
	// without text and values: see xmpp.Shape.
	From   string `json:"from,omitempty"` // client, upstream, or gate (to the client)
	Opcode string `json:"opcode,omitempty"`
	Fin    bool   `json:"fin,omitempty"`
	Masked bool   `json:"masked,omitempty"`
	Length int64  `json:"length,omitempty"` // bytes of payload
	Code   uint16 `json:"code,omitempty"`
	Shape  string `json:"shape,omitempty"`
	Cut    bool   `json:"cut,omitempty"` // the shape was longer

	Dropped int    `json:"dropped,omitempty"` // lines before this one that were left out
	End     string `json:"end,omitempty"`     // why the tunnel ended
}

// A tap collects the trace of one tunnel. The tunnel's loop owns it, except off, and
// sends to lines without waiting: it counts the lines that do not fit.
type tap struct {
	off     atomic.Bool // lines has no reader any more
	lines   chan TraceLine
	last    TraceLine // follows lines, once that is closed
	dropped int
	ends    [2]tapEnd // the client's and the upstream's frames
}

// A tapEnd follows the frames of one sender.
type tapEnd struct {
	line  TraceLine // of the frame in progress
	whole bool      // the tap saw the frame from its beginning
	known bool      // and the whole message before, which xml has read
	xml   xmpp.Shape
	shape []byte
	clear []byte
}

var opcodeNames = map[byte]string{opContinuation: "continuation", opText: "text", opBinary: "binary", opClose: "close", opPing: "ping", opPong: "pong"}

// see reads a piece that one end sent.
func (p *tap) see(fromClient bool, s *scanner, it *piece) {
	e, from := &p.ends[0], "client"
	if !fromClient {
		e, from = &p.ends[1], "upstream"
	}
	if len(it.wire) == 0 { // after a Close frame
		return
	}
	if it.control() { // it may be between two pieces of a frame
		p.put(frameLine(from, it.header, it.payload))
		return
	}
	if it.at == 0 && len(it.wire) > len(it.payload) {
		e.line, e.whole, e.shape = frameLine(from, it.header, nil), true, e.shape[:0]
		switch {
		case it.opcode != opContinuation:
			e.xml, e.known = xmpp.Shape{}, true
		case it.message == opText && !e.known:
			e.shape = append(e.shape, "…"...) // it may continue inside CDATA
		}
	}
	if !e.whole {
		return // the trace began inside this frame
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

// frameLine returns the line of a frame, or of its header if payload is nil.
func frameLine(from string, h header, payload []byte) TraceLine {
	l := TraceLine{From: from, Opcode: opcodeNames[h.opcode], Fin: h.fin, Masked: h.masked, Length: h.length}
	if h.opcode == opClose {
		l.Code = closeCode(h, payload)
	}
	return l
}

// says records a frame of the gate's own.
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

// end closes the trace when the tunnel has ended. Call it once.
func (p *tap) end(why reason) {
	p.last = TraceLine{At: time.Now(), End: why.String(), Dropped: p.dropped}
	close(p.lines)
}

// trace gives a piece to t's tap, or drops a tap without a reader. It is a separate
// function, so that a piece costs one comparison without a tap.
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

// errTracing returns ErrTracing with the traced tunnel, if it is found already.
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

package chat

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

const (
	maxMessage  = 64 << 20         // bytes; a polite server gives up beyond
	finPatience = 10 * time.Second // how long a peer may take to close after our FIN
)

// Count is what went over a conn so far, payloads only.
type Count struct {
	FramesIn, FramesOut, BytesIn, BytesOut atomic.Int64
	Messages                               atomic.Int64 // whole data messages that came in
}

// A Conn is one WebSocket at the Server. Its exported methods may be called
// from any goroutine; they write nothing once the conn has ended.
type Conn struct {
	Peer *Peer

	s        *Server
	nc       net.Conn
	br       *bufio.Reader
	upgraded atomic.Bool   // the 101 is queued
	done     chan struct{} // closed by destroy

	// Only the reading goroutine touches these.
	stream    stream
	ignore    bool // read on and act on nothing
	outburst  bool // it has been
	inMessage bool
	message   []byte

	closeSent atomic.Bool
	framing   atomic.Int32 // of the open stream: noStream, rfc7395 or legacy

	mu       sync.Mutex // guards the queue; never held across I/O
	queue    []item
	flushing bool
	ended    bool // nothing more is queued
	once     sync.Once

	writing chan struct{} // holds one token while a frame is written
}

// An item is one write, or an ending.
type item struct {
	bytes []byte
	end   Ending // GoOn: none
}

// ServeConn serves one conn until it ends and closes it. It is what Serve does
// with each conn, and of use by itself for net.Pipe.
func (s *Server) ServeConn(nc net.Conn) {
	c := &Conn{
		Peer:    &Peer{Addr: remoteAddr(nc)},
		s:       s,
		nc:      newPacedConn(nc, s.cfg.ReadPace, s.cfg.WritePace),
		done:    make(chan struct{}),
		writing: make(chan struct{}, 1),
	}
	if !s.admit(c) {
		c.destroy()
		return
	}
	c.stream.c = c
	// Deferred, for OnFrame may end the goroutine. Forgotten last: what is not
	// open any more has let go of everything.
	defer s.forget(c)
	defer c.destroy()
	defer c.stream.leave()
	c.serve()
}

// serve is the life of a conn.
func (c *Conn) serve() {
	if d := c.s.cfg.OpenTimeout; d > 0 {
		c.nc.SetReadDeadline(time.Now().Add(d))
	}
	if c.burst(AtAccept) {
		c.discard()
		return
	}
	rest, err := c.readRequest()
	if err != nil {
		c.gaveUp(err)
		return
	}
	answer, ok := c.answer()
	c.s.remember(c.Peer)
	if c.burst(AtRequest) {
		c.discard()
		return
	}
	if !ok {
		c.enqueue(answer)
		c.end(FIN)
		c.discard()
		return
	}
	if c.at(WithUpgrade) {
		c.outburst = true
		c.upgrade(slices.Concat(answer, c.s.cfg.Rude.Bytes))
		c.then(c.s.cfg.Rude.Then)
	} else {
		c.upgrade(answer)
	}
	if c.s.cfg.NeverRead {
		<-c.done
		return
	}
	c.br = bufio.NewReaderSize(io.MultiReader(&prefix{rest}, c.nc), 1024)
	if c.ignore {
		c.discard()
		return
	}
	if c.s.cfg.Echo {
		err = c.echo()
	} else {
		err = c.readFrames()
	}
	if err != nil {
		c.gaveUp(err)
	}
}

// prefix gives its bytes and then the memory back, which a bytes.Reader keeps.
type prefix struct{ b []byte }

func (p *prefix) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		p.b = nil
		return 0, io.EOF
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	return n, nil
}

// gaveUp ends a conn whose reading ended. A timeout is met with FIN.
func (c *Conn) gaveUp(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.end(FIN)
		c.discard()
	}
}

// discard reads until the peer closes. What comes is ignored.
func (c *Conn) discard() {
	c.noDeadline()
	if c.br != nil {
		io.Copy(io.Discard, c.br)
		return
	}
	io.Copy(io.Discard, c.nc)
}

// noDeadline lets the peer be silent for as long as it likes, unless our FIN
// is under way.
func (c *Conn) noDeadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.nc.SetReadDeadline(time.Time{})
	}
}

// at reports whether it is time for the Outburst.
func (c *Conn) at(m Moment) bool {
	return c.s.cfg.Rude.When == m && !c.outburst
}

// burst has the Outburst if its moment is m, and reports whether it was the
// last thing to be said.
func (c *Conn) burst(m Moment) bool {
	if !c.at(m) {
		return false
	}
	c.outburst = true
	c.enqueue(c.s.cfg.Rude.Bytes)
	c.then(c.s.cfg.Rude.Then)
	return c.ignore
}

func (c *Conn) then(e Ending) {
	if e != GoOn {
		c.ignore = true
	}
	if e == FIN || e == RST {
		c.end(e)
	}
}

// readFrames reads frames, puts messages together and gives them to the
// stream, until the byte stream ends.
func (c *Conn) readFrames() error {
	for {
		h, err := ws.ReadHeader(c.br)
		if err == ws.ErrHeaderLengthMSB && c.s.cfg.Lenient {
			c.discard()
			return nil
		}
		if err != nil {
			return err
		}
		if code := c.check(h); code != 0 {
			c.closeFrame(code)
			c.end(FIN)
			c.discard()
			return nil
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(c.br, payload); err != nil {
			return err
		}
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		c.Peer.Count.FramesIn.Add(1)
		c.Peer.Count.BytesIn.Add(h.Length)
		if f := c.s.cfg.OnFrame; f != nil {
			f(c.Peer, h, payload)
		}
		if c.ignore {
			continue
		}
		if !c.frame(h, payload) {
			c.discard()
			return nil
		}
	}
}

// frame acts on one frame and reports whether to read on.
func (c *Conn) frame(h ws.Header, payload []byte) bool {
	switch h.OpCode {
	case ws.OpPing:
		c.queueFrame(ws.NewPongFrame(payload))
	case ws.OpPong: // of a Ping of ours that a test sent
	case ws.OpClose:
		return c.peerCloses(payload)
	default:
		if c.burst(AtFirstFrame) {
			return true
		}
		if c.message = append(c.message, payload...); !h.Fin && !c.s.cfg.Lenient {
			c.inMessage = true
			return true
		}
		message := c.message
		c.message, c.inMessage = nil, false
		c.Peer.Count.Messages.Add(1)
		if !utf8.Valid(message) {
			if c.s.cfg.Lenient {
				c.ignore = true
				return true
			}
			c.closeFrame(ws.StatusInvalidFramePayloadData)
			c.end(FIN)
			return false
		}
		c.stream.message(string(message))
	}
	return true
}

// peerCloses answers a Close frame and reports whether to read on.
func (c *Conn) peerCloses(payload []byte) bool {
	if c.s.cfg.CloseLingers {
		c.queueFrame(ws.NewCloseFrame(nil))
		c.ignore = true
		return true
	}
	if !c.closeSent.Swap(true) {
		c.queueFrame(ws.NewCloseFrame(payload))
	}
	c.end(FIN)
	return false
}

// check returns the status code for a frame that RFC 6455 forbids, 0 for one
// that is well.
func (c *Conn) check(h ws.Header) ws.StatusCode {
	if h.Length > maxMessage || h.Length+int64(len(c.message)) > maxMessage {
		return ws.StatusMessageTooBig
	}
	if c.s.cfg.Lenient {
		return 0
	}
	state := ws.StateServerSide
	if c.inMessage {
		state = state.Set(ws.StateFragmented)
	}
	if ws.CheckHeader(h, state) != nil {
		return ws.StatusProtocolError
	}
	return 0
}

// Send queues a text frame.
func (c *Conn) Send(text string) { c.queueFrame(ws.NewTextFrame([]byte(text))) }

// Raw queues bytes as they are.
func (c *Conn) Raw(b []byte) { c.enqueue(b) }

// Frame queues a frame.
func (c *Conn) Frame(f ws.Frame) { c.queueFrame(f) }

// End queues FIN or RST behind what waits.
func (c *Conn) End(e Ending) { c.end(e) }

func (c *Conn) closeFrame(code ws.StatusCode) {
	if !c.closeSent.Swap(true) {
		c.queueFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(code, "")))
	}
}

func (c *Conn) queueFrame(f ws.Frame) {
	c.Peer.Count.FramesOut.Add(1)
	c.Peer.Count.BytesOut.Add(f.Header.Length)
	b := ws.MustCompileFrame(f)
	if n := ws.HeaderSize(f.Header); c.s.cfg.TwoWrites && f.Header.Length > 0 {
		c.enqueue(b[:n], b[n:])
		return
	}
	c.enqueue(b)
}

// enqueue queues one write for each of bufs, and sees to it that somebody
// writes them.
func (c *Conn) enqueue(bufs ...[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range bufs {
		if limit := c.s.cfg.DropPast; c.ended || len(b) == 0 || limit > 0 && len(c.queue) >= limit {
			continue
		}
		c.queue = append(c.queue, item{bytes: b})
	}
	c.wake()
}

// upgrade queues the 101. It is one step with upgraded: whoever has read a 101
// finds its Conn in Server.Conns, and nobody's Send comes before it.
func (c *Conn) upgrade(answer []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.queue = append(c.queue, item{bytes: answer})
		c.upgraded.Store(true)
		c.wake()
	}
}

// end queues an ending; nothing is queued behind it.
func (c *Conn) end(e Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		c.queue = append(c.queue, item{end: e})
		c.wake()
	}
}

// wake starts a flush where none is under way. mu is held.
func (c *Conn) wake() {
	if !c.flushing && len(c.queue) > 0 {
		c.flushing = true
		c.s.wg.Go(c.flush)
	}
}

// flush writes what is queued, and ends when nothing is.
func (c *Conn) flush() {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.flushing, c.queue = false, nil
			c.mu.Unlock()
			return
		}
		next := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()

		switch next.end {
		case FIN:
			closeWrite(c.nc)
			// A peer that never closes must not hold us for ever.
			c.nc.SetReadDeadline(time.Now().Add(finPatience))
		case RST:
			reset(c.nc)
		default:
			if _, err := c.nc.Write(next.bytes); err != nil {
				c.destroy()
			}
		}
	}
}

// goodbye is what a stopping server has to say.
func (c *Conn) goodbye() {
	if !c.s.cfg.BareFIN && c.upgraded.Load() {
		if framing := c.framing.Load(); framing != noStream {
			c.streamError(framing, "system-shutdown", "")
		}
		c.closeFrame(ws.StatusGoingAway)
	}
	c.end(FIN)
}

// destroy closes the conn at once. What is queued is lost.
func (c *Conn) destroy() {
	c.once.Do(func() {
		c.mu.Lock()
		c.ended, c.queue = true, nil
		c.mu.Unlock()
		close(c.done)
		c.nc.Close()
	})
}

// unwrap returns the conn below our own wrapper.
func unwrap(nc net.Conn) net.Conn {
	if p, ok := nc.(*pacedConn); ok {
		return p.Conn
	}
	return nc
}

// closeWrite sends FIN. A conn without half-close is closed.
func closeWrite(nc net.Conn) {
	if half, ok := unwrap(nc).(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	nc.Close()
}

// reset closes so that the peer sees a reset, below TLS too.
func reset(nc net.Conn) {
	nc = unwrap(nc)
	if over, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = over.NetConn()
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	nc.Close()
}

package chat

import (
	"io"

	"github.com/gobwas/ws"
)

// echo sends each frame back as it came: same opcode, same FIN, same length,
// no mask. It holds one piece of a frame at a time, so frames may have any
// size, and reads no faster than the peer takes the echo. A Ping gets a Pong,
// a Close frame its like and then FIN (with CloseLingers: 88 00 and no FIN).
func (c *Conn) echo() error {
	buf := make([]byte, 4096)
	for {
		h, err := ws.ReadHeader(c.br)
		if err != nil {
			return err
		}
		if !h.Masked && !c.s.cfg.Lenient {
			c.closeFrame(ws.StatusProtocolError)
			c.end(FIN)
			c.discard()
			return nil
		}
		c.Peer.Count.FramesIn.Add(1)
		c.Peer.Count.BytesIn.Add(h.Length)
		if f := c.s.cfg.OnFrame; f != nil {
			f(c.Peer, h, nil)
		}
		if h.OpCode.IsControl() {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(c.br, payload); err != nil {
				return err
			}
			if h.Masked {
				ws.Cipher(payload, h.Mask, 0)
			}
			switch h.OpCode {
			case ws.OpPing:
				c.queueFrame(ws.NewPongFrame(payload))
			case ws.OpClose:
				if !c.peerCloses(payload) {
					c.discard()
					return nil
				}
			}
			continue
		}
		if h.Fin {
			c.Peer.Count.Messages.Add(1)
		}
		if c.ignore || c.burst(AtFirstFrame) {
			if _, err := io.CopyN(io.Discard, c.br, h.Length); err != nil {
				return err
			}
			continue
		}
		if h.Length > int64(len(buf)) && len(buf) < 64<<10 {
			buf = make([]byte, 64<<10)
		}
		if err := c.echoFrame(h, buf); err != nil {
			return err
		}
	}
}

// echoFrame writes one data frame while it comes in. The token keeps other
// frames out of it.
func (c *Conn) echoFrame(h ws.Header, buf []byte) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()

	out := ws.Header{Fin: h.Fin, Rsv: h.Rsv, OpCode: h.OpCode, Length: h.Length}
	head := make([]byte, ws.MaxHeaderSize)
	size := ws.HeaderSize(out)
	if err := ws.WriteHeaderBuffer(headWriter{buf}, out, head); err != nil {
		return err
	}
	c.Peer.Count.FramesOut.Add(1)
	c.Peer.Count.BytesOut.Add(h.Length)
	if c.s.cfg.TwoWrites && h.Length > 0 {
		if _, err := c.nc.Write(buf[:size]); err != nil {
			return err
		}
		size = 0
	}
	// Header and the first piece go in one write, further pieces as they come.
	for done, first := int64(0), true; first || done < h.Length; first = false {
		piece := buf[size:]
		piece = piece[:min(int64(len(piece)), h.Length-done)]
		n, err := io.ReadAtLeast(c.br, piece, min(1, len(piece)))
		if err != nil {
			return err
		}
		if h.Masked {
			ws.Cipher(piece[:n], h.Mask, int(done%4))
		}
		if _, err := c.nc.Write(buf[:size+n]); err != nil {
			return err
		}
		done, size = done+int64(n), 0
	}
	return nil
}

// headWriter puts a header at the start of a buffer.
type headWriter struct{ buf []byte }

func (w headWriter) Write(p []byte) (int, error) { return copy(w.buf, p), nil }

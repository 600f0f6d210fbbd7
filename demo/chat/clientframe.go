package chat

import (
	"fmt"
	"io"
	"time"

	"github.com/gobwas/ws"
)

// Send sends a text frame.
func (c *Client) Send(text string) error {
	return c.WriteFrame(ws.NewTextFrame([]byte(text)))
}

// WriteFrame masks a frame and sends it in one write, whatever it is. The
// payload is left as it was.
func (c *Client) WriteFrame(f ws.Frame) error {
	b, err := ws.CompileFrame(ws.MaskFrame(f))
	if err != nil {
		return err
	}
	return c.WriteRaw(b)
}

// WriteRaw sends bytes as they are.
func (c *Client) WriteRaw(b []byte) error {
	if d := c.target.timeout(); d > 0 {
		c.Conn.SetWriteDeadline(time.Now().Add(d))
	}
	_, err := c.Conn.Write(b)
	return err
}

// ReadFrame returns the next frame, control frames too, and answers nothing.
// It reads on after an invalid one.
func (c *Client) ReadFrame() (ws.Frame, error) {
	c.readDeadline()
	f := ws.Frame{}
	h, err := ws.ReadHeader(c.Reader)
	if err != nil {
		return f, err
	}
	f.Header = h
	if h.Length > maxMessage {
		return f, fmt.Errorf("frame of %d bytes", h.Length)
	}
	f.Payload = make([]byte, h.Length)
	if _, err := io.ReadFull(c.Reader, f.Payload); err != nil {
		return f, fmt.Errorf("frame of %d bytes: %w", h.Length, err)
	}
	return f, nil
}

func (c *Client) readDeadline() {
	if d := c.target.timeout(); d > 0 {
		c.Conn.SetReadDeadline(time.Now().Add(d))
	}
}

// Recv returns the next data message, fragments put together. It answers
// Pings; a Close frame is answered too and comes back as *CloseError.
func (c *Client) Recv() (string, error) {
	if len(c.pending) > 0 {
		text := c.pending[0]
		c.pending = c.pending[1:]
		return text, nil
	}
	var message []byte
	fragmented := false
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "", err
		}
		state := ws.StateClientSide
		if fragmented {
			state = state.Set(ws.StateFragmented)
		}
		if err := ws.CheckHeader(f.Header, state); err != nil {
			return "", err
		}
		switch f.Header.OpCode {
		case ws.OpPing:
			if err := c.WriteFrame(ws.NewPongFrame(f.Payload)); err != nil {
				return "", err
			}
		case ws.OpPong:
		case ws.OpClose:
			c.WriteFrame(ws.NewCloseFrame(f.Payload))
			code, reason := ws.ParseCloseFrameData(f.Payload)
			if code.Empty() {
				code = ws.StatusNoStatusRcvd
			}
			return "", &CloseError{code, reason}
		default:
			message = append(message, f.Payload...)
			if fragmented = !f.Header.Fin; !fragmented {
				return string(message), nil
			}
		}
	}
}

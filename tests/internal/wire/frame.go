// Package wire speaks WebSocket byte by byte, right or wrong, as a test wants it. It
// shares no code with the gate or with the gate's WebSocket library, so that the two
// can't be wrong together: its frames are those of internal/websocket.
package wire

import (
	"bufio"
	"encoding/binary"

	"wssgate/internal/websocket"
)

// A Frame is one frame. Payload is always unmasked.
type Frame = websocket.Frame

// Opcodes of RFC 6455, section 5.2.
const (
	Continuation = websocket.Continuation
	Text         = websocket.Text
	Binary       = websocket.Binary
	Close        = websocket.Close
	Ping         = websocket.Ping
	Pong         = websocket.Pong
)

// ReadFrame reads one frame. A frame in a form that RFC 6455 forbids is an error.
func ReadFrame(r *bufio.Reader) (Frame, error) { return websocket.ReadFrame(r) }

// CloseFrame returns a Close frame with the status code.
func CloseFrame(masked bool, code uint16, reason string) Frame {
	payload := append(binary.BigEndian.AppendUint16(nil, code), reason...)
	return Frame{FIN: true, Op: Close, Masked: masked, Payload: payload}
}

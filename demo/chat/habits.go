package chat

import (
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// Habits are things that real servers do and a polite one would not. Each is
// off in the zero value. docs/tigase.md tells where they were seen.
type Habits struct {
	// WholeRequest: a request is seen only when more than 100 bytes are there
	// and the last four are CRLFCRLF. Anything else is waited for.
	WholeRequest bool
	// CaseSensitive: header names count only in the RFC's own spelling.
	CaseSensitive bool
	// BlindRequest: method, version, Upgrade, Connection and Host are not
	// looked at; of duplicate headers the last wins; without a numeric
	// Sec-WebSocket-Version the conn is closed without an answer.
	BlindRequest bool
	// Refuse10: without the subprotocol xmpp the answer is
	// "HTTP/1.0 400 Bad request" and FIN.
	Refuse10 bool
	// CORS: the 101 carries CORS headers.
	CORS bool
	// PickyProxy2: a PROXY header of version 2 counts only where the request
	// comes in the same segment; alone it gets no answer, and its LOCAL form
	// closes the conn.
	PickyProxy2 bool
	// NoSubprotocol: the 101 names no subprotocol, whatever was offered.
	NoSubprotocol bool
	// TwoWrites: a frame's header and payload are two writes.
	TwoWrites bool
	// Lenient: FIN, RSV and the mask of frames are not looked at. A negative
	// length or invalid UTF-8 makes a zombie: neither answer nor FIN.
	Lenient bool
	// CloseLingers: a Close frame is answered with 88 00 and TCP stays open,
	// the session with it, until the peer closes.
	CloseLingers bool
	// ErrorLingers: after a stream error and the stream's end follow neither
	// Close frame nor FIN.
	ErrorLingers bool
	// OneFrame: a stream error and the stream's end share a frame.
	OneFrame bool
	// BareFIN: Stop sends FIN and nothing else.
	BareFIN bool
	// DropPast: a conn with this many writes waiting drops further ones,
	// headers and payloads alike. 0: never.
	DropPast int
	// NewPerSecond: more new conns than this in a second are accepted and
	// closed at once. 0: no limit.
	NewPerSecond int
	// OpenTimeout: FIN for a conn without an open stream after this time.
	// 0: never.
	OpenTimeout time.Duration
	// Redirect: where to send a stream instead, as ws URL (RFC 7395,
	// see-other-uri) or host and port (older framing, see-other-host). Empty:
	// nowhere. Called for each stream that opens, on the conn's goroutine.
	Redirect func(Open) string
	// LoginFailure: the condition of a failed PLAIN. Empty: not-authorized.
	LoginFailure string
	// Offer: the features before a login, as XML that stands in <stream:features>. Empty:
	// ANONYMOUS and PLAIN, and they are all that it does in any case.
	Offer string
	// NoResumption: XEP-0198 is not offered after the login.
	NoResumption bool
	// Node: what <enabled/> gives as location (XEP-0198). Empty: nothing.
	Node string

	ReadPace  Pace // a slow reader
	WritePace Pace // a slow writer
	NeverRead bool // nothing is read once the opening handshake is done; the conn lasts until the Server closes
}

// Tigase returns the habits of Tigase 8.5, for adding to.
func Tigase() Habits {
	return Habits{
		WholeRequest: true,
		BlindRequest: true,
		Refuse10:     true,
		CORS:         true,
		PickyProxy2:  true,
		TwoWrites:    true,
		Lenient:      true,
		CloseLingers: true,
		ErrorLingers: true,
		BareFIN:      true,
		DropPast:     500,
		NewPerSecond: 200,
		OpenTimeout:  time.Minute,
	}
}

// An Open is what a stream's opening says.
type Open struct {
	To, From      string
	Legacy        bool // the older draft's <stream:stream>
	Authenticated bool // the one after SASL
}

// A Pace slows a direction down: at most Chunk bytes at a time, each after
// Delay. The zero value is full speed.
type Pace struct {
	Chunk int
	Delay time.Duration
}

// A Moment is when an Outburst comes.
type Moment int

const (
	Never         Moment = iota
	AtAccept             // before anything is read
	AtRequest            // instead of the answer to the request
	WithUpgrade          // in the same write as the 101
	AtFirstFrame         // at the first data frame, instead of an answer
	AtFirstStanza        // at the first message stanza, instead of delivering it
)

// An Ending is what follows an Outburst.
type Ending int

const (
	GoOn    Ending = iota // politely, as if nothing had been
	FIN                   // end of the byte stream
	RST                   // connection reset
	Silence               // TCP stays open; what comes is read and ignored
)

// An Outburst is bytes that come unasked for, and what follows them.
// AtRequest with nil bytes and Silence is a server that answers nothing.
type Outburst struct {
	When  Moment
	Bytes []byte
	Then  Ending
}

// Things to say in an Outburst. The frames are as a server sends them, so
// without a mask, unless the mask is the point.
var (
	Garbage = []byte("\x00\xff\x13\x37 this is not the protocol that you are looking for\n\xfe")

	HalfUpgrade = []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConn")
	BadRequest  = []byte("HTTP/1.0 400 Bad request\r\n\r\n")

	HalfHeader     = []byte{0x81, 126, 0x01}                                         // two of four bytes and a bit
	HalfFrame      = append([]byte{0x81, 100}, strings.Repeat("h", 40)...)           // 40 bytes of 100
	HalfMessage    = append([]byte{0x01, 5}, "<mess"...)                             // FIN not set, and no continuation
	Masked         = ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("m")))) // RFC 6455, 5.1
	RSV            = []byte{0xC1, 1, 'r'}                                            // RSV1 without an extension
	ReservedOpcode = []byte{0x83, 1, 'o'}
	ReservedCtrl   = []byte{0x8B, 1, 'o'}
	LongPing       = append([]byte{0x89, 126, 0, 126}, strings.Repeat("p", 126)...) // RFC 6455, 5.5
	FragmentedPing = []byte{0x09, 0}
	Orphan         = []byte{0x80, 1, 'c'} // a continuation of nothing
	HugeLength     = []byte{0x81, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 'x'}
	NegativeLength = []byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 'x'}
)

// HTTP returns a whole HTTP/1.1 answer, for AtRequest.
func HTTP(status, body string) []byte {
	return []byte("HTTP/1.1 " + status + "\r\nContent-Type: text/plain\r\nContent-Length: " +
		itoa(len(body)) + "\r\nConnection: close\r\n\r\n" + body)
}

// pacedConn slows a conn down in both directions.
type pacedConn struct {
	net.Conn
	read, write Pace
	once        sync.Once
	closed      chan struct{}
}

func newPacedConn(nc net.Conn, read, write Pace) net.Conn {
	if read == (Pace{}) && write == (Pace{}) {
		return nc
	}
	return &pacedConn{Conn: nc, read: read, write: write, closed: make(chan struct{})}
}

func (c *pacedConn) Read(p []byte) (int, error) {
	if c.read.Chunk > 0 {
		p = p[:min(len(p), c.read.Chunk)]
	}
	c.pause(c.read.Delay)
	return c.Conn.Read(p)
}

func (c *pacedConn) Write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		chunk := p[n:]
		if c.write.Chunk > 0 {
			chunk = chunk[:min(len(chunk), c.write.Chunk)]
		}
		c.pause(c.write.Delay)
		var m int
		m, err = c.Conn.Write(chunk)
		n += m
	}
	return n, err
}

func (c *pacedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// pause waits, but not past Close.
func (c *pacedConn) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
	}
}

package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"wssgate/upstream"
)

// A simMessage is one WebSocket message that a peer has sent, at least partly. Its
// payload has its sender and a number, so that all are different.
type simMessage struct {
	opcode  byte
	payload []byte
	secret  bool // the other end must not receive it whole: it is malicious, or has an internal address
}

// innerNetwork is the network of all nodes. No client may see it.
const innerNetwork = "10.9."

// simFrames reads the gate's output like a strict peer. It is independent of the code
// under test.
type simFrames struct {
	masked  bool // frames must be masked
	rest    []byte
	message []byte
	opcode  byte
	within  bool // inside a fragmented message
	closed  bool // a Close frame has arrived
}

// A simFrame is the frame at the beginning of simFrames.rest.
type simFrame struct {
	opcode  byte
	fin     bool
	payload []byte // the available part, unmasked
	size    int    // including its header
	whole   bool
}

func (f *simFrames) first() (frame simFrame, err error) {
	b := f.rest
	if len(b) < 2 {
		return frame, nil
	}
	frame.opcode, frame.fin = b[0]&15, b[0]&0x80 != 0
	length, at := int(b[1]&0x7f), 2
	switch {
	case b[0]&0x70 != 0 || frame.opcode > 10 || frame.opcode > 2 && frame.opcode < 8:
		return frame, fmt.Errorf("a frame that begins with %x", b[:2])
	case b[1]&0x80 != 0 != f.masked:
		return frame, fmt.Errorf("a frame that is masked: %t", !f.masked)
	case frame.opcode >= 8 && (!frame.fin || length > 125):
		return frame, fmt.Errorf("a control frame that begins with %x", b[:2])
	case length == 126 && len(b) >= 4:
		length, at = int(binary.BigEndian.Uint16(b[2:])), 4
	case length == 127 && len(b) >= 10:
		length, at = int(binary.BigEndian.Uint64(b[2:])), 10
	case length >= 126:
		return frame, nil
	}
	var key [4]byte
	if f.masked {
		if at += 4; len(b) < at {
			return frame, nil
		}
		key = [4]byte(b[at-4:])
	}
	frame.size = at + length
	frame.whole = len(b) >= frame.size
	frame.payload = bytes.Clone(b[at:min(len(b), frame.size)])
	applyMask(frame.payload, key, 0)
	return frame, nil
}

// read takes the next bytes, and calls got for each control frame and each complete
// message.
func (f *simFrames) read(b []byte, got func(opcode byte, payload []byte)) error {
	f.rest = append(f.rest, b...)
	for len(f.rest) > 0 {
		if f.closed {
			return fmt.Errorf("%.20x behind the Close frame", f.rest)
		}
		frame, err := f.first()
		if err != nil || !frame.whole {
			return err
		}
		f.rest = f.rest[frame.size:]
		switch {
		case frame.opcode >= 8:
			f.closed = frame.opcode == opClose
			got(frame.opcode, frame.payload)
			continue
		case (frame.opcode == 0) != f.within:
			return fmt.Errorf("opcode %d, and within a message: %t", frame.opcode, f.within)
		case frame.opcode != 0:
			f.opcode, f.message = frame.opcode, nil
		}
		f.message = append(f.message, frame.payload...)
		if f.within = !frame.fin; frame.fin {
			got(f.opcode, f.message)
			f.message = nil
		}
	}
	f.rest = nil
	return nil
}

// partial returns the part of an incomplete message that has arrived.
func (f *simFrames) partial() []byte {
	b := bytes.Clone(f.message)
	if frame, err := f.first(); err == nil && frame.opcode < 8 {
		b = append(b, frame.payload...)
	}
	return b
}

// A simPlan is a client's intention.
type simPlan uint8

const (
	planGood    simPlan = iota
	planMute            // sends nothing
	planHalfTag         // begins a start tag
	planBadStart
	planWrongDomain
	planLaterDomain // opens its stream again, to another domain
	planBadFrame
	planNotUTF8
	planTooBig
	planFlood
	planVanish // half a frame, then silence
	planSlow   // stops reading
	planGuess  // guesses passwords
	planCount
)

// A simClient is a client, from its connection on.
type simClient struct {
	w      *simWorld
	name   string
	vhost  *simVhost
	socket *simSocket
	tunnel *tunnel // nil before its 101, and without one
	plan   simPlan
	legacy bool // the older draft's framing

	sent      []simMessage
	pings     int    // number sent
	tagged    bool   // the first of sent is its start tag
	over      bool   // it sends nothing more of its own
	mute      bool   // it does not even answer
	closeSent bool   // a Close frame
	code      uint16 // the status code in it
	broke     bool   // it reset its connection, or acts so that the rest may be lost
	failures  int    // of its logins

	frames   simFrames
	received int
	links    []*simLink // its streams, the current one last
	bound    *simLink   // the stream whose messages it gets
	next     int        // the next one of them
	own      int        // number of the gate's own messages
	pongs    int
	closed   int // status code of the received Close frame; 0: none
	ended    bool
	reset    bool

	may    [reasonCount]bool // reasons for which its tunnel may end, after all events so far
	why    reason            // the reason for which it ended
	judged bool
}

// allow permits these reasons for the tunnel's end.
func (c *simClient) allow(why ...reason) {
	for _, r := range why {
		c.may[r] = true
	}
}

// only reports whether there is only one possible reason for the tunnel's end.
func (c *simClient) only(why reason) bool {
	n := 0
	for _, may := range c.may {
		if may {
			n++
		}
	}
	return n == 1 && c.may[why]
}

// begins is called at the beginning of the tunnel.
func (c *simClient) begins(t *tunnel) {
	c.w.trace("%s: a tunnel of %s, plan %d", c.name, c.vhost.name, c.plan)
	c.tunnel = t
	t.client.tls = nil
	if t.info.elsewhere != "" {
		c.allow(reasonRedirect, reasonNoStream, reasonBadStream)
	}
}

// send passes bytes to the network.
func (c *simClient) send(b []byte) { c.socket.send(b) }

// say sends a message, in frames with Pings between them.
func (c *simClient) say(m simMessage) {
	c.sent = append(c.sent, m)
	c.w.trace("%s: says %.60q, %d bytes", c.name, m.payload, len(m.payload))
	c.send(c.w.frames(m, true, func() []byte {
		c.pings++
		return fmt.Appendf(nil, "ping %s %d", c.name, c.pings)
	}))
}

// tag returns a start tag.
func (c *simClient) tag(domain string) simMessage {
	return simMessage{opcode: opText, payload: []byte(openTag(domain, c.legacy))}
}

// domain returns a domain that the client may use.
func (c *simClient) domain() string {
	if c.vhost.routes && c.w.oneIn(2) {
		return "one.example"
	}
	return c.vhost.name
}

// act does the client's next action.
func (c *simClient) act() {
	w := c.w
	switch {
	case c.tunnel == nil || c.over:
	case !c.tagged:
		c.begin()
	case c.plan > planLaterDomain && w.oneIn(4):
		c.misbehave()
	case c.plan == planLaterDomain && c.vhost.domains && w.oneIn(4):
		m := c.tag("forbidden.example")
		m.secret = true
		c.say(m)
		c.over = true
		c.allow(reasonHostUnknown)
	case w.oneIn(40):
		c.say(c.tag(string(c.sentDomain()))) // as after SASL
	case w.oneIn(60):
		c.end()
	case w.oneIn(20):
		c.pings++
		c.send(w.mask(opPing, true, fmt.Appendf(nil, "ping %s %d", c.name, c.pings)))
	default:
		c.say(simMessage{opcode: opText, payload: w.stanza(c.name, len(c.sent))})
	}
}

// sentDomain returns the domain in the first tag.
func (c *simClient) sentDomain() []byte {
	_, rest, _ := bytes.Cut(c.sent[0].payload, []byte("to='"))
	domain, _, _ := bytes.Cut(rest, []byte("'"))
	return domain
}

// begin sends the first words.
func (c *simClient) begin() {
	switch c.plan {
	case planMute:
		c.mute, c.over = true, true
		c.allow(reasonNoStream, reasonPong)
	case planHalfTag:
		m := c.tag(c.vhost.name)
		m.secret = true
		c.sent = append(c.sent, m)
		b := c.w.mask(opText, true, m.payload)
		c.send(b[:1+c.w.rnd.IntN(len(b)-1)])
		c.mute, c.over = true, true
		c.allow(reasonNoStream, reasonPong)
	case planBadStart:
		c.say(simMessage{opcode: opText, payload: []byte("<presence id='" + c.name + "'/>")})
		c.tagged = true
		if c.vhost.strict {
			c.over = true
			c.allow(reasonBadStream)
		}
	case planWrongDomain:
		m := c.tag("forbidden.example")
		if m.secret = c.vhost.domains; m.secret {
			c.over = true
			c.allow(reasonHostUnknown)
		}
		c.say(m)
		c.tagged = true
	default:
		c.say(c.tag(c.domain()))
		c.tagged = true
	}
}

// misbehave carries out the client's plan.
func (c *simClient) misbehave() {
	w := c.w
	w.trace("%s: misbehaves, plan %d", c.name, c.plan)
	switch c.plan {
	case planBadFrame:
		bad := w.mask(opText, true, []byte("bad"))
		switch w.rnd.IntN(5) {
		case 0:
			bad[0] |= 0x40
		case 1:
			bad[0] = 0x83
		case 2:
			bad[1] &^= 0x80
		case 3:
			bad = w.mask(opPing, true, make([]byte, 126))
		default:
			bad = w.mask(opContinuation, true, nil)
		}
		c.send(bad)
		c.over = true
		c.allow(reasonClientProtocol)
	case planNotUTF8:
		text := append(w.stanza(c.name, len(c.sent)), 0xc3, 0x28)
		c.say(simMessage{opText, append(text, w.stanza(c.name, len(c.sent))...), true})
		c.over = true
		c.allow(reasonNotUTF8)
	case planTooBig:
		c.send(appendHeader(nil, header{fin: true, opcode: opText, masked: true, length: simMessageLimit + 1 + int64(w.rnd.IntN(1000))}))
		c.over = true
		c.allow(reasonTooBig)
	case planFlood:
		for range 400 {
			c.send(w.mask(opPong, true, nil))
		}
		c.allow(reasonFlood)
	case planVanish:
		m := simMessage{opText, w.stanza(c.name, len(c.sent)), true}
		c.sent = append(c.sent, m)
		b := w.mask(opText, true, m.payload)
		c.send(b[:1+w.rnd.IntN(len(b)-1)])
		c.over, c.mute = true, true
		c.allow(reasonPong, reasonNoStream) // the latter if the half could begin a start tag
	case planSlow:
		c.socket.out.stalled, c.broke = true, true
		c.allow(reasonPong, reasonSlowClient)
	case planGuess:
		c.say(simMessage{opcode: opText, payload: fmt.Appendf(nil, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s%d</auth>", c.name, len(c.sent))})
	}
}

// end ends the connection in some way.
func (c *simClient) end() {
	c.over = true
	switch c.w.rnd.IntN(4) {
	case 0:
		c.w.trace("%s: FIN", c.name)
		c.socket.finish()
		c.mute = true
		c.allow(reasonClientGone)
	case 1:
		c.w.trace("%s: RST", c.name)
		c.socket.breaks()
		c.mute, c.broke = true, true
		c.allow(reasonClientGone)
	default:
		c.closes()
	}
}

// closes begins the closing handshake.
func (c *simClient) closes() {
	c.w.trace("%s: Close", c.name)
	c.over, c.closeSent, c.code = true, true, 3000+uint16(c.w.rnd.IntN(1000))
	c.send(c.w.mask(opClose, true, closePayload(c.code, "bye")))
	c.allow(reasonClientClose)
}

func (c *simClient) receive(b []byte) {
	c.received += len(b)
	if err := c.frames.read(b, c.got); err != nil {
		c.w.fail("%s got %v", c.name, err)
	}
}

func (c *simClient) hungUp(reset bool) {
	c.ended, c.reset = true, reset
	if c.over, c.mute = true, true; !reset {
		c.socket.finish()
	}
}

func (c *simClient) got(opcode byte, payload []byte) {
	shown := payload
	if !bytes.Contains(payload, []byte("id='of ")) { // the gate's own opening, with a random id
		shown, _, _ = bytes.Cut(payload, []byte(" id="))
	}
	c.w.trace("%s: got %d %.60q, %d bytes", c.name, opcode, shown, len(payload))
	switch opcode {
	case opPing:
		if !c.mute && !c.closeSent {
			c.send(c.w.mask(opPong, true, payload))
		}
	case opPong:
		var n int
		again := len(c.links) > 1 // another node gets the same as the first one, including Pings
		if _, err := fmt.Sscanf(string(payload), "ping "+c.name+" %d", &n); len(payload) > 0 && (err != nil || n <= c.pongs && !again || n > c.pings) {
			c.w.fail("%s got the Pong %q; want one of Pings %d to %d", c.name, payload, c.pongs+1, c.pings)
		}
		c.pongs = max(c.pongs, n)
	case opClose:
		c.closed = int(closeCode(header{}, payload))
		if !c.mute && !c.closeSent {
			c.over, c.closeSent = true, true
			c.send(c.w.mask(opClose, true, payload))
		}
		c.over = true
	default:
		c.gotMessage(opcode, payload)
	}
}

// gotMessage compares a message with what was sent: it must be the next one of the
// client's own stream, or one of the gate's at its end.
func (c *simClient) gotMessage(opcode byte, payload []byte) {
	if bytes.Contains(payload, []byte(innerNetwork)) {
		c.w.fail("%s got an inner address: %q", c.name, payload)
	}
	for _, l := range c.links {
		if next := c.awaits(l); next != nil && next.opcode == opcode && bytes.Equal(next.payload, payload) {
			if c.own > 0 {
				c.w.fail("%s got %.80q behind words of the gate's own", c.name, payload)
			}
			if next.secret {
				c.w.fail("%s got %.80q, which was to stay inside", c.name, payload)
			}
			c.bound = l
			c.next++
			return
		}
	}
	for _, words := range []string{"<open ", "<close ", "<stream:stream ", "<stream:error ", "</stream:stream>"} {
		// An opening from the gate has the node's id, and a language that no node here
		// uses.
		if own := !bytes.Contains(payload, []byte("id='of ")) || bytes.Contains(payload, []byte(" xml:lang='en'")); own && bytes.HasPrefix(payload, []byte(words)) {
			c.own++
			return
		}
	}
	c.w.fail("%s got %.80q, which is not what comes next", c.name, payload)
}

// awaits returns the next message that the client may get from a stream; nil: none.
func (c *simClient) awaits(l *simLink) *simMessage {
	if c.bound != nil && c.bound != l || c.next >= len(l.sent) {
		return nil
	}
	return &l.sent[c.next]
}

// halfRead compares the part of an incomplete message with what was sent.
func (c *simClient) halfRead() {
	half := c.frames.partial()
	if bytes.Contains(half, []byte(innerNetwork)) {
		c.w.fail("%s got an inner address: %q", c.name, half)
	}
	for _, l := range c.links {
		if next := c.awaits(l); next != nil && bytes.HasPrefix(next.payload, half) {
			return
		}
	}
	if len(half) > 0 && !c.reset && !c.broke {
		c.w.fail("%s got the half message %.80q, which is not what comes next", c.name, half)
	}
}

// A simNode is a node of an upstream.
type simNode struct {
	address string
	group   *simGroup
	number  int
	down    bool // refuses connections
}

// A simGroup is an upstream.
type simGroup struct {
	name   string
	nodes  []*simNode
	public bool // its nodes have public URLs
}

// A simLink is a node's end of one stream.
type simLink struct {
	w      *simWorld
	name   string
	node   *simNode
	socket *simSocket
	client *simClient // nil until its request has arrived
	head   []byte     // of the request
	refuse bool       // it answers with 403
	hangs  bool       // it does not answer

	sent   []simMessage
	queue  []simMessage // messages to send
	pings  int
	over   bool // it sends nothing more
	hurt   bool // messages to it may be lost: it was reset, or does not read
	closes bool // a Close frame was sent
	half   bool // half a frame was sent: nothing may follow

	frames   simFrames
	next     int // number of the client's next message
	lastPing int
	closed   bool // a Close frame was received
	ended    bool
	said     int // bytes sent
}

func (l *simLink) receive(b []byte) {
	if l.client == nil {
		l.head = append(l.head, b...)
		if _, rest, whole := bytes.Cut(l.head, []byte("\r\n\r\n")); whole && !l.hangs {
			l.answer()
			b = rest
		} else {
			return
		}
	}
	if err := l.frames.read(b, l.got); err != nil {
		l.w.fail("%s got %v", l.name, err)
	}
}

// answer sends the node's 101, or another answer.
func (l *simLink) answer() {
	field := func(name string) string {
		_, rest, _ := strings.Cut(string(l.head), "\r\n"+name+": ")
		value, _, _ := strings.Cut(rest, "\r\n")
		return value
	}
	for _, c := range l.w.clients {
		if addrPortOf(c.socket.remote).Addr().String() == field("X-Forwarded-For") {
			l.client = c
		}
	}
	if l.client == nil {
		l.w.fail("%s: a request of nobody: %q", l.name, l.head)
		return
	}
	if l.refuse {
		l.socket.send([]byte("HTTP/1.0 400 Bad request\r\n\r\n"))
		l.socket.finish()
		l.over, l.ended = true, true
		return
	}
	l.w.trace("%s: 101 for %s", l.name, l.client.name)
	l.client.links = append(l.client.links, l)
	l.socket.send([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		upstream.AcceptKey(field("Sec-WebSocket-Key")) + "\r\nSec-WebSocket-Protocol: " + subprotocolXMPP + "\r\n\r\n"))
}

func (l *simLink) hungUp(reset bool) {
	l.ended, l.over = true, true
	if !reset {
		l.socket.finish()
	}
	if c := l.client; c != nil && !l.hurt && !reset {
		l.halfRead()
	}
}

// halfRead compares the part of an incomplete message with what was sent.
func (l *simLink) halfRead() {
	half := l.frames.partial()
	if len(half) > 0 && (l.next >= len(l.client.sent) || !bytes.HasPrefix(l.client.sent[l.next].payload, half)) {
		l.w.fail("%s got the half message %.80q, which is not %s's next", l.name, half, l.client.name)
	}
}

func (l *simLink) got(opcode byte, payload []byte) {
	l.w.trace("%s: got %d %.60q, %d bytes", l.name, opcode, payload, len(payload))
	c := l.client
	switch opcode {
	case opPing:
		var n int
		if _, err := fmt.Sscanf(string(payload), "ping "+c.name+" %d", &n); err != nil || n <= l.lastPing || n > c.pings {
			l.w.fail("%s got the Ping %q; want one of %s's %d to %d", l.name, payload, c.name, l.lastPing+1, c.pings)
		}
		if l.lastPing = n; l.half {
			break
		}
		l.send(l.w.mask(opPong, false, payload))
	case opPong:
		var n int
		if _, err := fmt.Sscanf(string(payload), "ping "+l.name+" %d", &n); len(payload) > 0 && (err != nil || n > l.pings) && !l.late(payload) {
			l.w.fail("%s got the Pong %q, and sent %d Pings", l.name, payload, l.pings)
		}
	case opClose:
		l.closed = true
		if !c.closeSent {
			l.w.fail("%s got a Close frame that %s never sent", l.name, c.name)
		}
		if l.next != len(c.sent) && c.may[reasonClientClose] {
			l.w.fail("%s got a Close frame behind %d messages; %s sent %d", l.name, l.next, c.name, len(c.sent))
		}
		if !l.closes && !l.over && !l.half { // without a status code, and TCP stays open
			l.closes, l.over = true, true
			l.send(l.w.mask(opClose, false, nil))
		}
	default:
		l.gotMessage(opcode, payload)
	}
}

// late reports whether a Pong is for the previous node of the client's stream.
func (l *simLink) late(payload []byte) bool {
	for _, before := range l.client.links {
		if before != l && bytes.HasPrefix(payload, []byte("ping "+before.name+" ")) {
			return true
		}
	}
	return false
}

// gotMessage compares a message with what the client sent.
func (l *simLink) gotMessage(opcode byte, payload []byte) {
	c := l.client
	if l.next >= len(c.sent) || c.sent[l.next].opcode != opcode || !bytes.Equal(c.sent[l.next].payload, payload) {
		l.w.fail("%s got %.80q, which is not %s's message %d", l.name, payload, c.name, l.next)
		return
	}
	if c.sent[l.next].secret {
		l.w.fail("%s got %.80q, which was to be kept from it", l.name, payload)
	}
	l.next++
	switch text := string(payload); {
	case strings.HasPrefix(text, "<open"), strings.HasPrefix(text, "<stream:stream"), strings.HasPrefix(text, "<?xml"):
		l.open()
	case strings.HasPrefix(text, "<auth"):
		l.later("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl' id='of %s'><not-authorized/></failure>")
	}
}

// later queues a message; %s is the link's name.
func (l *simLink) later(format string) {
	l.queue = append(l.queue, simMessage{opcode: opText, payload: fmt.Appendf(nil, format, fmt.Sprintf("%s %d", l.name, len(l.sent)+len(l.queue)))})
}

// open answers a client's start tag like Tigase: with an opening and features, or with
// a redirect immediately after the opening.
func (l *simLink) open() {
	if l.client.legacy {
		l.later("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='of %s' version='1.0'>")
	} else {
		l.later("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='of %s' version='1.0'/>")
	}
	if l.w.faults && l.w.oneIn(6) {
		l.redirect()
		return
	}
	l.later("<stream:features xmlns:stream='http://etherx.jabber.org/streams' id='of %s'/>")
}

// redirect sends the client to another node, or to an unknown one. Later messages are
// useless.
func (l *simLink) redirect() {
	w, to := l.w, innerNetwork+"99.99:5290"
	why := reasonRedirectLost
	if n := l.node.group.nodes; w.oneIn(2) {
		other := n[w.rnd.IntN(len(n))]
		if to = other.address; l.node.group.public {
			why = reasonRedirect
		}
		l.client.allow(reasonDialFailed, reasonRedirectLost) // the latter in the middle of a frame
	}
	l.client.allow(why)
	text := "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='ws://" + to + "/'/>"
	if l.client.legacy {
		text = "<stream:error xmlns:stream='http://etherx.jabber.org/streams'><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>" + to + "</see-other-host></stream:error>"
	}
	if w.oneIn(4) { // immediately after a stanza
		text = string(w.stanza(l.name, len(l.sent)+len(l.queue))) + text
	}
	l.queue = append(l.queue, simMessage{opText, []byte(text), true})
}

func (l *simLink) send(b []byte) {
	l.said += len(b)
	l.socket.send(b)
	if c := l.client; l.said-c.received > simBacklog/2 {
		c.allow(reasonSlowClient)
	}
}

func (l *simLink) say(m simMessage) {
	l.w.trace("%s: says %.60q, %d bytes", l.name, m.payload, len(m.payload))
	l.sent = append(l.sent, m)
	if bytes.HasPrefix(m.payload, []byte("<failure")) {
		if l.client.failures++; l.client.failures >= simLogins {
			l.client.allow(reasonLoginFailures)
		}
	}
	l.send(l.w.frames(m, false, func() []byte {
		l.pings++
		return fmt.Appendf(nil, "ping %s %d", l.name, l.pings)
	}))
}

// act does the node's next action.
func (l *simLink) act() {
	w := l.w
	switch {
	case l.client == nil || l.over || l.client.tunnel == nil:
	case len(l.queue) > 0:
		m := l.queue[0]
		l.queue = l.queue[1:]
		l.say(m)
	case l.next == 0: // the client has sent nothing yet
	case w.faults && w.oneIn(60):
		l.fault()
	case w.faults && w.oneIn(150):
		l.redirect()
	case w.oneIn(15):
		l.pings++
		l.send(w.mask(opPing, false, fmt.Appendf(nil, "ping %s %d", l.name, l.pings)))
	default:
		l.say(simMessage{opcode: opText, payload: w.stanza(l.name, len(l.sent))})
	}
}

// fault ends the stream in some way.
func (l *simLink) fault() {
	w, c := l.w, l.client
	kind := w.rnd.IntN(8)
	w.trace("%s: fault %d", l.name, kind)
	l.over, l.half = true, kind == 4 || kind == 5
	half := func() {
		m := simMessage{opcode: opText, payload: w.stanza(l.name, len(l.sent))}
		m.secret = true // because it never ends
		l.sent, l.half = append(l.sent, m), true
		b := w.mask(opText, false, m.payload)
		l.send(b[:1+w.rnd.IntN(len(b)-1)])
	}
	switch kind {
	case 0: // as on SIGTERM
		l.socket.finish()
		c.allow(reasonUpstreamGone)
	case 1:
		half()
		l.socket.finish()
		c.allow(reasonUpstreamGone)
	case 2:
		l.socket.breaks()
		l.hurt, l.ended = true, true
		c.allow(reasonUpstreamGone)
	case 3:
		l.closes = true
		l.send(w.mask(opClose, false, closePayload(4000, "bye")))
		c.allow(reasonUpstreamClose)
	case 4:
		l.send([]byte{0x81, 0x85, 1, 2, 3, 4}) // masked
		c.allow(reasonBadGateway)
	case 5:
		l.send([]byte{0xf1, 0x05})
		c.allow(reasonBadGateway)
	case 6:
		half()
		c.allow(reasonUpstreamStuck)
	default: // it stops reading
		l.over, l.hurt = false, true
		l.socket.out.stalled = true
		c.allow(reasonUpstreamStuck)
	}
}

// Used by both ends.

// stanza returns a unique message.
func (w *simWorld) stanza(who string, number int) []byte {
	size := w.rnd.IntN(100)
	switch n := w.rnd.IntN(200); {
	case n == 0:
		size = 60_000
	case n < 8:
		size = 20_000
	case n < 60:
		size = w.rnd.IntN(2000)
	}
	const letters = "abcdé漢😀 "
	b := fmt.Appendf(nil, "<message xmlns='jabber:client' id='of %s %d'><body>", who, number)
	for len(b) < size {
		b = append(b, letters...)
	}
	return append(b, "</body></message>"...)
}

// mask returns one frame of a client or of a node.
func (w *simWorld) mask(opcode byte, client bool, payload []byte) []byte {
	if !client {
		return appendFrame(nil, opcode, payload, nil)
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], w.rnd.Uint32())
	return appendFrame(nil, opcode, payload, &key)
}

// frames returns a message in frames, cut anywhere, with Pings between them.
func (w *simWorld) frames(m simMessage, client bool, ping func() []byte) (b []byte) {
	opcode, rest := m.opcode, m.payload
	for w.oneIn(4) && len(rest) > 0 {
		n := w.rnd.IntN(len(rest) + 1)
		f := w.mask(opcode, client, rest[:n])
		f[0] &^= bitFIN
		b = append(b, f...)
		opcode, rest = opContinuation, rest[n:]
		if w.oneIn(4) {
			b = append(b, w.mask(opPing, client, ping())...)
		}
	}
	return append(b, w.mask(opcode, client, rest)...)
}

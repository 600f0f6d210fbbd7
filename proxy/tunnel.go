package proxy

import (
	"cmp"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"wssgate/xmpp"
)

// How long a tunnel waits for its peers, and how much may wait for them.
const (
	// closeTimeout bounds the closing handshake: until the peer's Close frame has come,
	// and the client has taken all that waits for it.
	closeTimeout = 10 * time.Second
	// breachTimeout is how long a client that broke the protocol has to read its Close
	// frame. FIN follows the frame at once (RFC 6455, section 7.1.7), but a close with
	// unread bytes would be a reset, which can overtake the frame.
	breachTimeout = 2 * time.Second
	// stallTimeout is how long an upstream may leave sent bytes untaken. It also bounds a
	// closing that lasts longer than closeTimeout because the upstream takes bytes slowly.
	stallTimeout = 60 * time.Second
	// partTimeout is how long an upstream that has taken everything may be silent and leave
	// our FIN unanswered.
	partTimeout = 2 * time.Second

	// clientExtra bounds the bytes that may wait for a client beyond its backlog: the
	// output of one turn, so that the current frame ends, and the last words.
	clientExtra = turnBudget + recordMax + joinSize // bytes

	// upstreamQueue bounds the bytes that wait for an upstream: the output of one turn,
	// and the frames of a greeting. The client is not read meanwhile.
	upstreamQueue = plainSize + maxGreeting // bytes
)

// never is a due time that is never reached.
const never = time.Duration(1<<63 - 1)

// A tunnel is a client and its upstream after the opening handshakes. Its loop calls start
// once, then event, expire and end, one at a time. Each call is a turn, and finishes
// before the next one begins. So a tunnel has no locks and never waits.
//
// Its life:
//
//	open ──▶ closing ──▶ parting ──▶ done
//
// It is open while why is reasonNone. The first Close frame, end of a connection or breach
// of the protocol begins the closing, and why keeps the first reason. When both ends have
// got everything, the client's socket is closed, the upstream gets FIN, and what it still
// sends is dropped until its own FIN: a close of a socket that is still written to is a
// reset, which takes bytes with it that the upstream has not read yet. Then, or at closeBy,
// the tunnel is done. The loop removes it and calls onDone.
//
// The rest depends on the side that initiates the close:
//
//   - client or upstream: the Close frame and its answer pass through. If an upstream
//     disconnects instead of answering, the gate answers the client.
//   - wssgate: the client gets a Close frame with the status code of the reason at the
//     next frame boundary, and its answer ends the tunnel. The upstream gets only FIN, as
//     if the client had lost its network, so that a stream with XEP-0198 can be resumed.
type tunnel struct {
	client, upstream leg

	settings *tunnelSettings
	info     *tunnelInfo
	shared   *tunnels                           // nil in tests that need none
	onDone   func(t *tunnel, now time.Duration) // called once by the loop, which then forgets t

	why         reason
	code        uint16        // of the first Close frame that went to or came from the client
	closeWanted bool          // the client gets a Close frame at the next boundary
	cut         bool          // the client can't get one, because it has received half a frame
	parted      bool          // only the upstream's socket is open, and has our FIN
	done        bool          // nothing is left to do
	over        bool          // onDone has been called
	dead        bool          // the client accepts nothing any more
	aborted     bool          // the client was reset while the upstream was behind
	answering   bool          // the upstream's current message is held back
	pendWhole   bool          // pend begins with a frame
	pendBetween bool          // and with a message
	closeBy     time.Duration // the end of the closing
	latest      time.Duration // its latest end; 0: it has not begun
	heard       time.Duration // the client's last sign of life
	spoke       time.Duration // the upstream's last bytes
	stalled     time.Duration // when the upstream stopped accepting bytes; 0: it accepts them
	pinged      time.Duration // the time of a Ping of ours without an answer; 0: none
	before      int           // bytes in transit to the client before that Ping; in a closing, to the upstream at the last look

	pend     []byte         // the upstream's bytes, from the beginning of a possible redirect
	ends     xmpp.Redirects // follows the upstream's stream
	quota    quota
	stage    stage
	stream   streamState
	tap      *tap          // nil: no trace
	vetting  *vetting      // nil: any domain is allowed, or the client has named none yet
	greeting *greeting     // in the stages between awaited and over
	greetBy  time.Duration // when a start tag is due; 0: never
	drainAt  time.Duration // when a drain closes the tunnel; 0: never
	patience time.Duration // the client's time to answer then

	due   time.Duration // the latest time for expire
	loop  *loop         // the owner
	place timerPlace    // the loop's
}

// start is the first turn.
func (t *tunnel) start(w *turn) {
	t.heard = w.now
	t.client.sock.max = t.settings.backlog + clientExtra
	t.client.sock.records.on = t.client.tls != nil
	t.upstream.sock.max = upstreamQueue
	t.begin(w)
	if t.stage == stageAwaited && t.strict() {
		t.greetBy = w.now + greetingTimeout
	}
	t.slowLogin(w)
	if t.info != nil && t.shared != nil && t.shared.access.denied(t.info.client.Addr()) {
		// Banned since the dial began. From now on, closing a client's tunnels includes this
		// one.
		t.endFor(reasonOperator, w.now+closeTimeout)
	}
	t.takeHeld(w, &t.upstream)
	t.takeHeld(w, &t.client)
	t.settle(w)
}

// takeHeld takes the bytes that came after a leg's handshake, and then reads the leg.
func (t *tunnel) takeHeld(w *turn, l *leg) {
	if n := copy(w.plain, l.unscanned); n > 0 {
		l.unscanned = nil
		t.count(w, l, n)
		t.take(w, l, w.plain[:n])
	}
	if l.open() && !(l == &t.client && t.rests(w.now)) {
		t.read(w, l)
	}
}

// A readiness is the state of a socket in an event.
type readiness uint8

const (
	inputReady readiness = 1 << iota // bytes or the end of the input
	roomReady                        // it takes more
	endReady                         // the peer's FIN came; only with forEnd
	failed                           // it is dead, in both directions
)

// event handles the readiness of one leg's socket.
func (t *tunnel) event(w *turn, l *leg, is readiness) {
	t.begin(w)
	if is&roomReady != 0 && l.sock.flush() {
		if l == &t.client {
			t.heard = w.now
		} else if t.stalled != 0 {
			t.stalled = w.now
		}
	}
	reading := l.sock.want&forInput != 0
	switch {
	case reading && l.open() && is&(inputReady|failed) != 0:
		t.read(w, l) // it finds the failure after the last bytes
	case is&failed != 0:
		l.sock.fail(errFailed)
	case is&endReady != 0:
		l.sock.end(io.EOF) // the dial has no client any more
	}
	t.settle(w)
}

// errFailed is the error of a socket that failed while it was not read.
var errFailed = errors.New("connection reset")

// end closes the tunnel for a reason of the gate. The first reason stays.
func (t *tunnel) end(w *turn, why reason, by time.Duration) {
	t.begin(w)
	t.endFor(why, by)
	t.settle(w)
}

// movable reports whether the tunnel may move to another loop.
func (t *tunnel) movable() bool {
	return !t.done && !t.parted && t.greeting == nil && t.client.sock.movable() && t.upstream.sock.movable()
}

// last is the last turn of a tunnel whose loop ends.
func (t *tunnel) last(w *turn) {
	t.done = true
	t.end(w, reasonDrain, 0)
}

// abandon ends a tunnel after a panic, but does not close its sockets.
func (t *tunnel) abandon() {
	if t.why == reasonNone {
		t.why = reasonPanic
	}
	t.done, t.due = true, never
}

// expire handles a due time: it sends a Ping, or ends a wait.
func (t *tunnel) expire(w *turn) {
	t.begin(w)
	switch {
	case t.why != reasonNone:
		if w.now >= t.closeBy && !t.progresses(w) || t.parted && t.undelivered() == 0 {
			t.dead = !t.parted && t.client.sock.stuck()
			t.answerClose()
			t.done = true
		}
	case t.drainAt != 0 && w.now >= t.drainAt:
		t.endFor(reasonDrain, w.now+t.patience)
	case t.greetBy != 0 && w.now >= t.greetBy && t.stage == stageAnswer:
		t.releaseAnswers()
	case t.greetBy != 0 && w.now >= t.greetBy && t.stage == stageOver:
		t.refuseAgain(reasonNoStream, t.openedStream(), errNoTag)
	case t.greetBy != 0 && w.now >= t.greetBy:
		t.noTag(reasonNoStream, errNoTag)
	case t.stalled != 0 && w.now >= t.stalled+stallTimeout:
		t.endFor(reasonUpstreamStuck, w.now+closeTimeout)
	case t.upstream.open() && !t.upstream.scan.atBoundary() && w.now >= t.spoke+stallTimeout:
		t.endFor(reasonUpstreamStuck, w.now+closeTimeout)
	case t.settings.ping > 0 && t.upstream.sock.out.size == 0 && !t.rests(w.now):
		t.ping(w)
	}
	t.settle(w)
}

func (t *tunnel) begin(w *turn) {
	t.client.sock.turn, t.upstream.sock.turn = w, w
}

// ping sends a silent client a Ping, and ends the tunnel if it does not answer. A client
// that is not read, because the upstream does not take its bytes, is not silent.
func (t *tunnel) ping(w *turn) {
	ping, pong := t.settings.ping, t.settings.pong
	silent := w.now - t.heard
	switch {
	case silent < ping:
	case t.pinged != 0 && w.now >= t.pinged+pong:
		// The client may still be reading the bytes that were sent before the Ping.
		if now := t.client.sock.raw.unacknowledged(); now < t.before {
			t.before, t.pinged = now, w.now
			return
		}
		t.endFor(reasonPong, w.now)
		t.done, t.dead = true, true
	case t.client.sock.out.size > 0 && silent >= ping+pong:
		t.endFor(reasonPong, w.now)
		t.done, t.dead = true, true
	case t.pinged == 0 && t.atBoundary():
		t.pinged, t.before = w.now, t.client.sock.raw.unacknowledged()
		t.say(opPing, pingPayload[:])
	}
}

// read reads one leg, at most once from the kernel, and passes its bytes on.
func (t *tunnel) read(w *turn, l *leg) {
	if t.parted {
		t.discard(w)
		return
	}
	if l == &t.upstream && t.brakes(w) {
		return
	}
	w.budget, l.sock.drained, l.unread = turnBudget, false, false
	if l == &t.client && t.quota.small {
		w.budget = smallBudget
	}
	l.sock.records.number = 0
	frames, sent := l.scan.frames, share{}
	if l.tls != nil {
		lend(l.tls, w.raw)
		defer t.afterTLS(w, l)
	}
	for err := error(nil); err == nil; {
		n := copy(w.plain, l.unscanned)
		from := n
		for err == nil && len(w.plain)-n >= recordMax {
			var m int
			if l.tls != nil {
				m, err = l.tls.Read(w.plain[n:])
			} else {
				m, err = l.sock.Read(w.plain[n:])
			}
			if n += m; m > 0 && l.tls != nil {
				sent.data++ // each Read returns the data of one record
			}
		}
		if n > from {
			sent.bytes += int64(n - from)
			t.count(w, l, n-from)
			t.take(w, l, w.plain[:n])
			if l.sock.state == sockClosed { // dropped for what it sent
				return
			}
		}
		if err != nil && !errors.Is(err, errAgain) {
			if l.err == nil {
				l.err = err
			}
			l.sock.end(err) // if TLS ended, but not the socket
		}
	}
	if l == &t.client {
		sent.frames, sent.idle = l.scan.frames-frames, int64(l.sock.records.number)-sent.data
		t.charge(w, sent)
	}
}

// afterTLS ends a turn's reading, and bounds the client's bytes that crypto/tls keeps.
func (t *tunnel) afterTLS(w *turn, l *leg) {
	giveBack(l.tls)
	if l == &t.client && unfinished(l.tls) > maxUnfinished {
		t.breach(w, l, errHandshakeMessage)
	}
}

// take passes bytes of one leg to the other, piece by piece. The bytes begin with those
// that the leg held.
func (t *tunnel) take(w *turn, l *leg, b []byte) {
	if l == &t.client {
		t.heard, t.pinged = w.now, 0
	} else {
		t.spoke = w.now
	}
	frames := l.scan.frames
	for len(b) > 0 && l.sock.state != sockClosed {
		if t.sayClose(); l.sock.state == sockClosed {
			break
		}
		p, n, err := l.scan.next(b)
		if err != nil {
			t.breach(w, l, err)
			b = nil
			break
		}
		if n == 0 {
			break
		}
		b = b[n:]
		if t.tap != nil {
			t.trace(l, &p)
		}
		switch {
		case len(p.wire) == 0:
		case l == &t.client:
			t.fromClient(&p)
		default:
			t.fromUpstream(&p)
		}
	}
	w.traffic.add(l == &t.client, 0, l.scan.frames-frames)
	if l.sock.state == sockClosed {
		b = nil
	}
	t.sayClose()
	t.flush(w) // because the passed bytes are in b's buffer
	l.hold(b)
}

// count counts bytes that arrived from a leg.
func (t *tunnel) count(w *turn, l *leg, n int) {
	l.bytes += int64(n)
	w.traffic.add(l == &t.client, int64(n), 0)
}

// breach ends the tunnel because l broke RFC 6455 or exceeded a limit.
func (t *tunnel) breach(w *turn, l *leg, err error) {
	l.err = err
	if l == &t.upstream {
		t.endFor(reasonBadGateway, w.now+closeTimeout)
		return
	}
	why := reasonClientProtocol
	if pe, ok := errors.AsType[*protocolError](err); ok {
		switch pe.code {
		case codeTooBig:
			why = reasonTooBig
		case codeNotUTF8:
			why = reasonNotUTF8
		}
	}
	t.endFor(why, w.now+breachTimeout)
}

// checkBacklog ends the tunnel if its client does not read the bytes that the upstream,
// crypto/tls or the gate sends. The current frame may still end, if the queue has room,
// so that a Close frame can follow.
func (t *tunnel) checkBacklog(w *turn) {
	if t.client.sock.out.size > t.settings.backlog && t.why == reasonNone {
		t.endFor(reasonSlowClient, w.now+closeTimeout)
	}
}

// endFor begins the closing for a reason of the gate. by is the latest end.
func (t *tunnel) endFor(why reason, by time.Duration) {
	if t.why != reasonNone {
		if why == reasonDrain || why == reasonOperator {
			t.closeBy = min(t.closeBy, by)
		}
		return
	}
	if t.releaseAnswers(); t.stage == stageAnswer {
		t.endGreeting()
	}
	t.why, t.closeBy = why, by
	t.closeWanted = reasons[why].code != 0 && !t.cut
	t.sayClose()
}

// sayClose sends the client a wanted Close frame, if the frame before it is complete.
func (t *tunnel) sayClose() {
	if !t.closeWanted || !t.atBoundary() {
		return
	}
	t.closeWanted = false
	if t.client.closeSent {
		return
	}
	r := reasons[t.why]
	if t.betweenMessages() {
		for _, m := range t.lastWords(r.stream, "") {
			t.say(opText, m)
		}
	}
	t.code = r.code
	t.say(opClose, closePayload(r.code, r.text))
	t.client.closeSent = true
	if t.why != reasonDrain {
		t.dropUpstream()
	}
	switch t.why {
	case reasonClientProtocol, reasonTooBig, reasonNotUTF8, reasonFlood:
		// Later bytes of the client can't be parsed.
		t.finishClient()
	}
	t.hurryClient()
}

// hurryClient shortens the wait for a client that has its Close frame and no upstream. In
// the middle of a frame it may be unable to answer: the rest of the frame is dropped.
func (t *tunnel) hurryClient() {
	mid := !t.client.scan.atBoundary() || len(t.client.unscanned) > 0
	if mid && t.client.closeSent && !t.client.closeSeen && t.upstream.sock.state == sockClosed {
		t.finishClient()
		t.closeBy = min(t.closeBy, t.client.sock.turn.now+breachTimeout)
	}
}

// finishClient sends close_notify and FIN after all bytes for the client.
func (t *tunnel) finishClient() {
	t.closeTLS(&t.client)
	t.client.sock.shutdown()
}

// closeTLS sends close_notify on a leg with TLS.
func (t *tunnel) closeTLS(l *leg) {
	t.flush(l.sock.turn)
	if l.tls != nil && l.sock.state < sockFailed {
		l.tls.CloseWrite()
	}
}

// atBoundary reports whether the bytes sent to the client end with a complete frame. They
// include nothing of a message that is held back.
func (t *tunnel) atBoundary() bool {
	if len(t.pend) > 0 {
		return t.pendWhole
	}
	return t.answering || t.upstream.scan.atBoundary()
}

// betweenMessages reports whether they end with a complete message.
func (t *tunnel) betweenMessages() bool {
	if len(t.pend) > 0 {
		return t.pendBetween
	}
	return t.answering || t.upstream.scan.betweenMessages()
}

// ignoresClient reports whether the client's bytes are dropped. A drain still delivers the
// bytes that the client sent before it saw the Close frame.
func (t *tunnel) ignoresClient() bool { return !t.upstream.open() || t.upstream.closeSent }

// toClient sends bytes to the client, after all earlier ones. b must not change until
// flush.
func (t *tunnel) toClient(b []byte) {
	if !t.client.closeSent {
		t.client.write(t.client.sock.turn.toClient.add(b))
	}
}

// toUpstream is toClient for the other end.
func (t *tunnel) toUpstream(b []byte) {
	if !t.ignoresClient() {
		t.upstream.write(t.upstream.sock.turn.toUpstream.add(b))
	}
}

// flush sends the bytes that the turn has collected for both ends.
func (t *tunnel) flush(w *turn) {
	t.client.write(w.toClient.take())
	t.upstream.write(w.toUpstream.take())
	w.flush()
}

// fromClient handles a piece of the client's frames.
func (t *tunnel) fromClient(p *piece) {
	if t.stage > stageTag && !p.control() && len(p.payload) > 0 {
		t.stream.tried = true
	}
	switch {
	case p.opcode == opClose:
		t.clientCloses(p)
	case p.opcode == opPong && isOurPong(p.header, p.payload):
	case p.opcode == opPing && !t.upstream.open() && t.why == reasonNone:
		// There is no upstream yet, and a Pong is due now (RFC 6455, section 5.5.2).
		t.say(opPong, p.unmasked(nil))
	case p.control() && t.stage == stageAwaited && t.upstream.open():
		t.toUpstream(p.wire) // it does not begin the stream
	case t.why != reasonNone && t.stage != stageOver:
		if !t.holds() {
			t.toUpstream(p.wire)
		}
	case t.stage != stageOver:
		t.greet(p)
	default:
		t.passOn(p)
	}
}

// clientCloses handles the client's Close frame.
func (t *tunnel) clientCloses(p *piece) {
	t.client.closeSeen = true
	if !t.client.closeSent {
		t.code = closeCode(p.header, p.payload)
	}
	if t.why == reasonNone {
		t.why, t.closeBy = reasonClientClose, t.client.sock.turn.now+closeTimeout
	}
	switch {
	case t.why != reasonClientClose && t.why != reasonUpstreamClose:
	case !t.upstream.open():
		t.answerClose() // there is no upstream to answer
	default:
		if v := t.vetting; v != nil {
			t.toUpstream(v.kept) // its tag will not end
			v.kept = nil
		}
		t.toUpstream(p.wire)
		t.upstream.closeSent = true
	}
}

// fromUpstream handles a piece of the upstream's frames. A decision at the beginning of a
// message is made before any of the message is sent on, and applies to all of it.
func (t *tunnel) fromUpstream(p *piece) {
	if p.opcode == opClose {
		t.upstreamCloses(p)
		return
	}
	if p.begins() {
		word := xmpp.FirstWord(p.payload)
		t.stream.noticed(word, p.payload)
		if (word == xmpp.EnabledWord || word == xmpp.ResumeWord) && t.repairs() {
			xmpp.HideLocation(p.payload)
		}
	}
	if t.heardLogin(p) {
		return
	}
	if p.begins() {
		t.answering = t.stage == stageAnswer
		if t.stream.framing == xmpp.RFC7395 {
			t.ends.Message()
		}
	}
	if !p.control() && t.repairs() {
		switch to, found, err := t.ends.Feed(p.payload); {
		case err != nil && t.info.vhost.XMPP():
			t.endless(err)
			return
		case err != nil:
			t.ends = xmpp.Redirects{} // no tag of XMPP is that long
		case found:
			t.sentElsewhere(p, to)
			return
		}
		if !t.info.vhost.XMPP() && t.upstream.scan.betweenMessages() {
			t.ends = xmpp.Redirects{} // half a tag may be a complete message here
		}
	}
	switch {
	case p.control() && len(t.pend) > 0 && !t.pendWhole:
		t.pend = append(t.pend, p.wire...) // it must not be inside a frame
	case p.control():
		t.toClient(p.wire)
	case !t.answering:
		t.giveClient(p)
	case t.stage == stageAnswer:
		t.answered(p)
	} // otherwise it is the rest of a message that was not released
}

// endless ends a tunnel whose upstream ends the stream with too many bytes. The client
// gets none of them.
func (t *tunnel) endless(err error) {
	t.upstream.err = err
	if t.stage == stageAnswer {
		t.endGreeting()
	}
	t.endFor(reasonBadGateway, t.upstream.sock.turn.now+closeTimeout)
	t.dropUpstream()
	if !t.client.closeSent {
		t.cutOff()
	}
}

// upstreamCloses handles the upstream's Close frame.
func (t *tunnel) upstreamCloses(p *piece) {
	if t.releaseAnswers(); t.stage == stageAnswer {
		t.endGreeting()
	}
	t.upstream.closeSeen = true
	if t.why == reasonNone {
		t.why, t.closeBy = reasonUpstreamClose, t.upstream.sock.turn.now+closeTimeout
		t.code = closeCode(p.header, p.payload)
	}
	if t.why == reasonClientClose || t.why == reasonUpstreamClose {
		wire := p.wire
		if len(p.payload) > 2 && t.repairs() && t.info.vhost.HoldsAddress(string(p.payload[2:])) {
			wire = appendFrame(nil, opClose, p.payload[:2], nil)
		}
		t.toClient(wire)
		t.client.closeSent = true
	}
}

// repairs reports whether internal addresses are hidden from the client.
func (t *tunnel) repairs() bool { return t.info != nil && t.info.vhost.Redirects() != "off" }

// notice handles changes of the sockets' states, each state once. It reports whether there
// was one.
func (t *tunnel) notice(w *turn) (news bool) {
	for _, l := range []*leg{&t.client, &t.upstream} {
		state := l.sock.state
		if state == l.known || state == sockClosed {
			continue
		}
		if l == &t.client && l.known == sockOpen && state == sockFailed {
			t.aborted = t.stalled != 0
		}
		l.known, l.unscanned, news = state, nil, true
		if l.err == nil {
			l.err = l.sock.err
		}
		if l == &t.client {
			t.clientEnded(w)
		} else {
			t.upstreamEnded(w)
		}
	}
	return news
}

// clientEnded is called at the end of the client's bytes, and again if its socket fails
// after that. Earlier bytes are still delivered.
func (t *tunnel) clientEnded(w *turn) {
	if t.why == reasonNone {
		t.why = reasonClientGone
		if t.client.sock.err == errQueueFull {
			t.why = reasonSlowClient
		}
	}
	t.dead = t.dead || t.client.sock.err == errQueueFull
	t.closeBy = min(cmp.Or(t.closeBy, never), w.now+closeTimeout)
	t.closeWanted = false
}

// upstreamEnded is called at the end of the upstream's bytes.
func (t *tunnel) upstreamEnded(w *turn) {
	t.releaseAnswers()
	switch {
	case t.why == reasonNone:
		t.endFor(reasonUpstreamGone, w.now+closeTimeout)
	default:
		t.answerClose()
	}
	if !t.client.closeSent {
		t.cutOff()
	}
	t.dropUpstream()
	t.hurryClient()
}

// answerClose answers the client's Close frame if the upstream did not. It does not
// confirm the client's code if the upstream has not taken all of its messages.
func (t *tunnel) answerClose() {
	if t.why == reasonClientClose && !t.client.closeSent && t.atBoundary() {
		code := t.code
		if t.upstream.sock.out.size > 0 {
			code = codeGateway
		}
		t.say(opClose, closePayload(code, ""))
		t.client.closeSent = true
	}
}

// cutOff gives up the Close frame, because the client has received half a frame. The
// bytes that wait for the client are still sent.
func (t *tunnel) cutOff() {
	t.closeWanted, t.cut = false, true
	t.dropUpstream()
}

// dropUpstream closes the upstream's socket at once.
func (t *tunnel) dropUpstream() {
	if t.upstream.sock.state == sockClosed {
		return
	}
	t.closeTLS(&t.upstream)
	t.flush(t.upstream.sock.turn)
	t.upstream.unscanned = nil
	t.upstream.sock.close(t.why == reasonUpstreamStuck)
}

// settle ends every turn. It sends the gathered bytes, decides whether the tunnel is done,
// tells the loop the events to wait for, and sets the next due time.
func (t *tunnel) settle(w *turn) {
	client := t.client.sock
	var upstream *sock
	for {
		t.flush(w)
		t.checkBacklog(w)
		for t.notice(w) {
			t.flush(w)
		}
		t.flush(w)
		if t.why != reasonNone && t.land() {
			continue
		}
		client.finish()
		if t.why != reasonNone && !t.done {
			if t.latest == 0 {
				t.latest, t.before = w.now+stallTimeout, t.undelivered()
			}
			t.done = t.finished(w)
		}
		if t.done {
			t.farewell(w)
			return
		}
		upstream = t.upstream.sock
		if upstream.finish(); t.parted {
			break
		}
		switch {
		case upstream.out.size > 0 && t.stalled == 0:
			t.stalled = w.now
		case upstream.out.size == 0 && t.stalled != 0:
			// The client was not read, so its silence counts from now.
			t.stalled, t.heard = 0, w.now
		}
		if !t.client.unread || !t.client.open() || t.rests(w.now) || upstream.out.size > 0 {
			break
		}
		t.read(w, &t.client)
	}
	reads := upstream.out.size == 0 && !t.rests(w.now) && !t.parted
	if !reads && t.client.tls != nil {
		t.client.unread = true
	}
	client.watch(reads, t.paused())
	upstream.watch(true, false)
	client.turn, upstream.turn = nil, nil
	t.due = t.nextDue(w.now)
}

// land makes pending writes of a closing tunnel now, and reports whether anything
// changed.
func (t *tunnel) land() bool {
	client, upstream := t.client.sock.land(), t.upstream.sock.land()
	return client || upstream
}

// finished reports whether a closing tunnel has nothing left to wait for. Bytes that a
// client sent before its end are still delivered. If it was reset while it was not read,
// because its upstream was behind, the rest is lost in any case.
func (t *tunnel) finished(w *turn) bool {
	told := !t.client.open() || (t.cut || t.client.closeSent && t.client.closeSeen) && t.client.sock.out.size == 0
	switch {
	case t.aborted:
		return true
	case t.parted:
	case !told || t.upstream.open() && t.upstream.sock.out.size > 0:
		return false
	case t.dead || t.why == reasonUpstreamStuck:
		return true
	case t.upstream.open():
		t.part(w)
	}
	// A drain waits for no upstream that has taken everything.
	return !t.upstream.open() || t.upstream.sock.fin == finNever || t.why == reasonDrain && t.undelivered() == 0
}

// part begins the parting: it closes the client's socket, and ends what goes to the
// upstream.
func (t *tunnel) part(w *turn) {
	t.parted = true
	t.closeTLS(&t.client)
	t.closeTLS(&t.upstream)
	t.flush(w)
	t.client.sock.close(t.dead)
	t.upstream.unscanned = nil
	t.upstream.sock.shutdown()
	t.upstream.sock.land()
	t.upstream.sock.finish()
}

// discard drops what the upstream sends during the parting.
func (t *tunnel) discard(w *turn) {
	w.budget, t.upstream.sock.drained = turnBudget, false
	for err := error(nil); err == nil; {
		_, err = t.upstream.sock.Read(w.plain)
	}
}

// undelivered returns the bytes for the upstream that its kernel has not acknowledged.
func (t *tunnel) undelivered() int {
	if !t.upstream.open() {
		return 0
	}
	return t.upstream.sock.out.size + t.upstream.sock.raw.unacknowledged()
}

// progresses reports whether the upstream has taken bytes since the last look, and more are
// left. The closing then lasts longer.
func (t *tunnel) progresses(w *turn) bool {
	left := t.undelivered()
	if left == 0 || left >= t.before || w.now >= t.latest || t.why == reasonDrain {
		return false
	}
	t.before, t.closeBy = left, min(w.now+closeTimeout, t.latest)
	return true
}

// farewell sends close_notify and closes both sockets. A dead client is reset; otherwise
// the kernel would keep the bytes that it did not take.
func (t *tunnel) farewell(w *turn) {
	if !t.parted {
		t.closeTLS(&t.client)
		t.closeTLS(&t.upstream)
		t.flush(w)
	}
	t.client.sock.close(t.dead)
	t.upstream.sock.close(t.why == reasonUpstreamStuck)
	t.client.sock.turn, t.upstream.sock.turn = nil, nil
	t.due = never
}

// nextDue returns the next time at which expire has something to do.
func (t *tunnel) nextDue(now time.Duration) time.Duration {
	switch {
	case t.parted:
		return min(t.closeBy, now+partTimeout)
	case t.why != reasonNone:
		return t.closeBy
	}
	due := never
	if t.stalled != 0 {
		due = t.stalled + stallTimeout
	}
	if t.greetBy != 0 {
		due = min(due, t.greetBy)
	}
	if t.drainAt != 0 {
		due = min(due, t.drainAt)
	}
	if t.quota.until > now {
		due = min(due, t.quota.until)
	}
	if ping := t.settings.ping; ping > 0 {
		next := t.heard + ping
		if t.pinged != 0 {
			next = t.pinged + t.settings.pong
		}
		if next <= now { // no Ping fits in now: look again later
			next = now + ping
		}
		due = min(due, next)
	}
	return due
}

// pingPayload marks our own Pings, so that their Pongs do not reach an upstream that sent
// no Ping. The last four bytes are random.
var pingPayload = newPingPayload()

func newPingPayload() (payload [8]byte) {
	copy(payload[:], "gate")
	rand.Read(payload[4:])
	return payload
}

func isOurPong(h header, payload []byte) bool {
	if len(payload) != len(pingPayload) {
		return false
	}
	for i, b := range payload {
		if b^h.key[i&3] != pingPayload[i] {
			return false
		}
	}
	return true
}

// lastError returns the error at the end of a tunnel, for the log.
func (t *tunnel) lastError() error {
	for _, l := range []*leg{&t.client, &t.upstream} {
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return l.err
		}
	}
	return nil
}

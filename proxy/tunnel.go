package proxy

import (
	"cmp"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"wssgate/xmpp"
)

// How long a tunnel waits for others once it is to end.
const (
	// closeTimeout bounds the closing handshake: the peer's Close frame, and
	// the client's taking of what still waits for it.
	closeTimeout = 10 * time.Second
	// breachTimeout is how long a client that broke the protocol has to take
	// its Close frame. It gets FIN behind it at once (RFC 6455, section
	// 7.1.7), but a close with unread bytes would be a reset, which overtakes
	// the frame.
	breachTimeout = 2 * time.Second
	// stallTimeout is how long an upstream may take nothing of what it is sent.
	stallTimeout = 60 * time.Second

	// clientExtra is what may wait for a client beyond its backlog: one turn's worth,
	// so that the frame under way ends, and the last words.
	clientExtra = turnBudget + recordMax + joinSize // bytes

	// upstreamQueue bounds what waits for an upstream. Its client is not read
	// meanwhile, so that this is one turn's worth, and a greeting's frames.
	upstreamQueue = plainSize + maxGreeting // bytes
)

// never is a due time that does not come.
const never = time.Duration(1<<63 - 1)

// A tunnel is a client and its upstream after both have said 101. Its loop
// calls start once, then event, expire and end, never two at a time; each call
// is a turn, and finishes before the next one begins. So nothing in here is
// locked, and nothing in here waits.
//
// Its life:
//
//	open ──▶ closing ──▶ done
//
// It is open while why is reasonNone. It is closing from the first Close frame,
// the first end of a connection, or the first breach of the protocol on, and
// why stays at what came first. It is done when both ends know all they can
// be told, or at closeBy; the loop then takes it out and calls onDone.
//
// Who initiates a close decides what is left to do:
//
//   - client or upstream: the Close frame goes through, and so does the answer.
//     An upstream that goes away instead of answering is answered for.
//   - wssgate: the client gets a Close frame with the status code of the reason
//     as soon as a frame boundary allows, and its answer ends the tunnel. The
//     upstream gets a plain FIN at the end, as if the client had lost its
//     network, so that a stream with XEP-0198 can be resumed.
type tunnel struct {
	client, upstream leg

	settings *tunnelSettings
	info     *tunnelInfo
	shared   *tunnels                           // nil in tests that need none
	onDone   func(t *tunnel, now time.Duration) // called once by the loop, which then forgets t

	why         reason
	code        uint16        // of the first Close frame that went to or came from the client
	closeWanted bool          // the client is to get a Close frame at the next boundary
	cut         bool          // the client can't get one: half a frame went before
	done        bool          // nothing is left to do
	over        bool          // onDone has been called
	dead        bool          // the client takes nothing any more, not even its end
	aborted     bool          // the client was reset while the upstream was behind
	answering   bool          // the upstream's message under way is held back
	pendWhole   bool          // pend begins with a frame
	pendBetween bool          // and with a message
	closeBy     time.Duration // closing ends then at the latest
	heard       time.Duration // when the client last showed life
	spoke       time.Duration // when the upstream last sent something
	stalled     time.Duration // since when the upstream takes nothing; 0: it takes
	pinged      time.Duration // when our Ping went out that nothing came after; 0: none
	before      int           // bytes on their way to the client before that Ping

	pend     []byte         // the upstream's, from the beginning of what may be a redirect on
	ends     xmpp.Redirects // follows what the upstream says
	quota    quota
	stage    stage
	stream   streamState
	tap      *tap          // nil: nobody traces it
	vetting  *vetting      // nil: the client may name any domain, or has named none yet
	greeting *greeting     // in the stages between awaited and over
	greetBy  time.Duration // when a start tag is due; 0: never
	drainAt  time.Duration // when a drain closes it; 0: never
	patience time.Duration // what its client then has to answer

	due   time.Duration // when expire wants to be called, at the latest
	loop  *loop         // that owns it
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
		// Since the dial began. Who closes a client's tunnels sees this one from now on.
		t.endFor(reasonOperator, w.now+closeTimeout)
	}
	t.takeHeld(w, &t.upstream)
	t.takeHeld(w, &t.client)
	t.settle(w)
}

// takeHeld takes the bytes that came behind a leg's handshake, and everything
// that is there already.
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

// A readiness is what a loop tells of a socket.
type readiness uint8

const (
	inputReady readiness = 1 << iota // or its end
	roomReady                        // takes more
	endReady                         // the peer's FIN came, and forEnd was set
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
		t.read(w, l) // which finds the failure behind the last bytes
	case is&failed != 0:
		l.sock.fail(errFailed)
	case is&endReady != 0:
		l.sock.end(io.EOF) // nobody is left to dial for
	}
	t.settle(w)
}

// errFailed is a socket's end that its loop told of while it was not read.
var errFailed = errors.New("connection reset")

// end closes the tunnel for a reason of the gate's own. The first reason stays.
func (t *tunnel) end(w *turn, why reason, by time.Duration) {
	t.begin(w)
	t.endFor(why, by)
	t.settle(w)
}

// movable reports whether another loop may take the tunnel over.
func (t *tunnel) movable() bool {
	return !t.done && t.greeting == nil && t.client.sock.movable() && t.upstream.sock.movable()
}

// last is the last turn of a tunnel whose loop ends.
func (t *tunnel) last(w *turn) {
	t.done = true
	t.end(w, reasonDrain, 0)
}

// abandon gives up a tunnel in which something broke, but for its sockets.
func (t *tunnel) abandon() {
	if t.why == reasonNone {
		t.why = reasonPanic
	}
	t.done, t.due = true, never
}

// expire does what is due: a Ping, or the end of somebody's patience.
func (t *tunnel) expire(w *turn) {
	t.begin(w)
	switch {
	case t.why != reasonNone:
		if w.now >= t.closeBy {
			t.dead = t.client.sock.stuck()
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

// ping asks a silent client whether it lives, and gives up on one that does
// not answer. A client that is not read now, because the upstream does not
// take what it sent, is not silent.
func (t *tunnel) ping(w *turn) {
	ping, pong := t.settings.ping, t.settings.pong
	silent := w.now - t.heard
	switch {
	case silent < ping:
	case t.pinged != 0 && w.now >= t.pinged+pong:
		// The Ping may still be behind what was sent before it, and the client
		// be busy reading that.
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

// read takes what one leg has, at most once from the kernel, and moves it on.
func (t *tunnel) read(w *turn, l *leg) {
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
				sent.data++ // a Read gives what one record has
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
			l.sock.end(err) // where TLS ended, but not the socket
		}
	}
	if l == &t.client {
		sent.frames, sent.idle = l.scan.frames-frames, int64(l.sock.records.number)-sent.data
		t.charge(w, sent)
	}
}

// afterTLS ends a turn's reading, and looks at what crypto/tls kept of a client's bytes.
func (t *tunnel) afterTLS(w *turn, l *leg) {
	giveBack(l.tls)
	if l == &t.client && unfinished(l.tls) > maxUnfinished {
		t.breach(w, l, errHandshakeMessage)
	}
}

// take moves bytes of one leg to the other, the held ones in front, piece by
// piece.
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
	t.flush(w) // for what was passed on lies in b's buffer
	l.hold(b)
}

// count notes bytes that came from a leg.
func (t *tunnel) count(w *turn, l *leg, n int) {
	l.bytes += int64(n)
	w.traffic.add(l == &t.client, int64(n), 0)
}

// breach ends the tunnel because l broke RFC 6455 or went over a limit.
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

// checkBacklog ends a client that does not take what it is sent, whoever sends it:
// the upstream, crypto/tls, or the gate. The frame that is under way may still be
// finished, as long as the queue has room, so that a Close frame can follow.
func (t *tunnel) checkBacklog(w *turn) {
	if t.client.sock.out.size > t.settings.backlog && t.why == reasonNone {
		t.endFor(reasonSlowClient, w.now+closeTimeout)
	}
}

// endFor begins the closing for a reason of the gate's own.
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

// sayClose sends the client the Close frame that it is to get, if the frames
// before it are whole.
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
		// Nothing the client says will be understood any more.
		t.finishClient()
	}
	t.hurryClient()
}

// hurryClient is for a client that was told the end when its upstream was gone, or is
// now. One that is in the middle of a frame may not be able to answer: the rest goes
// nowhere.
func (t *tunnel) hurryClient() {
	mid := !t.client.scan.atBoundary() || len(t.client.unscanned) > 0
	if mid && t.client.closeSent && !t.client.closeSeen && t.upstream.sock.state == sockClosed {
		t.finishClient()
		t.closeBy = min(t.closeBy, t.client.sock.turn.now+breachTimeout)
	}
}

// finishClient sends close_notify and FIN behind everything that the client is
// told.
func (t *tunnel) finishClient() {
	t.closeTLS(&t.client)
	t.client.sock.shutdown()
}

// closeTLS says the last word of a leg's TLS.
func (t *tunnel) closeTLS(l *leg) {
	t.flush(l.sock.turn)
	if l.tls != nil && l.sock.state < sockFailed {
		l.tls.CloseWrite()
	}
}

// atBoundary reports whether what the client was sent ends with a whole frame. Of a
// message that is held back it has got nothing.
func (t *tunnel) atBoundary() bool {
	if len(t.pend) > 0 {
		return t.pendWhole
	}
	return t.answering || t.upstream.scan.atBoundary()
}

// betweenMessages reports whether it ends with a whole message.
func (t *tunnel) betweenMessages() bool {
	if len(t.pend) > 0 {
		return t.pendBetween
	}
	return t.answering || t.upstream.scan.betweenMessages()
}

// ignoresClient reports whether what the client sends goes nowhere any more.
// A drain still delivers what the client sent before it saw the Close frame.
func (t *tunnel) ignoresClient() bool { return !t.upstream.open() || t.upstream.closeSent }

// toClient sends bytes to the client, behind all that it was sent before. b must
// stay as it is until flush.
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

// flush sends what the turn has collected for both ends.
func (t *tunnel) flush(w *turn) {
	t.client.write(w.toClient.take())
	t.upstream.write(w.toUpstream.take())
	w.flush()
}

// fromClient takes a piece of what the client sends.
func (t *tunnel) fromClient(p *piece) {
	switch {
	case p.opcode == opClose:
		t.clientCloses(p)
	case p.opcode == opPong && isOurPong(p.header, p.payload):
	case p.opcode == opPing && !t.upstream.open() && t.why == reasonNone:
		// There is no upstream yet, and a Pong is due now (RFC 6455, section 5.5.2).
		t.say(opPong, p.unmasked(nil))
	case p.control() && t.stage == stageAwaited && t.upstream.open():
		t.toUpstream(p.wire) // it is no first word
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

// clientCloses takes the client's Close frame.
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
		t.answerClose() // for there is nobody else
	default:
		if v := t.vetting; v != nil {
			t.toUpstream(v.kept) // the tag in it never ends
			v.kept = nil
		}
		t.toUpstream(p.wire)
		t.upstream.closeSent = true
	}
}

// fromUpstream takes a piece of what the upstream sends. What happens where a
// message begins is decided before any of that message goes on, and holds for all
// of it.
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
		case err != nil:
			t.endless(err)
			return
		case found:
			t.sentElsewhere(p, to)
			return
		}
		if !t.info.vhost.XMPP() && t.upstream.scan.betweenMessages() {
			t.ends = xmpp.Redirects{} // what looks like half a tag may be a whole message
		}
	}
	switch {
	case p.control() && len(t.pend) > 0 && !t.pendWhole:
		t.pend = append(t.pend, p.wire...) // for it may not stand in a frame
	case p.control():
		t.toClient(p.wire)
	case !t.answering:
		t.giveClient(p)
	case t.stage == stageAnswer:
		t.answered(p)
	} // or else the rest of what was not released
}

// endless ends a tunnel whose upstream begins an end of the stream that does not end.
// Nothing of it goes on.
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

// upstreamCloses takes the upstream's Close frame.
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

// repairs reports whether inner addresses are kept from the client.
func (t *tunnel) repairs() bool { return t.info != nil && t.info.vhost.Redirects() != "off" }

// notice draws the conclusions from what became of the sockets, once from each
// state. It reports whether there was something new.
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

// clientEnded is called when no more bytes come from the client, and again when
// its socket has failed after that. What it sent before is still delivered.
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

// upstreamEnded is called when no more bytes come from the upstream.
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

// answerClose answers the client's Close frame where the upstream did not.
func (t *tunnel) answerClose() {
	if t.why == reasonClientClose && !t.client.closeSent && t.atBoundary() {
		t.say(opClose, closePayload(t.code, ""))
		t.client.closeSent = true
	}
}

// cutOff gives up on a Close frame, for half a frame went before it. What waits
// for the client is still sent.
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

// settle ends every turn: it sends what the turn gathered, decides whether the
// tunnel is done, tells the loop what to wait for, and says when to come
// again.
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
			t.done = t.finished()
		}
		if t.done {
			t.farewell(w)
			return
		}
		upstream = t.upstream.sock
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
	reads := upstream.out.size == 0 && !t.rests(w.now)
	if !reads && t.client.tls != nil {
		t.client.unread = true
	}
	client.watch(reads, t.paused())
	upstream.watch(true, false)
	client.turn, upstream.turn = nil, nil
	t.due = t.nextDue(w.now)
}

// land has pending writes of a tunnel that is closing made, and reports whether there is
// something new to see.
func (t *tunnel) land() bool {
	client, upstream := t.client.sock.land(), t.upstream.sock.land()
	return client || upstream
}

// finished reports whether a closing tunnel has nothing left to wait for. What a client
// sent before it ended is still delivered; but of one that was reset while it was not
// read, because its upstream was behind, the rest is lost anyhow.
func (t *tunnel) finished() bool {
	if t.aborted {
		return true
	}
	delivered := !t.upstream.open() || t.upstream.sock.out.size == 0
	if !t.client.open() {
		return delivered
	}
	toldAll := t.cut || t.client.closeSent && t.client.closeSeen
	return toldAll && t.client.sock.out.size == 0 && delivered
}

// farewell says the last words of TLS and closes both sockets. A client that is
// known to be dead is reset, or the kernel would go on to hold what it did not
// take.
func (t *tunnel) farewell(w *turn) {
	t.closeTLS(&t.client)
	if t.upstream.sock.state != sockClosed {
		t.closeTLS(&t.upstream)
	}
	t.flush(w)
	t.client.sock.close(t.dead)
	t.upstream.sock.close(t.why == reasonUpstreamStuck)
	t.client.sock.turn, t.upstream.sock.turn = nil, nil
	t.due = never
}

// nextDue says when expire has something to do.
func (t *tunnel) nextDue(now time.Duration) time.Duration {
	if t.why != reasonNone {
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

// pingPayload marks our own Pings, so that their Pongs do not reach an upstream
// that never asked. The last four bytes are drawn at start.
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

// lastError is what the log says about the end of a tunnel.
func (t *tunnel) lastError() error {
	for _, l := range []*leg{&t.client, &t.upstream} {
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return l.err
		}
	}
	return nil
}

package proxy

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/tls"
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
)

// never is a due time that does not come.
const never = time.Duration(1<<63 - 1)

// A leg is one end of a tunnel: a socket, TLS on it or not, and the frames
// that come from there.
type leg struct {
	sock      *sock
	tls       *tls.Conn // nil: plain
	scan      scanner   // follows the frames that this leg sends
	held      []byte    // of those, what the scanner could not use yet
	bytes     int64     // received, TLS taken off
	closeSent bool      // a Close frame went to this leg; nothing follows it
	closeSeen bool      // a Close frame came from it
	ended     bool      // no more bytes come from it; err says why
	err       error
}

// A tunnel is a client and its upstream after both have said 101. Its driver
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
// be told, or at closeBy; the driver then takes it out and calls onDone.
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
	onDone   func(t *tunnel, now time.Duration) // called once by the driver, which then forgets t

	why         reason
	code        uint16        // of the first Close frame that went to or came from the client
	closeWanted bool          // the client is to get a Close frame at the next boundary
	cut         bool          // the client can't get one: half a frame went before
	done        bool          // nothing is left to do
	closeBy     time.Duration // closing ends then at the latest
	heard       time.Duration // when the client last showed life
	spoke       time.Duration // when the upstream last sent something
	stalled     time.Duration // since when the upstream takes nothing; 0: it takes
	pinged      time.Duration // when our Ping went out that nothing came after; 0: none
	before      int           // bytes on their way to the client before that Ping

	stage    stage
	stream   streamState
	greeting *greeting     // in the stages between awaited and over
	greetBy  time.Duration // when a start tag is due; 0: never
	drainAt  time.Duration // when a drain closes it; 0: never
	patience time.Duration // what its client then has to answer

	due   time.Duration // when expire wants to be called, at the latest
	place timerPlace    // the driver's
}

// tunnelSettings are shared by all tunnels that began under one configuration.
type tunnelSettings struct {
	backlog    int           // bytes that may wait for a client
	ping, pong time.Duration // ping 0: off
}

// start is the first turn.
func (t *tunnel) start(w *turn) {
	t.heard = w.now
	t.begin(w)
	if t.stage == stageAwaited && t.strict() {
		t.greetBy = w.now + greetingTimeout
	}
	t.takeHeld(w, &t.upstream)
	t.takeHeld(w, &t.client)
	t.settle(w)
}

// takeHeld takes the bytes that came behind a leg's handshake, and everything
// that is there already.
func (t *tunnel) takeHeld(w *turn, l *leg) {
	if n := copy(w.plain, l.held); n > 0 {
		l.held = nil
		t.count(w, l, n)
		t.take(w, l, w.plain[:n])
	}
	if !l.ended && !(l == &t.client && t.paused()) {
		t.read(w, l)
	}
}

// event handles the readiness of one leg's socket.
func (t *tunnel) event(w *turn, l *leg, readable, writable bool) {
	t.begin(w)
	if writable && l.sock.flush() {
		if l == &t.client {
			t.heard = w.now
		} else if t.stalled != 0 {
			t.stalled = w.now
		}
	}
	if readable && !l.ended {
		t.read(w, l)
	}
	t.settle(w)
}

// hungUp handles the end of a client that is not read: nobody is left to dial for.
func (t *tunnel) hungUp(w *turn) {
	t.begin(w)
	t.client.ended, t.client.err = true, io.EOF
	t.clientEnded(w)
	t.settle(w)
}

// end closes the tunnel for a reason of the gate's own. The first reason stays.
func (t *tunnel) end(w *turn, why reason, by time.Duration) {
	t.begin(w)
	t.endFor(why, by)
	t.settle(w)
}

// movable reports whether another loop may take the tunnel over.
func (t *tunnel) movable() bool { return !t.done && t.greeting == nil }

// expire does what is due: a Ping, or the end of somebody's patience.
func (t *tunnel) expire(w *turn) {
	t.begin(w)
	switch {
	case t.why != reasonNone:
		if w.now >= t.closeBy {
			t.answerClose()
			t.done = true
		}
	case t.drainAt != 0 && w.now >= t.drainAt:
		t.endFor(reasonDrain, w.now+t.patience)
	case t.greetBy != 0 && w.now >= t.greetBy && t.stage == stageAnswer:
		t.releaseAnswers()
	case t.greetBy != 0 && w.now >= t.greetBy:
		t.noTag(reasonNoStream, errNoTag)
	case t.stalled != 0 && w.now >= t.stalled+stallTimeout:
		t.endFor(reasonUpstreamStuck, w.now+closeTimeout)
	case !t.upstream.ended && !t.upstream.scan.atBoundary() && w.now >= t.spoke+stallTimeout:
		t.endFor(reasonUpstreamStuck, w.now+closeTimeout)
	case t.settings.ping > 0 && t.upstream.sock.out.size == 0 && !t.paused():
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
		t.done = true
	case t.client.sock.out.size > 0 && silent >= ping+pong:
		t.endFor(reasonPong, w.now)
		t.done = true
	case t.pinged == 0 && t.upstream.scan.atBoundary():
		t.pinged, t.before = w.now, t.client.sock.raw.unacknowledged()
		var frame [2 + len(pingPayload)]byte
		t.toClient(appendFrame(frame[:0], opPing, pingPayload[:], nil))
	}
}

// read takes what one leg has, at most once from the kernel, and moves it on.
func (t *tunnel) read(w *turn, l *leg) {
	w.budget, l.sock.drained = turnBudget, false
	if l.tls != nil {
		lend(l.tls, w.raw)
		defer giveBack(l.tls)
	}
	for err := error(nil); err == nil; {
		n := copy(w.plain, l.held)
		from := n
		for err == nil && len(w.plain)-n >= recordMax {
			var m int
			if l.tls != nil {
				m, err = l.tls.Read(w.plain[n:])
			} else {
				m, err = l.sock.Read(w.plain[n:])
			}
			n += m
		}
		if n > from {
			t.count(w, l, n-from)
			t.take(w, l, w.plain[:n])
			if l.ended { // dropped for what it sent
				return
			}
		}
		if err != nil && !errors.Is(err, errAgain) {
			l.ended, l.err = true, err
		}
	}
	if !l.ended {
		return
	}
	l.held = nil
	if l == &t.client {
		t.clientEnded(w)
	} else {
		t.upstreamEnded(w)
	}
}

// take moves bytes of one leg to the other, the held ones in front.
func (t *tunnel) take(w *turn, l *leg, b []byte) {
	var err error
	var used int
	frames := l.scan.frames
	if l == &t.client {
		t.heard, t.pinged = w.now, 0
		used, err = l.scan.scan(b, (*fromClient)(t))
	} else {
		t.spoke = w.now
		if t.closeWanted {
			// Only the frame that is under way is of interest any more.
			b = b[:min(int64(len(b)), l.scan.left)]
		}
		used, err = l.scan.scan(b, (*fromUpstream)(t))
	}
	w.moved.add(l == &t.client, 0, l.scan.frames-frames)
	l.hold(b[used:])
	if err != nil {
		t.breach(w, l, err)
	}
	if l == &t.upstream {
		t.checkBacklog(w)
	}
	t.sayClose()
}

// count notes bytes that came from a leg.
func (t *tunnel) count(w *turn, l *leg, n int) {
	l.bytes += int64(n)
	w.moved.add(l == &t.client, int64(n), 0)
}

// hold keeps the rest that a scanner left. A few bytes keep their memory, for
// some upstreams write every header apart.
func (l *leg) hold(rest []byte) {
	if len(rest) == 0 && cap(l.held) > 2*maxHeader {
		l.held = nil
		return
	}
	l.held = append(l.held[:0], rest...)
}

// breach ends the tunnel because l broke RFC 6455 or went over a limit.
func (t *tunnel) breach(w *turn, l *leg, err error) {
	l.err = err
	if l == &t.upstream {
		t.endFor(reasonBadGateway, w.now+closeTimeout)
		return
	}
	why := reasonClientProtocol
	var pe *protocolError
	if errors.As(err, &pe) && pe.code == codeTooBig {
		why = reasonTooBig
	}
	t.endFor(why, w.now+breachTimeout)
}

// checkBacklog cuts a client that does not take what its upstream sends. The
// frame that is under way may still be finished, for another turn's worth of
// bytes, so that a Close frame can follow.
func (t *tunnel) checkBacklog(w *turn) {
	waiting := t.client.sock.out.size
	if w.to == t.client.sock {
		waiting += len(w.gathered)
	}
	if waiting <= t.settings.backlog {
		return
	}
	t.endFor(reasonSlowClient, w.now+closeTimeout)
	if t.closeWanted && waiting > t.settings.backlog+turnBudget+recordMax {
		t.cutOff()
	}
}

// endFor begins the closing for a reason of the gate's own.
func (t *tunnel) endFor(why reason, by time.Duration) {
	if t.why != reasonNone {
		if why == reasonDrain {
			t.closeBy = min(t.closeBy, by)
		}
		return
	}
	t.releaseAnswers()
	t.why, t.closeBy = why, by
	t.closeWanted = reasons[why].code != 0
	t.sayClose()
}

// sayClose sends the client the Close frame that it is to get, if the frames
// before it are whole.
func (t *tunnel) sayClose() {
	if !t.closeWanted || !t.upstream.scan.atBoundary() {
		return
	}
	t.closeWanted = false
	if t.client.closeSent {
		return
	}
	r := reasons[t.why]
	if t.upstream.scan.betweenMessages() {
		for _, m := range t.lastWords(r.stream, "") {
			t.toClient(appendFrame(nil, opText, m, nil))
		}
	}
	t.code = r.code
	t.toClient(appendFrame(nil, opClose, closePayload(r.code, r.text), nil))
	t.client.closeSent = true
	if t.why != reasonDrain {
		t.dropUpstream()
	}
	if t.why == reasonClientProtocol || t.why == reasonTooBig {
		// Nothing the client says will be understood any more.
		if t.client.tls != nil {
			t.client.tls.CloseWrite()
		}
		t.client.sock.shutdown()
	}
}

// ignoresClient reports whether what the client sends goes nowhere any more.
// A drain still delivers what the client sent before it saw the Close frame.
func (t *tunnel) ignoresClient() bool { return t.upstream.ended || t.upstream.closeSent }

func (t *tunnel) toClient(b []byte) {
	if t.client.closeSent {
		return
	}
	if t.client.tls != nil {
		t.client.tls.Write(b) // an error is the socket's, and shows on read
		return
	}
	t.client.sock.Write(b)
}

func (t *tunnel) toUpstream(b []byte) {
	if t.ignoresClient() {
		return
	}
	if t.upstream.tls != nil {
		t.upstream.tls.Write(b)
		return
	}
	t.upstream.sock.send(b)
}

// fromClient is the sink of the client's frames.
type fromClient tunnel

func (f *fromClient) message(header, []byte) {}

func (f *fromClient) forward(b []byte) {
	t := (*tunnel)(f)
	switch {
	case t.stage == stageOver:
		t.toUpstream(b)
	case t.why == reasonNone:
		t.greet(b)
	case !t.holds():
		t.toUpstream(b)
	}
}

func (f *fromClient) control(h header, frame []byte) bool {
	t := (*tunnel)(f)
	switch h.opcode {
	case opPing, opPong:
		switch {
		case h.opcode == opPong && isOurPong(h, frame[h.size:]):
			return false
		case h.opcode == opPing && t.upstream.ended && t.why == reasonNone:
			// There is no upstream yet, and a Pong is due now (RFC 6455, section 5.5.2).
			payload := bytes.Clone(frame[h.size:])
			applyMask(payload, h.key)
			t.toClient(appendFrame(nil, opPong, payload, nil))
			t.checkBacklog(t.client.sock.turn)
			return false
		case t.stage != stageAwaited || t.upstream.ended:
			return true
		}
		t.toUpstream(frame) // it is no first word
		return false
	case opClose:
		t.client.closeSeen = true
		if !t.client.closeSent {
			t.code = closeCode(h, frame[h.size:])
		}
		if t.why == reasonNone {
			t.why, t.closeBy = reasonClientClose, t.upstream.sock.turn.now+closeTimeout
		}
		switch {
		case t.why != reasonClientClose && t.why != reasonUpstreamClose:
		case t.stage == stageAsking:
			t.greeting.frames = append(t.greeting.frames, frame...)
		default:
			t.toUpstream(frame)
			t.upstream.closeSent = true
		}
		return false
	}
	return true
}

// fromUpstream is the sink of the upstream's frames.
type fromUpstream tunnel

func (f *fromUpstream) message(_ header, head []byte) {
	t := (*tunnel)(f)
	if t.upstream.ended {
		return
	}
	word := xmpp.FirstWord(head)
	t.heardAgain(word)
	t.judgeAnswer(word, head)
	t.stream.noticed(word, head)
}

func (f *fromUpstream) forward(b []byte) {
	t := (*tunnel)(f)
	switch {
	case t.upstream.ended: // let go for what it said before
	case t.stage == stageAnswer:
		t.answered(b)
	default:
		t.toClient(b)
	}
}

func (f *fromUpstream) control(h header, frame []byte) bool {
	if h.opcode != opClose {
		return true
	}
	t := (*tunnel)(f)
	if t.upstream.ended {
		return false
	}
	t.releaseAnswers()
	t.upstream.closeSeen = true
	if t.why == reasonNone {
		t.why, t.closeBy = reasonUpstreamClose, t.upstream.sock.turn.now+closeTimeout
		t.code = closeCode(h, frame[h.size:])
	}
	if t.why == reasonClientClose || t.why == reasonUpstreamClose {
		t.toClient(frame)
		t.client.closeSent = true
	}
	return false
}

// clientEnded is called when no more bytes come from the client. What it sent
// before is still delivered.
func (t *tunnel) clientEnded(w *turn) {
	if t.why == reasonNone {
		t.why = reasonClientGone
	}
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
}

// answerClose answers the client's Close frame where the upstream did not.
func (t *tunnel) answerClose() {
	if t.why == reasonClientClose && !t.client.closeSent && t.upstream.scan.atBoundary() {
		t.toClient(appendFrame(nil, opClose, closePayload(t.code, ""), nil))
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
	if t.upstream.tls != nil && !t.upstream.ended {
		t.upstream.tls.CloseWrite()
		t.upstream.sock.turn.flush()
	}
	t.upstream.ended = true
	t.upstream.held = nil
	t.upstream.sock.close()
}

// settle ends every turn: it sends what the turn gathered, decides whether the
// tunnel is done, tells the driver what to wait for, and says when to come
// again.
func (t *tunnel) settle(w *turn) {
	w.flush()
	client, upstream := t.client.sock, t.upstream.sock
	client.finish()
	if client.broken() && !t.client.ended {
		t.client.ended, t.client.err = true, client.err
		t.clientEnded(w)
	}
	if !t.upstream.ended && upstream.broken() {
		t.upstream.ended, t.upstream.err = true, upstream.err
		t.upstreamEnded(w)
		w.flush()
	}
	if t.why != reasonNone && !t.done {
		t.done = t.finished()
	}
	if t.done {
		t.farewell(w)
		return
	}

	switch {
	case upstream.out.size > 0 && t.stalled == 0:
		t.stalled = w.now
	case upstream.out.size == 0 && t.stalled != 0:
		// The client was not read, so its silence counts from now.
		t.stalled, t.heard = 0, w.now
	}
	client.watch(!t.client.ended && upstream.out.size == 0 && !t.paused(), client.out.size > 0, t.paused() && t.stage == stageDialling)
	upstream.watch(!t.upstream.ended, upstream.out.size > 0, false)
	client.turn, upstream.turn = nil, nil
	t.due = t.nextDue(w.now)
}

// finished reports whether a closing tunnel has nothing left to wait for.
func (t *tunnel) finished() bool {
	delivered := t.upstream.ended || t.upstream.sock.out.size == 0 && t.stage != stageAsking
	if t.client.ended {
		return delivered
	}
	toldAll := t.cut || t.client.closeSent && t.client.closeSeen
	return toldAll && t.client.sock.out.size == 0 && delivered
}

// farewell says the last words of TLS and closes both sockets.
func (t *tunnel) farewell(w *turn) {
	if t.client.tls != nil && !t.client.sock.broken() {
		t.client.tls.CloseWrite()
	}
	if t.upstream.tls != nil && !t.upstream.ended {
		t.upstream.tls.CloseWrite()
	}
	w.flush()
	t.client.sock.close()
	t.upstream.sock.close()
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

package proxy

import (
	"bytes"
	"context"
	"errors"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

const (
	// greetingTimeout is how long a client has for its first start tag, in XMPP.
	greetingTimeout = 10 * time.Second

	// maxGreeting is the maximum size of the client's frames that are kept for another
	// node.
	maxGreeting = 2 * xmpp.MaxOpen // bytes

	// answerTimeout is how long an upstream's first words are held back because they
	// may be a redirect. Tigase writes both at once.
	answerTimeout = time.Second

	// maxBegins is the number of the client's first bytes that show whether it begins a
	// stream, including leading white space.
	maxBegins = 64 // bytes
)

// stage is the progress of a tunnel's beginning:
//
//	awaited ──▶ tag ──▶ dialling ──▶ answer ──▶ over
//	             │         ▲          ▲ │
//	             │         └─redirect─┼─┘
//	             └────────────────────┘
//
// In awaited, nothing has come from the client, and the tunnel has no greeting. In tag,
// its first start tag is incomplete. In dialling, the client is not read. In answer,
// the upstream's messages are held until it is clear that it keeps the stream. In over,
// frames pass; when the upstream opens the stream again, as after SASL, or ends it,
// another answer is read.
//
// Rule: in XMPP, a stream needs a valid start tag within greetingTimeout of the 101,
// and the node sees nothing from the client before it. The tunnel is in XMPP if the
// upstream is (upstream.GroupOptions.XMPP), if the vhost needs `to`, and if the client
// is to be redirected.
//
// Any other upstream gets everything. The gate reads along, to repair redirects and to
// use the client's framing; if the client begins a start tag there, it must be valid
// too.
type stage uint8

const (
	stageAwaited stage = iota
	stageTag
	stageDialling
	stageAnswer
	stageOver
)

// A greeting is the state of a tunnel's first words.
type greeting struct {
	frames  []byte // the client's frames, as received
	pending bool   // the upstream has not received them
	said    int    // payload bytes in them
	begins  []byte // the first maxBegins of those bytes
	open    xmpp.OpenReader
	tag     xmpp.Open // valid once it is complete
	tagged  bool

	answers []byte // the upstream's frames that are held back
	whole   int    // bytes of them that are complete messages
	answer  xmpp.AnswerReader

	giveUp context.CancelFunc // of the dial in progress

	trail upstream.Trail
	again bool // the client has received some of the answers: an opening
}

// errNoTag is the error for a client that sent no start tag in time.
var errNoTag = &xmpp.StreamError{Condition: xmpp.ConnectionTimeout, Text: "no start tag in time"}

// streamState is the state of the XMPP stream on a tunnel.
type streamState struct {
	framing   xmpp.Framing
	opened    bool              // the client has received an opening
	closed    bool              // and the end of the stream
	resumable bool              // XEP-0198: the client may resume it
	loggedIn  bool              // no more logins can follow
	tried     bool              // the client has sent something since its start tag and the last result of a login
	login     *xmpp.LoginReader // reads the current message of the upstream; nil: none, or not needed

	// unanswered is the gate's answer to an opening of the client's that has no answer
	// yet.
	unanswered *xmpp.Stream
}

// noticed records a message of the upstream that begins with word.
func (s *streamState) noticed(word xmpp.Word, head []byte) {
	switch word {
	case xmpp.OpenWord:
		framing := xmpp.OlderDraft
		if bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("<open")) {
			framing = xmpp.RFC7395
		}
		s.opening(framing)
	case xmpp.CloseWord, xmpp.ErrorWord:
		s.closed = true
	case xmpp.ResumeWord:
		s.resumable = true
	}
}

// opening records that the client gets the upstream's opening.
func (s *streamState) opening(framing xmpp.Framing) {
	if s.closed { // another stream, which may have another login
		s.loggedIn = false
	}
	s.opened, s.closed, s.unanswered, s.framing = true, false, nil, framing
}

// greet takes a piece from the client in the stages before over.
func (t *tunnel) greet(p *piece) {
	if t.greeting == nil {
		t.greeting = &greeting{pending: t.strict()}
		t.stage = stageTag
	}
	g := t.greeting
	switch t.stage {
	case stageTag:
		g.frames = append(g.frames, p.wire...)
		if !g.pending {
			t.toUpstream(p.wire)
		}
		behind, err := g.hear(p)
		switch {
		case err != nil:
			t.noTag(reasonBadStream, err)
		case g.tagged:
			t.stream.framing = g.tag.Framing
			t.stream.unanswered = new(g.tag.Reply())
			t.stream.tried = len(behind) > 0
			t.goodTag(behind)
		case len(g.frames) > maxGreeting:
			t.noTag(reasonBadStream, errTooLong)
		case t.greetBy == 0 && (g.pending || g.triesToOpen()):
			t.greetBy = t.client.sock.turn.now + greetingTimeout
		}
	case stageDialling, stageAnswer:
		pass, ok := t.vetted(p)
		if !ok {
			return
		}
		if t.stage == stageDialling || len(g.frames) <= maxGreeting {
			g.frames = append(g.frames, pass...)
		}
		t.toUpstream(pass)
	}
}

// errTooLong is the error for a start tag in more frames than can be kept.
var errTooLong = &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "the start of the stream is too long"}

// hear reads more of the start tag. Messages are text (RFC 7395, section 3.2), and the
// first must not be empty. Once the tag is complete, behind is the rest of the piece.
func (g *greeting) hear(p *piece) (behind []byte, err error) {
	switch {
	case p.control() || len(p.payload) == 0 && !p.empty:
	case p.message != opText:
		err = &xmpp.StreamError{Condition: xmpp.BadFormat, Text: "a binary message"}
	case p.empty && len(g.begins) == 0:
		err = &xmpp.StreamError{Condition: xmpp.NotWellFormed, Text: "an empty message before the stream's start tag"}
	default:
		payload := p.unmasked(nil)
		g.begins = append(g.begins, payload[:min(len(payload), maxBegins-len(g.begins))]...)
		g.tag, g.tagged, err = g.open.Feed(payload)
		if g.tagged {
			behind = payload[g.tag.Len-g.said:]
		}
		g.said += len(payload)
	}
	return behind, err
}

// noTag handles first words that do not start a stream, or did not come in time.
func (t *tunnel) noTag(why reason, err error) {
	if t.strict() || t.greeting.triesToOpen() {
		t.refuse(why, err)
		return
	}
	t.endGreeting() // the upstream has seen all of it
}

// refuse ends a stream that has not begun.
func (t *tunnel) refuse(why reason, err error) {
	if g := t.greeting; g != nil {
		t.stream.framing = g.open.Framing()
	}
	t.client.err = err
	condition, text := conditionOf(why, err)
	t.refuseStream(why, condition, text)
}

// conditionOf returns the stream error for a refused client.
func conditionOf(why reason, err error) (xmpp.Condition, string) {
	if se, ok := errors.AsType[*xmpp.StreamError](err); ok {
		return se.Condition, se.Text
	}
	if why == reasonHostUnknown {
		return xmpp.HostUnknown, ""
	}
	return xmpp.UndefinedCondition, ""
}

// triesToOpen reports whether the client's first words at least begin a start tag: a
// bad one is wrong for every server.
func (g *greeting) triesToOpen() bool {
	begins := bytes.TrimLeft(g.begins, " \t\r\n")
	for _, start := range []string{"<open", "<stream", "<?xml"} {
		if bytes.HasPrefix(begins, []byte(start)) {
			return true
		}
	}
	return false
}

// goodTag decides about a stream by its start tag. behind is the rest of the same
// piece.
func (t *tunnel) goodTag(behind []byte) {
	t.greetBy = 0
	vhost := t.info.vhost
	tag := &t.greeting.tag
	t.info.names(tag)
	if url := t.info.elsewhere; url != "" {
		t.redirectTo(tag.Reply(), url)
		return
	}
	if vhost.ReadsTo() {
		if why, err := t.judgeDomain(tag); err != nil {
			t.refuse(why, err)
			return
		}
		routes := vhost.RoutesTo()
		if routes {
			domain, _ := tag.Domain()
			vhost = vhost.ForDomain(domain)
			t.info.vhost = vhost
		}
		t.vetting = &vetting{}
		frames, ok := t.vet(t.greeting.frames, behind, true)
		if !ok {
			return
		}
		t.greeting.frames = frames
		if routes {
			t.dial(vhost.Dial)
			return
		}
	}
	if t.greeting.pending {
		t.toUpstream(t.greeting.frames)
	}
	t.awaitAnswer()
}

// awaitAnswer follows the client's first words to a node whose answer may be a
// redirect.
func (t *tunnel) awaitAnswer() {
	if t.info.vhost.Redirects() == "off" {
		t.endGreeting()
		return
	}
	g := t.greeting
	t.stage = stageAnswer
	g.answers, g.whole, g.answer = nil, 0, xmpp.AnswerReader{}
}

// releaseAnswers passes on the answers that are held in stageAnswer; in other stages it
// does nothing. An incomplete message stays, because it may still be a redirect.
func (t *tunnel) releaseAnswers() {
	if t.stage != stageAnswer {
		return
	}
	g := t.greeting
	if t.ends.Held() > 0 {
		t.greetBy = 0
		return
	}
	g.noticeOpening(&t.stream)
	if t.answering && !t.upstream.scan.betweenMessages() {
		whole := g.answers[:g.whole]
		g.answers, g.whole, t.greetBy = g.answers[g.whole:], 0, 0
		g.again = g.again || len(whole) > 0
		t.toClient(whole)
		return
	}
	t.acceptAnswers()
}

// noticeOpening records an opening among answers whose first frame was too short to
// show it.
func (g *greeting) noticeOpening(s *streamState) {
	if open := g.answer.Feed(nil).Open; !s.opened && open != (xmpp.Open{}) {
		s.opening(open.Framing)
	}
}

// acceptAnswers ends the greeting in stageAnswer: the answers are not a redirect.
func (t *tunnel) acceptAnswers() {
	answers := t.greeting.answers
	t.greeting.noticeOpening(&t.stream)
	t.endGreeting()
	t.answering = false
	t.toClient(answers)
}

func (t *tunnel) endGreeting() {
	t.stage, t.greeting, t.greetBy, t.info.request = stageOver, nil, 0, nil
}

// answered takes a piece of an upstream's message that began in stageAnswer.
func (t *tunnel) answered(p *piece) {
	g := t.greeting
	if len(g.answers) == 0 {
		t.greetBy = t.client.sock.turn.now + answerTimeout
	}
	g.answers = append(g.answers, p.wire...)
	if t.upstream.scan.betweenMessages() {
		g.whole = len(g.answers)
	}
	switch answer := g.answer.Feed(p.payload); {
	case answer.Verdict == xmpp.Redirected:
		t.sentElsewhere(p, answer.SeeOther)
	case t.ends.Held() > 0: // the rest will show
	case answer.Verdict != xmpp.Undecided, len(g.answers) > maxGreeting:
		t.acceptAnswers()
	}
}

// sentElsewhere repairs a redirect that a piece of the upstream's completes. Its
// address is internal, and the client gets nothing of it. The stream goes to that node
// if it is one of ours and the client has received nothing of this one; otherwise the
// client is sent to the node's public address, or the stream ends.
func (t *tunnel) sentElsewhere(p *piece, to string) {
	g, vhost, w := t.greeting, t.info.vhost, t.client.sock.turn
	boundary, between := t.clientBefore(p)
	node := vhost.NodeByAddress(to)
	fresh := t.stage == stageAnswer && t.answering && !g.again
	stream := xmpp.Stream{Framing: t.stream.framing, Opened: t.stream.opened}
	var trail upstream.Trail
	switch {
	case fresh: // the node's words stay here
		if t.info.upstream != nil {
			g.trail.Add(t.info.upstream)
		}
		trail = g.trail
		stream = g.answer.Feed(p.payload).Stream(g.tag.Framing)
		t.stream = streamState{framing: g.tag.Framing, unanswered: new(g.tag.Reply()), tried: t.stream.tried}
	case t.stage == stageTag:
		stream.Framing = g.open.Framing()
	}
	t.pend = nil
	t.dropUpstream()
	t.ends = xmpp.Redirects{}
	t.upstream.scan.forget(between)
	switch {
	case !boundary: // half a frame has been passed on
		if t.why == reasonNone {
			t.upstream.err = vhost.LoseRedirect(to, node, trail)
		}
		t.cutOff()
		t.endFor(reasonRedirectLost, w.now+closeTimeout)
	case t.why != reasonNone: // it is ending already
		if t.answerClose(); !t.client.closeSent {
			t.cutOff()
		}
	case node != nil && fresh && trail.Ends(node):
		t.loseRedirect(stream, to, node, trail)
	case fresh && vhost.Redirects() == "follow" && node != nil && t.info.request != nil && len(g.frames) <= maxGreeting:
		t.info.upstream.Release()
		t.info.upstream = nil
		t.dial(func(ctx context.Context, r *upstream.Request) (*upstream.Conn, error) {
			return vhost.Follow(ctx, to, node, r)
		})
	case node != nil && node.PublicURL() != "":
		t.redirectTo(stream, node.PublicURL())
	default:
		t.loseRedirect(stream, to, node, trail)
	}
}

// clientBefore says whether the client was at the end of a frame, and at the end of a
// message, before a piece of the upstream's.
func (t *tunnel) clientBefore(p *piece) (boundary, between bool) {
	switch {
	case t.answering:
		return true, true
	case len(t.pend) > 0:
		return t.pendWhole, t.pendBetween
	}
	return p.at == 0, p.begins()
}

// giveClient passes a piece of the upstream's on, except for a possible beginning of a
// redirect.
func (t *tunnel) giveClient(p *piece) {
	held := t.ends.Held()
	switch {
	case held == 0:
		t.toClient(t.pend)
		t.toClient(p.wire)
		t.pend = nil
	case len(t.pend) > 0:
		t.pend = append(t.pend, p.wire...)
	case p.at == 0:
		t.pend, t.pendWhole, t.pendBetween = bytes.Clone(p.wire), true, p.begins()
	default:
		tail := len(p.wire) - min(held, len(p.payload))
		t.toClient(p.wire[:tail])
		t.pend, t.pendWhole, t.pendBetween = bytes.Clone(p.wire[tail:]), false, false
	}
}

// redirectTo sends the client to a URL.
func (t *tunnel) redirectTo(stream xmpp.Stream, url string) {
	messages, err := stream.Redirect(url)
	if err != nil {
		messages = stream.Close()
	}
	t.endStream(reasonRedirect, messages)
}

// refuseStream answers the client's first words with a stream error.
func (t *tunnel) refuseStream(why reason, condition xmpp.Condition, text string) {
	if text == "" {
		text = reasons[why].text
	}
	t.endStream(why, t.reply().Error(condition, text))
}

// reply returns the stream in which the gate itself answers first words.
func (t *tunnel) reply() xmpp.Stream {
	switch g := t.greeting; {
	case g == nil:
		return xmpp.Stream{Framing: t.stream.framing}
	case g.tagged:
		return g.tag.Reply()
	default:
		return xmpp.Stream{Framing: g.open.Framing()}
	}
}

// endStream sends these messages, and then the Close frame for the reason. If an
// upstream has left a message incomplete, no others can be sent.
func (t *tunnel) endStream(why reason, messages [][]byte) {
	w := t.client.sock.turn
	t.endGreeting()
	if t.betweenMessages() {
		for _, m := range messages {
			t.say(opText, m)
		}
	}
	t.stream.closed = true
	t.endFor(why, w.now+closeTimeout)
}

// dial looks for an upstream in a goroutine of the dialler. Neither end is read
// meanwhile, except for the client's Close frame while the tunnel is closing.
//
// Dial runs concurrently with the loop, so it must not access t, which may end
// meanwhile and forget its request.
func (t *tunnel) dial(dial func(context.Context, *upstream.Request) (*upstream.Conn, error)) {
	t.stage, t.greetBy = stageDialling, 0
	t.shared.dialler.again(t, dial)
}

// giveUp cancels the dial of a tunnel that has ended.
func (t *tunnel) giveUp() {
	if g := t.greeting; g != nil && g.giveUp != nil {
		g.giveUp()
	}
}

// dialled is a turn that the Server starts after the upstream's 101.
func (t *tunnel) dialled(w *turn, up *upstream.Conn) {
	t.begin(w)
	t.info.upstream = up
	t.upstream.sock.max = upstreamQueue
	if t.why != reasonNone { // too late
		t.endGreeting()
		t.dropUpstream()
		t.settle(w)
		return
	}
	t.heard = w.now
	t.toUpstream(t.greeting.frames)
	t.awaitAnswer()
	t.takeHeld(w, &t.upstream)
	t.settle(w)
}

// dialFailed is the turn after a failed dial.
func (t *tunnel) dialFailed(w *turn, err error) {
	t.begin(w)
	if t.why == reasonNone {
		t.upstream.err = err
		t.refuseStream(reasonDialFailed, xmpp.RemoteConnectionFailed, "")
	}
	t.settle(w)
}

// wantsTag reports whether the gate itself needs the start tag.
func (t *tunnel) wantsTag() bool { return t.info.vhost.ReadsTo() || t.info.elsewhere != "" }

// strict reports whether the upstream may see nothing before a valid start tag.
func (t *tunnel) strict() bool { return t.wantsTag() || t.info.vhost.XMPP() }

// holds reports whether a closing tunnel keeps the client's words back: they were held
// before, or would be refused.
func (t *tunnel) holds() bool {
	if g := t.greeting; g != nil {
		return g.pending
	}
	return t.strict()
}

// paused reports whether the client is not read because its first words wait for a
// dial.
func (t *tunnel) paused() bool { return t.stage == stageDialling && t.why == reasonNone }

// lastWords are sent to a stream's client before our Close frame: a stream error and
// the stream's end. A stream that can be resumed (XEP-0198, section 5) or has ended
// gets neither.
func (t *tunnel) lastWords(condition xmpp.Condition, text string) [][]byte {
	s := &t.stream
	switch {
	case condition == "" || s.closed || s.resumable:
		return nil
	case s.opened:
		return xmpp.Stream{Framing: s.framing, Opened: true}.Error(condition, text)
	case s.unanswered != nil:
		return s.unanswered.Error(condition, text)
	}
	return nil
}

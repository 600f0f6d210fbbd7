package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"wssgate/upstream"
	"wssgate/xmpp"
)

const (
	// greetingTimeout is how long a client has for its first start tag, where
	// XMPP is spoken.
	greetingTimeout = 10 * time.Second

	// maxGreeting bounds what is kept of the client's frames for another node.
	maxGreeting = 2 * xmpp.MaxOpen // bytes

	// answerTimeout is how long an upstream's first words are held back for the
	// ones that would make a redirect of them. Tigase writes both at once.
	answerTimeout = time.Second

	// maxBegins is how much of the client's first words tells what they are
	// meant to be, white space in front included.
	maxBegins = 64 // bytes

	// maxHops bounds the redirects that are followed for one stream.
	maxHops = 3
)

// stage is how far the beginning of a tunnel has come:
//
//	awaited ──▶ tag ──▶ dialling ──▶ answer ──▶ over
//	             │         ▲          ▲ │
//	             │         └─redirect─┼─┘
//	             └────────────────────┘
//
//	awaited, tag ──▶ asking ──▶ the end, where XMPP is spoken
//	                        ──▶ over, or still awaited, where it is not
//
// In awaited nothing came from the client yet, and the tunnel owns no
// greeting. In tag its first start tag is not whole yet. In asking it is bad, or
// late, and the node itself is asked whether it speaks XMPP. In dialling and
// asking the client is not read. In answer the upstream's frames are held until
// it is clear that it keeps the stream. Over, frames go through; when the
// upstream opens the stream again, as after SASL, or ends it, there is another
// answer to be read.
//
// The rule is: where XMPP is spoken there is no stream without a good start tag
// within greetingTimeout of the 101, and the node sees nothing of the client's
// before. XMPP is spoken where the vhost wants to know `to`, where the client is
// to be sent elsewhere, and on each node that was heard to (upstream.Nature). As
// long as that is not known, words are held all the same, and only when they
// turn out bad is the node asked, which then decides.
//
// A node that speaks no XMPP, or does not say, gets everything. The gate reads
// along, to be able to repair redirects and to speak the client's framing; there
// a client that begins a start tag is held to it as well.
type stage uint8

const (
	stageAwaited stage = iota
	stageTag
	stageAsking
	stageDialling
	stageAnswer
	stageOver
)

// A greeting is what a tunnel knows of its first words, until they are said.
type greeting struct {
	frames []byte // the client's, as they came
	held   bool   // the upstream has not seen them
	begins []byte // of what is said in them, maxBegins bytes
	said   payloads
	open   xmpp.OpenReader
	tag    xmpp.Open // once it is whole
	tagged bool

	answers  []byte // the upstream's frames, held back
	answered payloads
	answer   xmpp.AnswerReader

	giveUp context.CancelFunc // of the dial under way

	hops  int
	again bool // not the first one: the client has an open stream

	why reason // in stageAsking: what it comes to where XMPP is spoken
	err error
}

// errNoTag is the error of a client that kept the gate waiting.
var errNoTag = &xmpp.StreamError{Condition: xmpp.ConnectionTimeout, Text: "no start tag in time"}

// streamState is what a tunnel knows of the XMPP stream on it.
type streamState struct {
	framing   xmpp.Framing
	opened    bool // the client has got an opening
	closed    bool // and the end of the stream
	resumable bool // XEP-0198: the client may come back to it
	telling   bool // the upstream's next message shows what it speaks

	// unanswered is the gate's answer to an opening of the client's that nobody
	// has answered yet.
	unanswered *xmpp.Stream
}

// noticed takes note of a message of the upstream that begins with a word.
func (s *streamState) noticed(word xmpp.Word, head []byte) {
	switch word {
	case xmpp.OpenWord:
		s.opened, s.closed, s.unanswered = true, false, nil
		s.framing = xmpp.OlderDraft
		if bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("<open")) {
			s.framing = xmpp.RFC7395
		}
	case xmpp.CloseWord, xmpp.ErrorWord:
		s.closed = true
	case xmpp.ResumeWord:
		s.resumable = true
	}
}

// greet takes frames of the client's in the stages before over.
func (t *tunnel) greet(b []byte) {
	if t.greeting == nil {
		t.greeting = &greeting{held: t.strict()}
		t.stage = stageTag
	}
	g := t.greeting
	switch t.stage {
	case stageTag:
		g.frames = append(g.frames, b...)
		if !g.held {
			t.toUpstream(b)
		}
		err := g.said.feed(b, g.hear)
		switch {
		case err != nil:
			t.noTag(reasonBadStream, err)
		case g.tagged:
			t.stream.framing = g.tag.Framing
			t.stream.unanswered = new(g.tag.Reply())
			t.goodTag()
		case len(g.frames) > maxGreeting:
			t.noTag(reasonBadStream, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "the start of the stream is too long"})
		case t.greetBy == 0 && (g.held || g.triesToOpen()):
			t.greetBy = t.client.sock.turn.now + greetingTimeout
		}
	case stageAsking, stageDialling:
		g.frames = append(g.frames, b...)
	case stageAnswer:
		if len(g.frames) <= maxGreeting {
			g.frames = append(g.frames, b...)
		}
		t.toUpstream(b)
	}
}

// hear reads on in the start tag. A message is text (RFC 7395, section 3.2), and
// the first one says something.
func (g *greeting) hear(opcode byte, payload []byte) (err error) {
	switch {
	case g.tagged:
	case opcode != opText:
		err = &xmpp.StreamError{Condition: xmpp.BadFormat, Text: "a binary message"}
	case len(payload) == 0 && len(g.begins) == 0:
		err = &xmpp.StreamError{Condition: xmpp.NotWellFormed, Text: "an empty message before the stream's start tag"}
	default:
		g.begins = append(g.begins, payload[:min(len(payload), maxBegins-len(g.begins))]...)
		g.tag, g.tagged, err = g.open.Feed(payload)
	}
	return err
}

// noTag is for a client whose first words are no start of a stream, or that has
// not said them in time.
func (t *tunnel) noTag(why reason, err error) {
	g, nature := t.greeting, t.nature()
	switch {
	case t.wantsTag(), nature == upstream.XMPP, g != nil && g.triesToOpen():
		t.refuse(why, err)
	case nature == upstream.Other, g != nil && !g.held:
		t.letThrough()
	default:
		if g == nil {
			g = &greeting{held: true}
			t.greeting = g
		}
		g.why, g.err = why, err
		t.stage, t.greetBy = stageAsking, 0
		t.info.server.ask(t)
	}
}

// answeredFor is a turn that the Server begins: the node was asked.
func (t *tunnel) answeredFor(w *turn) {
	t.begin(w)
	if t.stage == stageAsking {
		t.heard = w.now // it was not read
		switch g := t.greeting; {
		case t.nature() != upstream.XMPP:
			t.letThrough()
		case t.why == reasonNone:
			t.refuse(g.why, g.err)
		default: // it is on its way out, and the node is to hear nothing of it
			t.endGreeting()
			t.upstream.closeSent = true
			t.answerClose()
		}
	}
	t.settle(w)
}

// letThrough gives the upstream what was held, a Close frame included, and looks
// at nothing more. A client that has said nothing yet is awaited on.
func (t *tunnel) letThrough() {
	g := t.greeting
	if g == nil || len(g.frames) == 0 {
		t.stage, t.greeting, t.greetBy = stageAwaited, nil, 0
		return
	}
	t.endGreeting()
	if g.held {
		t.toUpstream(g.frames)
	}
}

// refuse ends a stream that has not begun.
func (t *tunnel) refuse(why reason, err error) {
	if g := t.greeting; g != nil {
		t.stream.framing = g.open.Framing()
	}
	condition, text := xmpp.UndefinedCondition, ""
	if se, ok := errors.AsType[*xmpp.StreamError](err); ok {
		condition, text = se.Condition, se.Text
	}
	t.client.err = err
	t.refuseStream(why, condition, text)
}

// triesToOpen reports whether the client's first words are at least the
// beginning of a start tag: what is wrong with that is wrong for everybody.
func (g *greeting) triesToOpen() bool {
	begins := bytes.TrimLeft(g.begins, " \t\r\n")
	for _, start := range []string{"<open", "<stream", "<?xml"} {
		if bytes.HasPrefix(begins, []byte(start)) {
			return true
		}
	}
	return false
}

// goodTag decides what becomes of a stream, by its start tag.
func (t *tunnel) goodTag() {
	t.greetBy = 0
	vhost := t.info.vhost
	tag := &t.greeting.tag
	if url := t.info.elsewhere; url != "" {
		t.redirectTo(tag.Reply(), url)
		return
	}
	if vhost.ReadsTo() {
		domain, err := tag.Domain()
		if err != nil {
			t.refuse(reasonBadStream, err)
			return
		}
		if err := vhost.AllowsDomain(domain); err != nil {
			t.client.err = err
			t.refuseStream(reasonHostUnknown, xmpp.HostUnknown, "")
			return
		}
		if vhost.RoutesTo() {
			vhost = vhost.ForDomain(domain)
			t.info.vhost = vhost
			t.dial(func(ctx context.Context) (*upstream.Conn, error) { return vhost.Dial(ctx, t.info.request) })
			return
		}
	}
	if t.greeting.held {
		t.toUpstream(t.greeting.frames)
	}
	t.awaitAnswer()
}

// awaitAnswer follows the client's first words to a node, whose answer could be
// a redirect.
func (t *tunnel) awaitAnswer() {
	t.stream.telling = t.greeting.tag.ID == ""
	if t.info.vhost.Redirects() == "off" {
		t.endGreeting()
		return
	}
	g := t.greeting
	t.stage = stageAnswer
	g.answers, g.answered, g.answer = nil, payloads{}, xmpp.AnswerReader{}
}

// judgeAnswer learns what the node speaks from its first message after a client's
// start tag. One with an id, which clients' have not, is no echo.
func (t *tunnel) judgeAnswer(word xmpp.Word, head []byte) {
	if !t.stream.telling {
		return
	}
	t.stream.telling = false
	switch word {
	case xmpp.OpenWord:
		if !xmpp.HasID(head) {
			return
		}
	case xmpp.CloseWord, xmpp.ErrorWord:
	default:
		return
	}
	t.info.upstream.SpeaksXMPP()
}

// heardAgain begins another greeting where a later message of the upstream
// could send the client away. Such a redirect is not followed, for another node
// would know nothing of the client's login.
func (t *tunnel) heardAgain(word xmpp.Word) {
	switch word {
	case xmpp.OpenWord, xmpp.CloseWord, xmpp.ErrorWord:
	default:
		return
	}
	if t.stage != stageOver || t.why != reasonNone || t.info == nil || t.info.vhost.Redirects() == "off" || !t.stream.opened {
		return
	}
	t.stage = stageAnswer
	t.greeting = &greeting{tagged: true, tag: xmpp.Open{Framing: t.stream.framing}, hops: maxHops, again: true}
}

// releaseAnswers ends the greeting in stageAnswer; in others it does nothing.
func (t *tunnel) releaseAnswers() {
	if t.stage == stageAnswer {
		answers := t.greeting.answers
		t.endGreeting()
		t.toClient(answers)
	}
}

func (t *tunnel) endGreeting() {
	t.stage, t.greeting, t.greetBy, t.info.request = stageOver, nil, 0, nil
}

// answered takes frames of the upstream's in stageAnswer.
func (t *tunnel) answered(b []byte) {
	g := t.greeting
	if len(g.answers) == 0 {
		t.greetBy = t.client.sock.turn.now + answerTimeout
	}
	g.answers = append(g.answers, b...)
	var verdict xmpp.Answer
	g.answered.feed(b, func(_ byte, payload []byte) error {
		if verdict.Verdict == xmpp.Undecided {
			verdict = g.answer.Feed(payload)
		}
		return nil
	})
	switch {
	case verdict.Verdict == xmpp.Redirected:
		t.redirected(verdict)
	case verdict.Verdict != xmpp.Undecided, len(g.answers) > maxGreeting:
		t.releaseAnswers()
	}
}

// redirected repairs a redirect: the address in it is an inner one. The stream
// goes to that node if it is one of ours, or its client to the node's public
// address, or nowhere.
func (t *tunnel) redirected(answer xmpp.Answer) {
	g, vhost := t.greeting, t.info.vhost
	node := vhost.NodeByAddress(answer.SeeOther)
	follow := vhost.Redirects() == "follow" && node != nil && t.info.request != nil && g.hops < maxHops && len(g.frames) <= maxGreeting
	if !g.again { // what the node said stays here
		t.stream = streamState{framing: g.tag.Framing, unanswered: new(g.tag.Reply())}
	}
	t.dropUpstream()
	t.upstream.scan.forget()
	if follow {
		g.hops++
		t.info.upstream.Release()
		t.info.upstream = nil
		t.dial(func(ctx context.Context) (*upstream.Conn, error) { return vhost.DialNode(ctx, node, t.info.request) })
		return
	}
	stream := answer.Stream(g.tag.Framing)
	stream.Opened = g.again && answer.Open == xmpp.Open{}
	if node != nil && node.PublicURL() != "" {
		t.redirectTo(stream, node.PublicURL())
		return
	}
	t.upstream.err = fmt.Errorf("redirect to %q, which is no node of upstream %q with a public_url", answer.SeeOther, vhost.Upstream())
	t.endStream(reasonRedirect, stream.Close())
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
	t.endStream(why, t.reply().Error(condition, text))
}

// reply is the stream in which the gate answers first words itself.
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

// endStream says these messages, and then the Close frame of the reason. An
// upstream that spoke before it was asked may have left a message half said:
// then there is no place for others.
func (t *tunnel) endStream(why reason, messages [][]byte) {
	w := t.client.sock.turn
	t.endGreeting()
	if t.upstream.scan.betweenMessages() {
		for _, m := range messages {
			t.toClient(appendFrame(nil, opText, m, nil))
		}
	}
	t.stream.closed = true
	t.endFor(why, w.now+closeTimeout)
}

// dial looks for an upstream in a goroutine of the Server's. Nobody is read
// meanwhile, unless the tunnel is to end: then the client's Close frame counts.
func (t *tunnel) dial(dial func(context.Context) (*upstream.Conn, error)) {
	t.stage, t.greetBy = stageDialling, 0
	t.info.server.redial(t, dial)
}

// giveUp ends the dial of a tunnel that has ended itself.
func (t *tunnel) giveUp() {
	if g := t.greeting; g != nil && g.giveUp != nil {
		g.giveUp()
	}
}

// dialled is a turn that the Server begins: the upstream has said 101.
func (t *tunnel) dialled(w *turn, up *upstream.Conn) {
	t.begin(w)
	t.info.upstream = up
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

// dialFailed is the other one.
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

// strict reports whether the upstream is to see nothing before a good start tag.
func (t *tunnel) strict() bool { return t.wantsTag() || t.nature() != upstream.Other }

// holds reports whether a tunnel that is closing keeps the client's words to
// itself: they were held before, or would be refused. Nobody is asked any more.
func (t *tunnel) holds() bool {
	if g := t.greeting; g != nil {
		return g.held
	}
	return t.wantsTag() || t.nature() == upstream.XMPP
}

// nature is what the tunnel's node speaks. Where there is no node, nobody judges
// the client's words but the gate.
func (t *tunnel) nature() upstream.Nature {
	if t.info.upstream == nil {
		return upstream.Other
	}
	return t.info.upstream.Nature()
}

// paused reports whether the client is not read, for what it said so far waits
// for others. In stageAsking that holds while the tunnel ends, too: a node that may
// hear the client is to hear all of it.
func (t *tunnel) paused() bool {
	return t.stage == stageDialling && t.why == reasonNone || t.stage == stageAsking && !t.ignoresClient()
}

// lastWords are what a stream's client is told before a Close frame of ours: a
// stream error and the stream's end. A stream that can be resumed gets neither
// (XEP-0198, section 5), nor does one that has ended.
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

// payloads cuts a run of valid frames into the payloads of data frames. Control
// frames are passed over. It keeps its place between runs.
type payloads struct {
	head  []byte // of a header that was cut
	frame header // the one under way
	left  int64  // bytes of its payload
	at    int    // which byte of the key is next

	opcode byte // of the message under way
	empty  bool // so far
}

// feed calls f with every payload in b, unmasked, in as many pieces as b has, and
// once with none for a message that is empty. It stops at the first error.
func (p *payloads) feed(b []byte, f func(opcode byte, payload []byte) error) error {
	for len(b) > 0 {
		if p.left == 0 {
			had := len(p.head)
			p.head = append(p.head, b[:min(len(b), maxHeader)]...)
			h, err := parseHeader(p.head)
			if err != nil {
				return err // the scanner would have refused it
			}
			if h.size == 0 {
				return nil
			}
			b, p.head = b[h.size-had:], p.head[:0]
			p.frame, p.left, p.at = h, h.length, 0
			if h.control() {
				continue
			}
			if h.opcode != opContinuation {
				p.opcode, p.empty = h.opcode, true
			}
			if p.empty = p.empty && h.length == 0; p.empty && h.fin {
				if err := f(p.opcode, nil); err != nil {
					return err
				}
			}
			continue
		}
		n := int(min(p.left, int64(len(b))))
		piece := b[:n]
		b = b[n:]
		p.left -= int64(n)
		if p.frame.control() {
			continue
		}
		if p.frame.masked {
			piece = append([]byte(nil), piece...)
			for i := range piece {
				piece[i] ^= p.frame.key[p.at&3]
				p.at++
			}
		}
		if err := f(p.opcode, piece); err != nil {
			return err
		}
	}
	return nil
}

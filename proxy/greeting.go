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
	// the vhost wants to read it.
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
//	awaited ──▶ tag ──▶ answer ──▶ over
//	             │  ▲     │
//	             ▼  └─────┤ (redirect)
//	           dialling ◀─┘
//
// In awaited nothing came from the client yet, and the tunnel owns no
// greeting. In tag its first start tag is not whole yet. In dialling nobody is
// read. In answer the upstream's frames are held until it is clear that it
// keeps the stream. Over, frames go through; when the upstream opens the stream
// again, as after SASL, or ends it, there is another answer to be read.
//
// A vhost that wants to know `to` is strict: without a good start tag there is
// no stream, and the upstream sees nothing of it before. Any other vhost reads
// along, to be able to repair redirects and to speak the client's framing. There
// a client that begins a start tag is held to it as well; what is no attempt at
// one goes through, for the upstream to judge.
type stage uint8

const (
	stageAwaited stage = iota
	stageTag
	stageDialling
	stageAnswer
	stageOver
)

// A greeting is what a tunnel knows of its first words, until they are said.
type greeting struct {
	frames []byte // the client's, as they came
	begins []byte // of what is said in them, maxBegins bytes
	said   payloads
	open   xmpp.OpenReader
	tag    xmpp.Open // once it is whole
	tagged bool

	answers  []byte // the upstream's frames, held back
	answered payloads
	answer   xmpp.AnswerReader

	hops  int
	again bool // not the first one: the client has an open stream
}

// streamState is what a tunnel knows of the XMPP stream on it.
type streamState struct {
	framing   xmpp.Framing
	opened    bool // the client has got an opening
	closed    bool // and the end of the stream
	resumable bool // XEP-0198: the client may come back to it

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
		t.greeting = &greeting{}
		t.stage = stageTag
	}
	g := t.greeting
	switch t.stage {
	case stageTag:
		g.frames = append(g.frames, b...)
		if !t.strict() {
			t.toUpstream(b)
		}
		err := g.said.feed(b, func(payload []byte) error {
			var err error
			g.begins = append(g.begins, payload[:min(len(payload), maxBegins-len(g.begins))]...)
			if !g.tagged {
				g.tag, g.tagged, err = g.open.Feed(payload)
			}
			return err
		})
		switch {
		case err != nil:
			t.badTag(err)
		case !g.tagged && t.greetBy == 0 && g.triesToOpen():
			t.greetBy = t.client.sock.turn.now + greetingTimeout
		case g.tagged:
			t.stream.framing = g.tag.Framing
			t.stream.unanswered = new(g.tag.Reply())
			t.goodTag()
		case len(g.frames) > maxGreeting:
			t.badTag(&xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "the start of the stream is too long"})
		}
	case stageDialling:
		g.frames = append(g.frames, b...)
	case stageAnswer:
		if len(g.frames) <= maxGreeting {
			g.frames = append(g.frames, b...)
		}
		t.toUpstream(b)
	}
}

// badTag is for a client whose first words are no start of a stream.
func (t *tunnel) badTag(err error) {
	if !t.strict() && !t.greeting.triesToOpen() {
		t.endGreeting()
		return
	}
	t.stream.framing = t.greeting.open.Framing()
	condition, text := xmpp.UndefinedCondition, ""
	if se, ok := errors.AsType[*xmpp.StreamError](err); ok {
		condition, text = se.Condition, se.Text
	}
	t.client.err = err
	t.refuseStream(reasonBadStream, condition, text)
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
	if t.strict() {
		domain, err := tag.Domain()
		if err != nil {
			t.badTag(err)
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
		t.toUpstream(t.greeting.frames)
	}
	t.awaitAnswer()
}

// awaitAnswer follows the client's first words to a node, whose answer could be
// a redirect.
func (t *tunnel) awaitAnswer() {
	if t.info.vhost.Redirects() == "off" {
		t.endGreeting()
		return
	}
	g := t.greeting
	t.stage = stageAnswer
	g.answers, g.answered, g.answer = nil, payloads{}, xmpp.AnswerReader{}
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
	g.answered.feed(b, func(payload []byte) error {
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
		t.stream.opened, t.stream.unanswered = false, new(g.tag.Reply())
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

// strict reports whether there is no stream without a good start tag.
func (t *tunnel) strict() bool { return t.info.vhost.ReadsTo() || t.info.elsewhere != "" }

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
	head    []byte // of a header that was cut
	left    int64
	key     [4]byte
	at      int // which byte of the key is next
	masked  bool
	control bool
}

// feed calls f with every payload in b, unmasked, in as many pieces as b has.
// It stops at the first error.
func (p *payloads) feed(b []byte, f func([]byte) error) error {
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
			p.left, p.key, p.at, p.masked, p.control = h.length, h.key, 0, h.masked, h.control()
			continue
		}
		n := int(min(p.left, int64(len(b))))
		piece := b[:n]
		b = b[n:]
		p.left -= int64(n)
		if p.control {
			continue
		}
		if p.masked {
			piece = append([]byte(nil), piece...)
			for i := range piece {
				piece[i] ^= p.key[p.at&3]
				p.at++
			}
		}
		if err := f(piece); err != nil {
			return err
		}
	}
	return nil
}

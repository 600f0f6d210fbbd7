package chat

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Framings of a stream, as Conn.framing has them.
const (
	noStream int32 = iota
	rfc7395        // <open/>, <close/>
	legacy         // <stream:stream>, draft-ietf-xmpp-websocket before RFC 7395
)

// A stream is the XMPP side of a Conn. Only the reading goroutine uses it.
//
//	opening → (SASL) → opening again → (bind or resume) → bound
type stream struct {
	c       *Conn
	domain  string   // of the open stream
	user    string   // bare JID, once SASL is through
	waiting bool     // SASL is through and the stream not opened again
	session *session // once bound or resumed
}

// message acts on one WebSocket message.
func (st *stream) message(text string) {
	c := st.c
	framing := c.framing.Load()
	if framing == legacy && strings.TrimSpace(text) == "</stream:stream>" {
		st.peerCloses()
		return
	}
	if strings.TrimSpace(text) == "" { // whitespace keep-alive
		return
	}
	e, err := Parse(text)
	unfinished := errors.Is(err, errUnfinished)
	switch {
	case err != nil && !unfinished:
		st.fail("not-well-formed")
	case e.Name == "open" && e.Space == nsFraming && !unfinished:
		st.open(e, rfc7395)
	case e.Name == "stream" && e.Space == nsStreams && unfinished:
		st.open(e, legacy)
	case unfinished:
		st.fail("not-well-formed")
	case framing == noStream || st.waiting:
		st.fail("not-authorized")
	case e.Name == "close" && e.Space == nsFraming:
		st.peerCloses()
	default:
		st.element(e)
	}
}

// open answers a stream's opening: with features, a redirect, or an error.
func (st *stream) open(e *Element, framing int32) {
	c := st.c
	if was := c.framing.Load(); was != noStream && !st.waiting {
		st.fail("invalid-xml")
		return
	}
	c.framing.Store(framing)
	c.noDeadline()
	to, id := strings.ToLower(e.Attr("to")), rand.Text()
	answer := attr("from", to) + attr("id", id) + attr("version", "1.0") + attr("xml:lang", "en")
	if framing == legacy {
		c.Send("<stream:stream" + attr("xmlns", nsClient) + attr("xmlns:stream", nsStreams) + answer + ">")
	} else {
		c.Send("<open" + attr("xmlns", nsFraming) + answer + "/>")
	}
	if !c.s.serves(to) || st.user != "" && to != st.domain {
		st.fail("host-unknown")
		return
	}
	st.domain, st.waiting = to, false
	if f := c.s.cfg.Redirect; f != nil {
		open := Open{To: to, From: e.Attr("from"), Legacy: framing == legacy, Authenticated: st.user != ""}
		if other := f(open); other != "" {
			st.redirect(framing, other)
			return
		}
	}
	c.Send(st.features(framing))
}

func (st *stream) features(framing int32) string {
	open := "<stream:features>"
	if framing == rfc7395 {
		open = "<stream:features" + attr("xmlns:stream", nsStreams) + ">"
	}
	inside := "<mechanisms" + attr("xmlns", nsSASL) +
		"><mechanism>ANONYMOUS</mechanism><mechanism>PLAIN</mechanism></mechanisms>"
	if offer := st.c.s.cfg.Offer; offer != "" {
		inside = offer
	}
	if st.user != "" {
		inside = "<bind" + attr("xmlns", nsBind) + "/><session" + attr("xmlns", nsSession) + "><optional/></session>"
		if !st.c.s.cfg.NoResumption {
			inside += "<sm" + attr("xmlns", nsSM) + "/>"
		}
	}
	return open + inside + "</stream:features>"
}

func (st *stream) redirect(framing int32, other string) {
	if framing == legacy {
		st.c.streamError(framing, "see-other-host", other)
	} else {
		st.c.Send("<close" + attr("xmlns", nsFraming) + attr("see-other-uri", other) + "/>")
	}
	st.ended()
}

// element acts on what comes inside an open stream.
func (st *stream) element(e *Element) {
	switch {
	case (e.Space == nsSASL || e.Space == nsSASL2) && st.user == "":
		st.sasl(e)
	case st.user == "":
		st.fail("not-authorized")
	case e.Space == nsSM:
		st.management(e)
	case e.Name == "iq" && st.session == nil && e.Attr("type") == "set" && e.first().Space == nsBind:
		st.bind(e)
	case st.session == nil:
		st.fail("not-authorized")
	case e.Name == "iq" || e.Name == "message" || e.Name == "presence":
		st.session.received()
		if e.Name == "message" && st.c.burst(AtFirstStanza) {
			return
		}
		st.c.s.router.route(st, e)
	default:
		st.fail("unsupported-stanza-type")
	}
}

// sasl acts on <auth/>, and on <authenticate/> of SASL 2 (XEP-0388), of ANONYMOUS
// and PLAIN (RFC 4505, RFC 4616). SASL 2 is not offered in the features, for
// clients that know it would ask for what goes with it.
func (st *stream) sasl(e *Element) {
	failure := func(condition string) {
		st.c.Send("<failure" + attr("xmlns", e.Space) + "><" + condition + attr("xmlns", nsSASL) + "/></failure>")
	}
	response := e.Text
	switch {
	case e.Space == nsSASL2 && e.Name == "authenticate":
		response = e.ChildText("initial-response")
	case e.Space != nsSASL || e.Name != "auth":
		failure("malformed-request")
		return
	}
	var node string
	switch e.Attr("mechanism") {
	case "ANONYMOUS":
		node = strings.ToLower(rand.Text()[:12])
	case "PLAIN":
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(response))
		parts := strings.Split(string(raw), "\x00")
		if err != nil || len(parts) != 3 || parts[1] == "" {
			failure("malformed-request")
			return
		}
		if want := st.c.s.cfg.Password; want != "" && parts[2] != want {
			failure(cmp.Or(st.c.s.cfg.LoginFailure, "not-authorized"))
			return
		}
		node = strings.ToLower(bareNode(parts[1]))
	default:
		failure("invalid-mechanism")
		return
	}
	st.user = node + "@" + st.domain
	if e.Space == nsSASL2 { // the stream goes on
		st.c.Send("<success" + attr("xmlns", nsSASL2) + "><authorization-identifier>" + Escape(st.user) + "</authorization-identifier></success>")
		st.c.Send(st.features(st.c.framing.Load()))
		return
	}
	st.waiting = true
	st.c.Send("<success" + attr("xmlns", nsSASL) + "/>")
}

// bareNode cuts a domain off: some clients send their whole JID.
func bareNode(user string) string {
	node, _, _ := strings.Cut(user, "@")
	return node
}

func (st *stream) bind(e *Element) {
	resource := e.first().ChildText("resource")
	if resource == "" {
		resource = strings.ToLower(rand.Text()[:8])
	}
	st.session = st.c.s.router.bind(st.c, st.user, resource)
	st.session.deliver("<iq" + attr("xmlns", nsClient) + attr("type", "result") + attr("id", e.Attr("id")) +
		"><bind" + attr("xmlns", nsBind) + "><jid>" + Escape(st.session.jid) + "</jid></bind></iq>")
}

// management acts on XEP-0198.
func (st *stream) management(e *Element) {
	failed := func(condition string) {
		st.c.Send("<failed" + attr("xmlns", nsSM) + "><" + condition + attr("xmlns", nsStanzas) + "/></failed>")
	}
	switch h, _ := strconv.ParseUint(e.Attr("h"), 10, 32); {
	case e.Name == "resume" && st.session == nil:
		session := st.c.s.router.resume(st.c, e.Attr("previd"), st.user, uint32(h))
		if session == nil {
			failed("item-not-found")
			return
		}
		st.session = session
	case e.Name == "enable" && st.session != nil:
		resume := e.Attr("resume") == "true" || e.Attr("resume") == "1"
		st.c.s.router.enable(st.session, resume, st.c.s.cfg.Node)
	case e.Name == "r" && st.session != nil:
		st.c.Send(fmt.Sprintf("<a xmlns='%s' h='%d'/>", nsSM, st.session.handled()))
	case e.Name == "a" && st.session != nil:
		st.session.acked(uint32(h))
	default:
		failed("unexpected-request")
	}
}

// peerCloses answers the end of the peer's stream. Such a session can't be
// resumed.
func (st *stream) peerCloses() {
	if st.c.framing.Load() == legacy {
		st.c.Send("</stream:stream>")
	} else {
		st.c.Send("<close" + attr("xmlns", nsFraming) + "/>")
	}
	st.unbind()
	if !st.c.s.cfg.CloseLingers {
		st.c.closeFrame(1000)
	}
	st.c.framing.Store(noStream)
}

// fail ends the stream with an error.
func (st *stream) fail(condition string) {
	framing := st.c.framing.Load()
	if framing == noStream {
		framing = rfc7395
		st.c.Send("<open" + attr("xmlns", nsFraming) + attr("id", rand.Text()) + attr("version", "1.0") + "/>")
	}
	st.c.streamError(framing, condition, "")
	st.unbind()
	st.ended()
}

// ended is what follows when the server was the one to end the stream.
func (st *stream) ended() {
	st.c.framing.Store(noStream)
	st.c.ignore = true
	if !st.c.s.cfg.ErrorLingers {
		st.c.closeFrame(1000)
		st.c.end(FIN)
	}
}

// streamError queues a stream error and the stream's end.
func (c *Conn) streamError(framing int32, condition, text string) {
	inner := "<" + condition + attr("xmlns", nsErrors) + "/>"
	if text != "" {
		inner = "<" + condition + attr("xmlns", nsErrors) + ">" + Escape(text) + "</" + condition + ">"
	}
	problem, end := "<stream:error>"+inner+"</stream:error>", "</stream:stream>"
	if framing == rfc7395 {
		problem = "<stream:error" + attr("xmlns:stream", nsStreams) + ">" + inner + "</stream:error>"
		end = "<close" + attr("xmlns", nsFraming) + "/>"
	}
	if c.s.cfg.OneFrame {
		c.Send(problem + end)
		return
	}
	c.Send(problem)
	c.Send(end)
}

// unbind gives the session up for good.
func (st *stream) unbind() {
	if st.session != nil {
		st.c.s.router.remove(st.session)
		st.session = nil
	}
}

// leave is called when the conn has ended: a session that may be resumed waits
// for it, any other is gone.
func (st *stream) leave() {
	if st.session != nil {
		st.c.s.router.detach(st.session, st.c)
		st.session = nil
	}
}

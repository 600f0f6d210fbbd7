package upstream

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// A Nature is what a node speaks inside its WebSocket, as far as the gate knows.
// It belongs to the address, and outlives reloads as that does:
//
//	            answers as XMPP does
//	Unknown ────────────────────────────► XMPP
//	 ▲ ▲  │                                │
//	 │ │  └──────► Other ──────────────────┤ was out and is back
//	 │ └───────────┘ ten minutes           │
//	 └─────────────────────────────────────┘
//
// Answers are those to a client's start tag, to a probe that has a domain, and,
// where it matters before there was one, to a question of the gate's own. Only
// that can show a node to be Other: clients could choose what they get back.
type Nature uint8

const (
	Unknown Nature = iota
	XMPP
	Other // an echo, a bridge: anything that speaks no XMPP
)

const (
	// otherFor is how long a node counts as Other. It may have been an XMPP
	// server that was starting.
	otherFor = 10 * time.Minute

	// askAgain is how long a node that did not answer is left in peace: clients
	// must not drive questions.
	askAgain = time.Minute
)

// Nature is what the node speaks, as far as that is known now.
func (c *Conn) Nature() Nature { return c.address.natureNow(time.Now()) }

// SpeaksXMPP notes that the node was heard to.
func (c *Conn) SpeaksXMPP() { c.address.learn(XMPP) }

// Ask has the node's Nature found out where it is not known: by a stream that
// the gate opens, to health.domain or to the server name of r. It calls then
// when there is no more to be waited for, which it may do before it returns.
// However many ask, there is one question at a time; and none for a minute after
// one that got no answer. Of r it takes server name, host and target. When ctx
// ends, so does the question.
func (c *Conn) Ask(ctx context.Context, r *Request, then func()) {
	a, now := c.address, time.Now()
	a.mu.Lock()
	known := a.natureAt(now) != Unknown || now.Before(a.askAfter)
	first := len(a.asking) == 0
	if !known {
		a.asking = append(a.asking, then)
	}
	a.mu.Unlock()
	switch {
	case known:
		then()
	case first:
		c.Node.ask(ctx, a, r)
	}
}

// ask puts the question, tells those who wait, and says goodbye.
func (n *Node) ask(ctx context.Context, a *address, r *Request) {
	ctx, cancel := context.WithTimeout(ctx, n.group.health.Timeout)
	defer cancel()
	domain := n.group.health.Domain
	if domain == "" {
		domain = r.ServerName
	}
	nature := Unknown
	p, err := n.prober(ctx, a, &n.loc, &Request{Host: r.Host, RequestURI: r.RequestURI})
	if err == nil {
		defer p.close()
		nature, err = p.nature(domain)
	}
	log := n.group.env.log.With("upstream", n.group.name, "node", n.name, "address", a.addr)
	switch {
	case nature == Other:
		log.Info("upstream address speaks no XMPP: clients may say to it what they like")
	case err != nil && ctx.Err() != context.Canceled:
		log.Info("upstream address does not say whether it speaks XMPP: a client may say to it what it likes", "err", err, hintAttr(err))
	}
	a.learn(nature)
	for _, then := range a.asked(time.Now()) {
		then()
	}
	if err == nil {
		p.sayGoodbye(farewell)
	}
}

// firstTag is the first tag of an answer, behind an XML declaration; or the
// first character of what is no XML.
var firstTag = regexp.MustCompile(`^\s*(?:<\?xml[^>]*>\s*)?(?:<([^\s/>?]+)([^>]*)>|[^<\s])`)

// nature opens a stream and judges the first tag of the answer. Whatever the
// domain, an XMPP server has one of its own, with an id, which is none of ours
// come back; or it refuses in XMPP. The error says why there was no answer.
func (p *prober) nature(domain string) (Nature, error) {
	if err := p.openStream(domain); err != nil {
		return Unknown, err
	}
	var text []byte
	for {
		op, payload, err := p.receive()
		switch {
		case err != nil:
			return Unknown, fmt.Errorf("probe: no answer to a stream to %q: %w", domain, bare(err))
		case op == ws.OpClose:
			code, reason := ws.ParseCloseFrameData(payload)
			return Unknown, fmt.Errorf("probe: stream to %q: Close %d %q, want an answer", domain, code, reason)
		case op.IsControl():
			continue
		}
		text = append(text, payload...)
		if m := firstTag.FindSubmatch(text); m != nil {
			return natureOf(string(m[1]), m[2]), nil
		}
	}
}

var idAttr = regexp.MustCompile(`\sid\s*=`)

// natureOf judges a tag by its name and what follows that.
func natureOf(name string, attrs []byte) Nature {
	prefix, local, found := strings.Cut(name, ":")
	if !found {
		prefix, local = "", name
	}
	if prefix != "stream" && !bytes.Contains(attrs, []byte("urn:ietf:params:xml:ns:xmpp-framing")) && !bytes.Contains(attrs, []byte("http://etherx.jabber.org/streams")) {
		return Other
	}
	switch local {
	case "open", "stream":
		if idAttr.Match(attrs) {
			return XMPP
		}
	case "close", "error":
		return XMPP
	}
	return Other
}

func (a *address) natureNow(now time.Time) Nature {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.natureAt(now)
}

// natureAt is natureNow for who holds a.mu.
func (a *address) natureAt(now time.Time) Nature {
	if a.nature == Other && !now.Before(a.otherUntil) {
		return Unknown
	}
	return a.nature
}

// learn takes in what an answer showed. XMPP was heard, whatever comes later.
func (a *address) learn(n Nature) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == Unknown || a.nature == XMPP {
		return
	}
	a.nature, a.otherUntil = n, time.Now().Add(otherFor)
}

// asked ends a question, and returns who waits for it.
func (a *address) asked(now time.Time) (waiting []func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.natureAt(now) == Unknown {
		a.askAfter = now.Add(askAgain)
	}
	waiting, a.asking = a.asking, nil
	return waiting
}

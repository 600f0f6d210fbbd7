package probe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"wssgate/human"
)

// Namespaces of the features to look for.
const (
	nsSASL   = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsSASL2  = "urn:xmpp:sasl:2"
	nsBind2  = "urn:xmpp:bind:0"
	nsFAST   = "urn:xmpp:fast:0"
	nsSM     = "urn:xmpp:sm:" // 2 or 3 follows
	nsLimits = "urn:xmpp:stream-limits:0"
	nsTLS    = "urn:ietf:params:xml:ns:xmpp-tls"
)

// An offer is what <stream:features> says of logins.
type offer struct {
	mechanisms       []string // of SASL 1 and 2
	sasl2, bind2     bool
	fast             bool
	starttlsRequired bool
	maxBytes         int64 // XEP-0478; 0: not said
	resumption       bool  // XEP-0198
	bind             bool
	sasl1            []string // mechanisms of SASL 1 alone
}

// read reads <stream:features>.
func read(features element) (o offer) {
	for _, f := range features.Children {
		switch space, name := f.XMLName.Space, f.XMLName.Local; {
		case name == "mechanisms" && space != nsSASL2:
			o.sasl1 = texts(f, "mechanism")
		case space == nsSASL2 && (name == "authentication" || name == "mechanisms"):
			o.sasl2 = true
			o.mechanisms = texts(f, "mechanism")
			for _, inline := range f.Children {
				for _, i := range inline.Children {
					o.bind2 = o.bind2 || i.XMLName.Space == nsBind2
					o.fast = o.fast || i.XMLName.Space == nsFAST
				}
			}
		case space == nsLimits:
			for _, text := range texts(f, "max-bytes") {
				if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
					o.maxBytes = n
				}
			}
		case space == nsTLS:
			o.starttlsRequired = slices.ContainsFunc(f.Children, func(e element) bool { return e.XMLName.Local == "required" })
		case strings.HasPrefix(space, nsSM):
			o.resumption = true
		case name == "bind":
			o.bind = true
		}
	}
	for _, m := range o.sasl1 {
		if !slices.Contains(o.mechanisms, m) {
			o.mechanisms = append(o.mechanisms, m)
		}
	}
	return o
}

// texts returns the texts of the children of that name.
func texts(e element, name string) (all []string) {
	for _, child := range e.Children {
		if child.XMLName.Local == name {
			all = append(all, printable([]byte(strings.TrimSpace(child.Text))))
		}
	}
	return all
}

// judge diagnoses the offers before a login.
func (p *prober) judge(ctx context.Context, o offer) {
	var plus []string
	scram, plain := false, false
	for _, m := range o.mechanisms {
		scram = scram || strings.HasPrefix(m, "SCRAM-")
		plain = plain || m == "PLAIN"
		if strings.HasSuffix(m, "-PLUS") {
			plus = append(plus, m)
		}
	}
	switch {
	case len(o.mechanisms) == 0:
		p.diagnose("insecure-stream", "the server offers no login; it considers the stream unencrypted, or its authentication fails")
	case o.starttlsRequired:
		p.diagnose("insecure-stream", "the server requires STARTTLS, which a WebSocket does not have (RFC 7395, section 3.9)")
	case plain && !scram:
		p.diagnose("scram-missing", "the server offers PLAIN and no SCRAM: each login sends the password itself")
	}
	if len(plus) > 0 {
		p.diagnose("channel-binding", "the server offers %s: channel binding fails behind a gate, which ends TLS", strings.Join(plus, ", "))
	}
	p.judgeLimit(o)

	// ejabberd offers SASL 2, and Prosody FAST, only where <open/> has a from. A first
	// stream does without, because Tigase redirects those that have one.
	if o.sasl2 && !o.fast || !o.sasl2 && p.is("ejabberd") {
		if again, ok := p.again(ctx); ok {
			o = again
		}
	}
	if !o.sasl2 {
		if p.is("ejabberd") && p.atLeast(24, 12) {
			p.diagnose("sasl2-missing", "the server has SASL 2, Bind 2 and FAST, and offers none of them on this stream, because it considers it unencrypted: logins take more round trips, and SCRAM fails for clients that have channel binding")
		}
		return
	}
	if !o.bind2 {
		p.diagnose("bind2-missing", "the server offers SASL 2 without Bind 2: logins take a round trip more")
	}
	tooOld := p.is("prosody") && p.olderThan(13, 0) || p.is("ejabberd") && p.olderThan(24, 12)
	if !o.fast && !tooOld {
		p.diagnose("fast-missing", "the server offers SASL 2 without FAST (XEP-0484): clients that come back need the password")
	}
}

// judgeLimit compares XEP-0478's limit with the gate's.
func (p *prober) judgeLimit(o offer) {
	if o.maxBytes > p.report.MaxBytes {
		p.report.MaxBytes = o.maxBytes
	}
	if o.maxBytes > p.Message {
		p.diagnose("limits-mismatch", "the server takes stanzas of up to %s, and limits.message is %s: the gate closes the stream of a client that relies on the server's word",
			human.Bytes(o.maxBytes), human.Bytes(p.Message))
	}
}

// again opens a second stream, with a from, and returns what it is offered.
func (p *prober) again(ctx context.Context) (offer, bool) {
	q := &prober{Options: p.Options, report: &Report{}, url: p.url, addr: p.addr, from: cmp.Or(p.jid(), "probe@"+p.Domain)}
	defer func() {
		if q.conn != nil {
			q.conn.Close()
		}
	}()
	var got *element
	features := func(context.Context, *Step) error {
		e, err := q.next()
		if err == nil && e.XMLName.Local == "features" {
			got = &e
		}
		return err
	}
	steps := []func(context.Context, *Step) error{q.connect, q.handshake, q.open, q.stream, features}
	if q.url.Scheme == "ws" {
		steps = slices.Delete(steps, 1, 2)
	}
	for _, do := range steps {
		if !q.step(ctx, "again", do) {
			return offer{}, false
		}
	}
	q.bye()
	return read(*got), true
}

// judgeSession diagnoses the offers after a login.
func (p *prober) judgeSession(o offer) {
	p.judgeLimit(o)
	if !o.bind {
		p.diagnose("insecure-stream", "the server offers no resource binding after the login: it considers the stream unencrypted")
	}
	if !o.resumption {
		p.diagnose("sm-missing", "the server does not offer stream management (XEP-0198): a client that loses its connection loses messages, and a reload or drain costs a login")
	}
}

// facts are what is good to know of an offer, and of the names of the features.
func (o offer) facts(others []string) (facts []string) {
	if len(o.mechanisms) > 0 {
		facts = append(facts, "SASL "+strings.Join(o.mechanisms, ", "))
	}
	if len(others) > 0 {
		facts = append(facts, "and "+strings.Join(others, ", "))
	}
	if o.maxBytes > 0 {
		facts = append(facts, fmt.Sprintf("stanzas of up to %s", human.Bytes(o.maxBytes)))
	}
	return facts
}

package probe

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"wssgate/xmpp"
)

const nsFraming = "urn:ietf:params:xml:ns:xmpp-framing"

// An element is as much of a stanza as the probe looks at.
type element struct {
	XMLName  xml.Name
	From     string    `xml:"from,attr"`
	ID       string    `xml:"id,attr"`
	SeeOther string    `xml:"see-other-uri,attr"`
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
}

// first returns the first child, or an empty element.
func (e element) first() element {
	if len(e.Children) == 0 {
		return element{}
	}
	return e.Children[0]
}

// next reads an element; a stream error, the stream's end and a redirect are
// Problems. A message may have several.
func (p *prober) next() (element, error) {
	var e element
	if len(bytes.TrimSpace(p.more)) == 0 {
		message, err := p.receive()
		if err != nil {
			return e, err
		}
		p.more = message
	}
	d := xml.NewDecoder(bytes.NewReader(p.more))
	if err := d.Decode(&e); err != nil {
		return e, &Problem{fmt.Sprintf("the server sent %q, which is not an XML element", printable(p.more)),
			"is this an XMPP server that speaks RFC 7395?"}
	}
	p.more = p.more[d.InputOffset():]
	switch {
	case e.XMLName.Local == "error":
		return e, p.streamError(e)
	case e.XMLName.Local == "close" && e.SeeOther != "":
		p.redirected(e.SeeOther)
		return e, &Problem{fmt.Sprintf("the server redirects to %q", printable([]byte(e.SeeOther))),
			p.either("few clients follow redirects; give each node of the cluster a public_url in [upstream], so that the gate can rewrite them",
				"this is a cluster; the gate goes there itself if it knows a node by that name, see `wssgate check`")}
	case e.XMLName.Local == "close":
		return e, &Problem{"the server ended the stream", ""}
	}
	return e, nil
}

// redirected diagnoses a redirect of the stream.
func (p *prober) redirected(to string) {
	if isInner(to) {
		p.diagnose("inner-redirect", "the server redirects the stream to %q, which clients can't reach or which has no TLS", printable([]byte(to)))
	}
}

// lost diagnoses a redirect that the gate could not follow.
func (p *prober) lost() {
	p.diagnose("inner-redirect", "the XMPP server redirects the stream to a node that the gate does not know, or in a loop")
}

// lostHint is for a redirect of the XMPP server that the gate could not follow.
const lostHint = "the XMPP server sent the stream to a node that the gate does not know, or in a loop: the log and the status page of the gate name that node and what to configure"

// streamError explains a stream error (RFC 6120, section 4.9.3).
func (p *prober) streamError(e element) *Problem {
	condition, text := "unknown", ""
	for _, child := range e.Children {
		if child.XMLName.Local == "text" {
			text = ": " + printable([]byte(strings.TrimSpace(child.Text)))
		} else if child.XMLName.Space == "urn:ietf:params:xml:ns:xmpp-streams" {
			condition = child.XMLName.Local
			if condition == "see-other-host" {
				text = ": " + printable([]byte(strings.TrimSpace(child.Text)))
				p.redirected(strings.TrimSpace(child.Text))
			}
		}
	}
	problem := &Problem{Text: fmt.Sprintf("stream error %s%s", condition, text)}
	switch condition {
	case "host-unknown", "host-gone":
		problem.Hint = fmt.Sprintf("the XMPP server does not serve %q; name one of its domains with -domain", p.Domain)
		if text != ": "+xmpp.NotTakenHere {
			p.diagnose("host-unknown", "the XMPP server does not serve %q", p.Domain)
		} else {
			p.diagnose("domain-not-allowed", "the gate does not let streams to %q through at this name", p.Domain)
			problem.Hint = fmt.Sprintf("the gate refused, and did not ask the XMPP server: %q is none of the vhost's domains; name one with -domain", p.Domain)
		}
	case "undefined-condition":
		if strings.Contains(text, "No stream features") { // Prosody
			p.diagnose("insecure-stream", "the server offers no login, because it considers the stream unencrypted")
			problem.Hint = "it considers the stream unencrypted"
		}
	case "policy-violation", "resource-constraint":
		problem.Hint = "the XMPP server has a limit that was reached"
		if strings.Contains(strings.ToUpper(text), "TLS") { // ejabberd: "Use of STARTTLS required"
			p.diagnose("insecure-stream", "the server wants encryption, and considers the stream unencrypted")
			problem.Hint = "it considers the stream unencrypted"
		}
	case "system-shutdown":
		problem.Hint = "the XMPP server is stopping"
	case "remote-connection-failed":
		problem.Hint = p.either("the gate does not reach the XMPP server", "")
		if text == ": "+xmpp.NotReachableHere {
			problem.Hint = lostHint
			p.lost()
		}
	}
	return problem
}

// openStream sends <open/> and reads the server's.
func (p *prober) openStream() error {
	from := ""
	if p.from != "" {
		from = " from='" + quoted(p.from) + "'"
	}
	if err := p.send(fmt.Sprintf("<open xmlns='%s'%s to='%s' version='1.0'/>", nsFraming, from, quoted(p.Domain))); err != nil {
		return err
	}
	e, err := p.next()
	if err != nil {
		return err
	}
	if e.XMLName.Local != "open" || e.XMLName.Space != nsFraming {
		return &Problem{fmt.Sprintf("the stream begins with <%s>, want <open/> of RFC 7395", e.XMLName.Local), ""}
	}
	p.report.StreamFrom = e.From
	p.guess(e.ID)
	return nil
}

// stream opens the stream and reads the server's opening.
func (p *prober) stream(_ context.Context, s *Step) error {
	if err := p.openStream(); err != nil {
		return err
	}
	s.Facts = append(s.Facts, "to "+p.Domain)
	if from := p.report.StreamFrom; from != "" && !strings.EqualFold(from, p.Domain) {
		s.Notes = append(s.Notes, fmt.Sprintf("the server calls itself %q", printable([]byte(from))))
	}
	return nil
}

// features reads what the server offers before a login.
func (p *prober) features(_ context.Context, s *Step) error {
	e, err := p.next()
	if err != nil {
		return err
	}
	if e.XMLName.Local != "features" {
		return &Problem{fmt.Sprintf("got <%s>, want <stream:features>", e.XMLName.Local), ""}
	}
	for _, feature := range e.Children {
		if feature.XMLName.Local != "mechanisms" {
			p.report.Features = append(p.report.Features, printable([]byte(feature.XMLName.Local)))
		}
	}
	o := read(e)
	p.offer, p.sasl, p.report.Mechanisms = &o, o.sasl1, o.mechanisms
	s.Facts = append(s.Facts, o.facts(p.report.Features)...)
	if len(o.mechanisms) == 0 {
		s.Notes = append(s.Notes, "no SASL mechanism is offered, so nobody can log in")
	}
	return nil
}

// bye ends stream and WebSocket as a good client does, and waits a moment for
// the answer, so that the server's log has no reset in it.
func (p *prober) bye() {
	p.conn.SetDeadline(time.Now().Add(min(p.Timeout, time.Second)))
	p.send("<close xmlns='" + nsFraming + "'/>")
	if err := ws.WriteFrame(p.conn, ws.MaskFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))); err != nil {
		return
	}
	for {
		h, err := ws.ReadHeader(p.br)
		if err != nil || h.OpCode == ws.OpClose {
			return
		}
		if h.Length > maxMessage {
			return
		}
		if _, err := io.CopyN(io.Discard, p.br, h.Length); err != nil {
			return
		}
	}
}

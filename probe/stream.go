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
	SeeOther string    `xml:"see-other-uri,attr"`
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
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
		return e, &Problem{fmt.Sprintf("the server redirects to %q", printable([]byte(e.SeeOther))),
			p.either("few clients follow redirects; give each node of the cluster a public_url in [upstream], so that the gate can rewrite them",
				"this is a cluster; the gate goes there itself if it knows a node by that name, see `wssgate check`")}
	case e.XMLName.Local == "close":
		return e, &Problem{"the server ended the stream", ""}
	}
	return e, nil
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
			}
		}
	}
	problem := &Problem{Text: fmt.Sprintf("stream error %s%s", condition, text)}
	switch condition {
	case "host-unknown", "host-gone":
		problem.Hint = fmt.Sprintf("the XMPP server does not serve %q; name one of its domains with -domain", p.Domain)
		if text == ": "+xmpp.NotTakenHere {
			problem.Hint = fmt.Sprintf("the gate refused, and did not ask the XMPP server: %q is none of the vhost's domains; name one with -domain", p.Domain)
		}
	case "policy-violation", "resource-constraint":
		problem.Hint = "the XMPP server has a limit that was reached"
	case "system-shutdown":
		problem.Hint = "the XMPP server is stopping"
	case "remote-connection-failed":
		problem.Hint = p.either("the gate does not reach the XMPP server", "")
		if text == ": "+xmpp.NotReachableHere {
			problem.Hint = lostHint
		}
	}
	return problem
}

// stream opens the stream and reads the server's opening.
func (p *prober) stream(_ context.Context, s *Step) error {
	var to strings.Builder
	xml.EscapeText(&to, []byte(p.Domain))
	if err := p.send(fmt.Sprintf("<open xmlns='%s' to='%s' version='1.0'/>", nsFraming, to.String())); err != nil {
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
	s.Facts = append(s.Facts, "to "+p.Domain)
	if e.From != "" && !strings.EqualFold(e.From, p.Domain) {
		s.Notes = append(s.Notes, fmt.Sprintf("the server calls itself %q", printable([]byte(e.From))))
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
			p.report.Features = append(p.report.Features, feature.XMLName.Local)
			continue
		}
		for _, m := range feature.Children {
			if m.XMLName.Local == "mechanism" {
				p.report.Mechanisms = append(p.report.Mechanisms, printable([]byte(strings.TrimSpace(m.Text))))
			}
		}
	}
	if len(p.report.Mechanisms) == 0 {
		s.Notes = append(s.Notes, "no SASL mechanism is offered, so nobody can log in")
	} else {
		s.Facts = append(s.Facts, "SASL "+strings.Join(p.report.Mechanisms, ", "))
	}
	if len(p.report.Features) > 0 {
		s.Facts = append(s.Facts, "and "+strings.Join(p.report.Features, ", "))
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
